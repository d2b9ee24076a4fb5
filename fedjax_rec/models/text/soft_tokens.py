"""Vectors of users and items as tokens of a prompt: soft tokens, which no vocabulary has.

    e = s (W_2 relu(W_1 v / rms + b_1) + b_2)       of the user's vector and of the item's, [E] each
    x = [ text ... e_user e_item ... text ]         what goes into the layers

(CoLLM, Zhang et al., "CoLLM: Integrating collaborative embeddings into large language models for
recommendation", TKDE 2025: one mapping for both, through one hidden layer.) `rms` is that of all
numbers of the vectors, and s that of a typical text token where the soft ones come in, so that one
learning rate suits any vectors and any layer.

Where a token stands says its place and not its row: soft tokens are appended to the rows of a
sequence, and a token sees what has a lower place. So texts are laid out, packed and cached as they
are without.

`B` sequences of `S` text tokens and `K` prompts (1 where they are not packed), `D` width of the
vectors, `E` of the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ...check import at_least
from ..click.clicks import Layers
from ..roles import Frozen
from ..transformers.packed import Packing

SOFT, USER, ITEM = "soft", "user", "item"


@dataclass(frozen=True)
class SoftTokens:
    """Vectors that stand in prompts, and how they are mapped.

    Attributes:
        users: float32[U, D], rows by the field `of` of a batch.
        items: float32[I, D], rows by its field `item`.
        hidden: width of the hidden layer.
        of: `user`, or `prompt` where each prompt has a vector of its own, such as that of a
            sequential model that has read what the prompt says.

    Raises:
        ValueError: for vectors of two widths, of other than two axes, or not finite, and for hidden
            < 1.

    Example:
        >>> soft = models.SoftTokens(np.ones((3, 4)), np.ones((9, 4)), hidden=8)
    """

    users: np.ndarray
    items: np.ndarray
    hidden: int = 64
    of: str = USER

    def __post_init__(self):
        at_least("SoftTokens", "hidden", self.hidden, 1)
        for name in ("users", "items"):
            x = np.asarray(getattr(self, name), np.float32)
            if x.ndim != 2 or not x.size:
                raise ValueError(
                    f"SoftTokens({name}) is {list(x.shape)}; give one vector each, [n, D]."
                )
            if not np.isfinite(x).all():
                raise ValueError(f"SoftTokens({name}) has numbers that are not finite; train anew.")
            object.__setattr__(self, name, x)
        if self.users.shape[1] != self.items.shape[1]:
            raise ValueError(
                f"SoftTokens: users have {self.users.shape[1]} numbers each and items "
                f"{self.items.shape[1]}; give vectors of one model."
            )


class Projection(nnx.Module):
    """soft: the vectors; width: E; scale: s."""

    def __init__(self, soft: SoftTokens, width: int, scale: float, rngs):
        both = np.concatenate([soft.users, soft.items])
        unit = max(float(np.sqrt(np.square(both, dtype=np.float64).mean())), 1e-12)
        self.users = Frozen(jnp.asarray(soft.users / unit))
        self.items = Frozen(jnp.asarray(soft.items / unit))
        self.layers = Layers([both.shape[1], soft.hidden, width], rngs, last=False)
        self.of, self.scale = soft.of, float(scale)

    def __call__(self, batch) -> jax.Array:
        """float32[..., 2, E]: the tokens of the user and of the item of each prompt."""
        refuse_without("predict", batch, self.of)
        user, item = self.users[...][batch[self.of]], self.items[...][batch[ITEM]]
        return self.scale * self.layers(jnp.stack([user, item], -2))

    def beside(
        self, batch, x: jax.Array, packing: Packing | None, first: int
    ) -> tuple[jax.Array, Packing]:
        """(x [B, S + 2 K, E], where each row stands) of text tokens x [B, S, E], which go on from
        `first` tokens that all prompts begin with.

        packing: places as without soft tokens, None for one prompt a sequence.
        """
        made, at = self(batch).astype(x.dtype), batch[SOFT] - first
        if packing is None:
            made, at = made[:, None], at[:, None]
            shape = x.shape[:2]
            places = jnp.broadcast_to(jnp.arange(shape[1]), shape)
            texts, real = jnp.zeros(shape, jnp.int32), jnp.ones(at.shape[:2], bool)
        else:
            places, texts, real = packing.places, packing.texts, batch["real"] > 0
        ordered = jnp.sort(at, -1)  # [B, K, 2]
        of_token = jnp.maximum(texts, 0)[..., None]
        low, high = jnp.moveaxis(jnp.take_along_axis(ordered, of_token, 1), -1, 0)
        # A text token moves up by each soft token before it.
        places = places + (places >= low) + (places >= high - 1)
        count = at.shape[1]
        own = jnp.where(real, jnp.arange(count), -1)[..., None]
        flat = lambda x, *more: x.reshape(x.shape[0], 2 * count, *more)
        behind = Packing(flat(at), flat(jnp.broadcast_to(own, at.shape)))
        joined = lambda a, b: jnp.concatenate([a, b], 1)
        packed = Packing(joined(places, behind.places), joined(texts, behind.texts))
        return joined(x, flat(made, x.shape[-1])), packed


def refuse_without(where: str, fields, of: str = USER) -> None:
    """Raises ValueError where prompts do not say whom they are about, or where vectors stand."""
    for name in (of, ITEM):
        if name not in fields:
            raise ValueError(
                f"{where}: prompts have no field {name!r}, by which their vectors are found; use "
                "data.yes_no_prompts."
            )
    if SOFT not in fields:
        raise ValueError(
            f"{where}: prompts have no field {SOFT!r}, no place for vectors; name it in the words, "
            "as data.prompt_template(ask='{user}{item}{title}:') does."
        )


def refuse_other(
    where: str, soft: SoftTokens, fields: Mapping[str, np.ndarray], num_items: int | None = None
) -> None:
    """Raises ValueError where `soft` has no vectors of all that the prompts of `fields` ask about,
    where it has those of another catalogue than of `num_items`, or a prompt has vectors before the
    end of what all begin with."""
    refuse_without(where, fields, soft.of)
    if num_items is not None and len(soft.items) != num_items:
        raise ValueError(
            f"{where}: there are vectors of {len(soft.items)} items and the data have {num_items}; "
            "train them on the same data."
        )
    for what, rows, ids in ((soft.of, soft.users, soft.of), (ITEM, soft.items, ITEM)):
        most = int(np.max(fields[ids]))
        if most >= len(rows):
            raise ValueError(
                f"{where}: there are vectors of {len(rows)} {what}s and a prompt is about {what} "
                f"{most}, counted from 0; train them on the same data."
            )
    begun = fields.get("prefix", np.zeros(1, np.int32))
    if (np.min(fields[SOFT], 1) < begun).any():
        raise ValueError(
            f"{where}: vectors stand among the first {int(np.max(begun))} tokens, with which all "
            "prompts begin; place them later, or use prompts without data.with_prefix."
        )


def typical(x: np.ndarray | jax.Array) -> float:
    """The median over tokens x [..., E] that are not all zero of their root mean square."""
    sizes = np.sqrt(np.square(np.asarray(x, np.float32)).mean(-1))
    return float(np.median(sizes[sizes > 0]))
