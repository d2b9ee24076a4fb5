"""Where each variable of a `flax.nnx` module lives, and `from_nnx`, which makes it a `Model`.

| role | variable | lives | travels |
|---|---|---|---|
| shared | `nnx.Param` | server, dense | down and up, whole |
| rows | `Rows` | server, a table | only touched rows |
| private | `Private` | one slice per client | never |
| private rows | `PrivateRows` | a table per client | never |
| frozen | `Frozen` | one copy, broadcast into the `vmap` | once |

The module has `loss(batch, key) -> float[]` and one or both of `score(items, user) -> float[n]`
and, of labelled examples, `predict(batch) -> float[B]`. It may have two more, which become the
catalogue and the context of its `types.Ranking`: `prepare() -> pytree`, made once for all users and
handed to `score` as `prepared`, and `read(history) -> pytree`, made once for a user and handed to
it as `reading`; None is none.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from .. import rows, trees
from ..types import Model, Ranking


class Rows(nnx.Param):
    """A table [I, D] of which clients touch rows. Index it with ids of the batch:
    `self.item[batch["items"]]` costs nothing; a slice or a permutation of a field, an example under
    `vmap`, a microbatch or ids inside `jax.checkpoint` are looked up among them. Other id fields
    than `items`: `Rows(values, fields=("a", "b"))`."""


class Private(nnx.Param):
    """What a client keeps for itself and never sends."""


class PrivateRows(Private):
    """A table [I, D] of each client's own, indexed like `Rows`: a step costs the rows of its batch,
    memory N tables."""


class Frozen(nnx.Variable):
    """What is never trained."""


def from_nnx(build: Callable[[nnx.Rngs], nnx.Module]) -> Model:
    """The `Model` of the module that `build(rngs)` makes.

    What is drawn from `rngs.common()` starts alike on all clients; the rest differs by client.
    `init(key)` draws both from one key.

    `shared` is the nested dict of the module's attributes with `Param`, `Rows` and `Frozen`
    variables, `private` that of its `Private` ones.

    Args:
        build: build(rngs) -> a module with `loss`, and `score` or `predict`, as above.

    Raises:
        TypeError: for other variable types (batch statistics, caches), which no role describes, and
            for a module without `score` or `predict`.
        ValueError: when it scores, where it reads a history and the case holds none.

    Example:
        >>> class Popular(nnx.Module):
        ...     def __init__(self, rngs):
        ...         self.bias = models.Rows(jnp.zeros((num_items, 1)))
        ...
        ...     def loss(self, batch, key):
        ...         return models.bce()(self.bias[batch["items"]][:, 0], batch)
        ...
        ...     def score(self, items, user):
        ...         return self.bias[items][:, 0]
        >>> strategy = strategies.fedavg(models.from_nnx(Popular), data.pointwise(4))
    """
    outline = nnx.eval_shape(lambda: build(nnx.Rngs(0)))
    for path, variable in nnx.to_flat_state(nnx.state(outline)):
        if isinstance(variable, nnx.BatchStat):
            raise TypeError(
                f"from_nnx: variable {'.'.join(map(str, path))} holds statistics of batches, which "
                "change while a client trains and have no place in a round; normalise with "
                "nnx.LayerNorm or nnx.GroupNorm, which keep none."
            )
        if not isinstance(variable, (nnx.Param, Frozen, nnx.RngState)):
            raise TypeError(
                f"from_nnx: variable {'.'.join(map(str, path))} is a {type(variable).__name__}; "
                "make it an nnx.Param, Rows, Private or Frozen."
            )

    scores, predicts = hasattr(outline, "score"), hasattr(outline, "predict")
    if not (scores or predicts):
        raise TypeError(
            f"from_nnx: {type(outline).__name__} has no way to be measured; give it "
            "score(items, user), or predict(batch) for labelled examples."
        )

    def init(key, common=None):
        module = build(nnx.Rngs(key) if common is None else nnx.Rngs(key, common=common))
        shared: dict = {}
        private: dict = {}
        for path, variable in nnx.to_flat_state(nnx.state(module)):
            value = variable.get_value()
            if isinstance(variable, nnx.RngState):
                continue
            if isinstance(variable, (Rows, PrivateRows)):
                fields = tuple(variable.get_metadata().get("fields", ("items",)))
                value = rows.Table(value, fields)
            if isinstance(variable, Private):
                _put(private, path, value)
            elif isinstance(variable, Rows):
                _put(shared, path, value)
            elif isinstance(variable, Frozen):
                _put(shared, path, trees.Frozen(value))
            else:
                _put(shared, path, value)
        return shared, private

    structure, state = nnx.split(outline)

    def assembled(shared, private, key) -> Any:
        flat = []
        for path, variable in nnx.to_flat_state(state):
            if isinstance(variable, nnx.RngState):
                key, fresh = jax.random.split(key)
                count = jnp.zeros((), jnp.uint32)
                value = fresh if isinstance(variable, nnx.RngKey) else count
                flat.append((path, variable.replace(value)))
                continue
            value = _get(private if isinstance(variable, Private) else shared, path)
            if isinstance(value, trees.Frozen):
                value = value.value
            flat.append((path, variable.replace(value)))
        return nnx.merge(structure, nnx.from_flat_state(flat))

    def loss(shared, private, batch, key):
        module = assembled(shared, private, key)
        module.train()
        return module.loss(batch, key)

    def measured(shared, private) -> Any:
        module = assembled(shared, private, jax.random.key(0))
        module.eval()
        return module

    prepares, reads = (getattr(outline, n, None) is not None for n in ("prepare", "read"))

    def score(shared, private, catalogue, context, items, user):
        more = {"prepared": catalogue} if prepares else {}
        if reads:
            more["reading"] = context
        return measured(shared, private).score(items, user, **more)

    def catalogue(shared, private):
        return measured(shared, private).prepare() if prepares else ()

    def context(shared, private, history):
        if not reads:
            return ()
        if history is None:
            raise ValueError(
                f"{type(outline).__name__} scores from a history; measure it on cases that "
                "hold one, as pack(history=...) makes them."
            )
        return measured(shared, private).read(history)

    def predict(shared, private, batch):
        return measured(shared, private).predict(batch)

    ranking = Ranking(score, catalogue, context) if scores else None
    return Model(init, loss, ranking, predict if predicts else None)


def _put(tree: dict, path, value) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(str(name), {})
    tree[str(path[-1])] = value


def _get(tree, path):
    for name in path:
        tree = tree[str(name)]
    return tree
