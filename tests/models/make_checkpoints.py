"""Writes a tiny random checkpoint of each family of decoders, with what transformers makes of it.

Run where torch and transformers are, which no test needs (versions go into made_by.json):

    python3 -m venv hf; hf/bin/pip install torch==2.13.0 'transformers>=5' safetensors
    hf/bin/python tests/models/make_checkpoints.py

A checkpoint is a folder of `checkpoints/`: config.json as transformers writes it, weights that are
whole in float16, and reference.npz with `tokens` int32[2, T], float32 `logits` [2, T, V] in eager
attention, and `greedy` int32[2, N], the tokens that `generate` adds. Windows and patterns of layers
are shorter than a text; norms and biases are drawn too, so that each of them shows.
"""

import json
import shutil
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


def draw(model: torch.nn.Module, seed: int) -> None:
    """Weights of unit gain, norms and biases that differ from none, all whole in float16."""
    torch.manual_seed(seed)
    for name, x in model.named_parameters():
        if x.ndim == 2:
            made = torch.randn_like(x) * (0.5 if "embed" in name else x.shape[1] ** -0.5)
        else:
            made = x.data + 0.3 * torch.randn_like(x)
        x.data = made.half().float()


def write(name: str, seed: int) -> None:
    kind, changes = FAMILIES[name]
    config = getattr(transformers, kind)(**{**COMMON, **changes})
    config._attn_implementation = "eager"
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    draw(model, seed)
    model.tie_weights()
    tokens = torch.from_numpy(np.random.default_rng(seed).integers(3, VOCABULARY, (2, LENGTH)))
    model.generation_config.eos_token_id = None
    with torch.no_grad():
        logits = model(tokens).logits
        greedy = model.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=NEW, do_sample=False
        )
    folder = PLACE / name
    model.half().save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    np.savez_compressed(
        folder / "reference.npz",
        tokens=tokens.numpy().astype(np.int32),
        logits=logits.numpy(),
        greedy=greedy[:, LENGTH:].numpy().astype(np.int32),
    )
    print(name, sorted(path.name for path in folder.iterdir()), float(logits.abs().max()))


if __name__ == "__main__":
    shutil.rmtree(PLACE, ignore_errors=True)
    for seed, name in enumerate(FAMILIES):
        write(name, seed)
    made_by = {"torch": torch.__version__, "transformers": transformers.__version__}
    (PLACE / "made_by.json").write_text(json.dumps(made_by) + "\n")
