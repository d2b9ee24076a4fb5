"""Recommender models: flax.nnx modules whose variables say where they live, or plain functions."""

from .fedrap import fedrap
from .gpfedrec import gpfedrec, gpfedrec_rows, guided
from .mf import fedmf
from .mutual import fedkd, mutual
from .ncf import gmf, mlp, neumf
from .objectives import Objective, bce, bpr, masked_mean, squared_error
from .pfedrec import pfedrec
from .prunable import prunable
from .roles import Frozen, Private, PrivateRows, Rows, from_nnx

__all__ = [
    "Frozen", "Objective", "Private", "PrivateRows", "Rows", "bce", "bpr", "fedkd", "fedmf",
    "fedrap", "from_nnx", "gmf", "gpfedrec", "gpfedrec_rows", "guided", "masked_mean", "mlp",
    "mutual", "neumf", "pfedrec", "prunable", "squared_error",
]  # fmt: skip
