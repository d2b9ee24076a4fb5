"""How far AUCs of labelled examples may be trusted: intervals over users, of rows by themselves and
of one row against another, from the logits that runs keep of their best round.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..evaluate import auc_difference
from .reading import PREDICTIONS, Group, Run
from .tables import grid

AUC, DRAWS = "auc", 1000


def predictions(run: Run) -> dict[str, np.ndarray] | None:
    """`logits` float32[n], `labels` and `user` [n] of a run, by user: another run may have other
    groups of users for clients. None where it kept none.

    Raises ValueError where the file is malformed."""
    path = run.folder / PREDICTIONS
    if not path.is_file():
        return None
    try:
        with np.load(path) as held:
            order = np.argsort(held["user"], kind="stable")
            return {name: held[name][order] for name in ("logits", "labels", "user")}
    except Exception as error:  # zipfile, pickle and format errors share no narrower base
        told = f"{path} is malformed ({type(error).__name__}); run it again."
        raise ValueError(told) from None


def of_group(each: Group) -> dict[str, np.ndarray] | None:
    """The same of a row, `logits` [seeds, n]; None unless all of its runs have them, of the same
    examples."""
    found = [predictions(run) for run in each.runs]
    kept = [one for one in found if one is not None]
    if len(kept) < len(found) or not all(_alike(kept[0], one) for one in kept):
        return None
    return {**kept[0], "logits": np.stack([one["logits"] for one in kept])}


def difference(one: Group, other: Group, level: float = 0.95, draws: int = DRAWS):
    """`evaluate.auc_difference` of two rows. Raises ValueError where a row has no logits, or where
    the two have those of other examples."""
    both = [of_group(each) for each in (one, other)]
    for each, found in zip((one, other), both, strict=True):
        if found is None:
            raise ValueError(
                f"compare: {each.runs[0].folder} has no {PREDICTIONS} in all of its runs, the "
                "logits of examples whose users are known; run it again."
            )
    a, b = both
    assert a is not None and b is not None
    if not _alike(a, b):
        raise ValueError(
            f"compare: {one.runs[0].folder} and {other.runs[0].folder} were tested on other "
            "examples; compare runs on the same ones."
        )
    return auc_difference(a["logits"], b["logits"], a["labels"], a["user"], level, draws)


def tables(groups: Sequence[Group], names: Sequence[str]) -> list[str]:
    """Lines of a page: a table for each set of two rows or more that kept logits of the same
    examples, with the AUC of each and how far it is below the best of them, within intervals."""
    held = [(each, name, of_group(each)) for each, name in zip(groups, names, strict=True)]
    left = [(each, name, found) for each, name, found in held if found is not None]
    text: list[str] = []
    while left:
        alike = [one for one in left if _alike(one[2], left[0][2])]
        left = [one for one in left if not _alike(one[2], alike[0][2])]
        if len(alike) > 1:
            text += _table(alike)
    return text


def _table(known: Sequence[tuple[Group, str, dict]]) -> list[str]:
    best = max(known, key=lambda one: float(np.nanmean(one[0].best(AUC))))
    rows, about = [], best[2]
    half = np.zeros(len(about["labels"]))  # a constant has an AUC of 1/2
    for each, name, found in known:
        alone = auc_difference(found["logits"], half, about["labels"], about["user"], draws=DRAWS)
        against = ["", ""]
        if each is not best[0]:
            gap = auc_difference(
                found["logits"], about["logits"], about["labels"], about["user"], draws=DRAWS
            )
            within = f"{gap['low']:+.4f} to {gap['high']:+.4f}"
            against = [f"{gap['difference']:+.4f}", within]
        ends = f"{0.5 + alone['low']:.4f} to {0.5 + alone['high']:.4f}"
        rows.append([name, f"{alone['first']:.4f}", ends, *against])
    users = len(np.unique(about["user"]))
    text = (
        f"AUC with 95% intervals of {DRAWS:,} bootstraps over the {users:,} users of the test, "
        f"alone and against `{best[1]}`, where both are taken of the same users:"
    )
    titles = ["run", "AUC", "interval", "difference", "its interval"]
    return [text, "", grid(titles, rows), ""]


def _alike(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(a[name], b[name]) for name in ("labels", "user"))
