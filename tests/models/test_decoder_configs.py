"""Folders of decoders: what is honoured, in every spelling, and what is refused, by its name."""

import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fedjax_rec import models, weights
from fedjax_rec.models.transformers.decoder import Sight
from fedjax_rec.models.transformers.layers import Scores
from fedjax_rec.models.transformers.pretrained import architecture
from fedjax_rec.models.transformers.rope import Llama3, Rope, Yarn

PLACE = Path(__file__).parent / "checkpoints"
FULL, SLIDING = "full_attention", "sliding_attention"


def config(name: str) -> dict:
    return json.loads((PLACE / name / "config.json").read_text())


def write(place: Path, said: dict) -> Path:
    place.mkdir(exist_ok=True)
    (place / "config.json").write_text(json.dumps(said))
    return place


def changed(place: Path, name: str, tensors=lambda x: x, **changes) -> Path:
    """The checkpoint `name` with other `tensors` and keys; a key that is ... is left out."""
    said = {**config(name), **changes}
    write(place, {key: value for key, value in said.items() if value is not ...})
    save_file(tensors(load_file(PLACE / name / "model.safetensors")), place / "model.safetensors")
    return place


# A checkpoint, and the same in the keys of older files.
OLD = {
    "llama_3.1": {
        "rope_parameters": ..., "rope_theta": 500.0,
        "rope_scaling": {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
    },
    "llama_biased": {
        "rope_parameters": ..., "rope_theta": 100.0, 
        "rope_scaling": {"type": "linear", "factor": 4},
    },
    "llama_dynamic": {
        "rope_parameters": ..., "rope_theta": 100.0,
        "rope_scaling": {"type": "dynamic", "factor": 4.0},
    },
    "qwen2": {
        "rope_parameters": ..., "rope_theta": 10_000.0, "layer_types": ...,
    },
    "gemma": {
        "rope_parameters": ..., "hidden_act": "gelu", "hidden_activation": None,
        "tie_word_embeddings": ...,
    },
    "gemma2": {
        "rope_parameters": ..., "rope_theta": 10_000.0, "layer_types": ...,
        "cache_implementation": "hybrid", "hidden_act": "gelu_pytorch_tanh",
    },
    "gemma3": {
        "rope_parameters": ..., "rope_theta": 1000.0, "rope_local_base_freq": 50.0,
        "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "layer_types": ...,
        "sliding_window_pattern": 3, "_sliding_window_pattern": ...,
    },
    "phi3_longrope": {
        "rope_parameters": ..., "rope_theta": 10_000.0, "partial_rotary_factor": 0.75,
        "rope_scaling": {
            "type": "su", "short_factor": [1.0, 1.3, 2.0], "long_factor": [1.5, 4.0, 9.0],
        },
    },
    "smollm3": {"rope_parameters": ..., "layer_types": ..., "no_rope_layers": ...},
}  # fmt: skip


@pytest.mark.parametrize("name", OLD)
def test_older_spellings_say_the_same(tmp_path, name):
    said = {**config(name), **OLD[name]}
    folder = write(tmp_path, {key: value for key, value in said.items() if value is not ...})
    assert architecture(folder) == architecture(PLACE / name)


LLAMA_3_2 = {
    "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 128000, "eos_token_id": 128001, "head_dim": 64, "hidden_act": "silu",
    "hidden_size": 2048, "initializer_range": 0.02, "intermediate_size": 8192,
    "max_position_embeddings": 131072, "mlp_bias": False, "model_type": "llama",
    "num_attention_heads": 32, "num_hidden_layers": 16, "num_key_value_heads": 8,
    "pretraining_tp": 1, "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192, "rope_type": "llama3",
    },
    "rope_theta": 500000.0, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0.dev0", "use_cache": True, "vocab_size": 128256,
}  # fmt: skip
QWEN_2_5 = {
    "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643,
    "eos_token_id": 151645, "hidden_act": "silu", "hidden_size": 1536, "initializer_range": 0.02,
    "intermediate_size": 8960, "max_position_embeddings": 32768, "max_window_layers": 21,
    "model_type": "qwen2", "num_attention_heads": 12, "num_hidden_layers": 28,
    "num_key_value_heads": 2, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
    "sliding_window": 32768, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
    "transformers_version": "4.43.1", "use_cache": True, "use_sliding_window": False,
    "use_mrope": False, "vocab_size": 151936,
}  # fmt: skip
GEMMA_3 = {
    "architectures": ["Gemma3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "attn_logit_softcapping": None, "bos_token_id": 2, "cache_implementation": "hybrid",
    "eos_token_id": [1, 106], "final_logit_softcapping": None, "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152, "initializer_range": 0.02,
    "intermediate_size": 6912, "max_position_embeddings": 32768, "model_type": "gemma3_text",
    "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1,
    "pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000, "rope_scaling": None, "rope_theta": 1000000,
    "sliding_window": 512, "sliding_window_pattern": 6, "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0", "use_cache": True, "vocab_size": 262144,
}  # fmt: skip


def test_files_as_they_are_published_are_read(tmp_path):
    llama = architecture(write(tmp_path, LLAMA_3_2))
    assert llama.tied and llama.size.query_width == 2048 and llama.size.key_width == 512
    (sight,) = llama.size.sights
    assert sight == Sight(Rope(500000.0, 64, Llama3(32.0, 1.0, 4.0, 8192)))
    qwen = architecture(write(tmp_path, QWEN_2_5))
    assert qwen.biases == {"query", "key", "value"} and qwen.size.sights[0].window is None
    gemma = architecture(write(tmp_path, GEMMA_3))
    whole, near = Sight(Rope(1e6, 256)), Sight(Rope(1e4, 256), 512)
    assert gemma.sights == ((near,) * 5 + (whole,)) * 4 + (near,) * 2 and gemma.tied
    assert gemma.kinds() == ((0,) * 5 + (1,)) * 4 + (0, 0)
    assert gemma.size.scores == Scores(1 / 16) and gemma.size.cap is None
    long = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}
    (sight,) = architecture(write(tmp_path, {**QWEN_2_5, "rope_scaling": long})).size.sights
    assert sight.rope.scaling == Yarn(4.0, 32768)


