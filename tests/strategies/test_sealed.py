"""Rounds under secure aggregation: equal to the plain mean, chunk by chunk; what is sent, billed;
what goes with it and what does not."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pulling import ITEMS, KEY, MODEL, USERS, pulling, run, same, store

from fedjax_rec import aggregate, clients, compress, models, privacy, simulate, strategies, wire
from fedjax_rec import data as rooms
from fedjax_rec.types import Cohort, Stage

COHORT = [3, 7, USERS, 1, 12, 9, 14, 0]
STEP = 2.0 / ((2**22 - 1) // 8)
NUMBERS = ITEMS * 2 + 3


@pytest.fixture(scope="module")
def data():
    return store()


def hiding(protocol=privacy.secagg, bound=2.0, **kwargs):
    return privacy.secure_aggregation(bound, 8, 24, protocol=protocol(), **kwargs)


def away() -> Stage:
    """Every third client is held back."""

    def send(key, memory, upload, now):
        weight = jnp.where(now.client % 3 == 0, 0.0, upload.weight)
        return memory, replace(upload, weight=weight)

    return Stage(send)


def federated(aggregator, whole=False, chunk=3, **kwargs):
    return strategies.federated(
        pulling(whole), MODEL, aggregator=aggregator, clients_per_chunk=chunk, **kwargs
    )


@pytest.mark.parametrize("whole", [False, True])
def test_a_round_is_that_of_the_plain_mean_to_a_step(data, whole):
    stages = [away()]
    plain, _ = run(federated(aggregate.uniform(), whole, stages=stages), data, [COHORT])
    mine, (info,) = run(
        federated(hiding(lambda: privacy.secagg(3)), whole, stages=stages), data, [COHORT]
    )
    for name in ("item", "bias"):
        a, b = (jax.tree.leaves(s.shared[name])[0] for s in (plain, mine))
        assert 0 < np.abs(np.asarray(a) - np.asarray(b)).max() < 1.01 * STEP + 1e-6
    assert info.verdicts.tolist() == [0, 1, 0, 1, 0, 0, 1, 0]
    assert not info.metrics["clipped"].any()


def test_chunks_change_no_bit(data):
    ended = [run(federated(hiding(), chunk=c), data, [COHORT])[0] for c in (2, 8)]
    same(*(s.shared for s in ended))


def test_packets_are_whole_tables_of_noise_billed_to_the_byte(data):
    made = privacy.secagg()
    strategy = federated(hiding())
    state, cohort = strategy.init(KEY, USERS), Cohort(jnp.int32(COHORT), data)
    assert strategy.packets is not None
    packets, ledger = strategy.packets(KEY, state, cohort)
    _, (info,) = run(strategy, data, [COHORT])
    phases = list(made.up(8, NUMBERS, 24).values())
    parts = [ITEMS * 2 * 3, 3 * 3, *phases]
    wanted = 3 + sum(n + 2 + (n >= 2**8) for n in parts)
    shared = wire.nbytes({"item": state.shared["item"].values, "bias": state.shared["bias"]})
    for i, k in enumerate(COHORT):
        if k == USERS:
            assert not info.bytes_up[i] and not info.bytes_down[i]
            continue
        packet = jax.tree.map(lambda x, i=i: np.asarray(x)[i], packets)
        assert len(wire.to_bytes(packet)) == int(ledger[i]) == int(info.bytes_up[i]) == wanted
        assert int(info.bytes_down[i]) == int(shared) + sum(made.down(8, NUMBERS, 24).values())
        item = packet.body["item"].symbols
        assert item.shape == (ITEMS, 2) and len(np.unique(item)) > ITEMS  # no row stands out


def test_an_audit_holds(data):
    strategy = federated(hiding())
    found = simulate.audit(strategy, strategy.init(KEY, USERS), data, KEY, 3, simulate.uniform(8))
    assert found["ledger"] == found["message"] > 0


def test_what_is_linear_and_drawn_from_a_seed_goes_with_it(data):
    uplink = compress.seeded_low_rank(1)
    plain, _ = run(federated(aggregate.uniform(), True, uplink=uplink), data, [COHORT])
    mine, (info,) = run(federated(hiding(bound=9.0), uplink=uplink), data, [COHORT])
    for part in ("item", "bias"):
        a, b = (jax.tree.leaves(s.shared[part])[0] for s in (plain, mine))
        np.testing.assert_allclose(a, b, atol=2 * 4.5 * STEP + 1e-6)
    phases = sum(privacy.secagg().up(8, ITEMS + 3, 24).values())
    assert 0 < int(info.bytes_up[0]) - phases - 3 * (ITEMS + 3) < 24


def test_a_few_rows_for_all_are_those_of_the_mean_times_their_share(data):
    uplink = privacy.seeded_rows(0.4)
    begin = np.asarray(MODEL.init(KEY)[0]["item"].values)
    moved = lambda strategy: run(strategy, data, [COHORT])
    plain, _ = moved(federated(aggregate.uniform()))
    mine, (info,) = moved(federated(hiding(bound=9.0), uplink=uplink))
    wanted, got = (np.asarray(s.shared["item"].values) - begin for s in (plain, mine))
    rows = np.flatnonzero((np.abs(got) > 1e-5).any(1))
    assert 6 <= len(rows) <= 12  # of 12 that are drawn those that somebody touched
    np.testing.assert_allclose(got[rows], wanted[rows] * 30 / 12, atol=4.5 * STEP + 1e-5)
    numbers = 12 * 2 + 3
    phases = sum(privacy.secagg().up(8, numbers, 24).values())
    assert 0 < int(info.bytes_up[0]) - phases - 3 * numbers < 24
    with pytest.raises(ValueError, match="drawn of whole tables"):
        moved(federated(aggregate.uniform(), uplink=uplink))


@pytest.mark.parametrize("uplink", [compress.top_k(0.1), compress.eden(4), compress.qsgd(7)])
def test_what_does_not_add_up_is_refused_when_the_strategy_is_made(uplink):
    with pytest.raises(ValueError, match="does not add up, and secure aggregation reads"):
        federated(hiding(), uplink=uplink)


@pytest.mark.parametrize("uplink", [compress.random_mask(0.5), compress.random_k(0.5)])
def test_so_is_what_each_client_draws_before_any_round(uplink):
    strategy = federated(hiding(), uplink=uplink)
    with pytest.raises(ValueError, match="places, scales or seeds of each client's own"):
        strategy.init(KEY, USERS)


def test_what_nothing_hides_is_refused(data):
    told = strategies.federated(clients.reporting(pulling(), ["steps"]), MODEL, aggregator=hiding())
    with pytest.raises(ValueError, match="clients send 'steps' beside their update"):
        run(told, data, [COHORT])
    with pytest.raises(ValueError, match="cohort of 9 places; use clients=9"):
        run(federated(hiding()), data, [[*COHORT, 4]])
    with pytest.raises(ValueError, match="cohort of 3 places; use clients=3"):
        run(federated(hiding()), data, [COHORT[:3]])


def test_engines_and_rules_that_know_no_seal_say_so(data):
    world = rooms.pack(
        rooms.leave_one_out()(rooms.synthetic(8, 12, interactions_per_user=6)),
        evaluation_negatives=0,
    )
    model = models.fedmf(world.num_items, width=2)
    buffered = strategies.fedbuff(model, rooms.pointwise(1), concurrency=8, aggregator=hiding())
    cohort = Cohort(jnp.arange(8), world.store)
    with pytest.raises(ValueError, match="the engine or a rule around this one knows no seal"):
        jax.eval_shape(buffered.round, KEY, buffered.init(KEY, 8), cohort)


def test_noise_in_shares_is_on_every_number_and_audited(data):
    """Bytes are those of the rotated blocks, of 64 and 4 numbers for 60 and 3."""
    noise = privacy.skellam(clip=3.0, noise_multiplier=0.5, there=6)
    strategy = federated(hiding(noise=noise, step=2.0**-10), uplink=privacy.seeded_rotation())
    before = np.asarray(strategy.init(KEY, USERS).shared["item"].values)
    after, (info,) = run(strategy, data, [COHORT])
    assert info.verdicts.tolist() == [1, 1, 0, 1, 1, 1, 1, 1]
    assert {"clipped", "shortened"} <= info.metrics.keys()
    assert (np.asarray(after.shared["item"].values) != before).all()
    phases = sum(privacy.secagg().up(8, 64 + 4, 24).values())
    assert 0 < int(info.bytes_up[0]) - phases - 3 * (64 + 4) < 24
    told = simulate.audit(strategy, strategy.init(KEY, USERS), data, KEY, 1, simulate.uniform(8))
    assert told["ledger"] == told["message"] > 0


def test_a_rotation_is_the_same_of_all_and_goes_after_rows_of_a_seed(data):
    uplink = compress.chain(privacy.seeded_rows(0.4), privacy.seeded_rotation(block=16))
    plain, _ = run(federated(hiding(bound=9.0), uplink=privacy.seeded_rows(0.4)), data, [COHORT])
    mine, _ = run(federated(hiding(bound=9.0), uplink=uplink), data, [COHORT])
    for part in ("item", "bias"):
        a, b = (jax.tree.leaves(s.shared[part])[0] for s in (plain, mine))
        np.testing.assert_allclose(a, b, atol=3 * 4.5 * STEP + 1e-5)
    with pytest.raises(ValueError, match="use 4"):
        privacy.seeded_rotation(block=5)
    with pytest.raises(ValueError, match="all clients rotate the same rows"):
        run(federated(aggregate.uniform(), uplink=privacy.seeded_rotation()), data, [COHORT])
