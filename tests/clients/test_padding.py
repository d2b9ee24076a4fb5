"""Batches of padding, which shorter clients of a chunk see, may hold anything: nothing changes."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from alone import EXAMPLES, KEY, factorization, listed, same, updated

from fedjax_rec import clients
from fedjax_rec.clients.batches import Passes
from fedjax_rec.strategies.apfl import apfl_client
from fedjax_rec.strategies.ditto import ditto_client
from fedjax_rec.strategies.fedsgd import full_gradient
from fedjax_rec.strategies.per_fedavg import maml
from fedjax_rec.strategies.pfedme import pfedme_client

PASSES = Passes(batch_size=2)


def divided(items: int):
    """`factorization` with a loss that divides by the number of examples: 0 / 0 of padding."""
    model = factorization(items)

    def loss(shared, private, batch, key):
        error = model.ranking.score(shared, private, (), (), batch["items"], 0) - batch["labels"]
        return (batch["mask"] * error**2).sum() / batch["mask"].sum()

    return replace(model, loss=loss)


CLIENTS = {
    "sgd": lambda model: clients.local_training(model, EXAMPLES, clients.sgd(0.1), batch_size=2),
    "adam": lambda model: clients.local_training(model, EXAMPLES, optax.adam(0.1), batch_size=2),
    "the full gradient": lambda model: full_gradient(
        model, EXAMPLES, clients.sgd(0.1), batch_size=2
    ),
    "ditto": lambda model: ditto_client(model, EXAMPLES, clients.sgd(0.1), passes=PASSES),
    "apfl": lambda model: apfl_client(model, EXAMPLES, clients.sgd(0.1), 0.5, 0.1, PASSES),
    "a batch without its second half": lambda model: maml(
        model, EXAMPLES, clients.sgd(0.1), passes=PASSES
    ),
    "pfedme": lambda model: pfedme_client(
        model, EXAMPLES, clients.sgd(0.01), clients.sgd(0.05), passes=PASSES
    ),
}


@pytest.mark.parametrize("name", CLIENTS)
def test_a_longer_client_in_the_chunk_changes_nothing(name):
    model = divided(30)
    client, shared = CLIENTS[name](model), model.init(KEY)[0]
    private = client.init(KEY, jnp.int32(0))
    alone = replace(listed(3), longest=jnp.int32(3))
    padded, want = (updated(client, shared, private, data) for data in (listed(3), alone))
    same(padded, want)
    floats = [x for x in jax.tree.leaves(padded) if jnp.issubdtype(x.dtype, jnp.floating)]
    assert all(np.isfinite(x).all() for x in floats) and float(padded[1].metrics["loss"]) > 0
