"""RQ-VAE: a vector as a few codes, by a residual quantiser inside an autoencoder.

    z = e(x),   r_0 = z,   c_l = argmin_k |r_l - m_lk|,   r_{l+1} = r_l - m_{l c_l},
    y = sum_l m_{l c_l},
    loss = |x - d(y)|^2 + sum_l |sg(r_l) - m_{l c_l}|^2 + beta |r_l - sg(m_{l c_l})|^2

sg has no gradient, and d(y) gives z that of y (Zeghidour et al., "SoundStream", 2021; TIGER, Rajput
et al., NeurIPS 2023, section 3.1). Centres begin as those of residual k-means of z, as in the
paper, which keeps codes from standing idle. Encoder and decoder have the same hidden layers, in
turn, with ReLU. It is of public texts and trained in one place, before any client.

`n` vectors, `E` their width, `D` that of z, `L` levels, `K` codes of a level.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ...check import at_least, positive
from ...made import part
from .residual_kmeans import nearest, residual_kmeans


@part
class Quantiser:
    """quantise(key, vectors [n, E], levels, codes) -> (codes int32[n, L], centres float32[L, K, D])
    by its key alone."""

    quantise: Callable[..., tuple[jax.Array, jax.Array]]


def rq_vae(
    width: int = 32,
    hidden: Sequence[int] = (128, 64),
    steps: int = 2000,
    batch_size: int = 512,
    learning_rate: float = 0.001,
    commitment: float = 0.25,
) -> Quantiser:
    """A quantiser that learns to say vectors by their codes, in place of `residual_kmeans`.

    Args:
        width: D of what is quantised.
        hidden: widths between E and D, in the encoder; in turn, in the decoder.
        steps: of Adam.
        batch_size: vectors of a step, drawn anew for each.
        learning_rate: of Adam.
        commitment: beta, how much what is quantised is drawn to its centres.

    Returns:
        A `Quantiser`.

    Raises:
        ValueError: for sizes below 1, a rate or commitment that is not positive and, when it
            quantises, for more codes than vectors.

    Example:
        >>> vectors = jax.random.normal(key, (20, 6))
        >>> autoencoder = models.rq_vae(width=4, hidden=(8,), steps=10)
        >>> codes, centres = autoencoder.quantise(key, vectors, levels=2, codes=4)
        >>> codes.shape, centres.shape
        ((20, 2), (2, 4, 4))
    """
    for name, value in (("width", width), ("steps", steps), ("batch_size", batch_size)):
        at_least("rq_vae", name, value, 1)
    for value in hidden:
        at_least("rq_vae", "hidden", value, 1)
    positive("rq_vae", "learning_rate", learning_rate)
    positive("rq_vae", "commitment", commitment)

    def quantise(key, vectors, levels: int, codes: int):
        x = jnp.asarray(vectors, jnp.float32)
        sizes = (x.shape[1], *hidden, width)
        forth, back, begin, draws = jax.random.split(key, 4)
        coder = {"encoder": _layers(forth, sizes), "decoder": _layers(back, sizes[::-1])}
        _, centres = residual_kmeans(begin, _through(coder["encoder"], x), levels, codes)
        held = _trained(
            {**coder, "centres": centres}, x, draws, steps, min(batch_size, len(x)),
            learning_rate, commitment,
        )  # fmt: skip
        chosen, _, _ = quantised(_through(held["encoder"], x), held["centres"])
        return chosen, held["centres"]

    return Quantiser(quantise)


def quantised(z: jax.Array, centres: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(codes int32[n, L], r_l float[n, L, D], their centres float[n, L, D]) of z float[n, D]."""
    rest, found = z, []
    for means in centres:
        code = nearest(rest, means)
        found.append((code, rest, means[code]))
        rest = rest - means[code]
    codes, rests, chosen = zip(*found, strict=True)
    return jnp.stack(codes, 1), jnp.stack(rests, 1), jnp.stack(chosen, 1)


def loss(held: dict[str, Any], x: jax.Array, commitment: float) -> jax.Array:
    """The loss above, the mean over vectors x [n, E]; held: encoder, decoder, centres [L, K, D]."""
    stop = jax.lax.stop_gradient
    z = _through(held["encoder"], x)
    _, rests, chosen = quantised(z, held["centres"])
    y = z + stop(chosen.sum(1) - z)
    said = ((x - _through(held["decoder"], y)) ** 2).sum(-1)
    # What a level leaves is of z alone: centres before it are not moved by those behind it.
    rests = z[:, None] - stop(z[:, None] - rests)
    near = ((stop(rests) - chosen) ** 2 + commitment * (rests - stop(chosen)) ** 2).sum((-1, -2))
    return (said + near).mean()


@partial(jax.jit, static_argnums=(3, 4))
def _trained(held, x, key, steps: int, batch_size: int, learning_rate, commitment):
    adam = optax.adam(learning_rate)

    def step(carry, key):
        held, state = carry
        some = x[jax.random.randint(key, (batch_size,), 0, len(x))]
        slope = jax.grad(loss)(held, some, commitment)
        moves, state = adam.update(slope, state, held)
        return (optax.apply_updates(held, moves), state), None

    return jax.lax.scan(step, (held, adam.init(held)), jax.random.split(key, steps))[0][0]


def _layers(key: jax.Array, sizes: Sequence[int]) -> list[dict[str, jax.Array]]:
    """Kernel and bias of each layer from a width to the next."""
    draw, keys = jax.nn.initializers.lecun_normal(), jax.random.split(key, len(sizes) - 1)
    pairs = zip(keys, sizes[:-1], sizes[1:], strict=True)
    return [{"kernel": draw(one, (a, b)), "bias": jnp.zeros(b)} for one, a, b in pairs]


def _through(layers: Sequence[dict[str, jax.Array]], x: jax.Array) -> jax.Array:
    for i, one in enumerate(layers):
        x = (jax.nn.relu(x) if i else x) @ one["kernel"] + one["bias"]
    return x