def test_absent_keys_are_what_transformers_takes_them_for(tmp_path):
    read = lambda name, **changes: architecture(
        write(tmp_path, {k: x for k, x in {**config(name), **changes}.items() if x is not ...})
    )
    assert read("mistral", sliding_window=...).size.sights[0].window == 4096
    assert read("mistral", sliding_window=None).size.sights[0].window is None
    assert read("gemma2", attn_logit_softcapping=...).size.scores.cap == 50.0
    assert read("gemma2", final_logit_softcapping=None).size.cap is None
    assert read("llama", num_key_value_heads=...).size.key_heads == 4
    assert read("qwen3", head_dim=...).size.head_width == 128
    assert read("olmo2", rms_norm_eps=...).eps == 1e-5


@pytest.mark.parametrize(
    ("name", "changes", "complaint"),
    [
        ("llama", {"model_type": "gemma3"}, r"model_type='gemma3', .* mean 'gemma\w*'.*olmo2"),
        (
            "llama",
            {"model_type": "mamba"},
            "model_type='mamba', which is no family known here.* use one of llama",
        ),
        ("llama", {"model_type": ...}, "has no model_type"),
        ("llama", {"hidden_size": ...}, "has no hidden_size"),
        ("llama", {"hidden_size": "32"}, "hidden_size='32', which is no number"),
        ("llama", {"num_hidden_layers": 0}, "num_hidden_layers=0, which is no count"),
        ("llama", {"head_dim": 8.5}, r"head_dim=8\.5, which is no count"),
        ("llama", {"hidden_act": "swish"}, "hidden_act='swish'"),
        ("llama", {"sliding_window": 8}, "sliding_window=8, which is not computed"),
        ("llama", {"quantization_config": {"load_in_8bit": True}}, r"quantization_config={'load"),
        ("llama", {"num_experts": 4}, "num_experts=4, which is not computed"),
        ("llama", {"rope_interleaved": True}, "rope_interleaved=True"),
        ("llama", {"rope_parameters": {"rope_type": "ntk"}}, "rope has rope_type='ntk'"),
        ("llama", {"rope_parameters": {"rope_type": "linear"}}, "rope has no factor"),
        ("llama", {"rope_parameters": {"fast": 1}}, "rope has fast=1"),
        ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "not both"),
        ("mistral", {"layer_types": [FULL] * 3}, "layer_types="),
        ("qwen2", {"use_sliding_window": False}, "layer_types=.*use_sliding_window"),
        ("qwen2", {"layer_types": [FULL]}, r"layer_types=\['full_attention'\]"),
        ("qwen2", {"layer_types": ["chunked_attention"] * 3}, "layer_types=.*for each layer"),
        ("qwen2", {"use_mrope": True}, "use_mrope=True"),
        ("gemma", {"hidden_activation": "gelu"}, "hidden_activation='gelu'"),
        ("gemma3", {"use_bidirectional_attention": True}, "use_bidirectional_attention=True"),
        ("phi3", {"rope_parameters": {"type": "yarn", "factor": 2.0}}, "type='yarn'"),
        ("phi3", {"lm_head_bias": True}, "lm_head_bias=True"),
        ("phi3_longrope", {"partial_rotary_factor": 0.5}, None),
        ("smollm3", {"no_rope_layers": [0, 2, 1, 1]}, "no_rope_layers="),
        ("olmo2", {"clip_qkv": 8.0}, "clip_qkv=8.0"),
        ("granite", {"logits_scaling": "x"}, "logits_scaling='x', which is no number"),
        ("granite", {"logits_scale": 2.0}, "logits_scale=2.0"),
    ],
)
def test_a_key_that_is_not_honoured_is_refused_by_name(tmp_path, name, changes, complaint):
    said = {**config(name), **changes}
    folder = write(tmp_path, {key: value for key, value in said.items() if value is not ...})
    if complaint is None:  # the dict of angles says it, and counts
        assert architecture(folder) == architecture(PLACE / name)
        return
    with pytest.raises(ValueError, match=complaint) as told:
        models.load_decoder(folder)
    assert "\n" not in str(told.value) and "config.json" in str(told.value)


