"""The laws of a quantiser: codes of as many levels as asked, the same ones for the same vectors."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ..models import Quantiser
from .laws import KEY, Kind, check, expect, finite, same_bits

LEVELS, CODES, TWINS = 3, 5, 6  # the last vectors are those of the first


@dataclass(frozen=True)
class Quantising:
    part: Quantiser
    vectors: jax.Array
    codes: np.ndarray
    centres: np.ndarray


def _bench(quantiser: Quantiser) -> Quantising:
    rng = np.random.default_rng(0)
    heaps = 4 * rng.normal(size=(CODES, 7))
    vectors = heaps[rng.integers(0, CODES, 60)] + 0.3 * rng.normal(size=(60, 7))
    vectors = jnp.float32(np.concatenate([vectors, vectors[:TWINS]]))
    codes, centres = quantiser.quantise(KEY, vectors, LEVELS, CODES)
    return Quantising(quantiser, vectors, np.asarray(codes), np.asarray(centres))


def codes_are_as_many_as_asked(this: Quantising) -> None:
    """quantise(...) is int32[n, L] from 0 to K - 1, and float32[L, K, D]."""
    shape = (len(this.vectors), LEVELS)
    expect(this.codes.shape == shape and this.codes.dtype == np.int32, f"{this.codes.shape}")
    expect(((this.codes >= 0) & (this.codes < CODES)).all(), f"codes {np.unique(this.codes)}")
    known = this.centres.shape[:2] == (LEVELS, CODES) and this.centres.ndim == 3
    expect(known and this.centres.dtype == np.float32, f"centres are {this.centres.shape}")
    finite(this.centres)


def the_same_vectors_have_the_same_codes(this: Quantising) -> None:
    """Equal vectors have equal codes."""
    same_bits(this.codes[-TWINS:], this.codes[:TWINS])


def codes_tell_vectors_apart(this: Quantising) -> None:
    """Of vectors in heaps, as many as there are codes, each level tells some apart, and further
    levels more."""
    different = [len(np.unique(this.codes[:, : level + 1], axis=0)) for level in range(LEVELS)]
    expect(different[0] > 1 and different[-1] > different[0], f"{different} after each level")


def a_key_gives_the_same_bits(this: Quantising) -> None:
    """A function of its key and the vectors."""
    again = this.part.quantise(KEY, this.vectors, LEVELS, CODES)
    same_bits(tuple(again), (this.codes, this.centres))


def more_codes_than_vectors_are_refused(this: Quantising) -> None:
    """ValueError, in one line, for more codes than there are vectors."""
    try:
        this.part.quantise(KEY, this.vectors[:3], LEVELS, CODES)
    except ValueError as error:
        expect("\n" not in str(error), f"{error!r}")
        return
    raise AssertionError(f"{CODES} codes were made of 3 vectors")


QUANTISER = Kind(
    "quantiser",
    _bench,
    (
        codes_are_as_many_as_asked, the_same_vectors_have_the_same_codes, codes_tell_vectors_apart,
        a_key_gives_the_same_bits, more_codes_than_vectors_are_refused,
    ),
)  # fmt: skip


def check_quantiser(quantiser: Quantiser) -> None:
    """Holds the laws of quantisers against one, on 66 vectors of width 7 in five heaps.

    Args:
        quantiser: the part.

    Raises:
        AssertionError: a law is broken; the line says which, and what came.

    Example:
        testing.check_quantiser(models.rq_vae(width=4, hidden=(8,), steps=200))
    """
    check(QUANTISER, quantiser)
