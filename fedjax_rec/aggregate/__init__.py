"""How uploads become one update: pure functions whose summaries add over chunks of clients, and
robust rules, most of which see all clients at once."""

from .bucketing import bucketing
from .bulyan import bulyan
from .by_change import by_change
from .by_coordinate import by_coordinate
from .caf import caf
from .centered_clip import centered_clip
from .dnc import dnc
from .fltrust import Root, fltrust
from .foolsgold import foolsgold
from .geometric_median import geometric_median
from .hics import hics
from .krum import krum, multi_krum
from .mda import mda
from .meamed import meamed
from .mean import mean, per_row, uniform
from .median import median
from .mixed import Mixer, mixed
from .nnm import nnm
from .norm_bound import norm_bound, row_norm_bound
from .normalized import normalized, normalized_per_row
from .parts import total
from .quorum import quorum
from .trimmed_mean import trimmed_mean
from .union import union
from .with_norms import with_norms

__all__ = [
    "Mixer", "Root", "bucketing", "bulyan", "by_change", "by_coordinate", "caf", "centered_clip",
    "dnc", "fltrust", "foolsgold", "geometric_median", "hics", "krum", "mda", "meamed", "mean",
    "median", "mixed", "multi_krum", "nnm", "norm_bound", "normalized", "normalized_per_row",
    "per_row", "quorum", "row_norm_bound", "total", "trimmed_mean", "uniform", "union",
    "with_norms",
]  # fmt: skip
