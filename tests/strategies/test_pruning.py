"""Pruning against a loop in NumPy; that pruned runs learn, and send what they say."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rounds import FIRST, now

from fedjax_rec import compress, data, models, strategies, wire
from fedjax_rec.clients import local_training, sgd
from fedjax_rec.compress.mask import columns, masked
from fedjax_rec.models.prunable import parameters, prunable
from fedjax_rec.rows import RowsUpdate, Table, map_tables
from fedjax_rec.simulate.checkpoint import Checkpoints
from fedjax_rec.strategies.pruning import federated_dropout, prune_fl, pruning, submodel
from fedjax_rec.trees import Frozen
from fedjax_rec.types import Cohort, Packet

# So few items that local tables are whole tables.
USERS, ITEMS, WIDTH = 12, 24, 8
KEY = jax.random.key(4)


def packed(items: int, each: int, seed=0):
    """Users of two kinds, each kind with a half of the items of its own."""
    rng = np.random.default_rng(seed)
    half = items // 2
    pairs = [(u, half * (u % 2) + i) for u in range(USERS) for i in rng.permutation(half)[:each]]
    users, chosen = np.array(pairs).T
    found = data.from_arrays(
        "two kinds", users, chosen, times=np.arange(len(pairs), dtype=np.float64),
        ratings=np.ones(len(pairs), np.float32),
    )  # fmt: skip
    return data.pack(data.leave_one_out()(data.implicit(found)), evaluation_negatives=0)


def model_of(dataset):
    return prunable(models.gmf(dataset.num_items, 1, width=WIDTH, scale=0.5))


def compiled(f):
    return jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})


def numbers(shared) -> dict[str, np.ndarray]:
    return {
        path: np.asarray(x.values if isinstance(x, Table) else x)
        for path, x in parameters(shared).items()
    }


def masks(shared) -> dict[str, np.ndarray]:
    return {path: np.asarray(m) for path, m in shared["mask"].value.items()}


def largest(x: np.ndarray, fraction: float) -> np.ndarray:
    if x.ndim < 2:
        return np.ones(x.shape, bool)
    count = math.ceil(round(fraction * x.size, 6))
    order = np.argsort(-np.abs(x).reshape(-1), kind="stable")[:count]
    return np.isin(np.arange(x.size), order).reshape(x.shape)


def toy(seed=0) -> dict:
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.float32(rng.normal(size=shape))
    model = {"item": Table(draw(9, 4)), "kernel": draw(5, 7), "bias": draw(7)}
    ones = {
        "model/item": jnp.ones((9, 4), bool),
        "model/kernel": jnp.ones((5, 7), bool),
        "model/bias": jnp.ones(7, bool),
    }
    return {"model": model, "mask": Frozen(ones)}


def change(seed) -> dict:
    rng = np.random.default_rng(100 + seed)
    draw = lambda *shape: jnp.float32(rng.normal(size=shape))
    item = RowsUpdate(draw(9, 4), None, jnp.ones(9, bool), None, 9)
    model = {"item": item, "kernel": draw(5, 7), "bias": draw(7)}
    return {"model": model, "mask": Frozen(None)}


def test_masks_and_weights_over_rounds_are_those_of_a_loop():
    """step(0.5), every 3, for 9 rounds; the loop knows nothing of jax."""
    server, shared = pruning(strategies.step(0.5), 0.3, 3), toy()
    state, apply = server.init(shared), compiled(server.apply)
    weights, mask = numbers(shared), masks(shared)
    for t in range(1, 10):
        state, shared = apply(state, shared, change(t))
        moved = numbers({"model": map_tables(lambda u: Table(u.values), change(t)["model"])})
        weights = {path: x + 0.5 * moved[path] for path, x in weights.items()}
        if t % 3 == 0:
            mask = {path: largest(x, 0.3) for path, x in weights.items()}
        elif t % 3 == 2:
            mask = {path: np.ones(x.shape, bool) for path, x in weights.items()}
        weights = {path: np.where(mask[path], x, 0) for path, x in weights.items()}
        for path, x in numbers(shared).items():
            np.testing.assert_array_equal(masks(shared)[path], mask[path])
            np.testing.assert_allclose(x, weights[path], rtol=1e-5, atol=1e-6)
        if t % 3 == 0:
            assert masks(shared)["model/item"].sum() == math.ceil(0.3 * 36)
            assert masks(shared)["model/bias"].all()
    assert int(state["steps"]) == 9


def test_equal_magnitudes_are_kept_in_order_and_never_too_many():
    shared = toy()
    shared["model"] = {
        "item": Table(jnp.zeros((9, 4)).at[5, 1].set(-2.0)),
        "kernel": jnp.full((5, 7), -0.5).at[4, 6].set(0.5),
        "bias": jnp.zeros(7),
    }
    server = pruning(strategies.step(), 0.2, 2)
    state, zero = server.init(shared), jax.tree.map(jnp.zeros_like, change(0))
    for _ in range(2):
        state, shared = compiled(server.apply)(state, shared, zero)
    item, kernel = masks(shared)["model/item"], masks(shared)["model/kernel"]
    assert np.flatnonzero(item).tolist() == [0, 1, 2, 3, 4, 5, 6, 21]
    assert np.flatnonzero(kernel).tolist() == list(range(7))


def test_momentum_does_not_move_what_is_pruned():
    server, shared = pruning(optax.adam(0.1), 0.3, 3), toy()
    state, apply = server.init(shared), compiled(server.apply)
    for t in range(3):
        state, shared = apply(state, shared, change(t))
    mask = masks(shared)
    _, bare = strategies.from_optax(optax.adam(0.1)).apply(
        state["optimizer"], shared, jax.tree.map(jnp.zeros_like, change(3))
    )
    state, shared = apply(state, shared, change(3))
    for path, x in numbers(shared).items():
        off = x[~mask[path]]
        assert off.tobytes() == bytes(off.nbytes)
        assert off.size == 0 or np.abs(numbers(bare)[path][~mask[path]]).max() > 0.01


class Run:
    """Rounds of one strategy, compiled once; `traces` counts how often."""

    def __init__(self, strategy, dataset):
        self.strategy, self.dataset, self.traces = strategy, dataset, 0
        self.state = self.first = strategy.init(KEY, dataset.num_clients)

        def round(key, state, ids, store):
            self.traces += 1
            return strategy.round(key, state, Cohort(ids, store))

        self.step = compiled(round)

    def go(self, rounds, ids=None, state=None):
        """[(state, info)] of some more rounds."""
        ids = jnp.arange(USERS, dtype=jnp.int32) if ids is None else jnp.int32(ids)
        state, seen = self.state if state is None else state, []
        for _ in range(rounds):
            state, info = self.step(KEY, state, ids, self.dataset.store)
            seen.append((state, info))
        self.state = state
        return seen


def loss(info) -> float:
    return float((info.metrics["loss"] * info.weight).sum() / info.weight.sum())


SETTINGS = {"optimizer": sgd(2.0), "epochs": 2, "batch_size": 16}


@pytest.fixture(scope="module")
def dataset():
    return packed(ITEMS, 10)


@pytest.fixture(scope="module")
def pruned_run(dataset):
    strategy = prune_fl(
        model_of(dataset), data.pointwise(2), fraction=0.3, every=4, clients_per_chunk=5, **SETTINGS
    )
    run = Run(strategy, dataset)
    return run, run.go(14)


def test_a_model_pruned_to_30_percent_still_learns(pruned_run):
    """It is pruned in rounds 5, 6, 7, 9, ..., 14; a constant score has a loss of .637."""
    _, seen = pruned_run
    losses = [loss(info) for _, info in seen]
    assert losses[0] > 0.6 and losses[13] < 0.6 * losses[0]
    # Adjustments after rounds 4 and 8 cost something, and training makes up for it.
    assert losses[8] > losses[7] and losses[9] < losses[8]


def test_a_pruned_coordinate_stays_zero_to_the_bit_until_the_whole_round(pruned_run):
    _, seen = pruned_run
    for t, (state, _) in enumerate(seen, start=1):
        mask, weights = masks(state.shared), numbers(state.shared)
        for path, x in weights.items():
            off = x[~mask[path]]
            assert off.tobytes() == bytes(off.nbytes)
        share = np.mean([m.mean() for m in mask.values() if m.ndim > 1])
        if t < 4 or t % 4 == 3:
            assert share == 1
        else:
            assert mask["model/halves/0/item"].sum() == math.ceil(0.3 * ITEMS * WIDTH)
    # What was off at one adjustment can be on at the next.
    early, late = (masks(seen[t - 1][0].shared)["model/halves/0/item"] for t in (4, 12))
    assert (late & ~early).any() and (early & ~late).any()


def message(mask, rows: np.ndarray) -> int:
    """Bytes of a message with the kept values of the dense leaves and of these rows."""
    live = np.isin(np.arange(ITEMS), rows)
    item = mask["model/halves/0/item"]
    model = {
        "halves": {"0": {"item": RowsUpdate(jnp.zeros((ITEMS, WIDTH)), None, live, None, ITEMS)}}
    }
    model["readout"] = {"bias": jnp.zeros(1), "kernel": jnp.zeros((WIDTH, 1))}
    _, packet = masked().encode(KEY, (), {"model": model}, now(shared={"mask": Frozen(mask)}))
    sent = len(wire.to_bytes(packet))
    kept = item[rows].sum() + mask["model/readout/kernel"].sum() + 1
    assert 4 * kept < sent < 4 * kept + len(rows) + 24
    return sent


def test_it_sends_and_gets_what_it_says(pruned_run):
    run, seen = pruned_run
    before = run.first
    of_mask = len(wire.to_bytes(Packet([m for m in masks(before.shared).values() if m.ndim > 1])))
    assert 0 <= 8 * of_mask - (ITEMS + 1) * WIDTH <= 8 * 16
    packets = compiled(run.strategy.packets)
    everyone = Cohort(jnp.arange(USERS), run.dataset.store)
    sent = {}
    for t, (state, info) in enumerate(seen):
        assert set(info.metrics) == {"loss", "steps"}
        if t in (0, 4, 5, 8, 11):
            packet, counted = packets(KEY, before, everyone)
            np.testing.assert_array_equal(counted, info.bytes_up)
            for u in range(0, USERS, 4):
                one = jax.tree.map(lambda x, u=u: x[u], packet)
                assert len(wire.to_bytes(one)) == int(info.bytes_up[u])
            side = next(s for s in packet.side if isinstance(s, RowsUpdate))
            rows = np.asarray(side.ids)[0][np.asarray(side.live)[0]]
            mask = masks(before.shared)
            assert int(info.bytes_up[0]) == message(mask, rows)
            # The mask comes down in the first round after the adjustments after rounds 4 and 8.
            more = of_mask if t in (4, 8) else 0
            np.testing.assert_array_equal(info.bytes_down, info.bytes_up + np.uint32(more))
            sent[t] = np.asarray(info.bytes_up).mean()
        before = state
    assert sent[5] < 0.36 * sent[0] and sent[11] > 0.95 * sent[0]


def test_a_client_that_was_away_gets_the_mask_when_it_comes(pruned_run):
    run, seen = pruned_run
    away, there = list(range(3)), list(range(3, USERS))
    nobody = [USERS] * 3
    state = seen[3][0]
    of_mask = int(wire.nbytes(Packet([m for m in masks(state.shared).values() if m.ndim > 1])))
    ((state, _),) = run.go(1, there + nobody, state)
    ((state, info),) = run.go(1, there + away, state)
    extra = np.asarray(info.bytes_down).astype(int) - np.asarray(info.bytes_up)
    assert extra.tolist() == [0] * 9 + [of_mask] * 3
    ((state, info),) = run.go(1, there + nobody, state)
    assert not np.asarray(info.bytes_down)[9:].any()
    np.testing.assert_array_equal(info.bytes_down, info.bytes_up)


def test_one_trace_and_a_resumed_run_goes_on_to_the_same_bits(pruned_run):
    run, seen = pruned_run
    assert run.traces == run.step._cache_size()
    saved = jax.tree.map(lambda x: jnp.array(np.asarray(x)), seen[6][0])
    traces = run.traces
    again = run.go(4, state=saved)
    assert run.traces == traces
    for a, b in zip(*(jax.tree.leaves(x) for x in (again[-1], seen[10])), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_a_checkpoint_holds_masks_and_who_has_them(tmp_path, pruned_run):
    _, seen = pruned_run
    store = Checkpoints(tmp_path, "x")
    store.save(9, seen[8][0])
    round, state, _ = store.restore(seen[8][0])
    store.close()
    assert round == 9
    for a, b in zip(*(jax.tree.leaves(x) for x in (state, seen[8][0])), strict=True):
        assert a.dtype == b.dtype and np.asarray(a).tobytes() == np.asarray(b).tobytes()


@pytest.fixture(scope="module")
def compact():
    """More items than a client touches: local tables are rows with ids."""
    return packed(400, 6)


def test_what_is_kept_of_touched_rows_can_be_cast_on_top(compact):
    strategy = prune_fl(
        model_of(compact), data.pointwise(2), fraction=0.3, every=2, clients_per_chunk=12,
        uplink=compress.chain(masked(), compress.cast()), **SETTINGS,
    )  # fmt: skip
    seen = Run(strategy, compact).go(3)
    up, down = (
        [np.asarray(getattr(info, side), int) for _, info in seen]
        for side in ("bytes_up", "bytes_down")
    )
    assert (up[1] < 0.6 * down[1]).all() and up[2].mean() < 0.5 * up[1].mean()
    of_mask = int(wire.nbytes(Packet([m for m in masks(seen[1][0].shared).values() if m.ndim > 1])))
    assert (down[2] - of_mask).mean() < 0.45 * down[1].mean()
    weights, mask = numbers(seen[2][0].shared), masks(seen[1][0].shared)
    off = weights["model/halves/0/item"][~mask["model/halves/0/item"]]
    assert off.size and off.tobytes() == bytes(off.nbytes)


def test_federated_dropout_learns_and_sends_half(compact):
    strategy = federated_dropout(
        model_of(compact), data.pointwise(2), fraction=0.5, clients_per_chunk=6, **SETTINGS
    )
    run = Run(strategy, compact)
    seen = run.go(24)
    assert run.traces == 1
    assert np.mean([loss(info) for _, info in seen[-4:]]) < 0.8 * loss(seen[0][1])
    assert all(m.all() for m in masks(seen[-1][0].shared).values())
    for _, info in seen:
        # At most 12 rows, of which 4 columns of 8 are sent; the read-out has one column, and stays.
        most = 12 * 4 * (WIDTH // 2) + 4 * (WIDTH + 1)
        up, down = (np.asarray(x, int) for x in (info.bytes_up, info.bytes_down))
        np.testing.assert_array_equal(up, down)
        assert up.max() <= most + 12 + 20 and up.min() > 0.7 * most
        assert most < 0.6 * (12 * 4 * WIDTH + 4 * (WIDTH + 1))


def test_columns_that_a_client_left_out_are_not_in_its_upload(compact):
    """And the uplink, which sends only the others, loses nothing."""
    model = prunable(models.fedmf(compact.num_items, 1, width=WIDTH, scale=0.5))
    client = submodel(local_training(model, data.pointwise(2), sgd(0.5), batch_size=16), 0.3)
    shared, private = model.init(KEY)
    compressor = columns(0.3)

    def one(key, own):
        update = map_tables(
            lambda u: u.delta(), client.update(key, private, shared, own, FIRST)[1].update
        )
        _, packet = compressor.encode(key, compressor.init(update), update, FIRST)
        return update, compressor.decode(packet, update, FIRST)

    store, ids = compact.store, jnp.arange(USERS)
    every = jax.vmap(one, in_axes=(0, store.axes()))
    update, back = compiled(every)(jax.random.split(KEY, USERS), store.take(ids))
    jax.tree.map(np.testing.assert_array_equal, update, back)
    used = (np.asarray(update["model"]["item"].values) != 0).any(1)
    assert (used.sum(1) == math.ceil(0.3 * WIDTH)).all()
    assert len(np.unique(used, axis=0)) > 3


@pytest.mark.parametrize("fraction", [0.0, 1.01])
def test_fractions_outside_are_refused(fraction):
    with pytest.raises(ValueError, match=r"pruning\(fraction=.*use 0 < fraction <= 1"):
        pruning(strategies.step(), fraction, 5)


def test_a_mask_has_to_last_for_a_round():
    with pytest.raises(ValueError, match=r"pruning\(every=1\) is too small; use every >= 2"):
        pruning(strategies.step(), 0.5, 1)


@pytest.mark.parametrize("recipe", [prune_fl, federated_dropout])
def test_models_without_a_mask_are_refused(recipe, dataset):
    with pytest.raises(ValueError, match=r"make it with models.prunable\(model\)"):
        recipe(models.fedmf(dataset.num_items, 1, width=4), data.pointwise(2))
