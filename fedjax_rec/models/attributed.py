"""Items aligned with what is known of them, so that new ones have a row (IFedRec's model).

    client u:   l_u(p_u, Q) + strength * mean |Q - R|^2,      R = M(y)
    score:      by q_i of items that somebody trained, by r_i of others

y_i are the attributes of item i, which the server has and clients never see, and M the meta
attribute network, ReLU layers and a tanh at the end as released: r_i = M(y_i) is item i as its
attributes tell it. `strategies.ifedrec` trains M at the server on the rows that clients have
learned; the pull holds clients where M can follow. (Zhang et al., "When federated recommendation
meets cold-start problem: separating item attributes and user interactions", WWW 2024.)

`I` items, `D` width, `Fi` numbers that are known of an item.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from .. import rows, trees
from ..check import at_least, positive
from ..types import Array, Model, PyTree
from .contrastive import items_of
from .factorization.gpfedrec import guided
from .factorization.pfedrec import pfedrec
from .fields import item_sizes
from .objectives import Objective
from .text.text_tower import whitened


@dataclass(frozen=True)
class Filled:
    """A table in which rows that nobody trained are others: float[..., D] of ids.

    table: what has the trained rows. known: bool[I]. others: float[I, D].
    """

    table: rows.Table | rows.Overlay
    known: Array
    others: Array

    def __getitem__(self, ids) -> jax.Array:
        known = jnp.asarray(self.known)[ids]
        return jnp.where(known[..., None], self.table[ids], jnp.asarray(self.others)[ids])


def attributed(
    model: Model,
    item_features: np.ndarray,
    layers: Sequence[int] = (64,),
    strength: float = 1.0,
) -> Model:
    """`model` whose item rows are aligned with attributes, and which has rows for new items.

    Its `shared` is {"model": ..., "attributes": Frozen({"described": float[I, Fi], "network":
    ..., "rows": R float[I, D], "known": bool[I]})}: what `model` shares, and what the server keeps
    beside it, of which clients get the rows of R that they touch. Until a row is `known`, which is
    when a client sent a change of it, the item is scored by R.

    Args:
        model: one that shares a table of item rows and nothing else, such as `models.pfedrec` or
            `models.fedmf`.
        item_features: y, float[I, Fi].
        layers: widths inside M.
        strength: of the pull. The mean is over all I D numbers of the table, of which a client
            pulls the rows that it touches, see `guided`.

    Raises:
        ValueError: for a model that shares something else, features of another shape, widths that
            are not positive, and strength < 0.

    Example:
        >>> genres = np.eye(num_items, 5, dtype=np.float32)
        >>> model = models.attributed(models.fedmf(num_items, width=4), genres, layers=(8,))
        >>> strategy = strategies.ifedrec(model, data.pointwise(4))
    """
    at_least("attributed", "strength", strength, 0)
    for size in layers:
        positive("attributed", "layers", size)
    outline = jax.eval_shape(model.init, jax.random.key(0))[0]
    num_items, width = items_of(outline).shape
    if len(rows.nodes(trees.trainable(outline))) != 1:
        raise ValueError(
            f"attributed(model) shares {', '.join(trees.named(outline))}; give a model that shares "
            "a table of items alone, such as models.pfedrec or models.fedmf."
        )
    item_sizes("attributed", item_features, None, num_items)
    pulled = guided(model, strength)

    def init(key, common=None):
        shared, private = model.init(key, common)
        network = first_network(jax.random.fold_in(key, 1), item_features.shape[1], layers, width)
        described = jnp.asarray(item_features, jnp.float32)
        beside = {
            "described": described, "network": network, "rows": represented(network, described),
            "known": jnp.zeros(num_items, bool),
        }  # fmt: skip
        return {"model": shared, "attributes": trees.Frozen(beside)}, private

    def filled(shared, private):
        beside = shared["attributes"].value
        known, others = beside["known"], beside["rows"]
        one = lambda x: Filled(x, known, others) if _is_rows(x) else x
        return rows.map_nodes(one, shared["model"]), private

    def loss(shared, private, batch, key):
        r = shared["attributes"].value["rows"]
        target = rows.map_nodes(lambda table: r, trees.trainable(shared["model"]))
        given = {"model": shared["model"], "target": trees.Frozen(target)}
        return pulled.loss(given, private, batch, key)

    return replace(model.through(filled, init), loss=loss)


def _is_rows(x) -> bool:
    return isinstance(x, (rows.Table, rows.Overlay))


def first_network(key: jax.Array, inputs: int, layers: Sequence[int], width: int) -> PyTree:
    """M at the start: kernels and biases uniform in +-1/sqrt(inputs) of each layer, as
    `torch.nn.Linear`."""

    def layer(key, inputs, outputs):
        of_kernel, of_bias = jax.random.split(key)
        draw = lambda key, shape: jax.random.uniform(key, shape, minval=-1.0) / inputs**0.5
        return {"kernel": draw(of_kernel, (inputs, outputs)), "bias": draw(of_bias, (outputs,))}

    sizes = [inputs, *layers, width]
    pairs = list(itertools.pairwise(sizes))
    keys = jax.random.split(key, len(pairs))
    return [layer(k, a, b) for k, (a, b) in zip(keys, pairs, strict=True)]


def represented(network: PyTree, described: jax.Array) -> jax.Array:
    """R = M(y), float[I, D] of float[I, Fi]."""
    *before, last = network
    x = described
    for layer in before:
        x = jax.nn.relu(x @ layer["kernel"] + layer["bias"])
    return jnp.tanh(x @ last["kernel"] + last["bias"])


def ifedrec(
    num_items: int,
    members: int = 1,
    width: int = 32,
    layers: Sequence[int] = (64,),
    strength: float = 1.0,
    objective: Objective | None = None,
    item_features: np.ndarray | None = None,
    titles: Sequence[str] | None = None,
    weights: str | None = None,
    length: int = 128,
    components: int = 64,
) -> Model:
    """`attributed` of `pfedrec`, as the paper's IPFedRec.

    Arguments that are not named here are those of `attributed`, `pfedrec` and `text_tower`.

    Args:
        item_features: float[I, Fi], what a run makes of `data.features`, or None.
        weights: whose embeddings of the titles are attributes as well, beside `item_features`; None
            for none.

    Raises:
        ValueError: as these, and where nothing is known of items.

    Example:
        >>> genres = np.eye(num_items, 5, dtype=np.float32)
        >>> model = models.ifedrec(num_items, width=4, item_features=genres)
        >>> strategy = strategies.ifedrec(model, data.pointwise(4))
    """
    model = pfedrec(num_items, members, width, objective)
    known = attributes("ifedrec", num_items, item_features, titles, weights, length, components)
    return attributed(model, known, layers, strength)


def attributes(
    where: str,
    num_items: int,
    item_features: np.ndarray | None,
    titles: Sequence[str] | None,
    weights: str | None,
    length: int,
    components: int,
) -> np.ndarray:
    """float32[I, Fi]: features and whitened embeddings of texts side by side, what there is of
    both. Raises ValueError where there is neither."""
    found = [] if item_features is None else [np.asarray(item_features, np.float32)]
    if weights is not None:
        found.append(whitened(where, titles, num_items, weights, length, components))
    if not found:
        raise ValueError(
            f"{where} knows nothing of items; give data.features of items, or weights: minilm for "
            "their titles."
        )
    return np.concatenate(found, 1)
