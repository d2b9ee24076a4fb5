"""Llama in a GGUF file, as llama.cpp's converter writes it, against transformers."""

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_gguf
from flax import nnx
from safetensors.numpy import load_file

from fedjax_rec import models
from fedjax_rec.models import load_decoder
from fedjax_rec.models.transformers.families import gguf_models
from fedjax_rec.models.transformers.families.architecture import BEFORE, ENDS, KERNEL_NAMES

PLACE = Path(__file__).parent / "checkpoints"
pytestmark = pytest.mark.usefixtures("compiled_fast")


def paired(x: np.ndarray, width: int) -> np.ndarray:
    """Rows of W_q and W_k in pairs of neighbours."""
    halves = x.reshape(-1, 2, width // 2, x.shape[-1])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(x.shape))


def write(place: Path, name: str, tensors=None, kind: str = "llama", **fields) -> Path:
    """The checkpoint `name` as a file, with more `tensors` and `fields`; of a field _ is a dot."""
    said = json.loads((PLACE / name / "config.json").read_text())
    width = said["hidden_size"] // said["num_attention_heads"]
    writer = tiny_gguf.begun(place, kind, said)
    writer.add_rope_freq_base(said["rope_parameters"]["rope_theta"])
    if "rope__dimension_count" not in fields:
        writer.add_rope_dimension_count(width)
    writer.add_vocab_size(said["vocab_size"])
    tiny_gguf.add_fields(writer, kind, fields)
    renamed = {f"{theirs}.weight": f"{gguf_models.ENDS[n]}.weight" for n, theirs in ENDS.items()}
    short = gguf_models.KERNELS | gguf_models.BEFORE
    for i in range(said["num_hidden_layers"]):
        for ours, theirs in {**KERNEL_NAMES, **BEFORE}.items():
            renamed[f"model.layers.{i}.{theirs}.weight"] = f"blk.{i}.{short[ours]}.weight"
    for theirs, x in load_file(PLACE / name / "model.safetensors").items():
        x = paired(x, width) if "q_proj" in theirs or "k_proj" in theirs else x
        writer.add_tensor(renamed[theirs], x.astype(np.float32))
    tiny_gguf.end(writer, tensors)
    return place


def stretched() -> np.ndarray:
    """What the rates of `llama_3.1` are divided by: float32[4], as the converter computes it."""
    said = json.loads((PLACE / "llama_3.1" / "config.json").read_text())["rope_parameters"]
    out, places = [], said["original_max_position_embeddings"]
    for i in range(4):
        wave = 2 * np.pi * said["rope_theta"] ** (2 * i / 8)
        if wave < places / said["high_freq_factor"]:
            out.append(1.0)
        elif wave > places / said["low_freq_factor"]:
            out.append(said["factor"])
        else:
            smooth = (places / wave - said["low_freq_factor"]) / (
                said["high_freq_factor"] - said["low_freq_factor"]
            )
            out.append(1 / ((1 - smooth) / said["factor"] + smooth))
    return np.float32(out)


@pytest.mark.parametrize("name", ["llama", "llama_3.1"])
def test_a_file_loads(tmp_path, name):
    more = {"rope_freqs.weight": stretched()} if name == "llama_3.1" else {}
    decoder = load_decoder(write(tmp_path, name, more))
    assert (decoder.head is None) == (name == "llama_3.1")
    want = np.load(PLACE / name / "reference.npz")
    got = nnx.jit(lambda m, t: m(t))(decoder, jnp.asarray(want["tokens"]))
    assert np.abs(got - want["logits"]).max() < 1e-5 * np.abs(want["logits"]).max()


def test_a_file_reads_texts_as_its_folder_does(tmp_path):
    ids, mask = jnp.int32([[5, 9, 7, 3]]), jnp.ones((1, 4), bool)
    got, want = (models.load_encoder(x) for x in (write(tmp_path, "llama"), PLACE / "llama"))
    np.testing.assert_allclose(got(ids, mask), want(ids, mask), atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"rope__scaling__type": "yarn"}, r"llama\.rope\.scaling\.type='yarn', which is not"),
        ({"rope__scaling__factor": 4.0}, r"llama\.rope\.scaling\.factor=4\.0"),
        ({"attention__sliding_window": 8}, r"llama\.attention\.sliding_window=8"),
        ({"rope__dimension_count": 4}, r"llama\.rope\.dimension_count=4"),
        ({"attention__value_length": 4}, r"llama\.attention\.value_length=4"),
        ({"expert_count": 8}, r"llama\.expert_count=8"),
        ({"kind": "mamba"}, "is a mamba model, and of GGUF llama, qwen2, .* are read; give its"),
    ],
)
def test_a_field_that_is_not_honoured_is_refused_by_name(tmp_path, fields, complaint):
    with pytest.raises(ValueError, match=complaint) as told:
        load_decoder(write(tmp_path, "llama", **fields))
    assert "\n" not in str(told.value)


def test_what_else_is_in_a_file_is_refused(tmp_path):
    bias = {"blk.1.attn_q.bias": np.zeros(32, np.float32)}
    with pytest.raises(ValueError, match=r"blk\.1\.attn_q\.bias is a part that this model"):
        load_decoder(write(tmp_path, "llama", bias))
    (tmp_path / "tiny.gguf").write_bytes(b"no such file")
    with pytest.raises(ValueError, match="cannot be read as GGUF"):
        load_decoder(tmp_path)
