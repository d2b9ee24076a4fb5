"""What a round gives away, bounded: clipped sums with noise, and what they guarantee; sums of which
the server sees no part; and noise at each client, of which nobody has to be trusted."""

from .accountant import epsilon_of, noise_for
from .blt import blt
from .clip import Clip, adaptive, per_leaf, per_row, whole
from .discrete_gaussian import discrete_gaussian
from .factorization import Correlation, Factorization
from .gaussian_mean import gaussian_mean
from .light_secagg import light_secagg
from .local_gaussian import gaussian_delta, gaussian_sigma, local_gaussian
from .local_laplace import local_laplace, whole_upload
from .one_bit_mean import one_bit_mean
from .priv_unit import priv_unit
from .private_set_union import private_set_union
from .protocol import Protocol, Sizes
from .randomized_response import randomized_response, share_of_clients
from .sampling import Sampling, fixed_size, in_order, poisson_sampled, separated
from .secagg import secagg
from .secagg_plus import secagg_plus
from .secure_aggregation import secure_aggregation
from .seeded_rotation import seeded_rotation
from .seeded_rows import seeded_rows
from .shares import Shares, epsilon_of_shares, fixed_point_step
from .shuffling import shuffled
from .skellam import skellam
from .toeplitz import banded, toeplitz
from .tree import tree

__all__ = [
    "Clip", "Correlation", "Factorization", "Protocol", "Sampling", "Shares", "Sizes",
    "adaptive", "banded", "blt", "discrete_gaussian", "epsilon_of", "epsilon_of_shares",
    "fixed_point_step", "fixed_size", "gaussian_delta", "gaussian_mean", "gaussian_sigma",
    "in_order", "light_secagg", "local_gaussian", "local_laplace", "noise_for", "one_bit_mean",
    "per_leaf", "per_row", "poisson_sampled", "priv_unit", "private_set_union",
    "randomized_response", "secagg", "secagg_plus", "secure_aggregation", "seeded_rotation",
    "seeded_rows", "separated", "share_of_clients", "shuffled", "skellam", "toeplitz", "tree",
    "whole", "whole_upload",
]  # fmt: skip
