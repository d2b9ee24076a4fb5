"""One client of a small factorization with plain arrays, and its gradients in NumPy.

    f(q, b, p; batch) = mean (q_i . p + b - y)^2

Item rows q and a bias b are shared, the user vector p is private, and the base is frozen. Of 30
items the client trains on touched rows, of 5 on the whole table.
"""

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec import keys, rows
from fedjax_rec.data.batches import Batches
from fedjax_rec.trees import Frozen
from fedjax_rec.types import Model, Now, Ranking, record

KEY = jax.random.key(2)
ITEMS = np.int32([3, 1, 3, 2, 4, 0, 2])
LABELS = np.float32([1, 0, 2, 0.5, 1, -1, 0])
BASE = 0.25


@record
class Listed:
    """A client's examples as plain arrays, standing in for `data.ClientData`."""

    items: jax.Array
    labels: jax.Array
    length: jax.Array
    longest: jax.Array
    id: jax.Array

    @property
    def store(self):
        return Store(self.items.shape[0])


@dataclass(frozen=True)
class Store:
    longest: int


def listed(length=len(ITEMS), id=0) -> Listed:
    n = jnp.int32(length)
    return Listed(jnp.asarray(ITEMS), jnp.asarray(LABELS), n, jnp.int32(len(ITEMS)), jnp.int32(id))


EXAMPLES = Batches(
    lambda data: data.length,
    lambda store: store.longest,
    lambda seed, data, q: {"items": data.items[q], "labels": data.labels[q]},
    {"items": 1},
)


def factorization(items: int, width: int = 2) -> Model:
    def init(key, common=None):
        a, b = jax.random.split(key)
        shared = {
            "base": Frozen(jnp.float32(BASE)),
            "bias": jnp.float32(0.1),
            "item": rows.Table(jax.random.normal(a, (items, width))),
        }
        return shared, {"user": jax.random.normal(b, (width,))}

    def loss(shared, private, batch, key):
        error = score(shared, private, batch["items"]) - batch["labels"]
        return (batch["mask"] * error**2).sum() / jnp.maximum(batch["mask"].sum(), 1.0)

    def score(shared, private, items, user=0):
        return shared["item"][items] @ private["user"] + shared["bias"] + shared["base"].value

    return Model(init, loss, Ranking.of(score))


def numbers(shared, private) -> dict[str, np.ndarray]:
    """{"q", "b", "p"} in double precision."""
    found = {"q": shared["item"].values, "b": shared["bias"], "p": private["user"]}
    return {name: np.asarray(x, np.float64) for name, x in found.items()}


def gradient(x: dict, numbers) -> dict:
    """Of f at the examples `numbers`, and f itself under "loss"."""
    i, y = ITEMS[numbers], LABELS[numbers].astype(float)
    error = x["q"][i] @ x["p"] + x["b"] + BASE - y
    slope = 2 * error / max(len(i), 1)
    q = np.zeros_like(x["q"])
    np.add.at(q, i, slope[:, None] * x["p"])
    loss = (error**2).mean() if len(i) else 0.0
    return {"q": q, "b": slope.sum(), "p": slope @ x["q"][i], "loss": loss}


def step(x: dict, g: dict, rate: float, names: str = "qbp") -> dict:
    return {name: v - rate * g[name] if name in names else v for name, v in x.items()}


def combined(f, *xs: dict) -> dict:
    return {name: f(*(x[name] for x in xs)) for name in "qbp"}


def order(batch_size: int, epochs: int = 1, key=KEY) -> list[np.ndarray]:
    """The numbers of the client's examples, batch by batch, as drawn."""
    seed, n, out = keys.words(keys.stream(key, "examples"), 4), len(ITEMS), []
    place = jnp.arange(n, dtype=jnp.uint32)
    for epoch in range(epochs):
        mixed = keys.mix(seed[:2] + jnp.uint32(epoch))
        drawn = np.asarray(keys.permute(place, jnp.uint32(n), mixed))
        out += [drawn[i : i + batch_size] for i in range(0, n, batch_size)]
    return out


def changed(upload, shared, private) -> dict:
    """The server's model after the upload is added, with `private`, as `numbers`."""
    item = rows.to_dense(upload.update["item"].delta())
    after = numbers(shared, private)
    bias = float(upload.update["bias"])
    return {**after, "q": after["q"] + np.asarray(item), "b": after["b"] + bias}


def agree(found: dict, want: dict, rtol=2e-4, atol=5e-6) -> None:
    for name in "qbp":
        np.testing.assert_allclose(found[name], want[name], rtol=rtol, atol=atol, err_msg=name)


@functools.cache
def compiled(update):
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    return jax.jit(update, compiler_options=options)


def updated(client, shared, private, data=None, key=KEY, round=0):
    """(private, upload) of a compiled update, compiled once for each client."""
    now = Now(jnp.int32(round), shared, jnp.int32(0))
    return compiled(client.update)(key, private, shared, listed() if data is None else data, now)


def same(a, b) -> None:
    """Every leaf equal to the bit."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def nothing_changes(client, shared, key=KEY) -> None:
    """A client without examples keeps its private state to the bit and uploads zeros."""
    private = client.init(KEY, jnp.int32(0))
    after, upload = updated(client, shared, private, listed(0), key)
    same(after, private)
    assert float(upload.weight) == 0
    assert not np.asarray(rows.to_dense(upload.update["item"].delta())).any()
    assert float(upload.update["bias"]) == 0
