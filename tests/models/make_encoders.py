"""Writes a tiny random checkpoint of each kind of text encoder, with what transformers makes of it.

Run where torch and transformers are, which no test needs, as make_checkpoints.py is:

    hf/bin/python tests/models/make_encoders.py

An encoder is a folder of `encoders/`: config.json and weights as transformers writes them, whole in
float16, and reference.npz with `tokens` int32[2, T], `mask` bool[2, T] and `states` [2, T, D], what
comes out of the last layer.
"""

import json
import shutil
from pathlib import Path

import numpy as np
import torch
import transformers
from make_checkpoints import draw

PLACE = Path(__file__).parent / "encoders"
LENGTH, VOCABULARY = 24, 40
COMMON = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2,
    "num_attention_heads": 2, "max_position_embeddings": 30,
}  # fmt: skip
FULL, SLIDING = "full_attention", "sliding_attention"
# Windows are shorter than a text, and rotary angles turn within it.
MODERN = {
    "local_attention": 10, "pad_token_id": 1, "cls_token_id": 2, "sep_token_id": 3,
    "rope_parameters": {FULL: {"rope_theta": 900.0}, SLIDING: {"rope_theta": 60.0}},
}  # fmt: skip
# As many buckets as texts have distances, and places beyond the last.
T5 = {
    "vocab_size": VOCABULARY, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2, "num_heads": 2,
    "relative_attention_num_buckets": 12, "relative_attention_max_distance": 16,
}  # fmt: skip
DECODER = {"num_key_value_heads": 1, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 1}
# Name: (class of the model, what differs from `COMMON`).
ENCODERS = {
    "bert": ("BertForMaskedLM", {"hidden_act": "gelu_new"}),
    "roberta": ("RobertaForMaskedLM", {"type_vocab_size": 1, "pad_token_id": 1}),
    "xlm-roberta": ("XLMRobertaModel", {"type_vocab_size": 1, "pad_token_id": 1}),
    "distilbert": (
        "DistilBertModel",
        {
            "dim": 16, "hidden_dim": 24, "n_layers": 2, "n_heads": 2, "vocab_size": VOCABULARY,
            "max_position_embeddings": 30,
        },
    ),
    "mpnet": ("MPNetModel", {"pad_token_id": 1}),
    "electra": ("ElectraModel", {"embedding_size": 8}),
    "electra_wide": ("ElectraModel", {"embedding_size": 16}),
    "modernbert": ("ModernBertForMaskedLM", {**MODERN, "num_hidden_layers": 4}),
    "modernbert_biased": (
        "ModernBertModel",
        {
            **MODERN, "norm_bias": True, "attention_bias": True, "mlp_bias": True,
            "layer_types": [SLIDING, FULL],
        },
    ),
    "t5": ("T5EncoderModel", {**T5, "d_kv": 6}),
    "t5_v1.1": ("T5ForConditionalGeneration", {**T5, "feed_forward_proj": "gated-gelu"}),
    "mt5": ("MT5EncoderModel", T5),
    "qwen3_embedding": ("Qwen3Model", {**DECODER, "head_dim": 12}),
    "embedding_gemma": (
        "Gemma3TextModel",
        {
            **DECODER, "head_dim": 12, "use_bidirectional_attention": True, "sliding_window": 10,
            "query_pre_attn_scalar": 20, "layer_types": [SLIDING, FULL],
        },
    ),
}  # fmt: skip


def write(folder: Path, kind: str, changes: dict, seed: int) -> None:
    maker = getattr(transformers, kind)
    said = changes if "vocab_size" in changes else {**COMMON, **changes}
    config = maker.config_class(**said)
    config._attn_implementation = "eager"
    model = maker(config).float().eval()
    draw(model, seed)
    rng = np.random.default_rng(seed)
    pad = config.pad_token_id
    tokens, mask = rng.integers(4, VOCABULARY, (2, LENGTH)), np.ones((2, LENGTH), bool)
    tokens[1, 15:], mask[1, 15:] = pad, False
    reads = model.get_encoder() if config.is_encoder_decoder else model
    with torch.no_grad():
        made = reads(
            torch.from_numpy(tokens), attention_mask=torch.from_numpy(mask).long(),
            output_hidden_states=True,
        )  # fmt: skip
    model.half().save_pretrained(folder)
    states = made.hidden_states[-1].numpy()
    np.savez_compressed(
        folder / "reference.npz", tokens=tokens.astype(np.int32), mask=mask, states=states
    )
    print(folder.name, float(np.abs(states).max()))


if __name__ == "__main__":
    shutil.rmtree(PLACE, ignore_errors=True)
    for seed, (name, (kind, changes)) in enumerate(ENCODERS.items()):
        write(PLACE / name, kind, changes, seed)
    made_by = {"torch": torch.__version__, "transformers": transformers.__version__}
    (PLACE / "made_by.json").write_text(json.dumps(made_by) + "\n")
