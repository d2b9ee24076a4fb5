"""Writes docs/compatibility.md: every checkpoint of make_checkpoints.py and make_encoders.py, and
how far from transformers our logits and states are.

    hf/bin/python tests/models/make_checkpoints.py /tmp/wide
    python tests/models/write_compatibility.py docs/compatibility.md /tmp/wide

The second argument is a folder of wider checkpoints, which are not in the repository; without it
their rows are those of the page.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fedjax_rec import models, weights
from fedjax_rec.models.transformers.reader import outputs

PLACE = Path(__file__).parent / "checkpoints"
# What a checkpoint has beside the widths and numbers of its family.
HAS = {
    "gemma": "scaled embeddings, norms of 1 + scale, one key head",
    "gemma2": "norms around each half, caps of scores and logits, windows in every other layer",
    "gemma3": "norms of queries and keys, windows with angles of their own, linear scaling",
    "granite": "multipliers of embeddings, scores, what is added and logits; biases",
    "llama": "a head of its own, a key head for each query head",
    "llama_3.1": "angles of llama3, tied head",
    "llama_biased": "biases in all layers, linear scaling",
    "llama_dynamic": "dynamic scaling, up to its length",
    "mistral": "a window, wide heads",
    "olmo2": "norms of what halves make, norms of all queries and of all keys",
    "phi3": "fused query, key and value, gate and up; a window",
    "phi3_longrope": "longrope up to its length, angles for a part of each head",
    "qwen2": "biases at query, key and value, windows in upper layers, tied head",
    "qwen2.5_yarn": "angles of yarn",
    "qwen3": "norms of each head's queries and keys, tied head",
    "smollm3": "layers without angles, which see a window",
}
ENCODERS = Path(__file__).parent / "encoders"
ENCODERS_HAVE = {
    "bert": "gelu of GPT-2, names of a model with a head",
    "distilbert": "names of its own, no kinds of tokens",
    "electra": "embeddings of another width",
    "electra_wide": "embeddings of its width",
    "embedding_gemma": "a decoder that reads both ways, windows with angles of their own",
    "modernbert": "windows with angles of their own, gates, a first layer without norm",
    "modernbert_biased": "biases in all layers and norms",
    "mpnet": "distances of tokens",
    "mt5": "as T5",
    "qwen3_embedding": "a decoder that reads, without a head",
    "roberta": "places from behind padding on",
    "t5": "distances of tokens, relu, heads of another width",
    "t5_v1.1": "a gate, beside a decoder",
    "xlm-roberta": "as RoBERTa",
}
PAGE = """# Models that load

Written by `python tests/models/write_compatibility.py docs/compatibility.md WIDE`, never by hand.

Each row is a random checkpoint of a few layers in tests/models/checkpoints that transformers
{transformers} (torch {torch}) wrote by `tests/models/make_checkpoints.py`, with its logits of two
texts of 24 tokens, which are longer than any window. Norms and biases are drawn as well, so that
none could be left out unseen.

