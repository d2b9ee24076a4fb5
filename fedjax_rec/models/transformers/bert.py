"""A BERT encoder and the sentence embeddings that are made of it.

    x = norm(word[t] + position + type[0]);   per layer
    x <- norm(x + out(attention(query x, key x, value x)));   x <- norm(x + down(gelu(up x)))

(Devlin et al., NAACL 2019), and e = mean of x over real tokens, at length 1 (Reimers & Gurevych,
EMNLP 2019). Weights come from any local Hugging Face folder of model type `bert`, such as
MiniLM-L6-v2, or from a random start. The layers are one stack, see `layers.stacked`.

`V` vocabulary, `L` layers, `D` width, `T` tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ... import weights
from ...check import at_least, one_of
from .layers import LayerNorm, Linear, attention, linear, stacked

# Kept for the gradient is what goes in, [..., T, 4 D], and not the three arrays of that size in
# between: they were a third of what a client's training took.
ACTIVATIONS: dict[str, Callable] = {
    "gelu": jax.checkpoint(partial(jax.nn.gelu, approximate=False)),
    "gelu_new": jax.checkpoint(jax.nn.gelu),
    "gelu_pytorch_tanh": jax.checkpoint(jax.nn.gelu),
    "relu": jax.nn.relu,
}
# Our names of a layer's parts, and those of Hugging Face.
LINEARS = {
    "query": "attention.self.query",
    "key": "attention.self.key",
    "value": "attention.self.value",
    "out": "attention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
}
NORMS = {"attention_norm": "attention.output.LayerNorm", "norm": "output.LayerNorm"}
CHUNK = 64  # texts encoded at once: what a chunk needs stays in cache


@dataclass(frozen=True)
class BertSizes:
    """The defaults are those of MiniLM-L6-v2."""

    vocabulary: int = 30_522
    width: int = 384
    layers: int = 6
    heads: int = 12
    hidden: int = 1536
    positions: int = 512
    types: int = 2
    eps: float = 1e-12
    activation: str = "gelu"


class Layer(nnx.Module):
    """One layer, or the stack of several where its variables have a leading axis [L, ...]."""

    def __init__(self, linears: dict[str, Linear], norms: dict[str, LayerNorm], sizes: BertSizes):
        # Any: `models.lora` puts its own layers in their place.
        self.query: Any = linears["query"]
        self.key: Any = linears["key"]
        self.value: Any = linears["value"]
        self.out: Any = linears["out"]
        self.up: Any = linears["up"]
        self.down: Any = linears["down"]
        self.attention_norm, self.norm = norms["attention_norm"], norms["norm"]
        self.heads, self.activation = sizes.heads, sizes.activation

    def __call__(self, x, mask):
        """x: [..., T, D]; mask: bool[..., T] of the real tokens."""
        split = lambda y: y.reshape(*y.shape[:-1], self.heads, -1)
        q, k, v = (split(f(x)) for f in (self.query, self.key, self.value))
        seen = attention(q, k, v, mask[..., None, :])
        x = self.attention_norm(x + self.out(seen.reshape(x.shape)))
        return self.norm(x + self.down(ACTIVATIONS[self.activation](self.up(x))))


class Bert(nnx.Module):
    """words: [V, D]; positions: [512, D]; kinds: [2, D]; layers: a stack of `Layer`."""

    def __init__(self, words, positions, kinds, norm: LayerNorm, layers: Layer):
        self.words, self.positions = nnx.Param(words), nnx.Param(positions)
        self.kinds, self.norm, self.layers = nnx.Param(kinds), norm, layers

    def embed(self, ids):
        """[..., T, D]: what goes into the first layer, of ids int32[..., T]."""
        places = self.positions[: ids.shape[-1]]
        return self.norm(self.words[ids] + places + self.kinds[0])

    def __call__(self, ids, mask):
        """[..., T, D]: what comes out of the last layer."""
        return stacked(self.layers, self.embed(ids), mask)


def pooled(x: jax.Array, mask: jax.Array) -> jax.Array:
    """[..., D]: the mean of x [..., T, D] over the tokens of mask [..., T], at length 1."""
    real = mask[..., None].astype(jnp.float32)
    mean = (x.astype(jnp.float32) * real).sum(-2) / jnp.maximum(real.sum(-2), 1.0)
    return mean / jnp.maximum(jnp.linalg.norm(mean, axis=-1, keepdims=True), 1e-12)


def random_bert(sizes: BertSizes, rngs: nnx.Rngs) -> Bert:
    """A `Bert` with normal weights of deviation .02, as it starts before pretraining.

    Args:
        sizes: widths and numbers of everything.
        rngs: of the weights.

    Raises:
        ValueError: where heads do not divide the width, and for an unknown activation.

    Example:
        >>> sizes = models.BertSizes(vocabulary=30, width=8, layers=1, heads=2, hidden=16)
        >>> encoder = models.random_bert(sizes, nnx.Rngs(0))
    """
    one_of("random_bert", "activation", sizes.activation, ACTIVATIONS)
    if sizes.width % sizes.heads:
        raise ValueError(
            f"random_bert(width={sizes.width}) is no multiple of heads={sizes.heads}; use one."
        )
    lead, width, hidden = (sizes.layers,), sizes.width, sizes.hidden
    table = lambda n: 0.02 * jax.random.normal(rngs.params(), (n, width))
    shapes = {name: (width, width) for name in LINEARS} | {
        "up": (width, hidden), "down": (hidden, width)
    }  # fmt: skip
    made = {name: linear(rngs, *shape, scale=0.02, lead=lead) for name, shape in shapes.items()}
    norm = lambda *lead: LayerNorm(jnp.ones((*lead, width)), jnp.zeros((*lead, width)), sizes.eps)
    norms = {name: norm(*lead) for name in NORMS}
    return Bert(
        table(sizes.vocabulary), table(sizes.positions), table(sizes.types), norm(),
        Layer(made, norms, sizes),
    )  # fmt: skip


def bert(folder: str | Path) -> Bert:
    """The `Bert` of local weights, whose tensors it holds in float32.

    Args:
        folder: `minilm`, or any local Hugging Face folder of model type `bert` with config.json and
            model.safetensors.

    Raises:
        FileNotFoundError: for what is not there.
        ValueError: for another kind of model.

    Example:
        >>> encoder = models.bert(bert_folder)
    """
    place = weights.find(folder)
    sizes, arrays = bert_sizes(place), weights.tensors(place)
    prefix = "bert." if "bert.embeddings.word_embeddings.weight" in arrays else ""

    def get(name: str) -> jax.Array:
        if prefix + name not in arrays:
            raise ValueError(f"{place}: model.safetensors has no {prefix}{name}; it is no BERT.")
        return jnp.asarray(arrays[prefix + name], jnp.float32)

    def layers(name: str) -> jax.Array:
        return jnp.stack([get(f"encoder.layer.{i}.{name}") for i in range(sizes.layers)])

    linears = {
        ours: Linear(layers(f"{theirs}.weight").swapaxes(1, 2), layers(f"{theirs}.bias"))
        for ours, theirs in LINEARS.items()
    }
    norms = {
        ours: LayerNorm(layers(f"{theirs}.weight"), layers(f"{theirs}.bias"), sizes.eps)
        for ours, theirs in NORMS.items()
    }
    table = lambda name: get(f"embeddings.{name}_embeddings.weight")
    first = LayerNorm(
        get("embeddings.LayerNorm.weight"), get("embeddings.LayerNorm.bias"), sizes.eps
    )
    kinds = table("token_type")
    return Bert(table("word"), table("position"), kinds, first, Layer(linears, norms, sizes))


def bert_sizes(folder: Path) -> BertSizes:
    """The sizes that config.json of `folder` says."""
    said = weights.config(folder)
    if said.get("model_type") != "bert":
        raise ValueError(
            f"{folder} holds a model of type {said.get('model_type')!r}; give one of type 'bert'."
        )
    positions = said.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise ValueError(f"{folder} has {positions} positions; give one with absolute ones.")
    one_of(f"bert({folder})", "hidden_act", said.get("hidden_act", "gelu"), ACTIVATIONS)
    return BertSizes(
        said["vocab_size"], said["hidden_size"], said["num_hidden_layers"],
        said["num_attention_heads"], said["intermediate_size"], said["max_position_embeddings"],
        said["type_vocab_size"], said["layer_norm_eps"], said.get("hidden_act", "gelu"),
    )  # fmt: skip


def layers_of(stack: Layer, start: int, stop: int | None = None) -> Layer:
    """Layers `start` .. `stop` of a stack, as a stack of their own."""
    structure, variables, rest = nnx.split(stack, nnx.Variable, ...)
    return nnx.merge(structure, jax.tree.map(lambda x: x[start:stop], variables), rest)


def outputs(encoder: Bert, tokens: weights.Tokens, layers: int) -> np.ndarray:
    """float32[n, T, D]: what comes out of the first `layers` layers, a chunk of texts at a time.

    Raises ValueError where the texts are longer than the encoder has positions.
    """
    most, size = encoder.positions.shape[0], tokens.ids.shape[1]
    if size > most:
        raise ValueError(f"texts of {size} tokens are longer than {most} positions; use length.")
    structure, variables, rest = nnx.split(encoder, nnx.Variable, ...)

    @jax.jit
    def run(variables, ids, mask):
        whole = nnx.merge(structure, variables, rest)
        bottom = layers_of(whole.layers, 0, layers)
        one = lambda text: stacked(bottom, whole.embed(text[0]), text[1])
        return jax.lax.map(one, (ids, mask), batch_size=CHUNK)

    return np.asarray(run(variables, jnp.asarray(tokens.ids), jnp.asarray(tokens.mask)))


def sentences(
    texts: Sequence[str], folder: str | Path = "minilm", length: int | None = 128
) -> np.ndarray:
    """float32[n, D]: the embeddings of `texts`, at length 1.

    Args:
        texts: n of them.
        folder: the weights, as in `bert`.
        length: most tokens of a text, special ones included; longer texts lose their end. None for
            any.

    Raises:
        ValueError: for length < 3, and for texts longer than the encoder has positions.

    Example:
        >>> embeddings = models.sentences(["alien", "star wars"], bert_folder)
    """
    if length is not None:
        at_least("sentences", "length", length, 3)
    place = weights.find(folder)
    encoder, tokens = bert(place), weights.tokenize(place, texts, length)
    states = outputs(encoder, tokens, bert_sizes(place).layers)
    return np.asarray(pooled(jnp.asarray(states), jnp.asarray(tokens.mask)))
