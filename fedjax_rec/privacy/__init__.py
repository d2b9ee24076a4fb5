"""What a round gives away, bounded: clipped sums with noise, and what they guarantee; sums of which
the server sees no part; and noise at each client, of which nobody has to be trusted."""

from .accountant import Sampling, epsilon_of, fixed_size, noise_for, poisson_sampled
from .clip import Clip, adaptive, per_leaf, per_row, whole
from .gaussian_mean import gaussian_mean
from .light_secagg import light_secagg
from .local_gaussian import gaussian_delta, gaussian_sigma, local_gaussian
from .local_laplace import local_laplace, whole_upload
from .one_bit_mean import one_bit_mean
from .private_set_union import private_set_union
from .protocol import Protocol, Sizes
from .randomized_response import randomized_response, share_of_clients
from .secagg import secagg
from .secagg_plus import secagg_plus
from .secure_aggregation import secure_aggregation
from .seeded_rows import seeded_rows
from .shuffling import shuffled

__all__ = [
    "Clip", "Protocol", "Sampling", "Sizes", "adaptive", "epsilon_of", "fixed_size",
    "gaussian_delta", "gaussian_mean", "gaussian_sigma", "light_secagg", "local_gaussian",
    "local_laplace", "noise_for", "one_bit_mean", "per_leaf", "per_row", "poisson_sampled",
    "private_set_union",
    "randomized_response", "secagg", "secagg_plus", "secure_aggregation", "seeded_rows",
    "share_of_clients", "shuffled", "whole", "whole_upload",
]  # fmt: skip
