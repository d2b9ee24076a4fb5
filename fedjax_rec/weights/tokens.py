"""Texts as tokens, made once on the host: int32[n, T] and which of them are real.

Needs the library `tokenizers` (extra `text`), whose `tokenizer.json` says everything about a
tokenizer but how long a text may be.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..check import at_least
from .gguf import gguf, gguf_file
from .gguf_tokenizers import gguf_tokenizer

FILE = "tokenizer.json"


class Tokens(NamedTuple):
    """ids: int32[n, T]; mask: bool[n, T], False for padding, which comes last."""

    ids: np.ndarray
    mask: np.ndarray


def tokenizer(folder: Path):
    """The `tokenizers.Tokenizer` of a Hugging Face folder, or of the GGUF file in it, which neither
    pads nor truncates.

    Raises:
        FileNotFoundError: where the folder has none.
        ImportError: without the library.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ImportError("texts need the library tokenizers; pip install tokenizers.") from error
    if not (folder / FILE).is_file():
        path = gguf_file(folder)
        if path is not None:
            return gguf_tokenizer(gguf(path))
        raise FileNotFoundError(f"{folder} has no {FILE}; give a Hugging Face folder that has.")
    made = Tokenizer.from_file(str(folder / FILE))
    made.no_padding()
    made.no_truncation()
    return made


def fitting(tokenizer, rows: int, where: str | Path) -> None:
    """Nothing where the words of `tokenizer` are among the `rows` of a table of embeddings; added
    tokens may lie beyond, as those of images do, and are told where one is used. `where`: what it
    is the tokenizer of, for the error.

    Raises:
        ValueError: where words have no row.
    """
    words = 1 + max(tokenizer.get_vocab(with_added_tokens=False).values(), default=-1)
    if words > rows:
        raise ValueError(
            f"the tokenizer of {where} has {words} tokens, and the model's table {rows} rows; put "
            "the tokenizer.json of this model there."
        )


def begun(tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The tokens of texts that go on: what `tokenizer` puts before a text is there (as Llama's
    `<s>`), what it puts behind one is not, since that is not where they end."""

    # Every text is closed alike: by as many tokens as stand behind one that has a token.
    mark = tokenizer.encode("a").special_tokens_mask[::-1]
    closing = mark.index(0) if 0 in mark else 0
    whole = [x.ids for x in tokenizer.encode_batch(list(texts))]
    return [ids[: len(ids) - closing] for ids in whole]


def within(tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """The tokens, by `tokenizer`, of `texts` that stand in the middle of a text: those of their
    words alone.
    """
    return [x.ids for x in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def tokenize(folder: Path, texts: Sequence[str], length: int | None = None) -> Tokens:
    """`texts` with the special tokens of the tokenizer in `folder`, as long as the longest.

    Args:
        folder: a Hugging Face folder, or one with a GGUF file.
        texts: n of them.
        length: most tokens of a text, special ones included; longer texts lose their end. None for
            any.
    """
    made = tokenizer(folder)
    if length is not None:
        at_least("tokenize", "length", length, 1 + made.num_special_tokens_to_add(False))
        made.enable_truncation(length)
    rows = [one.ids for one in made.encode_batch(list(texts))]
    size = max(map(len, rows), default=1)
    ids, mask = np.zeros((len(rows), size), np.int32), np.zeros((len(rows), size), bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = row, True
    return Tokens(ids, mask)
