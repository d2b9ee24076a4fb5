"""FELLRec's mix against a loop in NumPy over clients, losses and pairs of models; of adapters of a
decoder, of models with tables; bytes by hand, and what is refused."""

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapter_prompts import CLIENTS, KEY, adapted, packed
from test_hetefedrec import ITEMS, USERS, examples, split

from fedjax_rec import clients, compress, data, models, simulate, strategies, trees, wire
from fedjax_rec.rounds import memory
from fedjax_rec.rounds.own_models import Seen
from fedjax_rec.strategies.fellrec import balanced, mixing_weights
from fedjax_rec.types import Cohort, Packet

pytestmark = pytest.mark.usefixtures("compiled_fast")

ALPHA, BETA, SOFT = 0.6, 2.0, 0.1
# Who is there, round by round; `CLIENTS` is nobody.
COHORTS = [list(range(CLIENTS)), [3, 0, CLIENTS, 2], [1, CLIENTS, 4, 0]]


def strategy_of(model=None, **parts):
    given: dict[str, Any] = {"alpha": ALPHA, "beta": BETA, "loss_temperature": SOFT}
    given |= {"optimizer": clients.sgd(0.5), "batch_size": 4, "clients_per_chunk": 2}
    return strategies.fellrec(model or adapted(), data.examples(), **given | parts)


def played(strategy, store, cohorts=COHORTS):
    """(State, RoundInfo) after each of the rounds, and the state before."""
    state, round = strategy.init(KEY, store.num_clients), jax.jit(strategy.round)
    out: list[Any] = [(state, None)]
    for ids in cohorts:
        state, info = round(KEY, state, Cohort(jnp.array(ids, jnp.int32), store))
        out.append((state, info))
    return out


def flat(models, i):
    return np.concatenate([np.asarray(x[i], float).ravel() for x in jax.tree.leaves(models)])


def by_pairs(vectors, losses, t, temperature=None):
    """({client: mixed vector}, {client: (w, own weight)}), one pair of clients after another."""
    exps = {i: np.exp(losses[i] / SOFT) for i in vectors}
    after, told = {}, {}
    for i, x in vectors.items():
        share = exps[i] / sum(exps.values())
        warm = np.tanh(ALPHA / share ** (t / BETA))
        total, sum_, own = np.zeros_like(x), 0.0, 0.0
        for j, y in vectors.items():
            cos = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
            alike = (1 + cos) / 2 if temperature is None else np.exp((cos - 1) / temperature)
            weight = alike if i == j else warm * alike
            total, sum_ = total + weight * y, sum_ + weight
            own = weight if i == j else own
        after[i], told[i] = total / sum_, (warm, own / sum_)
    return after, told


@pytest.mark.parametrize("temperature", [None, 0.02], ids=["as released", "softmax"])
def test_adapters_are_mixed_as_by_a_loop_over_pairs(temperature):
    """What each client trained is found by a federation of it alone, by plain averaging."""
    store = packed().store
    rounds = played(strategy_of(temperature=temperature), store)
    alone = strategies.fedavg(adapted(), data.examples(), optimizer=clients.sgd(0.5), batch_size=4)
    train = jax.jit(alone.round)
    plain = alone.init(KEY, CLIENTS)
    for t, ids in enumerate(COHORTS):
        (before, _), (after, info) = rounds[t], rounds[t + 1]
        there, trained = [i for i in ids if i < CLIENTS], {}
        for i in there:
            mine = jax.tree.map(lambda x, i=i: x[i], before.private["model"])
            full = trees.with_frozen(mine, before.shared)
            state = replace(plain, shared=full, round=before.round)
            made, _ = train(KEY, state, Cohort(jnp.array([i], jnp.int32), store))
            trained[i] = flat(jax.tree.map(lambda x: x[None], trees.trainable(made.shared)), 0)
        losses = {i: float(info.metrics["loss"][ids.index(i)]) for i in there}
        want, told = by_pairs(trained, losses, t + 1, temperature)
        for i in range(CLIENTS):
            got = flat(after.private["model"], i)
            if i not in there:
                np.testing.assert_array_equal(got, flat(before.private["model"], i))
                continue
            np.testing.assert_allclose(got, want[i], atol=2e-5)
            place = ids.index(i)
            np.testing.assert_allclose(info.metrics["warm_up"][place], told[i][0], rtol=1e-4)
            np.testing.assert_allclose(info.metrics["own_weight"][place], told[i][1], rtol=2e-3)
    warm = rounds[1][1].metrics["warm_up"]
    assert 0 < float(warm.min()) < 1


