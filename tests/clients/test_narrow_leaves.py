"""Local training of dense leaves narrower than float32, and of what cannot be trained."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from alone import EXAMPLES, KEY, factorization, listed
from compiling import fast

from fedjax_rec import clients, rows, trees
from fedjax_rec.clients.gradient import value_and_gradient
from fedjax_rec.types import Now


@pytest.mark.parametrize("optimizer", [clients.sgd(0.1), optax.adam(0.01)])
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_local_training_keeps_narrow_leaves_narrow(optimizer, dtype):
    """A step is that of float32, rounded: Adam's epsilon would be 0 in float16."""
    model = factorization(30)
    narrow = lambda x: x.astype(dtype) if x.ndim == 0 else x
    shared, private = model.init(KEY)
    little = {**shared, "bias": narrow(shared["bias"])}
    client = clients.local_training(model, EXAMPLES, optimizer, batch_size=8)
    with fast():
        update = jax.jit(client.update)
        now = Now(jnp.int32(0), shared, jnp.int32(0))
        _, upload = update(KEY, private, little, listed(), now)
        _, wide = update(KEY, private, trees.widened(little), listed(), now)
    assert upload.update["bias"].dtype == dtype
    np.testing.assert_allclose(upload.update["bias"], wide.update["bias"], rtol=0.05)


@pytest.mark.parametrize("dtype", [jnp.int32, jnp.bool_])
def test_what_has_no_gradient_is_not_trained(dtype):
    model = factorization(30)
    shared = model.init(KEY)[0]
    params = {"shared": {**trees.trainable(shared), "bias": jnp.zeros((), dtype)}, "private": {}}
    message = rf"^shared/bias is of {jnp.dtype(dtype).name}, which has no gradient; keep it in"
    batch = {"mask": jnp.ones(2), "items": jnp.zeros(2, int), "labels": jnp.ones(2)}
    params["shared"]["item"] = rows.whole(shared["item"])
    with pytest.raises(ValueError, match=message):
        value_and_gradient(model, lambda path: True, params, shared, batch, KEY)
