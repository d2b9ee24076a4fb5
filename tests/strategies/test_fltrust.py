"""FLTrust's root trains as a client does; and without root data it is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import clients, data, models, rows, strategies
from fedjax_rec.types import Cohort, Now

pytestmark = pytest.mark.usefixtures("compiled_fast")
ITEMS = 30


def store_of(users: int, seed: int = 0):
    found = data.synthetic(users, ITEMS, interactions_per_user=8, seed=seed)
    return data.pack(data.leave_one_out()(found), evaluation_negatives=0).store


def test_the_root_is_a_round_of_its_clients():
    """A round of `federated` with the same client on the same data moves the model as much."""
    model, root = models.fedmf(ITEMS, width=4, scale=0.3), store_of(3)
    client = clients.local_training(model, data.pointwise(0), clients.sgd(0.5))
    plain = strategies.federated(client, model)
    state = plain.init(jax.random.key(0), 3)
    trusted = strategies.root_of(client, root, seed=0)
    own, now = trusted.init(state.shared), Now(jnp.int32(0), state.shared)
    for x, y in zip(jax.tree.leaves(own), jax.tree.leaves(state.private), strict=True):
        np.testing.assert_array_equal(x, y)
    after, _ = jax.jit(plain.round)(jax.random.key(0), state, Cohort(jnp.arange(3), root))
    private, update = jax.jit(trusted.update)(jax.random.key(9), own, now)
    moved = rows.dense(after.shared)["item"] - rows.dense(state.shared)["item"]
    np.testing.assert_allclose(update["item"], moved, rtol=1e-5, atol=1e-6)
    assert np.abs(np.asarray(moved)).max() > 1e-3
    np.testing.assert_allclose(private["user"], after.private["user"], rtol=1e-6)


def test_without_root_data_one_line_says_so():
    model = models.fedmf(ITEMS, width=4)
    line = r"^fltrust\(root\) has no root data; give the store of a few users"
    with pytest.raises(ValueError, match=line) as error:
        strategies.fltrust(model, data.pointwise(1))
    assert "\n" not in str(error.value)
