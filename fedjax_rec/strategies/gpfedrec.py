"""GPFedRec: clients guided by a graph of users that the server builds from what they upload.

    client k:   Q_k  <-  descent on  loss_k(p_k, Q_k) + strength * mean |Q_k - T_k|^2   from Q

(Zhang et al., KDD 2024; released code github Zhangcx19/GPFedRec.) The rounds, and how T_k comes
about, are those of `rounds.graph_guided`.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax

from ..clients import groups, local_training, sgd
from ..data import Batches
from ..models.factorization.gpfedrec import guided
from ..rounds.graph_guided import graph_guided
from ..rounds.user_graph import Neighbours, Similarity
from ..types import Compressor, Model, Stage, Strategy


def gpfedrec(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    strength: float = 1.0,
    learning_rate: float = 0.1,
    user_learning_rate: float | None = None,
    item_learning_rate: float | None = None,
    similarity: Similarity | None = None,
    neighbours: Neighbours | None = None,
    epochs: int = 1,
    batch_size: int = 256,
    uplink: Compressor | None = None,
    clients_per_chunk: int | None = None,
    stages: Sequence[Stage] = (),
) -> Strategy:
    """GPFedRec of `models.gpfedrec`: SGD on private layers, user vector and item table.

    Arguments that are not named here are those of `fedavg`.

    Args:
        model: `models.gpfedrec(num_items)`, or `models.gpfedrec_rows(num_items)`.
        strength: of the pull towards the target.
        learning_rate: of the layers.
        user_learning_rate: of the user vector, default 79 times that of the layers.
        item_learning_rate: of the item table, default num_items * 80 - 1 times that of the layers,
            num_items the rows of the largest table that `model` shares. Both are as released; with
            these the pull takes a table of width 32 halfway to its target in every step.
        similarity: as in `graph_guided`.
        neighbours: as in `graph_guided`.
        uplink: as in `graph_guided`.
        stages: as in `graph_guided`.

    Raises:
        ValueError: as `graph_guided`.

    Example:
        >>> strategy = strategies.gpfedrec(models.gpfedrec(num_items), data.pointwise(4))
    """
    items, users = item_learning_rate, user_learning_rate
    if items is None:
        outline = jax.eval_shape(model.init, jax.random.key(0))[0]
        num_items = max((x.shape[0] for x in jax.tree.leaves(outline) if x.ndim), default=1)
        items = (num_items * 80 - 1) * learning_rate
    optimizer = groups(
        {
            "shared": sgd(items),
            "user": sgd(79 * learning_rate if users is None else users),
            "private": sgd(learning_rate),
        }
    )
    client = local_training(
        guided(model, strength), examples, optimizer, epochs, None, batch_size, probe
    )
    return graph_guided(client, model, similarity, neighbours, uplink, clients_per_chunk, stages)
