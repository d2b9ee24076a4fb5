"""Dense leaves of bfloat16 and float16: sums in float32, and rounds that keep their types."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from pulling import KEY, compiled, store

from fedjax_rec import servers, strategies
from fedjax_rec.aggregate import mean
from fedjax_rec.types import Client, Cohort, Model, Upload

CLIENTS = 1000


def ones(dtype) -> tuple[Client, Model]:
    """A client that sends 1, whatever it gets."""

    def update(key, private, shared, data, now):
        sent = {"x": jnp.ones(2, dtype), "wide": jnp.ones(2)}
        return private, Upload(sent, jnp.float32(1), {"loss": jnp.float32(0)})

    begin = lambda key, common=None: ({"x": jnp.zeros(2, dtype), "wide": jnp.zeros(2)}, ())
    return Client(lambda key, id: (), update), Model(begin, lambda *args: jnp.zeros(()))


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_thousand_clients_that_send_1_average_to_1(dtype):
    """One client a chunk: 256 + 1 is 256 in bfloat16."""
    data = replace(store(), length=jnp.ones(CLIENTS, jnp.int32), start=jnp.zeros(CLIENTS, int))
    strategy = strategies.federated(*ones(dtype), clients_per_chunk=1)
    state = strategy.init(KEY, CLIENTS)
    after, _ = compiled(strategy.round)(KEY, state, Cohort(jnp.arange(CLIENTS), data))
    assert after.shared["x"].dtype == dtype
    np.testing.assert_array_equal(np.asarray(after.shared["x"], float), 1)
    np.testing.assert_array_equal(after.shared["wide"], 1)


def test_summaries_are_wide():
    uploads = Upload({"x": jnp.ones((3, 5), jnp.bfloat16)}, jnp.ones(3), {})
    assert mean().reduce((), uploads, None)["update"]["x"].dtype == jnp.float32


def test_a_server_with_memory_keeps_it_wide():
    server = servers.from_optax(optax.adam(0.1))
    shared = {"x": jnp.ones(2, jnp.float16)}
    state, after = server.apply(server.init(shared), shared, {"x": jnp.ones(2, jnp.float16)})
    assert after["x"].dtype == jnp.float16 and state[0].mu["x"].dtype == jnp.float32
    np.testing.assert_allclose(np.asarray(after["x"], float), 1.1, rtol=1e-3)
