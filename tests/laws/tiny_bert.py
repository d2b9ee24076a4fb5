"""A Hugging Face folder of a tiny random BERT with a tokenizer of a few words."""

import functools
import json
import tempfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = (
    *("toy", "story", "the", "godfather", "good", "fellas", "alien", "star", "wars", "in"),
    *("space", "love", "night", "day", "king"),
)
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
CONFIG = {
    "model_type": "bert", "vocab_size": len(SPECIAL) + len(WORDS), "hidden_size": 12,
    "num_hidden_layers": 3, "num_attention_heads": 3, "intermediate_size": 20,
    "max_position_embeddings": 16, "type_vocab_size": 2, "layer_norm_eps": 1e-6,
    "hidden_act": "gelu",
}  # fmt: skip


def tensors(prefix="", seed=0) -> dict[str, np.ndarray]:
    """By the names of Hugging Face; kernels are [out, in]."""
    rng = np.random.default_rng(seed)
    width, hidden = CONFIG["hidden_size"], CONFIG["intermediate_size"]
    out = {}

    def draw(name, *shape, mean=0.0):
        out[prefix + name] = (mean + 0.5 * rng.standard_normal(shape)).astype(np.float32)

    def norm(name):
        draw(f"{name}.weight", width, mean=1.0)
        draw(f"{name}.bias", width)

    tables = {"word": "vocab_size", "position": "max_position_embeddings"}
    for name, size in {**tables, "token_type": "type_vocab_size"}.items():
        draw(f"embeddings.{name}_embeddings.weight", CONFIG[size], width)
    norm("embeddings.LayerNorm")
    shapes = {f"attention.self.{n}": (width, width) for n in ("query", "key", "value")}
    shapes |= {
        "attention.output.dense": (width, width), "intermediate.dense": (hidden, width),
        "output.dense": (width, hidden),
    }  # fmt: skip
    for i in range(CONFIG["num_hidden_layers"]):
        for name, shape in shapes.items():
            draw(f"encoder.layer.{i}.{name}.weight", *shape)
            draw(f"encoder.layer.{i}.{name}.bias", shape[0])
        norm(f"encoder.layer.{i}.attention.output.LayerNorm")
        norm(f"encoder.layer.{i}.output.LayerNorm")
    return out


def write(folder: Path, prefix="", **config) -> Path:
    """The folder, written."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **config}))
    save_file(tensors(prefix), str(folder / "model.safetensors"))
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=ends
    )
    tokenizer.enable_padding(length=14)  # as MiniLM's comes: padded, which must be undone
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@functools.cache
def folder() -> str:
    """One for the whole test run."""
    return str(write(Path(tempfile.mkdtemp(prefix="tiny-bert-"))))


def titles(count: int) -> list[str]:
    """`count` different titles of one to four words."""
    rng = np.random.default_rng(1)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 5))) for _ in range(count)]
