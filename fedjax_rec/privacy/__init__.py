"""What a round gives away, bounded: clipped sums with noise, and what they guarantee."""

from .accountant import Sampling, epsilon_of, fixed_size, noise_for, poisson_sampled
from .clip import Clip, adaptive, per_leaf, per_row, whole
from .gaussian_mean import gaussian_mean

__all__ = [
    "Clip", "Sampling", "adaptive", "epsilon_of", "fixed_size", "gaussian_mean", "noise_for",
    "per_leaf", "per_row", "poisson_sampled", "whole",
]  # fmt: skip
