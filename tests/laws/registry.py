"""Everything that ships, by the call that makes it: the law tests run over these dictionaries.

A name opens with the factory it comes from, `cast('float16')`; `test_registry.py` fails when a
public factory of a room stands in none of them. Values are thunks, so that collecting is cheap;
models and local optimizers take what they need to know of the data.
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from fedjax_rec import aggregate, clients, compress, models, strategies
from fedjax_rec.data import batches


class Adapted(nnx.Module):
    """One variable of each role: frozen rows, trained rows, a shared bias, a private vector."""

    def __init__(self, num_items, members, rngs):
        draw = jax.random.normal
        self.base = models.Frozen(0.1 * draw(rngs.params(), (num_items, 4)))
        self.item = models.Rows(0.1 * draw(rngs.params(), (num_items, 4)))
        self.user = models.Private(0.1 * draw(rngs.params(), (members, 4)))
        self.bias = nnx.Param(jnp.zeros(()))
        self.objective = models.bce()

    def loss(self, batch, key):
        items = self.base[batch["items"]] + self.item[batch["items"]]
        user = self.user[batch["users"]] if "users" in batch else self.user[0]
        return self.objective((items * user).sum(-1) + self.bias, batch)

    def score(self, items, user):
        return (self.base[items] + self.item[items]) @ self.user[user] + self.bias


def halved(dtype=jnp.float16):
    """A compressor in two lines: half precision after a scale."""

    def encode(key, x):
        scale = jnp.maximum(jnp.abs(x).max(), 1e-30)
        return (x / scale).astype(dtype), scale

    return compress.leafwise(encode, lambda body, scale, like: body.astype(like.dtype) * scale)


# name -> (compressor, bound), where |decoded - x| <= bound * max |x of that leaf|; 0 is exact.
COMPRESSORS = {
    "identity()": (lambda: compress.identity(), 0.0),
    "cast('bfloat16')": (lambda: compress.cast("bfloat16"), 2.0**-8),
    "cast('float16')": (lambda: compress.cast("float16"), 2.0**-11),
    "leafwise(scaled float16)": (lambda: halved(), 2.0**-11),
}

AGGREGATORS = {
    "mean()": lambda: aggregate.mean(),
    "uniform()": lambda: aggregate.uniform(),
    "per_row()": lambda: aggregate.per_row(),
}

SERVERS = {
    "step(1)": lambda: strategies.step(1.0),
    "step(0.5)": lambda: strategies.step(0.5),
    "from_optax(sgd)": lambda: strategies.from_optax(optax.sgd(1.0)),
    "from_optax(adam)": lambda: strategies.from_optax(optax.adam(1e-2)),
    "from_optax(momentum)": lambda: strategies.from_optax(optax.sgd(0.5, momentum=0.9)),
}

# Local optimizers of a model with the groups `private` and `shared`.
LOCAL = {
    "sgd(0.5)": lambda: clients.sgd(0.5),
    "from_optax(momentum)": lambda: clients.from_optax(optax.sgd(0.1, momentum=0.9)),
    "from_optax(adam)": lambda: clients.from_optax(optax.adam(1e-2)),
    "groups(private, shared)": lambda: clients.groups(
        {"private": clients.sgd(0.5), "shared": optax.adam(1e-2)}
    ),
}

# name -> (model of (num_items, members), name in BATCHES that it trains on).
MODELS = {
    "fedmf(bce)": (lambda n, m: models.fedmf(n, m, width=8, scale=0.3), "pointwise(4)"),
    "fedmf(bpr)": (
        lambda n, m: models.fedmf(n, m, width=8, objective=models.bpr()),
        "pairwise(2)",
    ),
    "fedmf(squared_error)": (
        lambda n, m: models.fedmf(n, m, width=8, objective=models.squared_error()),
        "ratings()",
    ),
    "gmf()": (lambda n, m: models.gmf(n, m, width=8), "pointwise(4)"),
    "mlp()": (lambda n, m: models.mlp(n, m, width=8, layers=(8, 4)), "pointwise(4)"),
    "neumf()": (lambda n, m: models.neumf(n, m, width=8, layers=(8, 4)), "pointwise(4)"),
    "pfedrec()": (lambda n, m: models.pfedrec(n, m, width=8), "pointwise(4)"),
    "from_nnx(every role)": (
        lambda n, m: models.from_nnx(lambda rngs: Adapted(n, m, rngs)),
        "pointwise(4)",
    ),
}

# name -> (batches, examples of a client with n interactions).
BATCHES = {
    "pointwise(4)": (lambda: batches.pointwise(4), lambda n: 5 * n),
    "pointwise(0)": (lambda: batches.pointwise(0), lambda n: n),
    "pairwise(2)": (lambda: batches.pairwise(2), lambda n: 2 * n),
    "ratings()": (lambda: batches.ratings(), lambda n: n),
}


def everything(table: dict):
    """`pytest.mark.parametrize` arguments: each entry under its name."""
    import pytest

    return [pytest.param(value, id=name) for name, value in table.items()]
