"""What an arena comes to: attacks against defences as a table, and as a heat map.

    lost    HR@10 without an attack - HR@10 under it,      gained   ER@10 under it - ER@10 without
    of one liar: over how many lie, both under the same defence and the same share

Test metrics are those of the round that is best on validation, which only real users have a part
in; `highest ER@10` is that of any measured round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import polars as pl
from matplotlib.figure import Figure

from fedjax_rec.report.heat_map import Panel, heat_map
from fedjax_rec.report.reading import Run
from fedjax_rec.report.tables import _commit, grid, spread, title

KINDS = ("hr", "ndcg", "er", "target_ndcg")
LEAST = 0.05  # of HR, the darkest: less than a seed makes should not look like much
ABOUT = (
    "Test metrics at the round that is best on validation, mean ± sample standard deviation over "
    "seeds; the highest exposure is that of any measured round. `lost` and `gained` are of one "
    "malicious client, against nobody's attack under the same defence; precision and recall are of "
    "the verdicts of measured rounds, where the rule rejects clients."
)
CAPTION = (
    "Left or above, the exposure of the target; right or below, HR lost against neither attack nor "
    "defence, so that the first row is what a defence costs. Darker is worse for users."
)


@dataclass(frozen=True)
class Score:
    """Of one attack on one defence. share: of clients who lie; malicious: how many. runs: those
    that finished, one a seed. ends: how others ended, (word, line) each."""

    attack: str
    defence: str
    share: float
    malicious: int
    runs: tuple[Run, ...]
    ends: tuple[tuple[str, str], ...] = ()

    def best(self, metric: str | None) -> np.ndarray:
        """float64[seeds]: the test metric at the best validation round; empty for none."""
        found = [run.summary["best"].get(metric) for run in self.runs]
        return np.array([x for x in found if x is not None], np.float64)

    def over_rounds(self, key: str, made) -> np.ndarray:
        """float64[seeds]: made(values) of a number of all measured rounds that have it."""
        columns = [
            column[~np.isnan(column)] for run in self.runs if (column := run.column(key)).size
        ]
        return np.array([made(column) for column in columns if column.size])


@dataclass(frozen=True)
class Scores:
    """All of an arena. attacks, defences: their names, those first that others are held against."""

    scores: tuple[Score, ...]
    attacks: tuple[str, ...]
    defences: tuple[str, ...]
    shares: tuple[float, ...]

    @cached_property
    def metrics(self) -> dict[str, str]:
        """Kind -> the first metric of it that was measured, such as hr@10."""
        runs = [run for each in self.scores for run in each.runs]
        known = list(runs[0].summary["best"]) if runs else []
        found = {kind: next((n for n in known if n.startswith(f"{kind}@")), None) for kind in KINDS}
        return {kind: name for kind, name in found.items() if name is not None}

    def of(self, attack: str, defence: str, share: float) -> Score:
        wanted = (attack, defence, share)
        return next(s for s in self.scores if (s.attack, s.defence, s.share) == wanted)

    def mean(self, score: Score, kind: str) -> float:
        return _mean(score.best(self.metrics.get(kind)))

    def lost(self, score: Score) -> float:
        """HR that the attack takes, under the same defence."""
        base = self.of(self.attacks[0], score.defence, score.share)
        return self.mean(base, "hr") - self.mean(score, "hr")

    def gained(self, score: Score) -> float:
        """ER that the attack gives its targets, under the same defence."""
        base = self.of(self.attacks[0], score.defence, score.share)
        return self.mean(score, "er") - self.mean(base, "er")

    def table(self) -> pl.DataFrame:
        """A row for each pair and share; null for what was not measured."""
        rows = [self._row(score) for score in self.scores]
        plain = [{k: _or_none(x) for k, x in row.items()} for row in rows]
        return pl.DataFrame(plain, infer_schema_length=None)

    def _row(self, score: Score) -> dict:
        lies = score.attack != self.attacks[0]
        each = lambda x: x / score.malicious if lies and score.malicious else math.nan
        row: dict = {"attack": score.attack, "defence": score.defence, "share": score.share}
        row |= {"malicious": score.malicious if lies else 0}
        row |= {name: self.mean(score, kind) for kind, name in self.metrics.items()}
        if (er := self.metrics.get("er")) is not None:
            row[f"highest {er}"] = _mean(score.over_rounds(er, np.max))
            row["gained"] = each(self.gained(score))
        row["lost"] = each(self.lost(score))
        for name in ("precision", "recall"):
            row[name] = _mean(score.over_rounds(f"detection_{name}", np.mean)) if lies else math.nan
        row["seconds"] = _mean([run.summary["totals"]["seconds"] for run in score.runs])
        row["ended"] = "; ".join(f"{word}: {line}" for word, line in score.ends)
        return row

    def heat_map(self) -> Figure:
        """Exposure and lost HR of each attack on each defence; see `drawn`."""
        return drawn(self)


def section(found: Scores, file: str, picture: str) -> list[str]:
    """The lines of a section: what made it, the table, and the figure at the path `picture`."""
    runs = [run for score in found.scores for run in score.runs]
    made: dict[str, list[str]] = {}
    for run in runs:
        for key, value in (run.summary.get("versions") or {}).items():
            made.setdefault(key, []).append(str(value))
    versions = "; ".join(f"{key} {', '.join(sorted(set(x)))}" for key, x in made.items())
    folders = len({run.folder for run in runs})
    text = [
        f"Written by `fedjax-rec arena {file}` at commit {_commit()} from {folders} run folders; "
        "do not edit by hand.",
        f"The runs were made with: {versions}.",
        ABOUT,
        "",
    ]
    return [*text, grid(*_cells(found)), f"![attacks against defences]({picture})", "", CAPTION]


def _cells(found: Scores) -> tuple[list[str], list[list[str]]]:
    """(titles, cells of each row) of the table of a page."""
    table, metrics = found.table(), found.metrics
    several = len(found.shares) > 1
    judged = any(table[name].is_not_null().any() for name in ("precision", "recall"))
    head = ["attack", "defence", *(["share"] if several else []), "liars"]
    head += [_title(name) for name in metrics.values()]
    exposed = [f"highest {_title(metrics['er'])}"] if "er" in metrics else []
    damage = [*(["ER gained by one"] if exposed else []), "HR lost by one"]
    head += [*exposed, *damage, *(["precision", "recall"] if judged else []), "seconds", "ended"]
    rows = []
    for score, row in zip(found.scores, table.iter_rows(named=True), strict=True):
        cells = [score.attack, score.defence, *([f"{score.share:g}"] if several else [])]
        cells.append(str(row["malicious"]))
        cells += [_spread(score.best(name)) for name in metrics.values()]
        keys = [f"highest {metrics['er']}", "gained"] if exposed else []
        cells += [_number(row[key]) for key in keys]
        cells += [_number(row[key]) for key in ("lost", *(("precision", "recall") * judged))]
        cells.append(_number(row["seconds"], 1))
        rows.append([*cells, row["ended"] or ""])
    return head, rows


def drawn(found: Scores) -> Figure:
    """The heat map: exposure and lost HR of each attack on each defence, two panels a share."""
    panels = []
    clean = {x: found.mean(found.of(found.attacks[0], found.defences[0], x), "hr")
             for x in found.shares}  # fmt: skip
    lost = lambda score: clean[score.share] - found.mean(score, "hr")
    every = [lost(score) for score in found.scores]
    worst = max((x for x in every if not math.isnan(x)), default=0.0)
    for share in found.shares:
        said = f", {share:.3g} lie" if len(found.shares) > 1 else ""
        if "er" in found.metrics:
            called = f"{title(found.metrics['er'])} of the target{said}"
            panels.append(_panel(found, share, called, lambda s: found.mean(s, "er"), "Blues", 1.0))
        if "hr" in found.metrics:
            called = f"{title(found.metrics['hr'])} lost{said}"
            panels.append(_panel(found, share, called, lost, "Oranges", max(worst, LEAST)))
    if not panels:
        raise ValueError("no run of the arena finished; there is nothing to draw.")
    return heat_map(panels, found.attacks, found.defences, "defence", "attack")


def _panel(found: Scores, share: float, called: str, value, colours: str, top: float) -> Panel:
    pairs = [[found.of(a, d, share) for d in found.defences] for a in found.attacks]
    numbers = np.array([[value(score) for score in line] for line in pairs])
    words = [[score.ends[0][0] if score.ends else "" for score in line] for line in pairs]
    return Panel(called, numbers, words, colours, top)


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else math.nan


def _or_none(x):
    return None if isinstance(x, float) and math.isnan(x) else x


def _title(name: str) -> str:
    return f"target {title(name.removeprefix('target_'))}" if "target_" in name else title(name)


def _spread(values: np.ndarray) -> str:
    return spread(values) if values.size else ""


def _number(x: float | None, digits: int = 4) -> str:
    return "" if x is None else f"{round(x, digits) + 0.0:,.{digits}f}"  # no -0.0000
