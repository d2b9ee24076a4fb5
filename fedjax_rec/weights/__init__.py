"""Pretrained weights: where they lie, reading them, and the tokens of their texts."""

from .catalogue import KNOWN, Known
from .chat import Messages, chat_template
from .gguf import Gguf, gguf, gguf_file
from .packing import Layout, common_start, first_fit
from .places import find, get, known
from .tensors import (
    ADAPTER,
    ADAPTER_CONFIG,
    EXPORTED,
    ITEMS,
    adapter,
    config,
    exported,
    exported_vectors,
    opened,
    read_json,
    tensors,
    texts_of_items,
)
from .tokens import Tokens, begun, fitting, tokenize, tokenizer, within

__all__ = [
    "ADAPTER", "ADAPTER_CONFIG", "EXPORTED", "ITEMS", "KNOWN", "Gguf", "Known", "Layout",
    "Messages", "Tokens", "adapter", "begun", "chat_template", "common_start", "config",
    "exported", "exported_vectors", "find", "first_fit", "fitting", "get", "gguf", "gguf_file",
    "known", "opened", "read_json", "tensors", "texts_of_items", "tokenize", "tokenizer", "within",
]  # fmt: skip