def test_tables_of_users_alone_are_mixed_too():
    """One client takes from each other; where all shares are equal, a lagging loss takes less."""
    dataset = data.pack(split(), evaluation_negatives=0)
    model = models.fedmf(ITEMS, width=4, scale=1.0)
    strategy = strategies.fellrec(
        model, examples(), alpha=ALPHA, beta=BETA, loss_temperature=SOFT,
        user_learning_rate=0.5, item_learning_rate=0.5, clients_per_chunk=4,
    )  # fmt: skip
    (start, _), (end, info) = played(strategy, dataset.store, [list(range(USERS))])
    lag = np.argsort(np.asarray(info.metrics["loss"]))
    assert (np.diff(np.asarray(info.metrics["warm_up"])[lag]) <= 1e-6).all()
    items = np.asarray(end.private["model"]["item"].values)
    assert np.abs(items - np.asarray(start.private["model"]["item"].values)).max() > 1e-3


def test_a_cold_client_keeps_its_own_and_a_warm_one_takes_the_mean():
    cosines = jnp.ones((4, 4)).at[0, 1].set(-1.0)
    there = jnp.array([True, True, True, False])
    got = np.asarray(mixing_weights(cosines, jnp.array([0.0, 1.0, 1.0, 1.0]), there))
    np.testing.assert_allclose(got[0], [1, 0, 0, 0])
    np.testing.assert_allclose(got[1], [1 / 3, 1 / 3, 1 / 3, 0], rtol=1e-6)
    assert not got[3].any()


def test_warming_up_ends_at_one():
    """Round by round w rises to 1, whatever share of the loss a client has, and stays a number."""
    mixing, model = balanced(ALPHA, 0.05, SOFT, None), {"x": jnp.ones((3, 2))}
    seen = lambda loss: Seen(jnp.array([1.0, 2.0, 0.0]), {"loss": loss}, {"x": jnp.ones(2)})
    loss, kept, warm = jnp.array([0.7, 0.69, 9.0]), mixing.init(model, 3), []
    for _ in range(40):
        mixed = mixing.mix(KEY, kept, seen(loss), model)
        kept, told = mixed.kept, np.asarray(mixed.metrics["warm_up"])[:2]
        warm.append(told)
    assert np.isfinite(warm).all() and (np.diff(warm, axis=0) >= 0).all()
    assert warm[0][0] <= warm[0][1] and (warm[-1] == 1.0).all()
    nobody = mixing.mix(KEY, kept, replace(seen(loss), weight=jnp.zeros(3)), model)
    assert nobody.kept["round"] == kept["round"] == 40 and not nobody.down.any()


def test_bytes_are_adapters_and_a_loss_up_and_adapters_down():
    strategy, store = strategy_of(), packed().store
    (state, _), (_, info), *_ = played(strategy, store)
    found = simulate.audit(strategy, state, store, KEY, clients=CLIENTS)
    assert found["message"] == found["ledger"] == info.bytes_up.sum()
    one = jax.tree.map(lambda x: np.asarray(x[0]), state.private["model"])
    whole = len(wire.to_bytes(Packet({"model": one})))
    np.testing.assert_array_equal(info.bytes_down, whole)
    np.testing.assert_array_equal(np.asarray(info.bytes_up, int) - whole, 4 + 2)


def test_a_compressed_adapter_is_what_the_client_goes_on_from():
    store = packed().store
    *_, (state, info) = played(strategy_of(uplink=compress.cast("float16")), store)
    *_, (plain, whole) = played(strategy_of(), store)
    assert (info.bytes_up[:1] < whole.bytes_up[:1]).all()
    pairs = [*zip(*(jax.tree.leaves(s.private) for s in (state, plain)), strict=True)]
    for got, want in pairs:
        np.testing.assert_allclose(got, want, atol=0.01)
    assert any((np.asarray(a) != np.asarray(b)).any() for a, b in pairs)


@pytest.mark.parametrize(
    ("parts", "told"),
    [
        ({"alpha": 0.0}, "alpha"),
        ({"beta": -1.0}, "beta"),
        ({"loss_temperature": 0.0}, "loss_temperature"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_what_is_wrong_is_said(parts, told):
    with pytest.raises(ValueError, match=f"fellrec\\({told}"):
        strategy_of(**parts)


def test_too_many_models_are_refused(monkeypatch):
    strategy = strategy_of()
    monkeypatch.setattr(memory, "device_bytes", lambda: 1000)
    with pytest.raises(MemoryError, match="models of all clients of 5 clients"):
        strategy.init(KEY, CLIENTS)
