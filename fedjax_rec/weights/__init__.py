"""Pretrained weights: where they lie, reading them, and the tokens of their texts."""

from .catalogue import KNOWN, Known
from .places import find, get, known
from .tensors import config, tensors
from .tokens import Tokens, tokenize, tokenizer

__all__ = [
    "KNOWN", "Known", "Tokens", "config", "find", "get", "known", "tensors", "tokenize",
    "tokenizer",
]  # fmt: skip
