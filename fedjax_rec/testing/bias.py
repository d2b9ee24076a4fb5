"""Whether samples have the mean that they should, by as few of them as can tell 2% of it.

    |mean <s, x> / |x|^2 - 1| <= 5 standard errors,   |mean s_i - x_i| <= 6 standard errors

Samples come in portions until ten standard errors along x are less than 2% of it.
"""

from __future__ import annotations

import numpy as np

SEEN = 0.02  # a bias of this share of x is ten standard errors


def standard_error(samples: np.ndarray) -> np.ndarray:
    """Of the mean over the first axis."""
    return samples.std(0, ddof=1) / np.sqrt(len(samples))


def biased(samples: np.ndarray, x: np.ndarray) -> str | None:
    """What betrays a bias of samples [n, d] of x [d]: along x, or in any coordinate; None if
    nothing."""
    along = samples @ x / (x @ x)
    error = standard_error(along)
    if abs(along.mean() - 1) > 5 * error + 1e-5:
        return f"{along.mean() - 1:+.4f} along x, standard error {error:.5f}"
    off = np.abs(samples.mean(0) - x)
    # A coordinate that is moved rarely has few events or none, of a size that others show.
    rare = 10 * np.abs(samples - x).max() / len(samples)
    worst = off - 6 * standard_error(samples) - rare - 1e-4 * np.abs(x).max()
    return f"{off[worst.argmax()]:.4f} in one coordinate" if worst.max() > 0 else None


def enough(samples: np.ndarray, x: np.ndarray) -> bool:
    """Whether a bias of `SEEN` along x would show."""
    return bool(10 * standard_error(samples @ x / (x @ x)) < SEEN)