The error is the largest difference of a logit, over the largest logit; `bfloat16` is the same
weights loaded so, against the logits in float32, and beside it the share of places at which the
likeliest token is the same. "Greedy" is whether `models.generate`, with its cache, adds the same
eight tokens to both texts. What a family is, and how to add one, is in
[language_models.md](language_models.md). Adapters of PEFT beside these are held against PEFT
likewise: [adapters.md](adapters.md#peft).

| `model_type` | checkpoint | what it has | float32 | bfloat16 | same token | greedy |
|---|---|---|---|---|---|---|
{rows}

Heads, angles and multipliers as they are published (Llama-3.2-1B, Gemma-3-1B and others, some
narrower, four to seven layers), in shards, on one text of 700 tokens: written by
`make_checkpoints.py WIDE`, and not in the repository.

| `model_type` | checkpoint | float32 | bfloat16 | same token | greedy |
|---|---|---|---|---|---|
{wide}

## Text encoders

Checkpoints in tests/models/encoders that `tests/models/make_encoders.py` wrote, in the same way:
what comes out behind the last layer, of texts of 24 and 15 tokens, the largest difference over the
largest number. Windows, and distances that share a bucket, are shorter than a text.

| `model_type` | checkpoint | what it has | float32 |
|---|---|---|---|
{encoders}

## Files of GGUF

The weights of checkpoints above, written as llama.cpp's converter writes them
(tests/models/test_gguf.py), against transformers; where a file cannot say what the checkpoint has,
against the checkpoint read with what llama.cpp has in its place.

| `general.architecture` | checkpoint | against | float32 |
|---|---|---|---|
{files}
"""


class Measured(NamedTuple):
    """The largest error over the largest logit, in both dtypes; the share of places whose likeliest
    token is the same in bfloat16; whether greedy continuations are the same."""

    float32: float
    bfloat16: float
    same: float
    greedy: bool


def measured(folder: Path) -> Measured:
    want, forward = np.load(folder / "reference.npz"), nnx.jit(lambda m, t: m(t))
    tokens, logits = jnp.asarray(want["tokens"]), want["logits"]
    whole, half = (models.load_decoder(folder, x) for x in ("float32", "bfloat16"))
    made = [np.asarray(forward(decoder, tokens)) for decoder in (whole, half)]
    off = [float(np.abs(x - logits).max() / np.abs(logits).max()) for x in made]
    greedy = models.generate(whole, want["tokens"].tolist(), want["greedy"].shape[1])
    same = float((made[1].argmax(-1) == logits.argmax(-1)).mean())
    return Measured(off[0], off[1], same, greedy == want["greedy"].tolist())


def row(folder: Path, *has: str) -> str:
    one, kind = measured(folder), weights.config(folder)["model_type"]
    told = [f"{one.float32:.1e}", f"{one.bfloat16:.1e}", f"{one.same:.1%}"]
    cells = [f"`{kind}`", folder.name, *has, *told, "same" if one.greedy else "DIFFERENT"]
    return f"| {' | '.join(cells)} |"


def encoder_row(name: str) -> str:
    want = np.load(ENCODERS / name / "reference.npz")
    tokens = weights.Tokens(want["tokens"], want["mask"])
    got = outputs(models.load_encoder(ENCODERS / name), tokens)
    off = np.abs(got - want["states"])[tokens.mask].max() / np.abs(want["states"]).max()
    kind = weights.config(ENCODERS / name)["model_type"]
    return f"| `{kind}` | {name} | {ENCODERS_HAVE[name]} | {off:.1e} |"


def file_rows() -> list[str]:
    from test_gguf import FILES, off

    rows = []
    for kind, (name, changes, _) in FILES.items():
        with tempfile.TemporaryDirectory() as place:
            against = f"the folder with {', '.join(changes)} changed" if changes else "transformers"
            rows.append(f"| `{kind}` | {name} | {against} | {off(Path(place), kind):.1e} |")
    return rows


def wide_rows(page: str, place: Path | None) -> list[str]:
    """Of the checkpoints in `place`, or those that the `page` has."""
    if place is not None:
        return [row(path) for path in sorted(place.iterdir()) if path.is_dir()]
    rows = [line for line in page.splitlines() if line.startswith("| `") and line.count("|") == 7]
    return [line for line in rows if "`model_type`" not in line]


def page(old: str, wide: Path | None) -> str:
    rows = [row(PLACE / name, has) for name, has in HAS.items()]
    made_by = json.loads((PLACE / "made_by.json").read_text())
    tables = {
        "rows": rows, "wide": wide_rows(old, wide), "encoders": map(encoder_row, ENCODERS_HAVE),
        "files": file_rows(),
    }  # fmt: skip
    return PAGE.format(**made_by, **{name: "\n".join(x) for name, x in tables.items()})


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    target = Path(sys.argv[1])
    target.write_text(page(target.read_text(), Path(sys.argv[2]) if sys.argv[2:] else None))
