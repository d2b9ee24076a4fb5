"""The model of HeteFedRec: matrix factorization of which clients hold narrow, middle or wide
vectors (Yuan et al., "HeteFedRec: federated recommender systems with model heterogeneity", ICDE
2024).

A client of size s has the table V_s, D_s wide, and a user vector p of as many numbers:

    score(i) = p . V_s[i]
    loss     = sum_{a <= s} l(p[:D_a] . V_s[i, :D_a])  +  w R(V_s),  s > 0
    R(V)     = |C|_F / D_s,   C the correlations of the columns of V

The sum is the paper's unified dual-task learning: the first D_a columns are trained to score by
themselves, as clients that hold no more use them. R, its decorrelation, keeps wide tables from
saying in D_s columns what fits in fewer.

The paper's base models have layers on top, one stack a width; inner products have none. R is there
of all items, of which a client here has the rows that it touches: it is of the rows of a batch,
each as often as it stands there.

Dimensions: `I` items, `K` sizes, `D_a` their widths, `B` batch.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from ...check import positive
from ...types import Model
from ..objectives import Objective, bce
from ..roles import Private, Rows, from_nnx
from .mf import inner, of_users


class Widths(nnx.Module):
    def __init__(self, num_items, members, widths, decorrelation, scale, objective, rngs):
        draw = jax.random.normal
        widest = scale * draw(rngs.params(), (num_items, widths[-1]))
        self.item = nnx.List([Rows(widest[:, :width]) for width in widths])
        self.user = Private(scale * draw(rngs.params(), (members, widths[-1])))
        self.size = Private(jnp.float32(0))  # a number, since what is no float has no slope
        self.widths, self.decorrelation = tuple(widths), decorrelation
        self.objective = objective

    def rows(self, items) -> jax.Array:
        """float[..., D_K]: of the client's own table, zeros beyond its width."""
        found = self.item[-1][items]
        for a, width in enumerate(self.widths[:-1]):
            own = self.item[a][items]
            own = jnp.pad(own, [(0, 0)] * (own.ndim - 1) + [(0, self.widths[-1] - width)])
            found = jnp.where(self.size[...] == a, own, found)
        return found

    def loss(self, batch, key):
        item, size = self.rows(batch["items"]), self.size[...]
        user = of_users(self.user, batch, item.ndim)
        total = 0.0
        for a, width in enumerate(self.widths):
            task = self.objective(inner(item[..., :width], user[..., :width]), batch)
            total += jnp.where(a <= size, task, 0)
        mask = jnp.broadcast_to(batch["mask"].reshape(-1, *[1] * (item.ndim - 2)), item.shape[:-1])
        own = jnp.asarray(self.widths, jnp.float32)[size.astype(jnp.int32)]
        together = correlation(item.reshape(-1, self.widths[-1]), mask.reshape(-1)) / own
        return total + self.decorrelation * jnp.where(size > 0, together, 0)

    def score(self, items, user):
        return self.rows(items) @ self.user[user]


def correlation(rows: jax.Array, mask: jax.Array) -> jax.Array:
    """float[]: |C|_F of the correlations C [D, D] of the columns of `rows` float[B, D] where `mask`
    is 1; a column that does not vary correlates with nothing."""
    count = jnp.maximum(mask.sum(), 1)
    centred = (rows - (mask @ rows) / count) * mask[:, None]
    variance = (centred**2).sum(0) / count
    standard = centred * jax.lax.rsqrt(variance + 1e-8)
    squares = (jnp.matmul(standard.T, standard) ** 2).sum() / count**2
    return jnp.where(squares > 0, jnp.sqrt(jnp.where(squares > 0, squares, 1)), 0)


def hetefedrec(
    num_items: int,
    members: int = 1,
    widths: Sequence[int] = (8, 16, 32),
    decorrelation: float = 0.0,
    scale: float = 0.1,
    objective: Objective | None = None,
) -> Model:
    """Private user vectors, and shared item rows in several widths, of which a client uses one.

    Arguments that are not named here are those of `fedmf`.

    Args:
        widths: D_a of each size, from the smallest to the largest.
        decorrelation: w, of R in the loss of all clients but the smallest.

    Returns:
        A model whose `shared` is {"item": {"0": Table [num_items, D_0], ...}}, each at first the
        first columns of the widest, and whose `private` is {"user": float32[members, D_K], "size":
        float32[], 0 until `strategies.hetefedrec` says which}.

    Raises:
        ValueError: unless widths are positive and ascend, and scale is positive.

    Example:
        >>> model = models.hetefedrec(num_items, widths=(4, 8, 16), decorrelation=0.1)
        >>> strategy = strategies.hetefedrec(model, data.pointwise(4), up_to=(50, 150))
    """
    if not widths or min(widths) < 1 or any(a >= b for a, b in itertools.pairwise(widths)):
        raise ValueError(
            f"hetefedrec(widths={list(widths)}) must be positive and ascend, e.g. [8, 16, 32]."
        )
    positive("hetefedrec", "scale", scale)
    objective = objective or bce()
    return from_nnx(
        lambda rngs: Widths(num_items, members, widths, decorrelation, scale, objective, rngs)
    )
