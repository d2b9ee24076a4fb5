"""Decoders that read texts as encoders do: Qwen3-Embedding, EmbeddingGemma, or any other.

    x_1 .. x_T = norm(layers(embed(ids))),   of which the last token has read all others

There is no head. EmbeddingGemma (2025) attends both ways, Qwen3-Embedding (2025) to what stands
before; how a text's states become one vector is said by its folder (`sentences`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from ... import weights
from .assembled import assembled
from .decoder import Decoder
from .families.architecture import ENDS, KERNEL_NAMES, Architecture
from .reader import Called, Reader, Seen

PREFIX, HEAD = "model.", f"{ENDS['head']}.weight"
LAYER = "layers.{}.{}"


def reader(made: Architecture, place: Path) -> Reader:
    """Of the tensors in `place`, with or without a head and the prefix of one.

    Raises ValueError as `assembled`.
    """
    headless = replace(made, tied=True)
    found = within(weights.tensors(place).items())
    return of_decoder(assembled(headless, found, f"{place}", jnp.dtype("float32")), made.both)


def within(found: Iterable[tuple[str, np.ndarray]]) -> Iterator[tuple[str, np.ndarray]]:
    """Tensors by the names that they have in a model with a head, without it."""
    for name, x in found:
        if name != HEAD:
            yield (name if name.startswith(PREFIX) else PREFIX + name), x


def of_decoder(decoder: Decoder, both: bool = False) -> Reader:
    """`decoder` without its head. both: tokens see those behind them too."""
    size, fused = decoder.size, dict(decoder.fused)
    together = {part for parts in fused.values() for part in parts}
    alone = {theirs: (ours,) for ours, theirs in KERNEL_NAMES.items() if ours not in together}
    ropes = [sight.rope for sight in size.sights if sight.rope is not None]
    most = min((rope.most for rope in ropes if rope.most is not None), default=None)
    return Reader(
        decoder.tokens[...], decoder.layers, Seen(size, both), decoder.norm,
        Called(tuple({**alone, **fused}.items()), LAYER, PREFIX), scale=size.embedding, most=most,
    )  # fmt: skip
