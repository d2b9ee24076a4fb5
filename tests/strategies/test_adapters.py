"""The nine rules of aggregation against a loop in NumPy over clients that trained alone: which mean
of products they keep, to 1e-5 of what the round changed, and which bytes they send."""

import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
from adapted import adapted
from worlds import KEY, USERS, compiled, named, same

from fedjax_rec import clients, compress, models, strategies, wire
from fedjax_rec.data import pointwise
from fedjax_rec.trees import Frozen
from fedjax_rec.types import Cohort, Packet

DATA = named("whole")
# A cohort of some clients in some order, with padding; client 5 has no examples.
IDS = [3, 11, 5, 0, USERS, 17, 22, 8, USERS]
LAYERS = ("query", "out")
TRAINING = dict(optimizer=clients.sgd(1.0), steps=2, batch_size=8)
RANKS = (1, 4, 2)


@cache
def model(rank=3):
    return adapted(DATA.num_items, rank=rank)


def made(rule, rank=3, chunk=4, **kwargs):
    return rule(model(rank), pointwise(2), clients_per_chunk=chunk, **TRAINING, **kwargs)


def play(strategy, state, ids=IDS, rounds=1):
    step = compiled(strategy.round)
    for _ in range(rounds):
        state, info = step(KEY, state, Cohort(jnp.asarray(ids, jnp.int32), DATA.store))
    return state, info


def layer(shared, name) -> dict:
    """Kernel, factors and scale of a layer in float64."""
    values = {k: v.value if isinstance(v, Frozen) else v for k, v in shared["layers"][name].items()}
    return {k: np.asarray(v, np.float64) for k, v in values.items()}


def weight(parts: dict) -> np.ndarray:
    """W + s A B, with the core where there is one."""
    a = parts["lora_a"]
    if "lora_core" in parts:
        a = a @ parts["lora_core"]
    return parts["kernel"] + parts["lora_scale"][:, None, None] * (a @ parts["lora_b"])


def alone(strategy, state, ids=IDS):
    """[(number of examples, shared after)] of each client that trained by itself from `state`."""
    out = []
    step = compiled(strategy.round)
    for k in ids:
        if k < USERS:
            after, info = step(KEY, state, Cohort(jnp.asarray([k], jnp.int32), DATA.store))
            out.append((float(info.weight[0]), after.shared))
    return out


def single(rule_model, uplink=None, optimizer=None):
    """Federated averaging, which of one client keeps what it uploaded."""
    training = TRAINING | ({"optimizer": optimizer} if optimizer else {})
    return strategies.fedavg(
        rule_model, pointwise(2), clients_per_chunk=1, uplink=uplink, **training
    )


def mean_weight(state, trained, name) -> np.ndarray:
    """sum_k p_k (W + s A_k B_k), one client after another."""
    total = sum(n for n, _ in trained)
    return sum(n / total * weight(layer(shared, name)) for n, shared in trained)


def error(got, want, before) -> float:
    """Relative to the change of the round."""
    assert np.linalg.norm(want - before) > 1e-2
    return float(np.linalg.norm(got - want) / np.linalg.norm(want - before))


EXACT = {
    "ffa_lora": (strategies.ffa_lora, 1),
    "rolora, a round of B": (strategies.rolora, 2),
    "rolora, a round of A": (strategies.rolora, 3),
    "flora": (strategies.flora, 2),
    "fedex_lora": (strategies.fedex_lora, 2),
    "fed_sb": (strategies.fed_sb, 2),
}


def round_of(name, uplink=None, chunk=4):
    """(before, after, what each client trained) of one round of a rule, after some others."""
    rule, rounds = EXACT.get(name, (getattr(strategies, name, None), 2))
    strategy = made(rule, uplink=uplink, chunk=chunk)
    before, _ = play(strategy, strategy.init(KEY, USERS), rounds=rounds)
    optimizer = clients.alternating(clients.sgd(1.0)) if rule is strategies.rolora else None
    mine = single(strategy.model or model(), uplink, optimizer)
    start = replace(before, server=mine.init(KEY, USERS).server)
    after, info = play(strategy, before)
    return before, after, alone(mine, start), info


