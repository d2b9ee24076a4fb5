"""Pretrained weights: where they lie, reading them, and the tokens of their texts."""

from .catalogue import KNOWN, Known
from .gguf import Gguf, gguf, gguf_file
from .packing import Layout, common_start, first_fit
from .places import find, get, known
from .tensors import ADAPTER, ADAPTER_CONFIG, adapter, config, read_json, tensors
from .tokens import Tokens, begun, fitting, tokenize, tokenizer, within

__all__ = [
    "ADAPTER", "ADAPTER_CONFIG", "KNOWN", "Gguf", "Known", "Layout", "Tokens", "adapter", "begun",
    "common_start", "config", "find", "first_fit", "fitting", "get", "gguf", "gguf_file", "known",
    "read_json", "tensors", "tokenize", "tokenizer", "within",
]  # fmt: skip
