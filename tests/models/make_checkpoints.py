"""Writes a tiny random checkpoint of each family of decoders, with what transformers makes of it.

Run where torch and transformers are, which no test needs (versions go into made_by.json):

    python3 -m venv hf; hf/bin/pip install torch==2.13.0 'transformers>=5' safetensors
    hf/bin/python tests/models/make_checkpoints.py

With a folder as argument it writes there, for write_compatibility.py alone, a few layers of each
family with widths as they are published, in shards, on one text of 700 tokens (`WIDE`).

A checkpoint is a folder of `checkpoints/`: config.json as transformers writes it, weights that are
whole in float16, and reference.npz with `tokens` int32[2, T], float32 `logits` [2, T, V] in eager
attention, and `greedy` int32[2, N], the tokens that `generate` adds. Windows and patterns of layers
are shorter than a text; norms and biases are drawn too, so that each of them shows.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import torch
import transformers

PLACE = Path(__file__).parent / "checkpoints"
LENGTH, NEW, VOCABULARY = 24, 8, 64
COMMON = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
FULL, SLIDING = "full_attention", "sliding_attention"
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0,
    "high_freq_factor": 4.0, "original_max_position_embeddings": 16,
}  # fmt: skip
YARN = {
    "rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10_000.0, "short_factor": [1.0, 1.3, 2.0],
    "long_factor": [1.5, 4.0, 9.0], "partial_rotary_factor": 0.75,
}  # fmt: skip
# Name: (class of its configuration, what differs from `COMMON`).
FAMILIES = {
    "llama": ("LlamaConfig", {"num_key_value_heads": 4, "rope_parameters": {"rope_theta": 100.0}}),
    "llama_3.1": ("LlamaConfig", {"tie_word_embeddings": True, "rope_parameters": LLAMA3}),
    "llama_biased": (
        "LlamaConfig",
        {
            "attention_bias": True, "mlp_bias": True, "head_dim": 12,
            "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 100.0},
        },
    ),
    "llama_dynamic": (
        "LlamaConfig",
        {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 100.0}},
    ),
    "mistral": ("MistralConfig", {"sliding_window": 5, "head_dim": 16}),
    "qwen2": (
        "Qwen2Config",
        {
            "use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1,
            "tie_word_embeddings": True,
        },
    ),
    "qwen2.5_yarn": ("Qwen2Config", {"rope_parameters": YARN}),
    "qwen3": ("Qwen3Config", {"head_dim": 12, "tie_word_embeddings": True}),
    "gemma": ("GemmaConfig", {"head_dim": 12, "num_key_value_heads": 1}),
    "gemma2": (
        "Gemma2Config",
        {
            "head_dim": 12, "query_pre_attn_scalar": 20, "sliding_window": 6,
            "attn_logit_softcapping": 3.0, "final_logit_softcapping": 15.0,
        },
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {
            "head_dim": 12, "query_pre_attn_scalar": 20, "sliding_window": 6,
            "layer_types": [SLIDING, SLIDING, FULL],
            "rope_parameters": {
                FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000.0},
                SLIDING: {"rope_type": "default", "rope_theta": 50.0},
            },
        },
    ),
    "phi3": ("Phi3Config", {"sliding_window": 7}),
    "phi3_longrope": (
        "Phi3Config",
        {
            "max_position_embeddings": 256, "original_max_position_embeddings": 64,
            "rope_parameters": LONGROPE,
        },
    ),
    "smollm3": (
        "SmolLM3Config",
        {
            "no_rope_layer_interval": 2, "num_hidden_layers": 4, "use_sliding_window": True,
            "sliding_window": 9,
        },
    ),
    "olmo2": ("Olmo2Config", {}),
    "granite": (
        "GraniteConfig",
        {
            "embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.4,
            "attention_multiplier": 0.2, "attention_bias": True, "attention_dropout": 0.1,
        },
    ),
}  # fmt: skip

FEW = {"vocab_size": 2000, "num_hidden_layers": 4}
# Heads, angles and multipliers of Llama-3.2-1B, Mistral-7B, Qwen2.5-0.5B with yarn, Qwen3-0.6B,
# Gemma-2-2B, Gemma-3-1B, Phi-4-mini, SmolLM3-3B, OLMo-2-1B and Granite-3-2B; some are narrower.
WIDE = {
    "llama_3.2": (
        "LlamaConfig",
        {
            "hidden_size": 2048, "intermediate_size": 2048, "num_attention_heads": 32,
            "num_key_value_heads": 8, "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "llama3", "rope_theta": 500_000.0, "factor": 32.0,
                "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
        },
    ),
    "mistral": (
        "MistralConfig",
        {
            "hidden_size": 1024, "intermediate_size": 2048, "num_attention_heads": 8,
            "num_key_value_heads": 2, "head_dim": 128, "sliding_window": 300,
        },
    ),
    "qwen2.5_yarn": (
        "Qwen2Config",
        {
            "hidden_size": 896, "intermediate_size": 2432, "num_attention_heads": 14,
            "num_key_value_heads": 2, "tie_word_embeddings": True,
            "rope_parameters": {
                "rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0,
                "original_max_position_embeddings": 32_768,
            },
        },
    ),
    "qwen3": (
        "Qwen3Config",
        {
            "hidden_size": 1024, "intermediate_size": 3072, "num_attention_heads": 16,
            "num_key_value_heads": 8, "head_dim": 128, "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e6},
        },
    ),
    "gemma2": (
        "Gemma2Config",
        {
            "hidden_size": 1152, "intermediate_size": 2304, "num_attention_heads": 8,
            "num_key_value_heads": 4, "head_dim": 256, "sliding_window": 200,
        },
    ),
    "gemma3": (
        "Gemma3TextConfig",
        {
            "hidden_size": 1152, "intermediate_size": 2304, "num_attention_heads": 4,
            "num_key_value_heads": 1, "head_dim": 256, "sliding_window": 128,
            "num_hidden_layers": 7,
        },
    ),
    "phi4_mini": (
        "Phi3Config",
        {
            "hidden_size": 1536, "intermediate_size": 2048, "num_attention_heads": 12,
            "num_key_value_heads": 4, "max_position_embeddings": 131_072,
            "original_max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "longrope", "rope_theta": 10_000.0, "partial_rotary_factor": 0.75,
                "short_factor": [1 + 0.05 * i for i in range(48)],
                "long_factor": [1 + 0.5 * i for i in range(48)],
            },
        },
    ),
    "smollm3": (
        "SmolLM3Config",
        {
            "hidden_size": 1024, "intermediate_size": 2048, "num_attention_heads": 8,
            "num_key_value_heads": 2,
        },
    ),
    "olmo2": (
        "Olmo2Config",
        {
            "hidden_size": 1024, "intermediate_size": 2048, "num_attention_heads": 8,
            "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
        },
    ),
    "granite": (
        "GraniteConfig",
        {
            "hidden_size": 1024, "intermediate_size": 2048, "num_attention_heads": 16,
            "num_key_value_heads": 8, "embedding_multiplier": 12.0, "logits_scaling": 8.0,
            "residual_multiplier": 0.22, "attention_multiplier": 1 / 64,
        },
    ),
}  # fmt: skip


def draw(model: torch.nn.Module, seed: int) -> None:
    """Weights of unit gain, norms and biases that differ from none, all whole in float16."""
    torch.manual_seed(seed)
    for name, x in model.named_parameters():
        gain = x.shape[-1] ** -0.5
        if x.ndim == 2:
            made = torch.randn_like(x) * (min(0.5, 3 * gain) if "embed" in name else gain)
        else:
            made = x.data + 0.3 * torch.randn_like(x)
        x.data = made.half().float()


def write(folder: Path, kind: str, said: dict, seed: int, texts: int, length: int) -> None:
    """The checkpoint of a configuration of class `kind`, in float16, and what is made of it."""
    config = getattr(transformers, kind)(**said)
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    draw(model, seed)
    model.tie_weights()
    drawn = np.random.default_rng(seed).integers(3, config.vocab_size, (texts, length))
    tokens = torch.from_numpy(drawn)
    model.generation_config.eos_token_id = None
    with torch.no_grad():
        logits = model(tokens).logits
        greedy = model.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=NEW, do_sample=False
        )
    model.half().save_pretrained(folder, max_shard_size="40MB")
    (folder / "generation_config.json").unlink(missing_ok=True)
    np.savez_compressed(
        folder / "reference.npz",
        tokens=tokens.numpy().astype(np.int32),
        logits=logits.numpy(),
        greedy=greedy[:, length:].numpy().astype(np.int32),
    )
    print(folder.name, sorted(path.name for path in folder.iterdir()), float(logits.abs().max()))


def write_all(place: Path, families: dict, common: dict, texts: int, length: int) -> None:
    """All `families` into `place`, and the versions of the libraries."""
    shutil.rmtree(place, ignore_errors=True)
    for seed, (name, (kind, changes)) in enumerate(families.items()):
        write(place / name, kind, {**common, **changes}, seed, texts, length)
    made_by = {"torch": torch.__version__, "transformers": transformers.__version__}
    (place / "made_by.json").write_text(json.dumps(made_by) + "\n")


if __name__ == "__main__":
    if sys.argv[1:]:
        write_all(Path(sys.argv[1]), WIDE, COMMON | FEW, 1, 700)
    else:
        write_all(PLACE, FAMILIES, COMMON, 2, LENGTH)
