"""The rules of aggregation against a loop in NumPy over clients that trained alone: which mean
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
from worlds import KEY, USERS, compiled, named, same

from fedjax_rec import clients, compress, models, strategies, wire
from fedjax_rec.data import pointwise
from fedjax_rec.strategies import adapters
from fedjax_rec.trees import Frozen
from fedjax_rec.types import Cohort, Model, Packet

DATA = named("whole")
# A cohort of some clients in some order, with padding; client 5 has no examples.
IDS = [3, 11, 5, 0, USERS, 17, 22, 8, USERS]
LAYERS = ("query", "out")
RANKS = (1, 4, 2)
INPUTS, OUTPUTS, DEPTH = 6, 7, 2


@cache
def model(rank: int) -> Model:
    """Layers [2, 6, 7], of which `still` has no adapter, on frozen codes of the items; numbers that
    are fixed, and a B that is not zero, so that nothing has to be drawn and compiled."""
    draw = np.random.default_rng(0)
    normal = lambda *shape: np.float32(draw.normal(size=shape))
    codes = normal(DATA.num_items, DEPTH, INPUTS)
    layers = {
        name: {
            "kernel": Frozen(0.3 * normal(DEPTH, INPUTS, OUTPUTS)),
            "bias": Frozen(normal(DEPTH, OUTPUTS)),
            "lora_scale": Frozen(np.float32([2.0, 1.5])),
            "lora_a": normal(DEPTH, INPUTS, rank),
            "lora_b": 0.3 * normal(DEPTH, rank, OUTPUTS),
        }
        for name in LAYERS
    }
    layers["still"] = {"kernel": Frozen(normal(DEPTH, INPUTS, OUTPUTS))}
    start = {"layers": layers, "head": normal(OUTPUTS)}
    bare = lambda x: x.value if isinstance(x, Frozen) else x

    def loss(shared, private, batch, key):
        out = 0.0
        for name in LAYERS:
            here = {k: bare(v) for k, v in shared["layers"][name].items()}
            x = jnp.asarray(codes)[batch["items"]]
            small = jnp.einsum("bli,lir,lro->blo", x, here["lora_a"], here["lora_b"])
            y = jnp.einsum("bli,lio->blo", x, here["kernel"]) + here["bias"]
            y = y + here["lora_scale"][:, None] * small
            out = out + jnp.tanh(0.3 * y.sum(1)) @ shared["head"]
        return (batch["mask"] * (out - batch["labels"]) ** 2).mean()

    return Model(lambda key, common=None: (jax.tree.map(jnp.asarray, start), {}), loss)


pytestmark = pytest.mark.usefixtures("compiled_fast")


@cache
def made(name, rank=3, chunk=4, ranks=(), sparse=False):
    """(strategy, its round, compiled) of the rule `name`, or of `alone`: FedAvg of clients of some
    rank, which of one client keeps what it uploaded."""
    training = {"steps": 2, "batch_size": 8}
    uplink = compress.top_k(0.6) if sparse else None
    more = {"clients_per_chunk": chunk, "uplink": uplink}
    if name == "alone":
        train = clients.local_training(model(rank), pointwise(2), clients.sgd(0.3), **training)
        more["uplink"] = adapters.by_component(uplink)
        strategy = strategies.federated(adapters.of_rank(train, ranks), model(rank), **more)
    else:
        more |= {"ranks": ranks} if ranks else {}
        rule = getattr(strategies, name)
        optimizer = clients.sgd(0.3)
        strategy = rule(model(rank), pointwise(2), optimizer=optimizer, **training, **more)
    return strategy, compiled(strategy.round)


def play(rule, state=None, ids=IDS, rounds=1):
    """(state, info) after some rounds; a cohort shorter than IDS is padded."""
    strategy, step = rule
    state = strategy.init(KEY, USERS) if state is None else state
    ids = [*ids, *[USERS] * (len(IDS) - len(ids))]
    info = None
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


def alone(rule, state):
    """[(number of examples, shared after)] of each client of IDS that trained by itself."""
    state = replace(state, server=rule[0].init(KEY, USERS).server)
    out = []
    for k in IDS:
        if k < USERS:
            after, info = play(rule, state, [k])
            out.append((float(info.weight[0]), after.shared))
    return out


def mean_weight(trained, name) -> np.ndarray:
    """sum_k p_k (W + s A_k B_k), one client after another."""
    total = sum(n for n, _ in trained)
    return sum(n / total * weight(layer(shared, name)) for n, shared in trained)


def error(got, want, before) -> float:
    """Relative to the change of the round."""
    assert np.linalg.norm(want - before) > 1e-2
    return float(np.linalg.norm(got - want) / np.linalg.norm(want - before))


# A rule, the rounds before the one that is looked at, and the rule whose round of one client keeps
# what the client uploaded.
EXACT = {
    "ffa_lora": ("ffa_lora", 1, "ffa_lora"),
    "rolora, a round of B": ("rolora", 2, "rolora"),
    "rolora, a round of A": ("rolora", 3, "rolora"),
    "flora": ("flora", 2, "fedit"),
    "fedex_lora": ("fedex_lora", 2, "fedit"),
    "fed_sb": ("fed_sb", 2, "fed_sb"),
}


def round_of(name, rounds, single):
    """(before, after, what each client trained) of one round of a rule, after some others."""
    before, _ = play(made(name), rounds=rounds)
    return before, play(made(name), before)[0], alone(made(single), before)


@pytest.mark.parametrize("case", EXACT)
def test_exact_rules_keep_the_mean_of_the_weights(case):
    before, after, trained = round_of(*EXACT[case])
    for part in LAYERS:
        start = weight(layer(before.shared, part))
        got = weight(layer(after.shared, part))
        assert error(got, mean_weight(trained, part), start) < 1e-5


def test_averaging_both_factors_is_inexact():
    before, after, trained = round_of("fedit", 2, "fedit")
    for part in LAYERS:
        start = weight(layer(before.shared, part))
        got = weight(layer(after.shared, part))
        assert 1e-3 < error(got, mean_weight(trained, part), start) < 1


def test_flexlora_is_the_best_of_its_rank():
    before, after, trained = round_of("flexlora", 2, "fedit")
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


@cache
def of_ranks(name, sparse=False):
    """(before, after, [(examples, rank, factors of each layer)], info) with clients of any rank."""
    rule = made(name, 4, ranks=RANKS, sparse=sparse)
    before, _ = play(rule, rounds=2)
    after, info = play(rule, before)
    trained = []
    single = alone(made("alone", 4, ranks=RANKS, sparse=sparse), before)
    for k, (n, shared) in zip([k for k in IDS if k < USERS], single, strict=True):
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


@pytest.mark.parametrize("sparse", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_flora_is_exact_with_clients_of_any_rank(sparse):
    """And with an uplink that loses something: about what arrives."""
    before, after, trained, _ = of_ranks("flora", sparse)
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


def of_holders(trained, before, part, of_client):
    """sum_i of the mean over the clients that hold component i, weighted by examples, of
    of_client(factors, i); or of the server's own where nobody does."""
    total = 0
    for i in range(4):
        mine = [(n, x[part]) for n, rank, x in trained if i < rank and n > 0]
        if not mine:
            total = total + of_client(layer(before.shared, part), i)
            continue
        weights = np.array([n for n, _ in mine]) / sum(n for n, _ in mine)
        total = total + sum(w * of_client(x, i) for w, (_, x) in zip(weights, mine, strict=True))
    return total