@pytest.mark.parametrize("name", EXACT)
def test_exact_rules_keep_the_mean_of_the_weights(name):
    before, after, trained, _ = round_of(name)
    for part in LAYERS:
        start = weight(layer(before.shared, part))
        want = mean_weight(before, trained, part)
        assert error(weight(layer(after.shared, part)), want, start) < 1e-5


@pytest.mark.parametrize("name", ["flora", "fedex_lora"])
def test_exact_rules_are_exact_about_what_arrives(name):
    before, after, trained, _ = round_of(name, compress.top_k(0.3))
    for part in LAYERS:
        start = weight(layer(before.shared, part))
        want = mean_weight(before, trained, part)
        assert error(weight(layer(after.shared, part)), want, start) < 1e-5


def test_averaging_both_factors_is_inexact():
    before, after, trained, _ = round_of("fedit")
    for part in LAYERS:
        start = weight(layer(before.shared, part))
        want = mean_weight(before, trained, part)
        assert 1e-3 < error(weight(layer(after.shared, part)), want, start) < 1


def test_flexlora_is_the_best_of_its_rank():
    before, after, trained, _ = round_of("flexlora")
    total = sum(n for n, _ in trained)
    for part in LAYERS:
        parts = [(n / total, layer(shared, part)) for n, shared in trained]
        mean = sum(p * x["lora_a"] @ x["lora_b"] for p, x in parts)
        u, s, v = np.linalg.svd(mean, full_matrices=False)
        want = (u[..., :3] * s[..., None, :3]) @ v[..., :3, :]
        assert s[..., 3].max() > 1e-4  # something is left out
        got = layer(after.shared, part)
        np.testing.assert_allclose(got["lora_a"] @ got["lora_b"], want, atol=1e-5 * s.max())
        np.testing.assert_array_equal(got["kernel"], layer(before.shared, part)["kernel"])


def cut(parts: dict, rank: int) -> dict:
    a, b = parts["lora_a"].copy(), parts["lora_b"].copy()
    a[..., rank:], b[..., rank:, :] = 0, 0
    return {**parts, "lora_a": a, "lora_b": b}


def of_ranks(name):
    """(before, after, [(examples, rank, factors of each layer)], info) with clients of any rank."""
    strategy = made(getattr(strategies, name), rank=4, ranks=RANKS)
    before, _ = play(strategy, strategy.init(KEY, USERS), rounds=2)
    after, info = play(strategy, before)
    client = clients.of_rank(clients.local_training(model(4), pointwise(2), **TRAINING), RANKS)
    mine = strategies.federated(client, lambda key: model(4).init(key)[0], clients_per_chunk=1)
    start = replace(before, server=mine.init(KEY, USERS).server, memory=())
    trained = []
    for k, (n, shared) in zip([k for k in IDS if k < USERS], alone(mine, start), strict=True):
        rank, layers = RANKS[k % 3], {}
        for part in LAYERS:
            old, new = layer(before.shared, part), layer(shared, part)
            change = {x: new[x] - old[x] for x in ("lora_a", "lora_b")}
            assert not np.any(change["lora_a"][..., rank:])
            assert not np.any(change["lora_b"][..., rank:, :])
            old = cut(old, rank)
            layers[part] = {**old, **{x: old[x] + change[x] for x in change}}
        trained.append((n, rank, layers))
    return before, after, trained, info


def test_flora_is_exact_with_clients_of_any_rank():
    before, after, trained, _ = of_ranks("flora")
    total = sum(n for n, _, _ in trained)
    for part in LAYERS:
        want = sum(n / total * weight(layers[part]) for n, _, layers in trained)
        got = layer(after.shared, part)
        assert not got["lora_b"].any()
        assert np.abs(got["lora_a"] - layer(before.shared, part)["lora_a"]).max() > 0.1
        assert error(got["kernel"], want, layer(before.shared, part)["kernel"]) < 1e-5


