"""What frozen layers make of fixed prompts, computed once: the input of the layers above them.

    x_L' = layer_L'(... layer_1(embed(prompt))),    for the layers 1 .. L' that no adapter touches

Where only the last layers of a decoder are adapted, what goes into them is the same in every round
and for every client. States are [n, T - P, D] in float16 or float32, one copy for all clients, and
[P, D] of what all prompts begin with, which is read once; prompts of like length share a batch.
They may be kept in a folder, one file a prompt, for the next run.

`n` prompts, `T` most tokens of one, `P` of what all begin with, 0 for nothing, `D` width.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ... import factors
from ...storage import whole
from ..transformers.decoder import Decoder, some
from ..transformers.packed import after, read

Dtype = Literal["float16", "float32"]
BATCH, ROUNDED = 16, 16  # prompts of a batch, and what their length is rounded up to


def divided(decoder: Decoder, above: int) -> tuple[Decoder, Decoder]:
    """(below, above): the first layers and the last `above`, with the token table, norm and head.

    Raises ValueError unless both have some.
    """
    size = decoder.size
    if not 1 <= above < size.layers:
        raise ValueError(
            f"divided(above={above}) leaves nothing on one side; use 1 <= above < {size.layers}, "
            "the number of layers."
        )
    cut = size.layers - above

    def part(where: slice, layers: int) -> Decoder:
        sized, inside = replace(size, layers=layers), some(decoder.layers, where)
        return Decoder(sized, decoder.tokens[...], inside, decoder.norm, decoder.head)

    return part(slice(0, cut), cut), part(slice(cut, None), above)


def states(
    decoder: Decoder,
    tokens: np.ndarray,
    sizes: np.ndarray,
    keep: Path | None = None,
    say: Callable[[str], object] | None = None,
    dtype: Dtype = "float16",
    first: int = 0,
) -> np.ndarray:
    """dtype[n, T - P, D]: the prompts `tokens` int32[n, T], of which the first `sizes` int32[n] are
    real, after all layers of `decoder`, without the `first` P tokens, which are those of all
    (`beginning`); zero behind.

    keep: a folder that holds states of earlier calls, by the weights and the tokens, and gets these
    too. say(text): told how far it is.
    Raises ValueError for states that exceed float16.
    """
    out = np.zeros((len(tokens), tokens.shape[1] - first, decoder.size.width), dtype)
    files = [None] * len(tokens)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        print_of = fingerprint(decoder)
        names = [
            hashlib.sha256(print_of + np.int32(row[:n]).tobytes()).hexdigest()
            for row, n in zip(tokens, sizes, strict=True)
        ]
        kind = ("" if dtype == "float16" else f"-{dtype}") + (f"-{first}" if first else "")
        files = [keep / f"{name}{kind}.npy" for name in names]
    missing = []
    for i in np.argsort(sizes, kind="stable"):
        file = files[i]
        if file is not None and file.is_file():
            out[i, : sizes[i] - first] = np.load(file)
        else:
            missing.append(i)
    reading = read(decoder, decoder.embed(jnp.asarray(tokens[0, :first])))[1] if first else None
    through = nnx.jit(
        lambda decoder, tokens, reading: after(decoder, decoder.embed(tokens), reading=reading)
    )
    tokens, sizes = tokens[:, first:], sizes - first
    for start in range(0, len(missing), BATCH):
        some = missing[start : start + BATCH]
        longest = -(-int(sizes[some].max()) // ROUNDED) * ROUNDED
        batch = np.zeros((BATCH, longest), np.int32)
        width = min(longest, tokens.shape[1])
        batch[: len(some), :width] = tokens[some, :width]
        made = np.asarray(through(decoder, jnp.asarray(batch), reading), np.float32)
        for i, x in zip(some, made, strict=False):
            out[i, : sizes[i]] = _as(dtype, x[: sizes[i]])
            if files[i] is not None:
                _write(files[i], out[i, : sizes[i]])
        if say is not None:
            say(f"{start + len(some)} of {len(missing)} prompts read")
    return out


def beginning(decoder: Decoder, tokens: np.ndarray, dtype: Dtype = "float16") -> np.ndarray:
    """dtype[P, D]: what all prompts begin with, `tokens` int32[P], after all layers."""
    made = nnx.jit(lambda decoder, tokens: decoder.hidden(tokens))(decoder, jnp.asarray(tokens))
    return _as(dtype, np.asarray(made, np.float32))


def fingerprint(decoder: Decoder) -> bytes:
    """What tells one decoder from another: its sizes and norms, and some of its weights."""
    parts = [decoder.tokens[...][:64], *jax.tree.leaves(nnx.state(decoder.layers))]
    inside = nnx.iter_modules(decoder.layers)
    norms = [(*path, type(x).__name__, getattr(x, "eps", None)) for path, x in inside]
    told = hashlib.sha256(repr((decoder.size, norms)).encode())
    for x in parts:
        told.update(np.asarray(x if x.ndim == 1 else x[-1], np.float32).tobytes())
    # Adapters may be in some layers alone.
    for path, variable in nnx.to_flat_state(nnx.state(decoder.layers)):
        if str(path[-1]) in (factors.A, factors.B, "lora_m"):
            told.update(np.asarray(variable[...], np.float32).tobytes())
    return told.digest()


def _as(dtype: Dtype, x: np.ndarray) -> np.ndarray:
    if np.abs(x).max(initial=0) > np.finfo(dtype).max:
        raise ValueError(
            f"the states of a prompt exceed {dtype}; use states='float32', or adapt all layers of "
            "this decoder."
        )
    return x.astype(dtype)


def _write(file: Path, x: np.ndarray) -> None:
    """Whole or not at all: another run may read it."""
    with whole(file) as beside, open(beside, "wb") as out:
        np.save(out, x)