def component(parts, i):
    return parts["lora_a"][..., i : i + 1] @ parts["lora_b"][..., i : i + 1, :]


def test_raflora_is_a_loop_over_components_and_those_who_hold_them():
    before, after, trained, _ = of_ranks("raflora")
    for part in LAYERS:
        mean = of_holders(trained, before, part, component)
        u, s, v = np.linalg.svd(mean, full_matrices=False)
        got = layer(after.shared, part)
        want = (u[..., :4] * s[..., None, :4]) @ v[..., :4, :]
        np.testing.assert_allclose(got["lora_a"] @ got["lora_b"], want, atol=1e-5 * s.max())


def test_rbla_is_a_loop_over_components_and_those_who_hold_them():
    before, after, trained, _ = of_ranks("rbla")
    for part in LAYERS:
        got = layer(after.shared, part)
        for name, axis in (("lora_a", -1), ("lora_b", -2)):

            def alone(parts, i, name=name, axis=axis):
                out = np.zeros_like(parts[name])
                where = [slice(None)] * out.ndim
                where[axis] = i
                out[tuple(where)] = parts[name][tuple(where)]
                return out

            want = of_holders(trained, before, part, alone)
            np.testing.assert_allclose(got[name], want, atol=1e-5)


@pytest.mark.parametrize("name", ["flexlora", "raflora", "rbla"])
def test_no_rank_is_lost_where_a_round_has_small_ranks_alone(name):
    """Clients 0 and 3 have rank 1, client 22 has rank 4: after it took part it has moved all four
    components, whoever came between."""
    rule = made(name, 4, ranks=RANKS)
    small, _ = play(rule, ids=[0, 3])
    after, _ = play(rule, small, [22])
    for part in LAYERS:
        before = layer(small.shared, part)
        rank = np.linalg.matrix_rank(weight(layer(after.shared, part)) - weight(before), tol=1e-4)
        assert (rank >= 4).all()


