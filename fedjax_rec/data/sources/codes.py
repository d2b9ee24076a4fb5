"""Codes of users and items as text: 32 bits as an address is written, `198.51.100.7`.

    code(u) = bits of  W p_u + b >= 0,   eight of them a number from 0 to 255, the first the highest

(BinLLM, Zhang et al., ACL 2024: what others liked, in signs that a language model has read before.)
The layers are those of a run of `models.binary_codes`. An item's code is public, as its vector is;
a user's is made by the client that prompts about the user and is in its prompts alone.

`U` users, `I` items, `B` bits, a multiple of 8.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from ... import weights
from ...check import one_of

Notation = Literal["decimal", "binary"]
# () -> (the text of each user's code [U], of each item's [I]).
Codes = Callable[[], tuple[list[str], list[str]]]
NAMES = [
    f"shared/{part}"
    for side in ("user", "item")
    for part in (f"{side}s", f"of_{side}/kernel", f"of_{side}/bias")
]


def text_codes(vectors: str, notation: Notation = "decimal") -> Codes:
    """The codes of a run of `models.binary_codes`, for `yes_no_prompts(codes=)`.

    Args:
        vectors: a folder that `fedjax-rec export` wrote of that run, or a file of safetensors.
        notation: "decimal", eight bits a number, between dots, or "binary", a digit a bit.

    Returns:
        codes() -> the texts of all users and of all items.

    Raises:
        ValueError: for another notation; and when codes are read, for a file of another run, and
            for bits that are no multiple of 8 in the decimal notation.
        FileNotFoundError: when codes are read, where there is no such file.

    Example:
        >>> codes = data.text_codes("runs/codes")
    """
    one_of("text_codes", "notation", notation, get_args(Notation))

    def codes() -> tuple[list[str], list[str]]:
        where = f"text_codes(vectors={str(Path(vectors))!r})"
        remedy = "give a run of models.binary_codes"
        found = [np.asarray(x) for x in weights.exported(where, vectors, NAMES, remedy)]
        users, items = (x @ kernel + bias >= 0 for x, kernel, bias in (found[:3], found[3:]))
        return written(users, notation), written(items, notation)

    return codes


def written(bits: np.ndarray, notation: Notation = "decimal") -> list[str]:
    """The texts of codes bool[n, B]. Raises ValueError as `text_codes`."""
    if notation == "binary":
        return ["".join("01"[int(bit)] for bit in row) for row in bits]
    if bits.shape[1] % 8:
        raise ValueError(
            f"text_codes(notation='decimal'): codes have {bits.shape[1]} bits; train them with a "
            "multiple of 8, or use notation='binary'."
        )
    return [".".join(map(str, row)) for row in np.packbits(bits, axis=1).tolist()]
