"""Whether users have candidates enough for the places that metrics look at."""

from __future__ import annotations

from .. import data, evaluate
from .config import Config


def few_candidates(config: Config, dataset: data.Dataset) -> str | None:
    """That a metric looks at more places than some users have candidates: then it is high of any
    model."""
    wanted = config.evaluation.candidates
    if wanted not in {"full", "sampled", "both"}:
        return None
    seen = int(dataset.test.seen_count.max())
    fewest = {
        "full": dataset.num_items - seen,
        "sampled": config.data.evaluation_negatives + 1,
    }
    kinds = ("full", "sampled") if wanted == "both" else (wanted,)
    for metric in evaluate.metrics(config.evaluation.metrics):
        for kind in ("full",) if metric.of_targets else kinds:
            if fewest[kind] < metric.least:
                return (
                    f"fedjax-rec: evaluation.metrics={metric.name} looks at {metric.least} places, "
                    f"and there are users with {fewest[kind]} {kind} candidates: it is high of any "
                    "model; use fewer places."
                )
    return None
