"""ModernBERT (Warner et al., ACL 2025), and what is made of it: GTE-modernbert, modernbert-embed.

    x = norm(E[ids]);   x <- x + W_o attention(rope(W_q n_1(x)), rope(W_k n_1(x)), W_v n_1(x))
    x <- x + W_down (act(W_gate n_2(x)) * W_up n_2(x));   at last norm(x)

The layers of a `decoder.Block` whose tokens see both ways. The first has no n_1, what goes into it
is normed; each third sees the whole text, the others `local_attention` tokens around each, with
rotary angles of their own. W_q, W_k, W_v are one tensor of the file, and W_gate, W_up another.
"""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from .... import weights
from ...roles import Frozen
from ..decoder import ACTIVATIONS, KERNELS, Block, DecoderSize, Sight
from ..held import Held
from ..layers import LayerNorm, Linear
from ..reader import Called, Reader, Seen
from ..settings import Settings
from .architecture import FULL, SLIDING, distinct, listed
from .ropes import of_kinds

# Keys of heads and of training, of how the same is computed, and of a table that there is none of.
HARMLESS = frozenset([
    "classifier_activation", "classifier_bias", "classifier_pooling", "cls_token_id",
    "decoder_bias", "deterministic_flash_attn", "embedding_dropout", "initializer_cutoff_factor",
    "layer_norm_eps", "mlp_dropout", "position_embedding_type", "reference_compile",
    "repad_logits_with_grad", "sparse_pred_ignore_index", "sparse_prediction",
    "tie_word_embeddings",
])  # fmt: skip
HEADS = ("classifier.", "decoder.", "head.")
LAYER = "layers.{}.{}"
# Tensors of a layer, and our linear layers that lie in them, one after another.
PARTS = {
    "attn.Wqkv": ("query", "key", "value"),
    "attn.Wo": ("output",),
    "mlp.Wi": ("gate", "up"),
    "mlp.Wo": ("down",),
}


class ButFirst(nnx.Module):
    """A norm that the first layer of a stack goes without. first: bool[L]."""

    def __init__(self, norm: LayerNorm, first):
        self.norm, self.first = norm, Frozen(first)

    def __call__(self, x):
        return jnp.where(self.first[...], x, self.norm(x))


def encoder(said: Settings, place: Path) -> Reader:
    """Of the config.json of `place`, and its tensors.

    Raises ValueError for a key or a tensor that is not computed.
    """
    width, heads = said.count("hidden_size"), said.count("num_attention_heads")
    layers = said.count("num_hidden_layers")
    if width % heads:
        said.refuse("num_attention_heads", f"use a divisor of the width, {width}")
    sights = sighted(said, layers, width // heads)
    size = DecoderSize(
        said.count("vocab_size"), width, said.count("intermediate_size"), layers, heads, heads,
        width // heads, distinct(sights), said.only("hidden_activation", "gelu", *ACTIVATIONS),
    )  # fmt: skip
    eps = float(said.number("norm_eps", 1e-5))
    shifted = said.only("norm_bias", False, True)
    biased = {
        "attn": said.only("attention_bias", False, True),
        "mlp": said.only("mlp_bias", False, True),
    }
    most = said.count("max_position_embeddings", 8192)
    said.done(HARMLESS)
    held = Held(place, weights.tensors(place), "model.", HEADS)
    names = lambda name, start=0: [LAYER.format(i, name) for i in range(start, layers)]

    def norm(of: str | list[str]) -> LayerNorm:
        """The one of this name, or the stack of these."""
        read = lambda end: (
            held.get(f"{of}.{end}", width) if isinstance(of, str)
            else held.each([f"{name}.{end}" for name in of], width)
        )  # fmt: skip
        scale = read("weight")
        return LayerNorm(scale, read("bias") if shifted else jnp.zeros_like(scale), eps)

    kernels: dict[str, Linear] = {}
    for name, ours in PARTS.items():
        ends = [[getattr(size, end) for end in KERNELS[one]] for one in ours]
        ins, outs = ends[0][0], [end[1] for end in ends]
        kernel = held.each([f"{x}.weight" for x in names(name)], sum(outs), ins).swapaxes(1, 2)
        bias = None
        if biased[name.split(".")[0]]:
            bias = held.each([f"{x}.bias" for x in names(name)], sum(outs))
        stop = 0
        for one, wide in zip(ours, outs, strict=True):
            here, stop = slice(stop, stop + wide), stop + wide
            kernels[one] = Linear(kernel[..., here], None if bias is None else bias[..., here])
    # The first layer has none; what stands in its place in the stack is not looked at.
    spare = LayerNorm(jnp.ones((1, width)), jnp.zeros((1, width)), eps)
    before = [spare, *[norm(names("attn_norm", 1))] * (layers > 1)]
    before = jax.tree.map(lambda *x: jnp.concatenate(x), *before)
    norms = {
        "before_attention": ButFirst(before, jnp.arange(layers) == 0),
        "before_inner": norm(names("mlp_norm")),
    }
    words = held.get("embeddings.tok_embeddings.weight", size.vocabulary, width)
    first, last = norm("embeddings.norm"), norm("final_norm")
    held.done()
    kinds = [size.sights.index(sight) for sight in sights] if len(size.sights) > 1 else None
    called = Called(tuple(PARTS.items()), LAYER, "model.", ("head.dense",))
    return Reader(
        words, Block(size, kernels, norms, kinds), Seen(size), last, called, first=first, most=most
    )


def sighted(said: Settings, layers: int, width: int) -> tuple[Sight, ...]:
    """What each layer sees: by `layer_types`, or the whole text where its number is a multiple of
    `global_attn_every_n_layers`."""
    every, around = said.count("global_attn_every_n_layers", 3), said.count("local_attention", 128)
    kinds = listed(said, "layer_types", layers, (FULL, SLIDING))
    kinds = kinds or [SLIDING if i % every else FULL for i in range(layers)]
    theta = [
        float(said.number(f"{x}_rope_theta", usual))
        for x, usual in (("global", 160_000.0), ("local", 10_000.0))
    ]
    whole, near = of_kinds(said, width, *theta)
    see = {FULL: Sight(whole), SLIDING: Sight(near, around // 2 + 1)}
    return tuple(see[kind] for kind in kinds)
