"""DLRM: a bottom MLP makes a vector of the dense features, all vectors meet in inner products.

    v_0 = bottom(x),  v_f = e_f,   z = top([v_0 ; v_i . v_j for i < j])

(Naumov et al., "Deep learning recommendation model for personalization and recommendation
systems", 2019.)
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ...types import Model
from .clicks import Layers, click_model
from .embeddings import Embedding


class Interaction(nnx.Module):
    def __init__(self, dense, sparse, width, bottom, top, rngs):
        self.bottom = Layers([dense, *bottom, width], rngs)
        pairs = (sparse + 1) * sparse // 2
        self.top = Layers([width + pairs, *top, 1], rngs, last=False)

    def __call__(self, e, x):
        first = self.bottom(x)
        v = jnp.concatenate([first[:, None], e], 1)
        products = jnp.einsum("bid,bjd->bij", v, v)
        i, j = np.tril_indices(v.shape[1], -1)
        return self.top(jnp.concatenate([first, products[:, i, j]], -1))[:, 0]


def dlrm(
    num_items: int,
    sparse: int = 26,
    dense: int = 13,
    width: int = 16,
    bottom: Sequence[int] = (64,),
    top: Sequence[int] = (64,),
    scale: float = 0.1,
    embedding: Embedding | None = None,
) -> Model:
    """Logits z of examples with `sparse` ids below `num_items` and `dense` features.

    Arguments that are not named here are those of `deepfm`.

    Args:
        bottom: widths of hidden layers.
        top: widths of hidden layers.

    Raises:
        ValueError: for sizes below 1, and for scale <= 0.

    Example:
        >>> model = models.dlrm(num_items=100, sparse=4, dense=2, width=4, bottom=(8,), top=(8,))
    """
    sizes = {"sparse": sparse, "dense": dense}
    build = lambda rngs: Interaction(dense, sparse, width, bottom, top, rngs)
    return click_model("dlrm", num_items, width, scale, embedding, sizes, build)