def test_hetlora_loses_the_ranks_that_a_round_has_not():
    """As its paper has it: zero in both factors, which have no gradient then."""
    rule = made("hetlora", 4, ranks=RANKS)
    small, _ = play(rule, ids=[0, 3])
    after, _ = play(rule, small, [22])
    for part in LAYERS:
        for state in (small, after):
            got = layer(state.shared, part)
            assert not got["lora_a"][..., 1:].any() and not got["lora_b"][..., 1:, :].any()


def test_small_steps_arrive_in_a_base_of_bfloat16():
    """Steps of a hundredth of a unit in the last place, 2,000 times: on average all of it arrives,
    where rounding to the nearest keeps nothing."""
    from fedjax_rec.servers import step
    from fedjax_rec.strategies.adapters.merging import merging, restarted
    from fedjax_rec.strategies.adapters.products import Products

    size, rounds = 40, 2000
    kernel = jnp.ones((size, size), jnp.bfloat16)
    unit = 2.0**-7  # of bfloat16 above 1
    zero = {"lora_a": jnp.zeros((size, 2)), "lora_b": jnp.zeros((2, size))}
    shared = {**zero, "kernel": Frozen(kernel), "lora_scale": Frozen(jnp.float32(1.0))}
    server = merging(restarted, step(1.0))

    def one(carry, key):
        moved = jnp.full((size, size), unit / 100)
        said = Frozen(Products(moved, jnp.ones(2), key))
        update = {**shared, "kernel": said}
        _, after = server.apply((), {**shared, "kernel": Frozen(carry)}, update)
        return after["kernel"].value, None

    end, _ = jax.jit(lambda: jax.lax.scan(one, kernel, jax.random.split(KEY, rounds)))()
    assert end.dtype == jnp.bfloat16
    arrived = (np.asarray(end, np.float64) - 1).mean() / (rounds * unit / 100)
    # A standard error of .0056 units of the mean over 1,600 numbers, each of 2,000 draws.
    assert abs(arrived - 1) < 4 * np.sqrt(0.01 * 0.99 * rounds / size**2) / (rounds / 100)
    assert (kernel + jnp.bfloat16(unit / 100) == kernel).all()


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
    numbers = OUTPUTS + ranks * sum(x["lora_a"][..., 0].size + x["lora_b"][..., 0, :].size
                                 for x in trained[0][2].values())  # fmt: skip
    sent = np.asarray(info.bytes_up)[places]
    # Beyond four bytes a number there are headers and row masks, a few bytes a leaf.
    # Its rank and norm travel beside the update.
    assert ((sent > 4 * numbers) & (sent < 4 * numbers + 60)).all()
    if name == "hetlora":
        down = np.asarray(info.bytes_down)[places]
        assert ((down > 4 * numbers) & (down < 4 * numbers + 40)).all()


def nbytes(tree) -> int:
    return int(wire.nbytes(Packet(tree)))


def test_bytes_of_the_rules():
    shared = model(3).init(None)[0]
    pairs = [shared["layers"][x] for x in LAYERS]
    a, b = ([p[name] for p in pairs] for name in ("lora_a", "lora_b"))
    head = shared["head"]
    kernels = [p["kernel"].value for p in pairs]

    def sent(name, rounds=1):
        _, info = play(made(name), rounds=rounds)
        return int(info.bytes_up[0]), int(info.bytes_down[0])

    both = nbytes([a, b, head])
    assert sent("fedit") == (both, both)
    assert sent("ffa_lora") == (nbytes([b, head]),) * 2
    assert sent("fedsa_lora") == (nbytes([a, head]),) * 2
    core = [jnp.zeros((DEPTH, 3, 3))] * 2
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


