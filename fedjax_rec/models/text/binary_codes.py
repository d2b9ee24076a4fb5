"""Binary codes of users and items, short enough to be said in a prompt: the first step of BinLLM.

    h_u = sign(tanh(W p_u + b)),  h_i = sign(tanh(V q_i + c))        in {-1, 1}^B
    z = m + s h_u . h_i,          loss = bce(z, liked)

(Zhang et al., "Text-like encoding of collaborative information in large language models for
recommendation", ACL 2024.) sign is flat: slopes pass straight through it, as if it was not there.
Second step: `data.text_codes` writes the codes as text and `tallrec` reads them.

As released there are two linear layers, one for users and one for items. Other than there, p and q
are those of a run that has ended and stay as they are, sign is there from the start and not more
and more often, and m and s are learned, where the release has 0 and 1: an order of pairs does not
depend on them, and 32 bits would otherwise begin as logits of up to 32. Clients send the layers,
2 B (D + 1) + 2 numbers: what a user likes, and its vector, stay with it.

`D` width of the vectors, `B` bits.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ... import weights
from ...check import at_least
from ...types import Model
from ..objectives import bce
from ..roles import Frozen, from_nnx
from ..transformers.layers import linear
from .collm import VECTORS
from .soft_tokens import SoftTokens


class BinaryCodes(nnx.Module):
    """users, items: the vectors over their root mean square; of_user, of_item: the layers."""

    def __init__(self, users: np.ndarray, items: np.ndarray, bits: int, rngs):
        both = np.concatenate([users, items])
        unit = max(float(np.sqrt(np.square(both, dtype=np.float64).mean())), 1e-12)
        self.users, self.items = (Frozen(jnp.asarray(x / unit)) for x in (users, items))
        width = both.shape[1]
        self.of_user, self.of_item = linear(rngs, width, bits), linear(rngs, width, bits)
        self.mean, self.scale = nnx.Param(jnp.zeros(())), nnx.Param(jnp.full((), bits**-0.5))

    def predict(self, batch):
        """float32[B]: the logits of a like."""
        user = binary(self.of_user(self.users[...][batch["user"]]))
        item = binary(self.of_item(self.items[...][batch["items"]]))
        return self.mean[...] + self.scale[...] * (user * item).sum(-1)

    def loss(self, batch, key):
        return bce()(self.predict(batch), batch)


def binary(x: jax.Array) -> jax.Array:
    """-1 or 1 by the sign of x, 1 for 0; with the slope of tanh."""
    soft = jnp.tanh(x)
    return soft + jax.lax.stop_gradient(jnp.where(x >= 0, 1.0, -1.0) - soft)


def binary_codes(
    vectors: str,
    bits: int = 32,
    names: tuple[str, str] = VECTORS,
    num_items: int | None = None,
) -> Model:
    """Codes that say of vectors what the likes in `data.liked_pairs` need.

    Args:
        vectors: as in `collm`; here those of the run that codes are made of.
        bits: B, of a code; 8, 16, 24 or 32 for `data.text_codes` in the decimal notation.
        names: of the vectors in the file, as in `collm`.
        num_items: `I` of the data, which a run tells; None to take the file's word for it.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for bits < 1, for vectors that do not fit each other, and for those of another
            catalogue.

    Example:
        >>> model = models.binary_codes("runs/likes/export", bits=16)  # doctest: +SKIP
        >>> strategy = strategies.fedavg(model, data.examples())  # doctest: +SKIP
    """
    at_least("binary_codes", "bits", bits, 1)
    found = SoftTokens(*weights.exported_vectors("binary_codes", vectors, names))
    if num_items is not None and len(found.items) != num_items:
        raise ValueError(
            f"binary_codes: there are vectors of {len(found.items)} items and the data have "
            f"{num_items}; train them on the same data."
        )
    return from_nnx(lambda rngs: BinaryCodes(found.users, found.items, bits, rngs))
