"""A GGUF file of a tiny decoder, as llama.cpp's converter writes one."""

from pathlib import Path
from typing import Any

import pytest

gguf = pytest.importorskip("gguf")


def begun(place: Path, kind: str, said: dict, blocks: int | None = None) -> Any:
    """`tiny.gguf` in `place` with what config.json says of every architecture."""
    writer = gguf.GGUFWriter(place / "tiny.gguf", kind)
    writer.add_token_list([f"t{i}" for i in range(said["vocab_size"])])
    writer.add_embedding_length(said["hidden_size"])
    writer.add_feed_forward_length(said["intermediate_size"])
    writer.add_block_count(blocks or said["num_hidden_layers"])
    writer.add_head_count(said["num_attention_heads"])
    writer.add_head_count_kv(said["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(said["rms_norm_eps"])
    writer.add_context_length(said["max_position_embeddings"])
    return writer


def add_fields(writer, kind: str, fields: dict) -> None:
    """Of the name of a field __ is a dot."""
    for field, value in fields.items():
        add = {str: writer.add_string, float: writer.add_float32, int: writer.add_uint32}
        add[type(value)](f"{kind}.{field.replace('__', '.')}", value)


def end(writer, tensors: dict | None) -> None:
    """With more `tensors`."""
    for theirs, x in (tensors or {}).items():
        writer.add_tensor(theirs, x)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