def test_flexlora_gives_each_rank_the_best_of_that_rank():
    _, after, trained, _ = of_ranks("flexlora")
    total = sum(n for n, _, _ in trained)
    for part in LAYERS:
        mean = sum(n / total * x[part]["lora_a"] @ x[part]["lora_b"] for n, _, x in trained)
        u, s, v = np.linalg.svd(mean, full_matrices=False)
        for rank in RANKS:
            got = cut(layer(after.shared, part), rank)
            want = (u[..., :rank] * s[..., None, :rank]) @ v[..., :rank, :]
            np.testing.assert_allclose(got["lora_a"] @ got["lora_b"], want, atol=1e-5 * s.max())


def test_hetlora_is_a_loop_over_padded_factors_weighted_by_norms():
    _, after, trained, info = of_ranks("hetlora")
    norms = [
        np.sqrt(sum(np.sum((x[p]["lora_a"] @ x[p]["lora_b"]) ** 2) for p in LAYERS))
        for n, _, x in trained
    ]
    real = [i for i, k in enumerate(IDS) if k < USERS]
    np.testing.assert_allclose(np.asarray(info.metrics["norm"])[real], norms, rtol=1e-4)
    there = [norm * (n > 0) for (n, _, _), norm in zip(trained, norms, strict=True)]
    shares = np.array(there) / sum(there)
    for part in LAYERS:
        for name in ("lora_a", "lora_b"):
            want = sum(p * x[part][name] for p, (_, _, x) in zip(shares, trained, strict=True))
            np.testing.assert_allclose(layer(after.shared, part)[name], want, atol=1e-5)


@pytest.mark.parametrize("name", ["flora", "hetlora"])
def test_clients_send_the_components_that_they_have(name):
    _, _, trained, info = of_ranks(name)
    places = [i for i, k in enumerate(IDS) if k < USERS and k != 5]
    ranks = np.array([RANKS[IDS[i] % 3] for i in places])
    head = 6 * 4 + 4
    numbers = head + ranks * sum(x["lora_a"][..., 0].size + x["lora_b"][..., 0, :].size
                                 for x in trained[0][2].values())  # fmt: skip
    sent = np.asarray(info.bytes_up)[places]
    # Beyond four bytes a number there are headers and row masks, a few bytes a leaf.
    assert ((sent > 4 * numbers) & (sent < 4 * numbers + 40)).all()
    if name == "hetlora":
        down = np.asarray(info.bytes_down)[places]
        assert ((down > 4 * numbers) & (down < 4 * numbers + 40)).all()


def nbytes(tree) -> int:
    return int(wire.nbytes(Packet(tree)))


def test_bytes_of_the_rules():
    shared = model().init(jax.random.key(0))[0]
    pairs = [shared["layers"][x] for x in LAYERS]
    a, b = ([p[name] for p in pairs] for name in ("lora_a", "lora_b"))
    head = [shared["head"]["kernel"], shared["head"]["bias"]]
    kernels = [p["kernel"].value for p in pairs]

    def sent(name, rounds=1):
        strategy = made(getattr(strategies, name))
        _, info = play(strategy, strategy.init(KEY, USERS), IDS, rounds)
        return int(info.bytes_up[0]), int(info.bytes_down[0])

    both = nbytes([a, b, head])
    assert sent("fedit") == (both, both)
    assert sent("ffa_lora") == (nbytes([b, head]),) * 2
    assert sent("fedsa_lora") == (nbytes([a, head]),) * 2
    core = [jnp.zeros((2, 3, 3))] * 2
    assert sent("fed_sb") == (nbytes([core, head]),) * 2
    assert sent("flexlora") == (both, both)
    assert sent("fedex_lora") == (both, both)
    assert sent("fedex_lora", 2) == (both, nbytes([a, b, head, kernels]))
    seed = jnp.zeros(1, jnp.uint32)
    assert sent("flora") == (both, nbytes([head, seed]))
    assert sent("flora", 2) == (both, nbytes([head, seed, kernels]))
    up, down = sent("rolora", 2)
    # Row masks and empty parts beside the factor.
    assert 0 <= up - nbytes([a, head]) < 40 and down == both


