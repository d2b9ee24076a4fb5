"""Rounds in which the rows travel that enough clients touched: against NumPy, billed to the byte,
and what goes with them and what does not."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from pulling import ITEMS, KEY, MODEL, USERS, change_of, pulling, run, store, touched

from fedjax_rec import privacy, simulate, strategies, wire
from fedjax_rec.types import Cohort

pytestmark = pytest.mark.usefixtures("compiled_fast")
COHORT = [3, 7, USERS, 1, 12, 9, 14, 0]
THERE = [k for k in COHORT if k != USERS]
NUMBERS = ITEMS * 2 + 3
STEP = 2.0 / ((2**22 - 1) // 8)


@pytest.fixture(scope="module")
def data():
    return store()


def union(threshold, protocol=privacy.light_secagg):
    sums = privacy.secure_aggregation(2.0, 8, 24, protocol=protocol())
    return privacy.private_set_union(sums, threshold, 8, protocol())


def federated(aggregator, whole=False, chunk=3, **kwargs):
    return strategies.federated(
        pulling(whole), MODEL, aggregator=aggregator, clients_per_chunk=chunk, **kwargs
    )


def by_hand(threshold):
    """(item, bias, rows that are sent) of a round, in NumPy."""
    item, bias = np.linspace(-1, 1, ITEMS * 2).reshape(ITEMS, 2), np.ones(3)
    total, count, moved = np.zeros_like(item), np.zeros(ITEMS, int), np.zeros(3)
    for k in THERE:
        ids, change, of_bias = change_of(k, item, bias)
        total[ids] += change
        count[ids] += 1
        moved += of_bias
    sent = count >= threshold
    total[~sent] = 0
    return item + total / len(THERE), bias + moved / len(THERE), sent


@pytest.mark.parametrize(("threshold", "whole"), [(2, False), (1, True)])
def test_rows_of_enough_clients_move_by_the_mean_and_others_stay(data, threshold, whole):
    strategy = federated(union(threshold), whole)
    state, (info,) = run(strategy, data, [COHORT])
    item, bias, sent = by_hand(threshold)
    assert sent.sum() == {1: 25, 2: 15}[threshold]
    got = np.asarray(state.shared["item"].values)
    np.testing.assert_allclose(got, item, atol=1.01 * STEP + 1e-6)
    np.testing.assert_allclose(state.shared["bias"], bias, atol=1.01 * STEP + 1e-6)
    begin = np.asarray(strategy.init(KEY, USERS).shared["item"].values)
    assert (got[~sent] == begin[~sent]).all()
    told = state.server["aggregator"]["told"].numbers["union_share"]
    assert float(told) == pytest.approx(sent.mean()) and (np.asarray(info.verdicts)[3:] == 1).all()


def test_two_messages_are_billed_to_the_byte(data):
    made = privacy.secagg()
    strategy = federated(union(2, privacy.secagg))
    state, cohort = strategy.init(KEY, USERS), Cohort(jnp.int32(COHORT), data)
    assert strategy.packets is not None and strategy.together  # so that an audit is of all
    packets, ledger = strategy.packets(KEY, state, cohort)
    _, (info,) = run(strategy, data, [COHORT])
    sent = int(by_hand(2)[2].sum())
    width = 2 + math.ceil(math.log2(8 + 1))
    phases = [
        list(made.up(8, size, bits).values()) for size, bits in ((ITEMS, width), (NUMBERS, 24))
    ]
    parts = [math.ceil(ITEMS * width / 8), *phases[0], sent * 2 * 3, 3 * 3, *phases[1]]
    wanted = 2 * 3 + 1 + sum(n + 2 + (n >= 2**8) for n in parts)  # headers, and how many rows
    down = sum(made.down(8, ITEMS, width).values()) + sum(made.down(8, NUMBERS, 24).values())
    shared = wire.nbytes({"item": state.shared["item"].values, "bias": state.shared["bias"]})
    for i, k in enumerate(COHORT):
        if k == USERS:
            assert not info.bytes_up[i] and not info.bytes_down[i]
            continue
        each = [jax.tree.map(lambda x, i=i: np.asarray(x)[i], p) for p in packets]
        assert sum(len(wire.to_bytes(p)) for p in each) == int(ledger[i]) == int(info.bytes_up[i])
        assert int(info.bytes_up[i]) == wanted
        assert int(info.bytes_down[i]) == int(shared) + down + math.ceil(ITEMS / 8)
        counts, rows = each[0].body[0].symbols, each[1].body["item"]
        assert len(np.unique(counts)) > 5 and rows.live.sum() == sent  # masked, though of bits
        own = np.isin(np.arange(ITEMS), touched(k))
        assert counts[own].std() > 0 < counts[~own].std()


def test_an_audit_makes_messages_of_the_whole_cohort(data):
    strategy = federated(union(2))
    found = simulate.audit(strategy, strategy.init(KEY, USERS), data, KEY, 3, simulate.uniform(8))
    assert found["ledger"] == found["message"] > 0


@pytest.mark.parametrize(
    ("make", "line"),
    [
        (lambda: union(9), "no row is touched by more clients than there are in a round; use"),
        (lambda: union(0), "use threshold >= 1"),
        (lambda: privacy.private_set_union(privacy.gaussian_mean(privacy.whole(1.0), 1.0, 8), 2, 8),
         "give privacy.secure_aggregation"),
        (lambda: privacy.private_set_union(union(2), 2, 8), "give privacy.secure_aggregation"),
        (lambda: federated(union(2), uplink=privacy.seeded_rows(0.5)), "leave uplink out"),
    ],
)  # fmt: skip
def test_what_is_refused(make, line):
    with pytest.raises(ValueError, match=line):
        make()
