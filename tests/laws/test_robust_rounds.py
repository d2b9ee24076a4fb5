"""Robust rules in rounds: of clipped uploads, in chunks, and with verdicts that clients follow."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from strategies_registry import fedmf
from worlds import close, federated, named, run

from fedjax_rec import aggregate, rows
from fedjax_rec.rows import RowsUpdate
from fedjax_rec.types import Stage

pytestmark = pytest.mark.usefixtures("compiled_fast")


def halved() -> Stage:
    """Half of each update, as a number that is still to be multiplied with."""

    def send(key, memory, upload, now):
        return memory, replace(upload, update=rows.scale(upload.update, 0.5))

    return Stage(send)


@pytest.mark.parametrize("world", ["whole", "compact"])
def test_multi_krum_of_all_clients_is_their_mean_behind_a_stage(world):
    """With f = 0 all are taken: the round is that of `uniform`, in chunks of 4, of halved updates.

    Rows with ids keep the half as a factor of each client, which had no client axis to go by."""
    packed = named(world)
    model = fedmf(packed.num_items)
    after = {}
    for name, rule in (("sum", aggregate.uniform()), ("listed", aggregate.multi_krum(0))):
        strategy = federated(packed, model, aggregator=rule, stages=[halved()])
        state, info = run(strategy, packed)
        after[name] = state.shared
    close(after["listed"], after["sum"])
    assert np.asarray(info.verdicts).sum() == (np.asarray(info.weight) > 0).sum() > 9


def test_the_rejected_keep_what_they_had_and_the_chosen_moves():
    """Krum takes one of 23: its private row moves, all others stay."""
    packed = named("compact")
    strategy = federated(packed, fedmf(packed.num_items), aggregator=aggregate.krum(3))
    before = strategy.init(jax.random.key(7), packed.num_clients)
    state, info = run(strategy, packed, state=before)
    (chosen,) = np.flatnonzero(info.verdicts)
    moved = [
        np.asarray(x != y).reshape(packed.num_clients, -1).any(1)
        for x, y in zip(
            jax.tree.leaves(state.private), jax.tree.leaves(before.private), strict=True
        )
    ]
    assert np.flatnonzero(np.any(moved, 0)).tolist() == [chosen]


def test_too_few_clients_are_a_round_of_nobody():
    """Six real clients in a cohort of slots for 12: Krum of f = 3 takes nobody, nothing moves."""
    packed = named("compact")
    strategy = federated(packed, fedmf(packed.num_items), aggregator=aggregate.krum(3))
    before = strategy.init(jax.random.key(7), packed.num_clients)
    ids = jnp.int32([0, 1, 2, 3, 4, 6, *[packed.num_clients] * 6])
    state, info = run(strategy, packed, ids=ids, state=before)
    assert not np.asarray(info.verdicts).any()
    for part in ("shared", "private"):
        close(getattr(state, part), getattr(before, part))


def test_factors_of_clients_are_applied_to_their_own_rows():
    """float[c] of c clients with as many columns: each row of a client times its own."""
    values = jnp.ones((3, 2, 3))
    ids = jnp.tile(jnp.arange(2), (3, 1))
    update = RowsUpdate(values, ids, ids >= 0, None, 9, jnp.float32([1, 2, 3]))
    np.testing.assert_array_equal(update.delta().values, values * jnp.arange(1.0, 4)[:, None, None])


def traced(name: str, number):
    return {
        "geometric_median": lambda: aggregate.geometric_median(nu=10 * number, steps=2),
        "norm_bound": lambda: aggregate.norm_bound(number),
        "row_norm_bound": lambda: aggregate.row_norm_bound(number, number / 2),
        "centered_clip": lambda: aggregate.centered_clip(number),
        "foolsgold": lambda: aggregate.foolsgold(number),
        "dnc": lambda: aggregate.dnc(1, share=number, c=2 * number),
        "hics": lambda: aggregate.hics(number, share=number),
        "quorum": lambda: aggregate.quorum(number, number, budget=number, clients=number),
    }[name]()


@pytest.mark.parametrize(
    "name",
    [
        "geometric_median",
        "norm_bound",
        "row_norm_bound",
        "centered_clip",
        "foolsgold",
        "dnc",
        "hics",
        "quorum",
    ],
)
def test_numbers_may_be_traced(name):
    from fedjax_rec.testing.uploads import aggregated, uploads

    upload = uploads("ids")
    of = jax.jit(lambda number: aggregated(traced(name, number), upload)[1])
    low, high = (of(jnp.float32(x)) for x in (0.3, 1.0))
    for number, got in ((0.3, low), (1.0, high)):
        plain = jax.jit(lambda number=number: aggregated(traced(name, number), upload)[1])()
        close(got, plain, rtol=1e-5, atol=1e-6)
    assert np.abs(np.asarray(low["item"] - high["item"])).max() > 1e-3
