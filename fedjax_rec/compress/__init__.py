"""What an update becomes on the wire."""

from .cast import cast, scaled_cast, stochastic_cast
from .cheaper import cheaper
from .combine import chain, identity, partition, per_leaf, scheduled
from .eden import drive, eden, lloyd_max
from .feedback import diana, ef21, error_feedback, momentum_correction
from .leafwise import leafwise, nodewise
from .lowrank import power_sgd_one_shot, truncated_svd
from .mask import columns, masked
from .opener import opener
from .quantize import natural, qsgd, qsgd_elias, stochastic_uniform
from .random_mask import random_k, random_mask
from .rotate import rotate
from .sketch import count_sketch
from .sparsify import global_top_k, sparse_ternary, threshold, top_k, top_k_per_row, warm_up_top_k
from .subspace import seeded_low_rank, seeded_projection
from .ternary import scaled_sign, terngrad

__all__ = [
    "cast", "chain", "cheaper", "columns", "count_sketch", "diana", "drive", "eden", "ef21",
    "error_feedback", "global_top_k", "identity", "leafwise", "lloyd_max", "masked",
    "momentum_correction", "natural", "nodewise", "opener", "partition", "per_leaf",
    "power_sgd_one_shot", "qsgd", "qsgd_elias", "random_k", "random_mask", "rotate",
    "scaled_cast", "scaled_sign", "scheduled", "seeded_low_rank", "seeded_projection",
    "sparse_ternary", "stochastic_cast", "stochastic_uniform", "terngrad", "threshold", "top_k",
    "top_k_per_row", "truncated_svd", "warm_up_top_k",
]  # fmt: skip
