"""Whether a loss leaves padding out: found on a few examples of one client, before a run begins.

    f(S): the loss where the examples S of a batch count, by their mask, and the others are padding
    f({1, 2}) stays what it is whatever the padding holds
    f({1, 2}) - f({}) is the mean of f({1}) - f({}) and f({2}) - f({}), and not their sum

A loss that is a plain mean over its batch fails the first: it trains on what is nobody's, and says
nothing. One that divides by the size of the batch fails the second: clients whose batches are not
full take smaller steps. A loss whose examples meet in the batch is neither, and passes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import trees
from ..rounds.cohort import over_clients
from ..types import Cohort, State, Strategy

EXAMPLES = 4  # of the batch, of which half are padding
SMALL = 2**20  # numbers of a leaf that is stirred
FAST = {"xla_backend_optimization_level": 0}


def refuse_counted_padding(strategy: Strategy, state: State, store) -> None:
    """Raises ValueError where the loss of what `strategy` trains counts padding.

    The loss is that of `strategy.model` at `state`, a little stirred, so that examples differ where
    a model begins with zeros. Nothing is looked at where the strategy does not say what its
    examples are, or no client has any.
    """
    if (examples := strategy.examples) is None:
        return
    largest = jnp.argmax(store.sizes(jnp.arange(store.num_clients)))[None].astype(jnp.int32)

    def drawn(id, mine, data):
        number = jnp.arange(EXAMPLES, dtype=jnp.uint32)
        real = number < examples.count(data).astype(jnp.uint32)
        batch = examples.draw(jnp.zeros(2, jnp.uint32), data, jnp.where(real, number, 0))
        return mine, {**batch, "mask": real.astype(jnp.float32)}

    @_fast
    def alone(private, ids, store):
        of_one = over_clients(drawn, private, Cohort(ids, store))(ids, private)
        return jax.tree.map(lambda x: x[0], of_one)

    mine, batch = alone(state.private, largest, store)
    if not np.asarray(batch["mask"]).any():
        return
    loss: Any = strategy.model.loss

    @_fast
    def value(batch, shared, private):
        parts = jax.tree.map(_stirred, {"shared": trees.trainable(shared), "private": private})
        whole = trees.with_frozen(parts["shared"], shared)
        return loss(whole, parts["private"], batch, jax.random.key(0))

    module, name = (getattr(loss, x, "") for x in ("__module__", "__qualname__"))
    shape = jax.eval_shape(value, batch, state.shared, mine).shape
    if shape != ():
        raise ValueError(
            f"model.loss ({module}.{name}) gives {list(shape)} of a batch and not one number; give "
            'their mean, models.masked_mean(values, batch["mask"]).'
        )
    told = moved(lambda batch: value(batch, state.shared, mine), batch)
    if told is not None:
        raise ValueError(
            f"model.loss ({module}.{name}) counts padding: {told}; multiply the loss of each "
            'example by batch["mask"] and divide the sum by jnp.maximum(batch["mask"].sum(), 1), '
            "as models.masked_mean does."
        )


def moved(loss: Callable[[dict], jax.Array], batch: dict) -> str | None:
    """How loss(batch) -> float[] counts what it should not; or None."""
    batch, other = paddings(batch)
    real = np.flatnonzero(batch["mask"])
    before, after = (float(loss(x)) for x in (batch, other))
    if _differ(before, after):
        return (
            f"of {len(real)} examples it is {before:.6g}, and {after:.6g} where the padding beside "
            "them is another"
        )
    if len(real) < 2:
        return None

    def alone(chosen) -> float:
        mask = np.zeros_like(batch["mask"])
        mask[chosen] = 1
        return float(loss({**batch, "mask": mask}))

    nobody = alone([])
    nobody = nobody if np.isfinite(nobody) else 0.0
    first, second, both = (alone(x) - nobody for x in (real[:1], real[1:2], real[:2]))
    if abs(both) > 1e-5 and not _differ(both, first + second):
        return (
            f"of two examples it is the sum of theirs, {first:.6g} and {second:.6g}, and not their "
            "mean"
        )
    return None


def paddings(batch: dict) -> tuple[dict, dict]:
    """(batch, another) of the same examples and of other padding: in the second it is copies of the
    first example. The later half of a batch without padding is called padding. Raises ValueError
    where there is no example."""
    batch = jax.tree.map(np.array, batch)
    mask = batch["mask"]
    if not mask.any():
        raise ValueError("no example of the batch counts; use clients with more.")
    if mask.all():
        mask[-(-len(mask) // 2) :] = 0
    first = int(np.flatnonzero(mask)[0])
    other = {name: x.copy() for name, x in batch.items() if name != "mask"}
    for x in other.values():
        x[mask == 0] = x[first]
    return batch, {**other, "mask": mask}


def _stirred(x: jax.Array) -> jax.Array:
    """`x` and beside it up to a half, which is another for each number."""
    if x.size > SMALL or not jnp.issubdtype(x.dtype, jnp.floating):
        return x
    return x + (0.5 * jnp.cos(1 + 2.4 * jnp.arange(x.size))).reshape(x.shape).astype(x.dtype)


def _differ(a: float, b: float) -> bool:
    """Whether both are numbers, and not nearly the same."""
    return bool(np.isfinite(a) and np.isfinite(b) and not np.isclose(a, b, rtol=1e-4, atol=1e-6))


def _fast(f: Callable) -> Callable:
    """`f` compiled fast rather than well, for a call or two."""
    return jax.jit(f, compiler_options=FAST)
