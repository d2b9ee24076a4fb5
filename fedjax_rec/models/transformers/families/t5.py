"""The encoder of T5 (Raffel et al., JMLR 2020), of its versions 1.0 and 1.1, and of mT5.

    x = E[ids];   x <- x + W_o softmax(q k^T + r) v,   q, k, v = W_q n(x), W_k n(x), W_v n(x)
    x <- x + W_down relu(W_up n(x))   or   x + W_down (gelu(W_gate n(x)) * W_up n(x)) of 1.1

Norms are x / rms(x) * scale and scores are not scaled. r is one number a head and bucket of the
distance between two tokens (`distances`), the same in all layers. Sentence-T5 (Ni et al. 2022),
GTR and Flan-T5 are such encoders; what decodes is not read.

`T` tokens, `D` width, `H` heads.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from .... import weights
from ..decoder import ACTIVATIONS
from ..distances import buckets
from ..held import Held
from ..layers import Linear, RMSNorm, attention
from ..packed import Packing, visible
from ..reader import Called, Reader
from ..settings import Settings

# Keys of what decodes, of training, and of how others generate.
HARMLESS = frozenset([
    "decoder_start_token_id", "dropout_rate", "early_stopping", "initializer_factor", "is_decoder",
    "is_encoder_decoder", "length_penalty", "n_positions", "no_repeat_ngram_size", "num_beams",
    "num_decoder_layers", "output_past", "scale_decoder_outputs", "tie_word_embeddings",
])  # fmt: skip
HEADS = ("classification_head.", "classifier.", "decoder.", "lm_head.", "qa_outputs.")
LAYER = "encoder.block.{}.layer.{}"
INSIDE = "DenseReluDense"
ATTENTION = {
    "query": "0.SelfAttention.q",
    "key": "0.SelfAttention.k",
    "value": "0.SelfAttention.v",
    "output": "0.SelfAttention.o",
}
PLAIN = {"up": f"1.{INSIDE}.wi", "down": f"1.{INSIDE}.wo"}
GATED = {"gate": f"1.{INSIDE}.wi_0", "up": f"1.{INSIDE}.wi_1", "down": f"1.{INSIDE}.wo"}
NORMS = {"before_attention": "0.layer_norm", "before_inner": "1.layer_norm"}
TABLES = ("shared.weight", "encoder.embed_tokens.weight")
APART = "0.SelfAttention.relative_attention_bias"
# Of a whole T5, whose linear layers are called as those here.
OTHERS = tuple(
    f"decoder.block.0.layer.{x}"
    for x in (*ATTENTION.values(), *(f"2.{y.split('.', 1)[1]}" for y in (PLAIN | GATED).values()))
)


class Layer(nnx.Module):
    """One layer, or the stack of several where its variables have a leading axis."""

    def __init__(
        self, linears: Mapping[str, Linear], norms: Mapping[str, RMSNorm], heads: int, act: str
    ):
        # Any: `models.lora` puts its own layers in their place.
        self.query: Any = linears["query"]
        self.key: Any = linears["key"]
        self.value: Any = linears["value"]
        self.output: Any = linears["output"]
        self.gate: Any = linears.get("gate")
        self.up: Any = linears["up"]
        self.down: Any = linears["down"]
        self.before_attention, self.before_inner = (
            norms["before_attention"], norms["before_inner"]
        )  # fmt: skip
        self.heads, self.activation = heads, act

    def __call__(self, x, seen):
        """x: [..., T, D]; seen: (r [H, T, T], bool[..., T or 1, T], who sees whom)."""
        apart, mask = seen
        split = lambda y: y.reshape(*y.shape[:-1], self.heads, -1)
        y = self.before_attention(x)
        q, k, v = (split(f(y)) for f in (self.query, self.key, self.value))
        mixed = attention(q, k, v, mask, lambda products: products + apart)
        x = x + self.output(mixed.reshape(*mixed.shape[:-2], -1))
        y, act = self.before_inner(x), ACTIVATIONS[self.activation]
        inner = act(self.up(y)) if self.gate is None else act(self.gate(y)) * self.up(y)
        return x + self.down(inner)


class Distances(nnx.Module):
    """table: [buckets, H]; most: the distance from which on all are in one bucket."""

    def __init__(self, table, most: int):
        self.table, self.most = nnx.Param(table), most

    def __call__(self, mask, packing: Packing | None = None):
        """What `Layer`s are told of a text with `mask` bool[..., T]."""
        near = buckets(mask.shape[-1], self.table.shape[0], self.most)
        return jnp.moveaxis(self.table[...][near], -1, 0), visible(mask, packing)


def encoder(said: Settings, place: Path) -> Reader:
    """Of the config.json of `place`, and its tensors.

    Raises ValueError for a key or a tensor that is not computed.
    """
    rows, width, layers = said.count("vocab_size"), said.count("d_model"), said.count("num_layers")
    heads, inner = said.count("num_heads"), said.count("d_ff")
    mixed = heads * said.count("d_kv")
    act, gated = activation(said)
    count = said.count("relative_attention_num_buckets", 32)
    most = said.count("relative_attention_max_distance", 128)
    if count < 4 or most <= count // 4:
        said.refuse(
            "relative_attention_num_buckets", "use 4 or more, of 4 for more than 1 distance"
        )
    eps = float(said.number("layer_norm_epsilon", 1e-6))
    said.done(HARMLESS)
    held = Held(place, weights.tensors(place), "", HEADS)
    names = lambda end: [LAYER.format(i, f"{end}.weight") for i in range(layers)]
    linears = ATTENTION | (GATED if gated else PLAIN)
    sizes = {"output": (mixed, width), "down": (inner, width)}
    sizes |= {
        name: (width, inner if name in GATED else mixed) for name in linears if name not in sizes
    }
    kernels = {
        ours: Linear(held.each(names(theirs), *sizes[ours][::-1]).swapaxes(1, 2))
        for ours, theirs in linears.items()
    }
    norms = {ours: RMSNorm(held.each(names(x), width), eps) for ours, x in NORMS.items()}
    table = held.get(LAYER.format(0, f"{APART}.weight"), count, heads)
    words, last = embedded(held, rows, width), held.get("encoder.final_layer_norm.weight", width)
    held.done()
    parts = tuple((theirs, (ours,)) for ours, theirs in linears.items())
    return Reader(
        words, Layer(kernels, norms, heads, act), Distances(table, most), RMSNorm(last, eps),
        Called(parts, LAYER, others=OTHERS),
    )  # fmt: skip


def activation(said: Settings) -> tuple[str, bool]:
    """(what `feed_forward_proj` says, whether there is a gate)."""
    kind = said.take("feed_forward_proj", "relu")
    gated, name = str(kind).startswith("gated-"), str(kind).removeprefix("gated-")
    if name not in ACTIVATIONS:
        said.refuse("feed_forward_proj", f"use one of {', '.join(ACTIVATIONS)}, or gated-gelu")
    name = "gelu_new" if kind == "gated-gelu" else name
    said.only("dense_act_fn", name)
    said.only("is_gated_act", gated)
    return name, gated


def embedded(held: Held, rows: int, width: int) -> jax.Array:
    """The table of tokens, under one of its two names. Raises ValueError where both are there and
    differ."""
    first, *again = [held.get(name, rows, width) for name in TABLES if name in held.left] or [
        held.get(TABLES[0], rows, width)
    ]
    if again and not np.array_equal(first, again[0]):
        raise ValueError(
            f"{held.place}: {TABLES[1]} is another table than {TABLES[0]}; remove the one that the "
            "encoder does not read."
        )
    return first
