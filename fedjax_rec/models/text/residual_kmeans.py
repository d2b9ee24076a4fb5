"""Residual k-means: a vector as a few codes, each of what those before it left.

    r_0 = x,   c_l = argmin_k |r_l - m_lk|,   r_{l+1} = r_l - m_{l c_l}

Centres m_l are those of k-means on the r_l of all vectors: Lloyd's turns (IEEE Trans. Inf. Theory,
1982) from centres that k-means++ draws (Arthur & Vassilvitskii, SODA 2007). The first code says
most, and the sum of the centres comes nearer to x with each: the residual quantizer without an
autoencoder around it (Rajput et al., NeurIPS 2023, name k-means as the simpler way).

`n` vectors, `E` their width, `L` levels, `K` codes of a level.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Float, Float32, Int32

from ...check import at_least
from ...types import Array


def residual_kmeans(
    key: jax.Array, vectors: Float[Array, "n E"], levels: int, codes: int, turns: int = 50
) -> tuple[Int32[Array, "n L"], Float32[Array, "L K E"]]:
    """The codes of vectors and the centres that they name, by `key` alone.

    Args:
        key: of the first centres.
        vectors: float[n, E].
        levels: `L`.
        codes: `K`, of each level. A centre that no vector is nearest to stays where it was.
        turns: of Lloyd, at each level.

    Raises:
        ValueError: for levels, codes or turns below 1, and for more codes than vectors.

    Example:
        >>> vectors = jax.random.normal(key, (20, 3))
        >>> codes, centres = models.residual_kmeans(key, vectors, levels=2, codes=4)
        >>> codes.shape, centres.shape
        ((20, 2), (2, 4, 3))
    """
    for name, value in (("levels", levels), ("codes", codes), ("turns", turns)):
        at_least("residual_kmeans", name, value, 1)
    if codes > len(vectors):
        raise ValueError(
            f"residual_kmeans(codes={codes}) of {len(vectors)} vectors; use at most as many codes."
        )
    rest = jnp.asarray(vectors, jnp.float32)
    chosen, centres = [], []
    for level in range(levels):
        means = kmeans(jax.random.fold_in(key, level), rest, codes, turns)
        code = nearest(rest, means)
        rest = rest - means[code]
        chosen.append(code)
        centres.append(means)
    return jnp.stack(chosen, 1), jnp.stack(centres)


def nearest(vectors: jax.Array, centres: jax.Array) -> jax.Array:
    """int32[n]: the centre [K, E] next to each of `vectors` [n, E], the first of several."""
    return jnp.argmin(_apart(vectors, centres), -1).astype(jnp.int32)


def _apart(vectors, centres):
    """[n, K]: squared distances, without the |x|^2 that all centres have in common."""
    products = jnp.matmul(vectors, centres.T, precision="highest")
    return (centres**2).sum(-1) - 2 * products


@partial(jax.jit, static_argnums=(2, 3))
def kmeans(key, vectors, codes: int, turns: int):
    """float[K, E]: `codes` centres of `vectors` float[n, E], after `turns` of Lloyd."""

    def draw(carry, key):
        apart, last = carry
        apart = jnp.minimum(apart, ((vectors - last) ** 2).sum(-1))
        # Where all vectors have a centre of their own, the first one gets another.
        last = vectors[jax.random.categorical(key, jnp.log(apart))]
        return (apart, last), last

    first, rest = jax.random.split(key)
    one = vectors[jax.random.randint(first, (), 0, len(vectors))]
    far = jnp.full(len(vectors), jnp.inf)
    _, others = jax.lax.scan(draw, (far, one), jax.random.split(rest, codes - 1))

    def turn(centres, _):
        own = jax.nn.one_hot(nearest(vectors, centres), codes)
        count = own.sum(0)[:, None]
        sums = jnp.matmul(own.T, vectors, precision="highest")
        return jnp.where(count > 0, sums / jnp.maximum(count, 1), centres), None

    return jax.lax.scan(turn, jnp.concatenate([one[None], others]), length=turns)[0]
