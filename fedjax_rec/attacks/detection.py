"""How well an aggregator's verdicts find those who lie.

    precision = rejected who lie / rejected,   recall = rejected who lie / who lie

Of the clients of a round that weighed something. Host-side NumPy.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from ..types import RoundInfo
from .malicious import Malicious


def detection(info: RoundInfo, ids, malicious: Malicious) -> dict[str, float]:
    """Precision and recall of the clients that the aggregator rejected in a round.

    Args:
        info: what the round reported; without verdicts nobody was rejected.
        ids: int[C], who took part, as `Cohort.ids`.
        malicious: who lies.

    Returns:
        `precision`, NaN where nobody is rejected, and `recall`, NaN where nobody there lies.

    Example:
        >>> from fedjax_rec import attacks
        >>> from fedjax_rec.types import RoundInfo
        >>> info = RoundInfo({}, np.ones(4), None, None, verdicts=np.array([0.0, 0.0, 1.0, 1.0]))
        >>> attacks.detection(info, np.arange(4), attacks.named([1, 2, 3]))["precision"]
        0.5
    """
    there = np.asarray(info.weight) > 0
    lies = np.asarray(malicious.lies(jnp.asarray(ids))) & there
    verdicts = np.ones(there.shape) if info.verdicts is None else np.asarray(info.verdicts)
    rejected = (verdicts == 0) & there
    found = float((rejected & lies).sum())
    share = lambda of: found / of.sum() if of.any() else float("nan")
    return {"precision": float(share(rejected)), "recall": float(share(lies))}
