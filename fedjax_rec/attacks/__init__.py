"""What malicious clients do: spoil their own upload, forge uploads together, or push an item.

Who they are: `drawn`, `named`, `from_id`. Stages of one client: `sign_flip`, `scaled`, `gaussian`,
`broken`. Of one adversary who sees the round, for `attacked`: `ipm`, `alie`, `mimic`, `pieck_uea`,
`pieck_ipe`. Made up accounts, in the place of a split: `random_profiles`, `average_profiles`,
`bandwagon_profiles`.
"""

from .alie import alie
from .alone import broken, gaussian, scaled, sign_flip
from .attacked import Attack, Sides, attacked
from .detection import detection, with_detection
from .ipm import ipm
from .malicious import Malicious, drawn, from_id, named
from .mimic import mimic
from .pieck import pieck_ipe, pieck_uea
from .shilling import average_profiles, bandwagon_profiles, random_profiles

__all__ = [
    "Attack", "Malicious", "Sides", "alie", "attacked", "average_profiles", "bandwagon_profiles",
    "broken", "detection", "drawn", "from_id", "gaussian", "ipm", "mimic", "named", "pieck_ipe",
    "pieck_uea", "random_profiles", "scaled", "sign_flip", "with_detection",
]  # fmt: skip
