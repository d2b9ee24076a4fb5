"""Finished runs against one of them, user by user, as a table for a paper.

    fedjax-rec compare runs/fedavg runs/pfedrec --against runs/fedavg --metrics ndcg@10

Each run folder keeps the test metrics of every user at its best round. Runs that differ in their
seed alone are one row: a user's value is the mean over them, so that the test is of users, and
`seeds` tells how many runs stand behind it. p values are raised by Holm's rule over all rows of a
metric. An AUC over all examples is no mean over users: where runs keep logits, users are drawn and
both AUCs are taken of their examples; there is no Wilcoxon test, and no effect, of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from ..check import nearest, one_of
from ..evaluate import holm, lower_is_better, paired
from .intervals import AUC, DRAWS, difference, of_group
from .latex import tabular
from .reading import Group, find_runs, group, labels, read_run
from .tables import grid, sets_of, title

# What is there of means over users alone.
ALONE = dict.fromkeys(("p_wilcoxon", "effect", "rank_biserial", "ties"), float("nan"))
FORMATS = ("markdown", "latex", "csv")


def compare(
    folders: Iterable[Path | str],
    metrics: Sequence[str] = (),
    against: Path | str | None = None,
    level: float = 0.95,
    draws: int = 10_000,
) -> pl.DataFrame:
    """Paired tests over users of finished runs against one of them.

    Args:
        folders: run folders, or folders that hold some; two rows or more.
        metrics: such as `ndcg@10`; those that chose the best rounds where it is empty.
        against: the folder of a run of the row that others are compared with; the first row in the
            order of the tables where it is None.
        level: of the intervals.
        draws: of the bootstrap.

    Returns:
        One row a comparison: `run`, `against`, `metric`, `seeds` (of the run and of the other),
        and what `evaluate.paired` says, with `p_bootstrap` and `p_wilcoxon` as Holm's rule raises
        them over the rows of a metric, and `better`: whether the run is better at 1 - level by the
        bootstrap, worse (false), or neither (null).

    Raises:
        ValueError: for fewer than two rows, runs on other data or under another evaluation, a
            metric that a run did not measure, runs without numbers of users, and a folder that is
            none of the rows.

    Example:
        >>> from fedjax_rec import report
        >>> report.compare(["runs/fedavg", "runs/pfedrec"], ["hr@10", "ndcg@10"])
    """
    rows = group(find_runs(folders))
    if len(rows) < 2:
        raise ValueError(
            f"compare: {len(rows)} row was found (seeds of one setting are one row); give runs of "
            "two settings or more."
        )
    # Of logits it is seen by themselves whether they are of the same examples.
    of_logits = list(metrics) == [AUC] and all(of_group(each) is not None for each in rows)
    if len(sets_of(rows)) > 1 and not of_logits:
        told = "; ".join(", ".join(about) for about in sets_of(rows))
        raise ValueError(
            f"compare: the runs are on other data or measured otherwise ({told}), so that users "
            "have no pairs; give runs of one."
        )
    base = rows[0] if against is None else _row_of(rows, Path(against))
    chosen = metrics or tuple(dict.fromkeys(_chooser(each) for each in rows))
    called = dict(zip(map(id, rows), labels(rows), strict=True))
    found: list[dict[str, Any]] = []
    for metric in chosen:
        of_examples = metric == AUC and of_group(base) is not None
        theirs = None if of_examples else _by_user(base, metric)
        told = []
        for each in rows:
            if each is base:
                continue
            if theirs is None:
                values = ALONE | difference(each, base, level, min(draws, DRAWS))
            else:
                both = _by_user(each, metric).join(theirs, "user", suffix="_other").sort("user")
                values = paired(both["value"], both["value_other"], level, draws)
            seeds = f"{len(each.runs)} / {len(base.runs)}"
            names = {"run": called[id(each)], "against": called[id(base)], "metric": metric}
            told.append({**names, "seeds": seeds, **values})
        for key in ("p_bootstrap", "p_wilcoxon"):
            raised = holm([one[key] for one in told])
            told = [{**one, key: float(p)} for one, p in zip(told, raised, strict=True)]
        found += told
    return pl.DataFrame(found).with_columns(
        pl.Series("better", [_verdict(one, 1 - level) for one in found], pl.Boolean)
    )


def text_of(found: pl.DataFrame, format: str = "markdown") -> str:
    """What `compare` found, as text.

    Args:
        found: what `compare` returned.
        format: "markdown", "latex" (a tabular) or "csv" (all columns, unrounded).

    Raises:
        ValueError: for another format.

    Example:
        >>> from fedjax_rec import report
        >>> found = report.compare(["runs/fedavg", "runs/pfedrec"])
        >>> print(report.text_of(found, "latex"))
    """
    one_of("text_of", "format", format, FORMATS)
    if format == "csv":
        return found.write_csv()
    return (tabular if format == "latex" else grid)(*cells(found))


def cells(found: pl.DataFrame) -> tuple[list[str], list[list[str]]]:
    """(titles, rows of text) of what `compare` found."""
    titles = ["run", "against", "metric", "seeds", "mean", "other", "difference", "interval"]
    titles += ["p (bootstrap)", "p (Wilcoxon)", "d_z", "r", "users", "ties"]
    rows = [
        [
            one["run"], one["against"], title(one["metric"]), one["seeds"],
            f"{one['first']:.4f}", f"{one['second']:.4f}", f"{one['difference']:+.4f}",
            f"{one['low']:+.4f} to {one['high']:+.4f}",
            _p(one["p_bootstrap"]), _p(one["p_wilcoxon"]),
            f"{one['effect']:+.2f}", f"{one['rank_biserial']:+.2f}",
            f"{one['users']:,.0f}", f"{one['ties']:,.0f}",
        ]
        for one in found.iter_rows(named=True)
    ]  # fmt: skip
    return titles, rows


def _p(value: float) -> str:
    return "< .001" if value < 0.001 else f"{value:.3f}"


def _verdict(one: dict[str, Any], error: float) -> bool | None:
    if one["p_bootstrap"] > error:
        return None
    return (one["difference"] > 0) != lower_is_better(one["metric"])


def _chooser(each: Group) -> str:
    return str(each.runs[0].summary["selected_by"]).removeprefix("validation_")


def _row_of(rows: Sequence[Group], folder: Path) -> Group:
    wanted = read_run(folder).folder.resolve()
    for each in rows:
        if wanted in [run.folder.resolve() for run in (*each.runs, *each.repeats)]:
            return each
    raise ValueError(
        f"compare(against={str(folder)!r}) is none of the runs; name one of the folders."
    )


def _by_user(each: Group, metric: str) -> pl.DataFrame:
    """`user` and `value`, the mean over the seeds, of users who have it in all of them."""
    held = []
    for run in each.runs:
        if run.per_user is None:
            raise ValueError(
                f"compare: {run.folder} has no per_user.npz, the numbers of its users; only runs "
                "that rank items for users keep them: leave it out."
            )
        known = run.per_user.metrics
        if metric not in known:
            raise ValueError(
                f"compare(metrics={metric}): {run.folder} did not measure it"
                f"{nearest(metric, known)}; it has {', '.join(known)}."
            )
        values = run.per_user.values[:, known.index(metric)].astype(np.float64)
        table = pl.DataFrame({"user": run.per_user.users, f"{len(held)}": values})
        held.append(table.filter(pl.nth(1).is_not_nan()))
    joined = reduce(lambda a, b: a.join(b, "user"), held)
    return joined.select("user", pl.mean_horizontal(pl.exclude("user")).alias("value"))
