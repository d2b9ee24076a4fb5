"""Uploads of any bits, through every robust rule: nothing that is not finite comes out.

Of 16 clients a round from none to all send float32 of random bits (NaN, infinity, denormals, all
sizes), or numbers at the ends of the range, with weights of the same kind. As in a round, those
that are not finite are found before the rule sees them (`rounds.rejected`); what is left is as
large as float32 goes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from registry import ROBUST

from fedjax_rec import aggregate, rows
from fedjax_rec.rounds.rejected import judged
from fedjax_rec.rows import RowsUpdate, Table
from fedjax_rec.types import Now, Upload

CLIENTS, ITEMS, SLOTS, WIDTH = 16, 6, 4, 2
SHARED = {"item": Table(jnp.zeros((ITEMS, WIDTH))), "bias": jnp.zeros(3)}
ENDS = np.float32([0.0, -0.0, 3.4028235e38, -3.4028235e38, 1e38, 1e-45, -1e-38, 1e19, 1.0, -1e12])
ENDS = np.append(ENDS, np.float32([np.nan, np.inf, -np.inf]))

RULES = {**ROBUST, "bulyan(3)": lambda: aggregate.bulyan(f=3)}


def hostile(rounds: int, seed: int) -> Upload:
    """Uploads of some rounds, leaves [rounds, CLIENTS, ...]."""
    draw = np.random.default_rng(seed)
    lies = draw.random((rounds, CLIENTS)) < draw.random((rounds, 1)) * 1.2
    # Most who lie send bits of finite numbers, so that rules get to see them.
    finite = draw.random((rounds, CLIENTS)) < 0.7

    def numbers(*shape):
        shape = rounds, CLIENTS, *shape
        bits = draw.integers(0, 2**32, shape, dtype=np.uint32).view(np.float32)
        lie = np.where(draw.random(shape) < 0.5, bits, draw.choice(ENDS, shape))
        of = lambda x: x.reshape(*x.shape, *[1] * (len(shape) - 2))
        lie = np.where(of(finite) & ~np.isfinite(lie), draw.choice(ENDS[:8], shape), lie)
        return jnp.asarray(np.where(of(lies), lie, draw.normal(size=shape)).astype(np.float32))

    ids = np.argsort(draw.random((rounds, CLIENTS, ITEMS)), -1)[..., :SLOTS].astype(np.int32)
    live = draw.random(ids.shape) < 0.8
    table = RowsUpdate(numbers(SLOTS, WIDTH), jnp.asarray(ids), jnp.asarray(live), None, ITEMS)
    weight = jnp.where(draw.random((rounds, CLIENTS)) < 0.5, 1.0, numbers())
    return Upload({"item": table, "bias": numbers(3)}, weight, {})


def survive(name: str, uploads: int) -> None:
    rule, rounds = RULES[name](), uploads // CLIENTS
    clients = jnp.arange(CLIENTS, dtype=jnp.int32)

    @jax.jit
    def play(upload):
        def one(upload):
            state = rule.init(SHARED)
            _, upload, _ = judged(clients, CLIENTS, (), upload.update, upload)
            now = Now(jnp.int32(0), SHARED, clients, clients)
            summary = rule.reduce(state, upload, now)
            state, update, verdicts = rule.finish(jax.random.key(2), state, summary, now)
            told = upload.weight > 0 if verdicts is None else verdicts
            return state, rows.to_dense(update), told, upload.weight

        return jax.lax.map(one, upload)

    upload = hostile(rounds, seed=len(name))
    assert 0.1 < np.isfinite(np.asarray(upload.update["bias"])).all((1, 2)).mean() < 0.9
    state, update, told, weight = play(upload)
    for leaf in jax.tree.leaves((state, update, told)):
        assert np.isfinite(np.asarray(leaf, np.float32)).all()
    told, there = np.asarray(told), np.asarray(weight) > 0
    assert set(np.unique(told)) <= {0, 1} and not told[~there].any()
    nobody = ~told.any(1)
    flat = np.concatenate([np.asarray(x).reshape(rounds, -1) for x in jax.tree.leaves(update)], 1)
    assert not flat[nobody].any() and flat[~nobody].any(1).mean() > 0.5


@pytest.mark.parametrize("name", RULES)
def test_two_thousand_uploads_of_any_bits(name, compiled_fast):
    survive(name, 2_000)


@pytest.mark.slow
@pytest.mark.parametrize("name", RULES)
def test_a_hundred_thousand_uploads_of_any_bits(name):
    survive(name, 100_000)
