"""How well an aggregator's verdicts find those who lie.

    precision = rejected who lie / rejected,   recall = rejected who lie / who lie

Of the clients of a round that weighed something. `detection` is host-side NumPy, of what a round
reported; `with_detection` tells the same among the metrics of a run.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ..trees import Told
from ..types import Aggregator, RoundInfo
from .malicious import Malicious

NAMES = ("detection_precision", "detection_recall")


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


def with_detection(aggregator: Aggregator, malicious: Malicious) -> Aggregator:
    """`aggregator`, and the metrics `detection_precision` and `detection_recall`; where nobody is
    malicious, `aggregator` itself.

    They are those of `detection` in the last round before a measurement; null where nobody is
    rejected or lies, where the rule gives no verdicts, and where it takes nobody at all. `attacked`
    tells them by itself; this is for who lies by a stage or by made up accounts.

    Args:
        aggregator: the rule whose verdicts are judged.
        malicious: who lies.

    Returns:
        An `Aggregator` that makes the same updates, and gives the same verdicts.

    Raises:
        ValueError: for an aggregator under a seal, which judges nobody.

    Example:
        >>> from fedjax_rec import attacks
        >>> liars = attacks.drawn(num_clients=30, share=0.1)
        >>> rule = attacks.with_detection(aggregate.multi_krum(f=3), liars)
        >>> stages = [attacks.sign_flip(liars)]
        >>> strategy = strategies.fedmf(model, data.pointwise(4), aggregator=rule, stages=stages)
    """
    if malicious.nobody:
        return aggregator
    if aggregator.seal is not None:
        raise ValueError(
            f"with_detection({aggregator}): under a seal nobody is judged; leave it out."
        )

    def init(shared):
        return {"rule": aggregator.init(shared), "told": found_of(None, None, None)}

    def reduce(state, uploads, now):
        there = uploads.weight > 0
        side = {"lies": malicious.lies(now.client) & there, "there": there}
        return {"rule": aggregator.reduce(state["rule"], uploads, now), "side": side}

    def finish(key, state, summary, now):
        rule, update, verdicts = aggregator.finish(key, state["rule"], summary["rule"], now)
        return {"rule": rule, "told": found_of(verdicts, **summary["side"])}, update, verdicts

    additive = {"rule": aggregator.additive, "side": False}
    return Aggregator(init, reduce, finish, additive, of=aggregator.of or aggregator)


def found_of(verdicts: jax.Array | None, lies, there) -> Told:
    """Precision and recall of verdicts float32[n] on clients `there`, bool[n], of whom some lie;
    NaN without verdicts."""
    if verdicts is None:
        return Told({name: jnp.float32(jnp.nan) for name in NAMES})
    rejected = (verdicts == 0) & there
    found = (rejected & lies).sum()
    share = lambda of: jnp.where(of.any(), found / jnp.maximum(of.sum(), 1), jnp.nan)
    return Told(dict(zip(NAMES, (share(rejected), share(lies)), strict=True)))
