"""Reading a GGUF file, the format of llama.cpp: what it says of itself, and its tensors as floats.

Quantized blocks are restored by the library `gguf` (extra `gguf`), one tensor at a time, and kept
nowhere. Its byte-level BPE tokenizers are made anew for the library `tokenizers`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

# How texts are cut before the merges of BPE: by `tokenizer.ggml.pre` of a file.
CUTS = ("smollm",)
CONTROL = 3  # a token that is no text: `tokenizer.ggml.token_type`


@dataclass(frozen=True)
class Gguf:
    """An opened file: `fields` by their full name, e.g. "llama.block_count"."""

    path: Path
    reader: Any

    def field(self, name: str, default: Any = None) -> Any:
        """Raises ValueError where the file has no such field, and there is no default."""
        found = self.reader.get_field(name)
        if found is None and default is None:
            raise ValueError(f"{self.path} has no field {name}; give a whole GGUF file.")
        return default if found is None else found.contents()

    def tensors(self) -> Iterator[tuple[str, np.ndarray]]:
        """(name, float32[out, in] or [D]) of each tensor, with the last axis stored innermost."""
        from gguf import dequantize

        for tensor in self.reader.tensors:
            yield tensor.name, np.asarray(dequantize(tensor.data, tensor.tensor_type), np.float32)


def gguf_file(folder: Path) -> Path | None:
    """The only GGUF file in `folder`, or None.

    Raises:
        ValueError: where there are several.
    """
    found = sorted(folder.glob("*.gguf"))
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise ValueError(f"{folder} holds {names}; keep one GGUF file in a folder.")
    return found[0] if found else None


def gguf(path: Path) -> Gguf:
    """Opens `path`.

    Raises:
        ImportError: without the library.
        ValueError: for a file that is none.
    """
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise ImportError(f"{path} needs the library gguf; pip install gguf tokenizers.") from error
    try:
        return Gguf(path, GGUFReader(path))
    except (ValueError, IndexError, OverflowError) as error:
        raise ValueError(f"{path} cannot be read as GGUF ({error}); fetch it again.") from error


def gguf_tokenizer(file: Gguf):
    """The `tokenizers.Tokenizer` of the file. Raises ValueError for a kind that is not known."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    kind = file.field("tokenizer.ggml.model"), file.field("tokenizer.ggml.pre")
    if kind[0] != "gpt2" or kind[1] not in CUTS:
        raise ValueError(
            f"{file.path} has a tokenizer of kind {'/'.join(kind)}, and only gpt2/smollm is known; "
            "put the tokenizer.json of the model beside it."
        )
    tokens = file.field("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in file.field("tokenizer.ggml.merges")]
    made = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [digits, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    made.decoder = decoders.ByteLevel()
    types = file.field("tokenizer.ggml.token_type")
    control = [t for t, kind in zip(tokens, types, strict=True) if kind == CONTROL]
    made.add_special_tokens([AddedToken(t, normalized=False, special=True) for t in control])
    return made
