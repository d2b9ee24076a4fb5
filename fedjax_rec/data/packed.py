"""Prompts of a client in as few sequences as hold them, and what all of them begin with.

An example to train on becomes a sequence of `S` tokens with several prompts of one client, first
come first served by length (`weights.first_fit`); what is held out stays as it is. A model that
reads such batches lets a token see its own prompt alone, so that a loss is that of the same prompts
by themselves; what differs is which of them share a batch, and that clients count by their
sequences. It pays where lengths vary: padding costs what a token costs.

`n` prompts, `T` most tokens of one, `m` sequences, `S` tokens of one, `K` most prompts of one.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import weights
from ..check import at_least
from .examples import Examples

PREFIX = "prefix"


# Any: parts that a configuration makes of a dataclass would be read field by field.
def with_prefix(found: Any) -> Examples:
    """Prompts that say how many tokens all of them begin with, for models that read these once.

    Args:
        found: `Examples` with the fields `tokens` int[n, T] and `length` int[n].

    Returns:
        `found` with the field `prefix` int32[n], that number.

    Raises:
        ValueError: without these fields, and where prompts begin in different ways.

    Example:
        >>> prompts = data.with_prefix(prompted)
    """
    _check("with_prefix", found)
    first = weights.common_start(found.fields["tokens"], found.fields["length"])
    if not first:
        raise ValueError(
            f"with_prefix({found.name!r}): no token is the first of all prompts; use words with an "
            "opening, as in data.prompt_template(opening=...)."
        )
    prefix = np.full(len(found), first, np.int32)
    return replace(found, fields={**found.fields, PREFIX: prefix})


def packed_prompts(found: Any, room: int = 256) -> Examples:
    """Prompts whose training part is packed when it is laid on the device.

    Args:
        found: `Examples` with the fields `tokens` int[n, T] and `length` int[n]; where there is a
            `prefix` (`with_prefix`), that many tokens of each are left out.
        room: S, tokens of a sequence.

    Returns:
        `found` with a `Packed`. `data.describe_examples` says how many sequences there are, and the
        share of padding.

    Raises:
        ValueError: without these fields, and where a prompt is longer than `room`.

    Example:
        >>> prompts = data.packed_prompts(prompted, room=64)
    """
    _check("packed_prompts", found)
    longest = int((found.fields["length"] - found.fields.get(PREFIX, 0)).max())
    at_least("packed_prompts", "room", room, longest)
    return replace(found, pack=Packed(room))


@dataclass(frozen=True)
class Packed:
    """room: S."""

    room: int

    def __call__(
        self, fields: dict[str, np.ndarray], client: np.ndarray
    ) -> tuple[dict[str, np.ndarray], np.ndarray, float]:
        """(fields, client int[m], the share of padding) of prompts with `fields`, by client.

        Of tokens: `tokens`, `texts` (the number of their prompt in the sequence, -1 behind) and
        `places` (in their prompt) int32[m, S]. Of prompts: `ends` int32[m, K] (where their last
        token stands), `real` float32[m, K], and every other field [m, K, ...].
        """
        prefix = np.broadcast_to(fields.get(PREFIX, 0), client.shape)
        sizes = fields["length"] - prefix
        layouts = []
        for one in np.unique(client):
            mine = np.flatnonzero(client == one)
            layouts.append((one, mine, weights.first_fit(sizes[mine], self.room)))
        most = max(layout.of.shape[1] for _, _, layout in layouts)
        wide = lambda x, fill: np.pad(x, [(0, 0), (0, most - x.shape[1])], constant_values=fill)
        of = np.concatenate(
            [wide(np.where(x.of < 0, -1, mine[x.of]), -1) for _, mine, x in layouts]
        )
        texts, places = (
            np.concatenate([getattr(x, name) for *_, x in layouts]) for name in ("texts", "places")
        )
        real = of >= 0
        of = np.maximum(of, 0)
        row = np.take_along_axis(of, np.maximum(texts, 0), 1)
        places = np.where(texts >= 0, places + prefix[row], 0).astype(np.int32)
        out = {name: x[of] for name, x in fields.items() if name != "tokens"}
        for name, x in out.items():
            out[name] = np.where(real.reshape(real.shape + (1,) * (x.ndim - 2)), x, 0)
        out |= {
            "tokens": np.where(texts >= 0, fields["tokens"][row, places], 0),
            "texts": texts,
            "places": places,
            "ends": np.concatenate([wide(x.ends, 0) for *_, x in layouts]),
            "real": real.astype(np.float32),
        }
        counts = [len(x.of) for *_, x in layouts]
        waste = 1 - sizes.sum() / texts.size
        return out, np.repeat([one for one, *_ in layouts], counts), float(waste)


def _check(where: str, found: Examples) -> None:
    for name in ("tokens", "length"):
        if name not in found.fields:
            raise ValueError(
                f"{where}({found.name!r}) has no field {name!r}; use prompts, as those of "
                "data.yes_no_prompts."
            )
