"""Reading a GGUF file, the format of llama.cpp: what it says of itself, and its tensors as floats.

Quantized blocks are restored by the library `gguf` (extra `gguf`), one tensor at a time, and kept
nowhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np


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
