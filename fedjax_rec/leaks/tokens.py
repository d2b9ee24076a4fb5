"""Which tokens a text client trained on: those whose vectors lie in the span of a gradient.

    y = x W + s x A B    gives    dl/dA = s sum_t x_t (B g_t)^T,   columns in the span of the x_t

for the inputs x_t of all tokens t of all steps. Below the first layer x_t is a function of the
token alone, which everybody knows, and stays what it is while adapters train; so the change of that
layer's A [D, r] after any steps of SGD has columns in the span of few known vectors, and the token
v was there where

    |x_v - P x_v| < tolerance |x_v|,   P the projection on that span.

It takes fewer tokens than the rank r, a rank below D, and a B of full rank: that of a fresh adapter
is zero, and after few steps of few examples the span is a part of theirs. Where the singular values
of what was sent do not fall anywhere, it says nothing. (Petrov et al., "DAGER: exact gradient
inversion for large language models", NeurIPS 2024, whose first step this is; sequences are not put
together here.)

`V` tokens of the vocabulary, `D` width, `r` rank.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..check import positive
from .scores import Guess

GAP = 1000.0  # how far singular values fall where those of rounding begin


def tokens(
    changes: Sequence[np.ndarray], inputs: np.ndarray, tolerance: float = 1e-2, client: int = 0
) -> Guess:
    """Says which tokens lie in the span of what a client sent of the first layer's factors A.

    Args:
        changes: float[D, r] each, of factors that read the same input, such as those of queries,
            keys and values; at least one.
        inputs: float[V, D], the first layer's input for each token: its embedding, after the norm
            before the attention.
        tolerance: of the share of a vector that lies outside.
        client: whose.

    Returns:
        A `Guess` whose candidates are the vocabulary, and whose scores are minus the share of each
        vector that lies outside.

    Raises:
        ValueError: where nothing was sent, or the span is as wide as all factors or as the input,
            so that it tells nothing.

    Example:
        >>> from fedjax_rec import leaks
        >>> words = np.random.default_rng(0).normal(size=(50, 16))
        >>> sent = words[[3, 7]].T @ np.ones((2, 4)) + words[[7]].T @ np.array([[1.0, 2, 0, 5]])
        >>> leaks.tokens([sent], words).said.nonzero()[0].tolist()
        [3, 7]
    """
    positive("tokens", "tolerance", tolerance)
    joined = np.concatenate([np.asarray(x, np.float64) for x in changes], axis=1)
    inputs = np.asarray(inputs, np.float64)
    left, sizes, _ = np.linalg.svd(joined, full_matrices=False)
    if not sizes.size or not sizes[0] > 0:
        raise ValueError(
            "tokens(changes): nothing was sent of these factors (B of a fresh adapter is zero); "
            "listen after a step."
        )
    falls = sizes[:-1] / np.maximum(sizes[1:], 1e-12 * sizes[0])
    rank = int(falls.argmax()) + 1 if falls.size else 0
    if not falls.size or falls[rank - 1] < GAP:
        raise ValueError(
            f"tokens(changes): {joined.shape[1]} columns of width {joined.shape[0]} are all taken "
            "up, so their span holds no token surely; more tokens were trained on than the rank of "
            "the adapters shows."
        )
    span = left[:, :rank]
    outside = inputs - (inputs @ span) @ span.T
    share = np.linalg.norm(outside, axis=1) / np.maximum(np.linalg.norm(inputs, axis=1), 1e-30)
    return Guess(client, np.arange(len(inputs)), -share, share < tolerance)
