"""What a round gives away, bounded: clipped sums with noise, and what they guarantee; and sums of
which the server sees no part."""

from .accountant import Sampling, epsilon_of, fixed_size, noise_for, poisson_sampled
from .clip import Clip, adaptive, per_leaf, per_row, whole
from .gaussian_mean import gaussian_mean
from .light_secagg import light_secagg
from .protocol import Protocol, Sizes
from .secagg import secagg
from .secagg_plus import secagg_plus
from .secure_aggregation import secure_aggregation

__all__ = [
    "Clip", "Protocol", "Sampling", "Sizes", "adaptive", "epsilon_of", "fixed_size",
    "gaussian_mean", "light_secagg", "noise_for", "per_leaf", "per_row", "poisson_sampled",
    "secagg", "secagg_plus", "secure_aggregation", "whole",
]  # fmt: skip
