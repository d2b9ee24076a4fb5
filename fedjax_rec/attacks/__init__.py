"""What malicious clients do: spoil their own upload, forge uploads together, or push an item.

Who they are: `drawn`, `named`, `from_id`. Stages of one client: `sign_flip`, `scaled`, `gaussian`,
`broken`. Of one adversary who sees the round, for `attacked`: against the model, `ipm`, `alie`,
`optimal_ipm`, `optimal_alie`, `mimic`, `spattack_o`, `spattack_l`, `cluster_attack`, `fed_attack`;
for items, `pieck_uea`, `pieck_ipe`, `psmu`, `fed_rec_attack`, `a_ra`, `a_hum`, `pip_attack`; what
some of these know of users and items, `published`. What they train on: `label_flip`. In the place
of a split, made up accounts: `random_profiles`, `average_profiles`, `bandwagon_profiles`; and texts
of items: `renamed`, `popular_words`. How well verdicts find them: `detection`, `with_detection`.
"""

from .alie import alie
from .alone import broken, gaussian, scaled, sign_flip
from .attacked import Attack, Sides, attacked
from .cluster import cluster_attack
from .detection import detection, with_detection
from .fed_attack import fed_attack
from .fed_rec_attack import fed_rec_attack
from .imagined_users import a_hum, a_ra
from .ipm import ipm
from .label_flip import label_flip
from .malicious import Malicious, drawn, from_id, named
from .mimic import mimic
from .optimal import optimal_alie, optimal_ipm
from .pieck import pieck_ipe, pieck_uea
from .pip_attack import pip_attack
from .psmu import psmu
from .published import Published, published
from .renamed import popular_words, renamed
from .shilling import average_profiles, bandwagon_profiles, random_profiles
from .spattack import spattack_l, spattack_o

__all__ = [
    "Attack", "Malicious", "Published", "Sides", "a_hum", "a_ra", "alie", "attacked",
    "average_profiles", "bandwagon_profiles", "broken", "cluster_attack", "detection", "drawn",
    "fed_attack", "fed_rec_attack", "from_id", "gaussian", "ipm", "label_flip", "mimic", "named",
    "optimal_alie", "optimal_ipm", "pieck_ipe", "pieck_uea", "pip_attack", "popular_words", "psmu",
    "published", "random_profiles", "renamed", "scaled", "sign_flip", "spattack_l", "spattack_o",
    "with_detection",
]  # fmt: skip
