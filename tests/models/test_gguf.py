"""Files of GGUF of families but Llama, against checkpoints of transformers of the same weights.

Files are written here as the converter of llama.cpp writes them: names of tensors are those of the
library `gguf`, rows of W_q and W_k of Granite lie in pairs, norms of Gemma have their 1. What a
file cannot say is as llama.cpp has it, so that some checkpoints are read with other keys.
"""

import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import tiny_gguf
from flax import nnx
from safetensors.numpy import load_file, save_file
from test_llama_gguf import paired

from fedjax_rec import models, weights
from fedjax_rec.models.transformers.families import gguf_models

gguf = tiny_gguf.gguf
PLACE = Path(__file__).parent / "checkpoints"
FULL, SLIDING = "full_attention", "sliding_attention"
forward = nnx.jit(lambda model, tokens: model(tokens))
pytestmark = pytest.mark.usefixtures("compiled_fast")

# By the architecture: the checkpoint, keys that it has in place of its own, fields of the file.
FILES = {
    "qwen2": ("qwen2", {"use_sliding_window": False, "layer_types": [FULL] * 3}, {}),
    "qwen3": ("qwen3", {}, {}),
    "gemma": ("gemma", {}, {}),
    "gemma2": (
        "gemma2",
        {"query_pre_attn_scalar": 12},
        {"attention__sliding_window": 6, "attn_logit_softcapping": 3.0,
         "final_logit_softcapping": 15.0},
    ),
    "gemma3": (
        "gemma3",
        {
            "query_pre_attn_scalar": 12, "layer_types": [SLIDING] * 3,
            "rope_parameters": {
                FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0},
                SLIDING: {"rope_type": "default", "rope_theta": 10_000.0},
            },
        },
        {"attention__sliding_window": 6, "rope__freq_base": 1000.0,
         "rope__scaling__type": "linear", "rope__scaling__factor": 8.0},
    ),
    "phi3": ("phi3", {}, {"attention__sliding_window": 7, "rope__dimension_count": 8}),
    "olmo2": ("olmo2", {}, {}),
    "granite": (
        "granite",
        {"attention_bias": False},
        {"embedding_scale": 3.0, "logit_scale": 2.0, "residual_scale": 0.4,
         "attention__scale": 0.2},
    ),
}  # fmt: skip
PAIRED, SUMS = ("granite",), ("gemma", "gemma2", "gemma3")


def held(name: str, said: dict) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint; of Granite without biases, which a file may have and we do
    not read."""
    found = load_file(PLACE / name / "model.safetensors")
    biased = name != "granite"
    return {n: x for n, x in found.items() if biased or not n.endswith(".bias")}


def folder(place: Path, name: str, changes: dict) -> Path:
    """The checkpoint with other keys."""
    shutil.copytree(PLACE / name, place)
    said = {**json.loads((place / "config.json").read_text()), **changes}
    (place / "config.json").write_text(json.dumps(said))
    save_file(held(name, said), place / "model.safetensors")
    return place


def write(place: Path, kind: str, tensors=None, blocks=None, **more) -> Path:
    """The file of an architecture, with more `tensors` and fields; of a field __ is a dot."""
    name, _, fields = FILES[kind]
    said = json.loads((PLACE / name / "config.json").read_text())
    place.mkdir(exist_ok=True)
    writer = tiny_gguf.begun(place, kind, said, blocks)
    width = said.get("head_dim") or said["hidden_size"] // said["num_attention_heads"]
    writer.add_key_length(width)
    writer.add_value_length(width)
    if "rope__freq_base" not in fields:
        writer.add_rope_freq_base(said["rope_parameters"]["rope_theta"])
    tiny_gguf.add_fields(writer, kind, {**fields, **more})
    arch = next(x for x, spelt in gguf.MODEL_ARCH_NAMES.items() if spelt == kind)
    names = gguf.get_tensor_name_map(arch, said["num_hidden_layers"])
    for theirs, x in held(name, said).items():
        x = x.astype(np.float32)
        if kind in PAIRED and ("q_proj" in theirs or "k_proj" in theirs):
            x = paired(x, width)
        x = x + 1 if kind in SUMS and theirs.endswith("norm.weight") else x
        writer.add_tensor(names.get_name(theirs, (".weight", ".bias")), x)
    tiny_gguf.end(writer, tensors)
    return place


def off(place: Path, kind: str) -> float:
    """The largest error of a logit of the file, over the largest logit."""
    name, changes, _ = FILES[kind]
    want = np.load(PLACE / name / "reference.npz")
    tokens = jnp.asarray(want["tokens"])
    whole = models.load_decoder(folder(place / "folder", name, changes))
    file = models.load_decoder(write(place / "file", kind))
    logits = np.asarray(forward(whole, tokens)) if changes else want["logits"]
    assert (file.fused, file.head is None) == (whole.fused, whole.head is None)
    return float(np.abs(forward(file, tokens) - logits).max() / np.abs(logits).max())


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_the_folder_of_the_same_weights(tmp_path, kind):
    assert off(tmp_path, kind) < 1e-5


def test_every_architecture_is_tried():
    assert FILES.keys() | {"llama"} == gguf_models.KINDS.keys()


@pytest.mark.parametrize(
    ("kind", "fields", "complaint"),
    [
        (
            "qwen2",
            {"rope__scaling__type": "yarn"},
            r"qwen2\.rope\.scaling\.type='yarn', which is not",
        ),
        ("qwen2", {"attention__sliding_window": 8}, r"qwen2\.attention\.sliding_window=8"),
        ("qwen3", {"expert_count": 8}, r"qwen3\.expert_count=8"),
        ("qwen3", {"rope__dimension_count": 6}, r"qwen3\.rope\.dimension_count=6, which is not"),
        ("gemma", {"final_logit_softcapping": 3.0}, r"gemma\.final_logit_softcapping=3\.0"),
        ("olmo2", {"attention__sliding_window": 8}, r"olmo2\.attention\.sliding_window=8"),
    ],
)
def test_a_field_that_is_not_honoured_is_refused_by_name(tmp_path, kind, fields, complaint):
    with pytest.raises(ValueError, match=complaint) as told:
        models.load_decoder(write(tmp_path / "file", kind, **fields))
    assert "\n" not in str(told.value)


def test_tensors_without_a_place_are_refused(tmp_path):
    bias = {"blk.1.attn_output.bias": np.zeros(32, np.float32)}
    with pytest.raises(ValueError, match=r"blk\.1\.attn_output\.bias is a part that this model"):
        models.load_decoder(write(tmp_path / "file", "granite", bias))


def test_the_largest_gemmas_scale_scores_by_their_width(tmp_path):
    size = {"width": 4608, "heads": 32, "head_width": 128, "layers": 46}
    assert (
        gguf_models.scaled(size, 46) == 144**-0.5
        and gguf_models.scaled({**size, "layers": 42}, 46) == 128**-0.5
    )


def test_gemma_3_sees_the_whole_text_in_each_sixth_layer(tmp_path):
    """The checkpoint has three layers: what sixth ones see is read off."""
    path = write(tmp_path / "file", "gemma3", blocks=13) / "tiny.gguf"
    made = gguf_models.architecture(weights.gguf(path))
    assert [i for i, sight in enumerate(made.sights) if sight.window is None] == [5, 11]
    assert [s.rope.theta for s in made.size.sights] == [10_000.0, 1000.0]
    assert made.size.sights[0].rope.scaling is None and made.size.sights[1].rope.scaling.factor == 8
