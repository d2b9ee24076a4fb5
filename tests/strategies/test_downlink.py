"""The downlink: what clients hold, what they are sent, and what a client that was away gets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import clients, compress, models, rows, strategies, wire
from fedjax_rec.data import batches, pack, synthetic
from fedjax_rec.data.splits import leave_one_out
from fedjax_rec.rounds import downlink
from fedjax_rec.types import Cohort, Packet

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def world():
    found = synthetic(num_users=12, num_items=40, interactions_per_user=8)
    return pack(leave_one_out()(found), evaluation_negatives=0)


def strategy(data, downlink=None, model=None):
    model = model or models.neumf(data.num_items, width=4, layers=(4,))
    client = clients.local_training(model, batches.pointwise(2), clients.sgd(0.5), batch_size=16)
    return strategies.federated(client, model, downlink=downlink, clients_per_chunk=4)


def play(strategy, data, cohorts):
    state, seen = strategy.init(KEY, data.num_clients), []
    step = jax.jit(strategy.round)
    for ids in cohorts:
        state, info = step(KEY, state, Cohort(jnp.asarray(ids, jnp.int32), data.store))
        seen.append(np.asarray(info.bytes_down))
    return state, seen


def test_a_lossless_downlink_changes_only_the_bytes(world):
    """Clients train from the same model, up to the rounding of known + (new - known)."""
    everyone = [range(12)] * 3
    plain, _ = play(strategy(world), world, everyone)
    sent, bytes_down = play(strategy(world, compress.identity()), world, everyone)
    for a, b in zip(jax.tree.leaves(plain.shared), jax.tree.leaves(sent.shared), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    known = sent.server["downlink"]["known"]
    for a, b in zip(jax.tree.leaves(sent.shared), jax.tree.leaves(known), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    whole = len(wire.to_bytes(Packet(rows.dense(plain.shared))))
    assert (bytes_down[0] == whole).all()
    # Later rounds send the rows that changed, at most all, with their ids.
    assert (bytes_down[1] == bytes_down[1][0]).all() and bytes_down[1][0] <= whole


def coarse():
    """Half of the change goes missing in every round."""
    return compress.leafwise(lambda k, x, real: (0.5 * x, ()), lambda body, side, like: body)


LOSES_MORE = {
    "random_mask": lambda: compress.random_mask(0.1),
    "random_k": lambda: compress.random_k(0.4),
    "count_sketch": lambda: compress.count_sketch(1, 8),
    "terngrad": compress.terngrad,
    "seeded_projection": lambda: compress.seeded_projection(1),
    "in a chain": lambda: compress.chain(compress.random_mask(0.4), compress.cast()),
    "in a part": lambda: compress.partition({"rows": compress.random_mask(0.4)}),
    "of each leaf": lambda: compress.per_leaf(compress.random_k(0.4)),
    "on a schedule": lambda: compress.scheduled(
        compress.random_mask, lambda round: 0.1 + 0 * round
    ),
}


@pytest.mark.parametrize("name", LOSES_MORE)
def test_what_loses_more_than_it_sends_is_refused(world, name):
    """What is left out would come back, larger, in every round: 5, 77, 660, 3e5 of what it was."""
    with pytest.raises(ValueError, match=r"downlink: E\|C\(x\) - x\|\^2 is up to .*scaled=False"):
        strategy(world, LOSES_MORE[name]()).init(KEY, world.num_clients)
    for feedback in (compress.error_feedback, compress.ef21, compress.momentum_correction):
        around = feedback(LOSES_MORE[name]())
        with pytest.raises(ValueError, match=rf"{feedback.__name__}\(compressor\): E\|C"):
            around.init(rows.zero_update(strategy(world).init(KEY, 12).shared))


@pytest.mark.parametrize("make", [compress.random_k, compress.random_mask])
def test_unscaled_parts_come_near_the_server(world, make):
    broadcast = downlink.broadcasting(make(0.3, scaled=False))
    shared = strategy(world).init(KEY, 12).shared
    state = broadcast.init(jax.tree.map(jnp.zeros_like, shared), 12)
    send = jax.jit(broadcast.send)
    for t in range(24):
        state = send(jax.random.fold_in(KEY, t), state, shared, t, jnp.arange(12))
    apart = jax.tree.map(lambda a, b: jnp.sum((a - b) ** 2), shared, broadcast.known(state))
    norm = jax.tree.map(lambda a: jnp.sum(a**2), shared)
    # (1 - p)^24 = 2e-4 of what it was, in the mean.
    assert sum(jax.tree.leaves(apart)) < 2e-3 * sum(jax.tree.leaves(norm))


def test_what_a_broadcast_leaves_out_is_sent_later(world):
    """The server stands still: what clients hold comes within 2^-t of it."""
    broadcast = downlink.broadcasting(coarse())
    model = models.fedmf(world.num_items, width=4)
    shared = model.init(KEY)[0]
    moved = jax.tree.map(lambda x: x + 1.0, shared)
    state, gaps = broadcast.init(shared, 3), []
    for t in range(5):
        state = broadcast.send(KEY, state, moved, jnp.int32(t), jnp.arange(0))
        known = broadcast.known(state)["item"].values
        gaps.append(float(jnp.abs(known - moved["item"].values).max()))
    np.testing.assert_allclose(gaps, 0.5 ** np.arange(1, 6), rtol=1e-4)


def test_who_was_away_gets_what_was_missed_or_the_whole_model(world):
    cohorts = [[0, 1, 12], [0, 1, 12], [0, 2, 12], [0, 1, 2]]
    _, down = play(strategy(world, compress.cast()), world, cohorts)
    whole = down[0][0]
    assert down[0].tolist() == [whole, whole, 0]
    first, second = down[1][0], down[2][0]
    assert 0 < first < whole and down[2].tolist() == [second, whole, 0]
    third = down[3][0]
    # Client 1 was away in round 2: it gets the packets of rounds 1 and 2.
    assert down[3].tolist() == [third, min(whole, second + third), third]


def test_a_compressed_downlink_still_learns(world):
    model = models.fedmf(world.num_items, width=4)
    made = strategy(world, compress.cast("float16"), model)
    state = made.init(KEY, world.num_clients)
    step, losses = jax.jit(made.round), []
    for _ in range(30):
        state, info = step(KEY, state, Cohort(jnp.arange(12), world.store))
        losses.append(float((info.metrics["loss"] * info.weight).sum() / info.weight.sum()))
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.005


def test_error_memory_in_a_downlink_is_refused(world):
    for wrapped in (compress.error_feedback, compress.ef21, compress.momentum_correction):
        with pytest.raises(ValueError, match="the server already remembers"):
            strategy(world, wrapped(compress.top_k(0.1))).init(KEY, 12)
    # What is kept for other reasons is welcome: the warm start of a power iteration.
    strategy(world, compress.power_sgd_one_shot(1)).init(KEY, 12)


def test_a_client_away_for_long_owes_the_whole_model_at_most(world):
    """However many packets it missed: nothing overflows."""
    cohorts = [[0, 1], *[[0, 12]] * 12, [0, 1]]
    _, down = play(strategy(world, compress.identity()), world, cohorts)
    assert down[-1][1] == down[0][1] and (np.array([d[0] for d in down]) <= down[0][0]).all()