@pytest.mark.parametrize(
    "name", ["fedex_lora", *(pytest.param(x, marks=pytest.mark.slow) for x in ("flora", "hetlora"))]
)
def test_chunks_change_nothing(name):
    kwargs = {} if name == "fedex_lora" else {"rank": 4, "ranks": RANKS}
    ends = [play(made(name, chunk=chunk, **kwargs), rounds=2)[0].shared for chunk in (4, len(IDS))]
    for part in LAYERS:
        one, other = (weight(layer(shared, part)) for shared in ends)
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("name", ["fedex_lora", "flora", "flexlora", "raflora", "rbla"])
def test_a_round_of_nobody_changes_nothing(name):
    start, _ = play(made(name))
    after, _ = play(made(name), start, [USERS, 5, USERS])
    same(after.shared, start.shared)


@pytest.mark.parametrize("name", ["fedex_lora", "flora"])
def test_what_is_not_adapted_stays_to_the_bit(name):
    start = made(name)[0].init(KEY, USERS).shared["layers"]
    after = play(made(name), rounds=2)[0].shared["layers"]
    same(after["still"], start["still"])
    for part in LAYERS:
        same(after[part]["bias"], start[part]["bias"])
        assert not np.array_equal(after[part]["kernel"].value, start[part]["kernel"].value)


def test_private_factors_stay_with_their_clients():
    start = made("fedsa_lora")[0].init(KEY, USERS)
    assert "lora_b" not in start.shared["layers"]["query"]
    after, _ = play(made("fedsa_lora"), start)
    b, before = (np.asarray(x.private["layers"]["query"]["lora_b"]) for x in (after, start))
    took_part = [k for k in IDS if k < USERS and k != 5]
    moved = np.abs(b - before).reshape(USERS, -1).max(1)
    assert sorted(np.flatnonzero(moved)) == sorted(took_part)
    assert len({b[k].tobytes() for k in took_part}) == len(took_part)


def test_what_the_rules_refuse():
    def begin(name, of, **kwargs):
        getattr(strategies, name)(of, pointwise(2), **kwargs).init(KEY, USERS)

    plain = models.fedmf(DATA.num_items)
    for name in ("fedex_lora", "flora", "flexlora", "hetlora", "raflora", "rbla"):
        with pytest.raises(ValueError, match="finds no layer with shared lora_a"):
            begin(name, plain)

    def changed(**entries):
        def init(key, common=None):
            shared, private = model(3).init(key)
            query = {**shared["layers"]["query"], **entries}
            return {**shared, "layers": {**shared["layers"], "query": query}}, private

        return replace(model(3), init=init)

    with pytest.raises(ValueError, match=r"models\.dora do not"):
        begin("flexlora", changed(lora_m=jnp.ones((DEPTH, OUTPUTS))))
    with pytest.raises(ValueError, match="changes the base as well"):
        begin("flora", model(3), downlink=compress.cast())
    with pytest.raises(ValueError, match="largest adapter of the model has rank 3"):
        strategy = strategies.hetlora(model(3), pointwise(2), ranks=(8,))
        cohort = Cohort(jnp.arange(2), DATA.store)
        jax.eval_shape(strategy.round, KEY, strategy.init(KEY, USERS), cohort)
    with pytest.raises(ValueError, match="ranks=0"):
        begin("flora", model(3), ranks=(0, 2))
    qwix = pytest.importorskip("qwix")
    small = qwix.quantize(jnp.ones((DEPTH, INPUTS, OUTPUTS)), "int8", channelwise_axes=(0, 2))
    for name in ("fedex_lora", "flora"):
        with pytest.raises(ValueError, match="quantised; keep the base in float32, or use fedit"):
            begin(name, changed(kernel=Frozen(small)))
    begin("flexlora", changed(kernel=Frozen(small)))


def test_a_model_with_private_factors_is_taken_as_it_is():
    own = models.private_at(model(3), "*lora_b")
    assert strategies.fedsa_lora(own, pointwise(2)).model is own
    moved = strategies.fedsa_lora(model(3), pointwise(2)).model
    assert moved is not None and moved is not model(3)