def added(**more):
    return lambda x: {**x, **more}


HEAD, ROWS = "model.layers.1.self_attn.", np.zeros(32, np.float16)


@pytest.mark.parametrize(
    ("name", "tensors", "complaint"),
    [
        ("llama", added(**{HEAD + "q_proj.bias": ROWS}), r"layers\.1.*q_proj\.bias is a part"),
        ("llama", added(**{HEAD + "q_norm.weight": ROWS}), r"q_norm\.weight is a part"),
        ("llama", added(**{"model.layers.3.mlp.up_proj.weight": ROWS}), r"layers\.3\.mlp.* a part"),
        ("llama", added(**{HEAD + "q_proj.SCB": np.float32(ROWS)}), "SCB is float32, of quantised"),
        (
            "llama",
            added(**{HEAD + "q_proj.weight": np.zeros((32, 32), np.int8)}),
            r"q_proj\.weight is int8, of quantised weights",
        ),
        ("qwen3", added(**{"lm_head.weight": np.ones((64, 32), np.float16)}), "is not the table"),
        (
            "qwen2",
            lambda x: {n: v for n, v in x.items() if n != HEAD + "k_proj.bias"},
            r"lacks model\.layers\.1\.self_attn\.k_proj\.bias",
        ),
        (
            "phi3",
            added(**{HEAD + "qkv_proj.weight": np.ones((63, 32), np.float16)}),
            r"q_proj\.weight has shape",
        ),
        ("gemma2", added(**{"model.norm.weight": ROWS[1:]}), r"model\.norm\.weight has shape"),
    ],
)  # fmt: skip
def test_a_tensor_that_nothing_takes_is_refused_by_name(tmp_path, name, tensors, complaint):
    with pytest.raises(ValueError, match=complaint) as told:
        models.load_decoder(changed(tmp_path, name, tensors))
    assert "\n" not in str(told.value)


def kernels(decoder) -> np.ndarray:
    return np.asarray(decoder.layers.gate.kernel[...])


def test_what_is_known_to_change_nothing_is_passed_over(tmp_path):
    again = load_file(PLACE / "qwen3" / "model.safetensors")["model.embed_tokens.weight"]
    more = {HEAD + "rotary_emb.inv_freq": np.ones(6, np.float32), "lm_head.weight": again}
    folder = changed(tmp_path, "qwen3", added(**more), pretraining_tp=2, classifier_dropout=None)
    assert models.load_decoder(folder).head is None


def test_shards_are_one_model(tmp_path):
    whole = load_file(PLACE / "phi3" / "model.safetensors")
    names = sorted(whole)
    files = {name: f"model-0000{1 + i % 2}-of-00002.safetensors" for i, name in enumerate(names)}
    for file in set(files.values()):
        part = {n: whole[n].astype(ml_dtypes.bfloat16) for n in names if files[n] == file}
        save_file(part, tmp_path / file)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    shutil.copy(PLACE / "phi3" / "config.json", tmp_path)
    got, want = models.load_decoder(tmp_path), models.load_decoder(PLACE / "phi3")
    np.testing.assert_allclose(kernels(got), kernels(want), rtol=0.01)
    (tmp_path / files[names[0]]).unlink()
    with pytest.raises(ValueError, match=r"-of-00002\.safetensors cannot be read as safetensors"):
        models.load_decoder(tmp_path)


def test_a_file_that_ends_too_soon_is_told(tmp_path):
    folder = changed(tmp_path, "llama")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(
        ValueError, match=r"model\.safetensors cannot be read as safetensors"
    ) as told:
        models.load_decoder(folder)
    assert "\n" not in str(told.value)


def test_a_tokenizer_of_another_model_is_refused(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    words = {str(i): i for i in range(65)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="0"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    folder = changed(tmp_path, "gemma3")
    made.save(str(folder / "tokenizer.json"))
    complaint = "has 65 tokens, and the model's table 64 rows"
    with pytest.raises(ValueError, match=complaint):
        models.next_title(["5", "6"], str(folder), opening="1", most=8)
    with pytest.raises(ValueError, match=complaint):
        models.tallrec({}, str(folder), answers=("7", "8"))
    del words["64"]
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="0"))
    made.add_special_tokens(["<image>"])  # beyond the table, as Gemma 3 has one
    weights.fitting(made, 64, folder)
