"""What whoever reads messages makes of one, for every strategy: the change that its client made."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rotating import marks
from strategies_registry import STRATEGIES
from worlds import KEY, USERS, named

from fedjax_rec import keys, rows, wire
from fedjax_rec.data import pointwise
from fedjax_rec.types import Cohort

# A factor of the mean matrix, which no message holds.
CLOSED = {"power_sgd(2)"}
HEARD = (0, 1, 5, 8, 22)  # one of whom has no data
# What travels is less than the change: signs, a sketch, a row of numbers for many.
LOSSY = {"fetch_sgd()", "lightfr()"}

pytestmark = pytest.mark.usefixtures("compiled_fast")


def one(tree, k: int):
    return jax.tree.map(lambda x: x[k], tree)


def read_again(packets):
    """What is read of the bytes of a client's message, or messages."""
    each = packets if isinstance(packets, tuple) else (packets,)
    got = tuple(wire.from_bytes(wire.to_bytes(packet), packet) for packet in each)
    return got if isinstance(packets, tuple) else got[0]


@pytest.mark.parametrize("name", [pytest.param(x, marks=marks(x, 24)) for x in STRATEGIES])
def test_a_message_is_the_change_that_its_client_made(name):
    recipe, dataset = STRATEGIES[name], named("compact")
    strategy = recipe.make(recipe.model(dataset.num_items), pointwise(2))
    if strategy.packets is None:  # one place has all, and nobody sends anything
        return
    if name in CLOSED:
        assert strategy.opened is None
        return
    assert strategy.opened is not None and strategy.uploads is not None
    key, cohort = keys.stream(KEY, "round"), Cohort(jnp.arange(USERS), dataset.store)
    state = strategy.init(KEY, USERS)

    @jax.jit
    def played(state, cohort):
        """What clients changed, and their messages, of one training."""
        sent = strategy.packets(key, state, cohort)[0]
        return strategy.uploads(key, state, cohort), sent

    said, packets = jax.device_get(played(state, cohort))
    open_one, moved = jax.jit(strategy.opened), 0.0
    for k in HEARD:
        opened = open_one(state, read_again(one(packets, k)), k, one(said, k))
        got, want = rows.to_dense(rows.deltas(opened)), rows.to_dense(rows.deltas(one(said, k)))
        for x, y in zip(*map(jax.tree.leaves, (got, want)), strict=True):
            assert np.isfinite(x).all()
            if name not in LOSSY:
                assert x.shape == y.shape
                np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-6)
        moved += sum(float(np.abs(x).sum()) for x in jax.tree.leaves(got))
    assert moved > 0
