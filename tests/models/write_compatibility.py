"""Writes docs/compatibility.md: every checkpoint of make_checkpoints.py, and how far from
transformers our logits are.

    hf/bin/python tests/models/make_checkpoints.py /tmp/wide
    python tests/models/write_compatibility.py docs/compatibility.md /tmp/wide

The second argument is a folder of wider checkpoints, which are not in the repository.
"""

import json
import sys
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from fedjax_rec import models, weights

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
PAGE = """# Decoders that load

Written by `python tests/models/write_compatibility.py docs/compatibility.md WIDE`, never by hand.

Each row is a random checkpoint of a few layers in tests/models/checkpoints that transformers
{transformers} (torch {torch}) wrote by `tests/models/make_checkpoints.py`, with its logits of two
texts of 24 tokens, which are longer than any window. Norms and biases are drawn as well, so that
none could be left out unseen.

The error is the largest difference of a logit, over the largest logit; `bfloat16` is the same
weights loaded so, against the logits in float32, and beside it the share of places at which the
likeliest token is the same. "Greedy" is whether `models.generate`, with its cache, adds the same
eight tokens to both texts. What a family is, and how to add one, is in
[language_models.md](language_models.md). Adapters of PEFT beside these, and text encoders, are held
against their libraries likewise: [adapters.md](adapters.md#peft),
[language_models.md](language_models.md#text-encoders).

| `model_type` | checkpoint | what it has | float32 | bfloat16 | same token | greedy |
|---|---|---|---|---|---|---|
{rows}

Heads, angles and multipliers as they are published (Llama-3.2-1B, Gemma-3-1B and others, some
narrower, four to seven layers), in shards, on one text of 700 tokens: written by
`make_checkpoints.py WIDE`, and not in the repository.

| `model_type` | checkpoint | float32 | bfloat16 | same token | greedy |
|---|---|---|---|---|---|
{wide}
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


def page(wide: Path) -> str:
    rows = [row(PLACE / name, has) for name, has in HAS.items()]
    wider = [row(path) for path in sorted(wide.iterdir()) if path.is_dir()]
    made_by = json.loads((PLACE / "made_by.json").read_text())
    return PAGE.format(**made_by, rows="\n".join(rows), wide="\n".join(wider))


if __name__ == "__main__":
    jax.config.update("jax_platforms", "cpu")
    Path(sys.argv[1]).write_text(page(Path(sys.argv[2])))
