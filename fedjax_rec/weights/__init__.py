"""Pretrained weights: where they lie, reading them, and the tokens of their texts."""

from .catalogue import KNOWN, Known
from .gguf import Gguf, gguf, gguf_file
from .places import find, get, known
from .tensors import config, tensors
from .tokens import Tokens, begun, fitting, tokenize, tokenizer, within

__all__ = [
    "KNOWN", "Gguf", "Known", "Tokens", "begun", "config", "find", "fitting", "get", "gguf",
    "gguf_file", "known", "tensors", "tokenize", "tokenizer", "within",
]  # fmt: skip
