"""Greedy continuation with a cache of keys and values, all inside jit.

    y_{t+1} = argmax p(. | prompt, y_1 .. y_t)

The prompt goes through once; after that a step computes one token and reads the keys and values of
those before it from the cache. Written for one prompt and mapped over a batch of them.

`T` tokens of a prompt, `N` new ones, `S = T + N` places of the cache; see `decoder` for the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ...check import at_least
from .decoder import Decoder, seen
from .layers import attention


def generate(model: Decoder, prompts: Sequence[Sequence[int]], count: int, stop: int | None = None):
    """The most likely tokens after each of `prompts`, one after another.

    Args:
        model: the decoder.
        prompts: token ids of any lengths, at least 1.
        count: most tokens of a continuation.
        stop: a token that ends a text; it is left out. None for none.

    Returns:
        Lists of at most `count` token ids, one a prompt.

    Raises:
        ValueError: for an empty prompt, count < 1, and for tokens that the model does not know.

    Example:
        >>> texts = models.generate(decoder, [[3, 1], [2]], count=2)
    """
    at_least("generate", "count", count, 1)
    lengths = np.array([len(p) for p in prompts], np.int32)
    if not lengths.size or lengths.min() < 1:
        raise ValueError("generate(prompts) has an empty prompt; give each at least one token.")
    check_tokens("generate", "prompts", prompts, model)
    tokens = np.zeros((len(lengths), lengths.max()), np.int32)
    for row, prompt in zip(tokens, prompts, strict=True):
        row[: len(prompt)] = prompt
    structure, variables = nnx.split(model)
    made = np.asarray(_continued(structure, variables, tokens, lengths, count)).tolist()
    return [row[: row.index(stop)] if stop in row else row for row in made]


def check_tokens(where: str, name: str, texts: Iterable[Sequence[int]], model: Decoder) -> None:
    """Raises ValueError for the first token that is not of the vocabulary of `model`; reading its
    table, it would be the first or the last token in its place."""
    most = model.size.vocabulary
    for place, text in enumerate(texts):
        tokens = np.asarray(text).reshape(-1)
        wrong = tokens[(tokens < 0) | (tokens >= most)]
        if len(wrong):
            raise ValueError(
                f"{where}({name}): text {place} has token {wrong[0]}, and the model knows 0 to "
                f"{most - 1}; use the tokenizer of the model."
            )


@partial(jax.jit, static_argnums=(0, 4))
def _continued(structure, variables, tokens, lengths, count: int):
    model = nnx.merge(structure, variables)
    return jax.vmap(lambda t, n: continued(model, t, n, count))(tokens, lengths)


def continued(model: Decoder, tokens: jax.Array, length: jax.Array, count: int) -> jax.Array:
    """int32[count]: the continuation of the first `length` of `tokens` int32[T], padded behind."""
    places = jnp.arange(tokens.shape[0] + count)
    size, dtype = model.size, model.tokens.dtype
    empty = jnp.zeros((size.layers, places.size, size.key_heads, size.head_width), dtype)

    def last(x, at):
        return jnp.argmax(model.logits(x[at])).astype(jnp.int32)

    x, cache = _through(model, model.embed(tokens), jnp.int32(0), (empty, empty))
    first = last(x, length - 1)

    def step(carry, t):
        token, cache = carry
        # The keys of padding stand at places that new tokens overwrite before they look there.
        x, cache = _through(model, model.embed(token[None]), length + t, cache)
        return (last(x, 0), cache), token

    return jax.lax.scan(step, (first, cache), jnp.arange(count))[1]


def _through(model: Decoder, x, start, cache):
    """(x, cache) after all layers: x [n, D] of the places from `start`, cache [L, S, K, d] twice,
    with theirs written into it."""
    places = start + jnp.arange(x.shape[0])
    everything = seen(model.size, places, jnp.arange(cache[0].shape[1]))
    structure, variables = nnx.split(model.layers)

    def one(x, layer):
        variables, *held = layer
        block = nnx.merge(structure, variables)
        angles, mask = block.own(everything)
        q, k, v = block.attended(x, angles)
        write = jax.lax.dynamic_update_slice_in_dim
        held = [write(old, new, start, 0) for old, new in zip(held, (k, v), strict=True)]
        return block.finish(x, attention(q, *held, mask, model.size.scores)), tuple(held)

    return jax.lax.scan(one, x, (variables, *cache))