@pytest.mark.parametrize("name", ["fedex_lora", "flora", "flexlora", "hetlora"])
def test_chunks_change_nothing(name):
    ends = []
    for chunk in (3, len(IDS)):
        strategy = made(getattr(strategies, name), chunk=chunk)
        ends.append(play(strategy, strategy.init(KEY, USERS), rounds=2)[0].shared)
    for part in LAYERS:
        one, other = (weight(layer(shared, part)) for shared in ends)
        np.testing.assert_allclose(one, other, atol=2e-6)


@pytest.mark.parametrize("name", ["fedex_lora", "flora", "flexlora", "hetlora"])
def test_a_round_of_nobody_changes_nothing(name):
    strategy = made(getattr(strategies, name))
    start, _ = play(strategy, strategy.init(KEY, USERS))
    after, _ = play(strategy, start, [USERS, 5, USERS])
    same(after.shared, start.shared)


def test_what_is_not_adapted_stays_to_the_bit():
    only = adapted(DATA.num_items, targets="*query")
    for rule in (strategies.fedex_lora, strategies.flora):
        strategy = rule(only, pointwise(2), clients_per_chunk=4, **TRAINING)
        start = strategy.init(KEY, USERS)
        after, _ = play(strategy, start)
        kernels = [
            [x.shared["layers"][part]["kernel"].value for x in (start, after)] for part in LAYERS
        ]
        assert not np.array_equal(*kernels[0])
        np.testing.assert_array_equal(*kernels[1])
        same(after.shared["words"], start.shared["words"])
        for part in LAYERS:
            same(after.shared["layers"][part]["bias"], start.shared["layers"][part]["bias"])


def test_private_factors_stay_with_their_clients():
    strategy = made(strategies.fedsa_lora)
    start = strategy.init(KEY, USERS)
    assert "lora_b" not in start.shared["layers"]["query"]
    after, _ = play(strategy, start)
    b = np.asarray(after.private["layers"]["query"]["lora_b"])
    took_part = [k for k in IDS if k < USERS and k != 5]
    assert sorted(np.flatnonzero(np.abs(b).reshape(USERS, -1).max(1))) == sorted(took_part)
    assert len({b[k].tobytes() for k in took_part}) == len(took_part)


@pytest.mark.parametrize("name", ["fedex_lora", "flora"])
def test_a_quantised_base_is_not_merged_into(name):
    pytest.importorskip("qwix")
    small = adapted(DATA.num_items, base=lambda m: models.quantised(m, "int8"))
    strategy = getattr(strategies, name)(small, pointwise(2), **TRAINING)
    with pytest.raises(ValueError, match="quantised; keep the base in float32, or use fedit"):
        strategy.init(KEY, USERS)
    other = strategies.flexlora(small, pointwise(2), clients_per_chunk=4, **TRAINING)
    _, info = play(other, other.init(KEY, USERS), rounds=2)
    assert np.isfinite(np.asarray(info.metrics["loss"])).all()


def test_what_the_rules_refuse():
    plain = models.fedmf(DATA.num_items)
    for name in ("fedex_lora", "flora", "flexlora", "hetlora"):
        strategy = getattr(strategies, name)(plain, pointwise(2), **TRAINING)
        with pytest.raises(ValueError, match="finds no layer with shared lora_a"):
            strategy.init(KEY, USERS)
    turned = adapted(DATA.num_items, adapt=models.dora)
    with pytest.raises(ValueError, match=r"models\.dora do not"):
        strategies.flexlora(turned, pointwise(2), **TRAINING).init(KEY, USERS)
    with pytest.raises(ValueError, match="changes the base as well"):
        made(strategies.flora, downlink=compress.cast())
    with pytest.raises(ValueError, match="largest adapter of the model has rank 3"):
        strategy = made(strategies.hetlora, ranks=(8,))
        play(strategy, strategy.init(KEY, USERS))
    with pytest.raises(ValueError, match="ranks=0"):
        made(strategies.flora, ranks=(0, 2))
