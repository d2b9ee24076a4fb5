"""Attacks by which a client spoils its own upload: stages, for the list `stages=[...]`.

    sign_flip   u -> -scale u                 scaled  u -> factor u
    gaussian    u -> scale N(0, 1)            broken  u -> NaN

A malicious client knows what it would have sent, and nothing of others. It changes the rows that it
touched, and every dense leaf. Put it last: what stands after it in the list the attacker does too.
Whole numbers stay as they are; of honest clients every bit does.

(Li et al., "RSA", AAAI 2019, of the first; Blanchard et al., NeurIPS 2017, of the third.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import rows
from ..check import positive
from ..types import Stage
from .malicious import Malicious


def sign_flip(malicious: Malicious, scale: float = 1.0) -> Stage:
    """-scale u in place of an update u: a step up the loss.

    Args:
        malicious: who does it.
        scale: how much longer than the honest step. Positive.

    Raises:
        ValueError: unless scale is positive.

    Example:
        >>> from fedjax_rec import attacks
        >>> stage = attacks.sign_flip(attacks.drawn(30, share=0.1), scale=3.0)
        >>> strategy = strategies.fedmf(model, data.pointwise(4), stages=[stage])
    """
    positive("sign_flip", "scale", scale)
    return _by(malicious, lambda key, x: -scale * x)


def scaled(malicious: Malicious, factor: float = 10.0) -> Stage:
    """factor u in place of an update u, as to replace the model by the client's own (Bagdasaryan et
    al., "How to backdoor federated learning", AISTATS 2020).

    Args:
        malicious: who does it.
        factor: of the update.

    Example:
        >>> from fedjax_rec import attacks
        >>> stage = attacks.scaled(attacks.named([3]), factor=30.0)
    """
    return _by(malicious, lambda key, x: factor * x)


def gaussian(malicious: Malicious, scale: float = 1.0) -> Stage:
    """Noise of the normal distribution in place of an update.

    Args:
        malicious: who does it.
        scale: its standard deviation, a number. Positive.

    Raises:
        ValueError: unless scale is positive.

    Example:
        >>> from fedjax_rec import attacks
        >>> stage = attacks.gaussian(attacks.drawn(30, share=0.1), scale=0.1)
    """
    positive("gaussian", "scale", scale)
    return _by(malicious, lambda key, x: scale * jax.random.normal(key, x.shape, x.dtype))


def broken(malicious: Malicious) -> Stage:
    """NaN in place of an update. Rounds reject it and count it (`rounds.rejected`), whatever the
    aggregator: this shows that they do.

    Args:
        malicious: who does it.

    Example:
        >>> from fedjax_rec import attacks
        >>> stage = attacks.broken(attacks.named([3]))
    """
    return _by(malicious, lambda key, x: jnp.full_like(x, jnp.nan))


def _by(malicious: Malicious, spoiled: Callable) -> Stage:
    """The stage that puts spoiled(key, x) in the place of every array x of a malicious client."""

    def send(key, memory, upload, now):
        lies, numbers = malicious.lies(now.client), iter(range(10**6))

        def one(x):
            values = x.values if rows.is_table(x) else x
            of_leaf = jax.random.fold_in(key, next(numbers))
            if not jnp.issubdtype(values.dtype, jnp.inexact):
                return x
            spoils = lies & x.live[:, None] if rows.is_table(x) else lies
            values = jnp.where(spoils, spoiled(of_leaf, values), values)
            return replace(x, values=values) if rows.is_table(x) else values

        return memory, replace(upload, update=rows.map_nodes(one, rows.deltas(upload.update)))

    return Stage(send)
