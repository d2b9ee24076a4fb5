"""The model of FedPerGNN: a light graph layer over the graph that a client has at home (Wu et al.,
Nature Communications 2022, there with attention and gates).

    h_i = 1/2 (q_i + mean_{v in N_ui} p_v)            of the client's items i in I_u
    z_u = 1/2 (p_u + mean_{i in I_u} h_i)
    score_u(j) = z_u . q_j

N_ui are the other users who have item i, of whom the client knows vectors and no names. They only
enter by

    n_u = mean_{i in I_u} mean_{v in N_ui} p_v,      z_u = 1/2 p_u + 1/4 (mean_{i in I_u} q_i + n_u)

which is kept in place of them, and which no step trains. In training the items of I_u are those of
the batch, as neighbours are sampled in GraphSAGE; where a batch holds all examples they are all.
Where the score of one of them is trained, it is left out of their mean: the edge that is asked for
is not in the graph.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

from ...check import positive
from ...types import Model
from ..objectives import Objective, bce
from ..roles import Private, Rows, from_nnx


class LocalGraph(nnx.Module):
    def __init__(self, num_items, members, width, scale, objective, rngs):
        draw = jax.random.normal
        self.item = Rows(scale * draw(rngs.params(), (num_items, width)))
        self.user = Private(scale * draw(rngs.params(), (members, width)))
        self.near = Private(jnp.zeros((members, width)))
        self.history = Private(jnp.zeros((members, num_items), jnp.bfloat16))
        self.objective = objective

    def seen(self, user, items, near):
        """z of users, from the means of their own items and of their neighbours."""
        return 0.5 * user + 0.25 * (items + jax.lax.stop_gradient(near))

    def loss(self, batch, key):
        item, labels = self.item[batch["items"]], batch["labels"]
        if item.ndim != 2:
            raise ValueError(
                "fedpergnn() got several items an example; train it on data.pointwise()."
            )
        edge = ((labels > 0) * (batch["mask"] > 0)).astype(item.dtype)[:, None]
        user, near, total, count = self.user[0], self.near[0], (edge * item).sum(0), edge.sum()
        if "users" in batch:
            users, members = batch["users"], self.user.shape[0]
            of = lambda x: jax.ops.segment_sum(x, users, members)[users]
            user, near = self.user[users], self.near[users]
            total, count = of(edge * item), of(edge)
        # The edge that is asked for is not in the graph.
        own = (total - edge * item) / jnp.maximum(count - edge, 1)
        return self.objective((item * self.seen(user, own, near)).sum(-1), batch)

    def score(self, items, user):
        history = self.history[user].astype(jnp.float32)
        own = (history @ self.item[:]) / jnp.maximum(history.sum(), 1)
        return self.item[items] @ self.seen(self.user[user], own, self.near[user])


def fedpergnn(
    num_items: int,
    members: int = 1,
    width: int = 32,
    scale: float = 0.1,
    objective: Objective | None = None,
) -> Model:
    """Private user vectors, shared item rows, and a graph layer from these to those.

    Arguments that are not named here are those of `fedmf`.

    Args:
        objective: `bce()` (default) or `squared_error()`, of examples that have labels: those above
            0 are interactions.

    Returns:
        A model whose `private` is {"user": float32[members, width], "near": n_u, float32[members,
        width], "history": bfloat16[members, num_items], 1 where the user has the item}. The last
        two are zeros until `strategies.fedpergnn` fills them.

    Raises:
        ValueError: unless width and scale are positive; in the round, for pairs of items.

    Example:
        >>> model = models.fedpergnn(num_items, width=16)
        >>> strategy = strategies.fedpergnn(model, data.pointwise(4))
    """
    positive("fedpergnn", "width", width)
    positive("fedpergnn", "scale", scale)
    objective = objective or bce()
    return from_nnx(lambda rngs: LocalGraph(num_items, members, width, scale, objective, rngs))
