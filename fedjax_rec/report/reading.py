"""Read finished run folders and group the seeds of one configuration.

Runs whose `config.yaml` differs only in `seed` (and in `out`, `name`) form one group.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fedjax_rec.data.digest import CATALOGUE
from fedjax_rec.evaluate.direction import GAP, lower_is_better
from fedjax_rec.storage import read_yaml

LABELS = (
    "seed",
    "out",
    "name",
    "config",
    "audit",
    "devices",
)  # keys of a configuration that change no result
# Keys that came later: where they are None, nothing else is computed than without them.
LATER = {"data": ("evaluation_draws", "features"), "evaluation": ("groups",)}
PER_USER, PREDICTIONS = "per_user.npz", "predictions.npz"
RUNG = "rung.json"  # in the folder of a run that a sweep stopped at a rung
RANKING = ("hr@10", "ndcg@10", "er@10")
# Of a client in a round; no metrics of a model, but targets may name them.
KIB_UP, KIB_DOWN = "kib_up", "kib_down"
FIELDS = ("data", "evaluation", "negatives", "model", "strategy", "name")


@dataclass(frozen=True)
class PerUser:
    """Test metrics of each user at the best validation round."""

    values: np.ndarray  # float32[U, M], NaN: nothing held out
    metrics: tuple[str, ...]  # M names
    activity: np.ndarray  # int[U], training interactions
    users: np.ndarray  # int[U]


@dataclass(frozen=True)
class Run:
    """A finished run folder. Plain metric names are test metrics."""

    folder: Path
    config: dict[str, Any]
    records: list[dict[str, Any]]  # metrics.jsonl, rounds ascending, at least one
    summary: dict[str, Any]
    per_user: PerUser | None

    def column(self, key: str) -> np.ndarray:
        """One value per evaluated round, float64[R]; NaN where a record lacks the key."""
        return np.array([number(record.get(key)) for record in self.records])

    def names(self, metrics: Sequence[str] = RANKING) -> tuple[str, ...]:
        """Those of metrics that this run measured, else the one that chose its best round."""
        selected = self.summary["selected_by"].removeprefix("validation_")
        return tuple(m for m in metrics if m in self.summary["best"]) or (selected,)

    def bytes_per_client(self, way: str = "up") -> float:
        """Bytes of a client in a round in which it sent any, or got any (`down`): all bytes over
        all that did."""
        sent, each = self.column(f"bytes_{way}"), self.column(f"bytes_{way}_per_client")
        some, totals = sent > 0, self.summary["totals"]
        if not some.any():
            return 0.0
        told = some & (each > 0)
        uploads = np.round(sent[told] / each[told]).sum()
        if not uploads:  # records that do not say what a client sent
            uploads = totals["rounds"] * self.column("clients")[some].mean()
        return float(totals[f"bytes_{way}"] / uploads)

    def catalogue(self) -> str | None:
        """The digest of the users and items of its data; None of a run that has none."""
        return self.summary["data"].get("digests", {}).get(CATALOGUE)

    def setting(self) -> dict[str, Any]:
        """The configuration without the keys that change no result, and without seeds, also at the
        end of the folder that it starts from."""
        plain = without_later(self.config)
        kept = {k: v for k, v in plain.items() if k not in LABELS and v is not None}
        if "start_from" in kept:
            folder = str(Path(kept["start_from"]))
            kept["start_from"] = folder.removesuffix(f"-{self.summary['seed']}")
        return _without_seeds(kept)


@dataclass(frozen=True)
class Group:
    """Runs that differ only in their seed, seeds ascending."""

    runs: tuple[Run, ...]
    repeats: tuple[Run, ...] = ()  # the same configuration and seed once more; in no mean

    def field(self, key: str) -> str:
        """`data`, `evaluation`, `negatives`, `model`, `strategy` or `name`, as text."""
        value = self.runs[0].summary[key]
        return str(value["name"] if key == "data" else value)

    def best(self, metric: str) -> np.ndarray:
        """float64[seeds], the test value at the best validation round; NaN if not measured.
        `gap:gender:hr@10`: between the best and the worst served group by gender."""
        if metric in (KIB_UP, KIB_DOWN):
            way = metric.removeprefix("kib_")
            return np.array([run.bytes_per_client(way) / 1024 for run in self.runs])
        if metric.startswith(GAP):
            return np.array([_gap(run.summary, metric) for run in self.runs])
        return np.array([number(run.summary["best"].get(metric)) for run in self.runs])


def _gap(summary: dict[str, Any], told: str) -> float:
    """Of `gap:gender:hr@10`: the largest less the smallest mean of the groups by that attribute."""
    attribute, _, metric = told.removeprefix(GAP).partition(":")
    groups = summary.get("by_attribute", {}).get(attribute, {}).get(metric, {})
    means = [number(group["mean"]) for group in groups.values()]
    return max(means) - min(means) if len(means) > 1 else np.nan


def read_run(folder: Path | str, summary: dict[str, Any] | None = None) -> Run:
    """Read one run folder.

    summary: what its `summary.json` will say, where it is about to be written.

    Raises:
        ValueError: the folder or a file is missing, a line is no record (with its line number),
            or the run did not finish.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"run folder {str(folder)!r} does not exist; name a finished run.")
    records = records_of(folder / "metrics.jsonl")
    path = folder / "summary.json"
    if summary is None and not path.exists():
        raise ValueError(
            f"{folder} is unfinished: no summary.json after round {records[-1]['round']}; "
            "resume the run or leave it out."
        )
    summary = _mapping(path, json.loads) if summary is None else summary
    absent = {"seed", "best", "selected_by", "totals", *FIELDS} - summary.keys()
    if not absent:
        absent = {"bytes_up", "bytes_down"} - summary["totals"].keys()
    if absent:
        raise ValueError(f"{path} lacks {', '.join(sorted(absent))}; run it again.")
    _check_summary(path, summary, records)
    config = _mapping(folder / "config.yaml", read_yaml)
    return Run(folder, config, records, summary, _per_user(folder / PER_USER))


def _check_summary(path: Path, summary: dict[str, Any], records: Sequence[dict[str, Any]]) -> None:
    """Raises ValueError where `summary` is not what `records` come to."""
    best = summary["best"].get("round")
    if best not in [record["round"] for record in records]:
        raise ValueError(
            f"{path} names best round {best}, which metrics.jsonl lacks: the files are of two "
            "runs; run it again."
        )
    chooser = summary["selected_by"]
    chosen = best_record(records, chooser)
    wanted = {"best": chosen, "final": records[-1]}
    wrong = [key for key, record in wanted.items() if summary.get(key, record) != record]
    for key in ("bytes_up", "bytes_down"):
        if summary["totals"].get(key, 0) != sum(record.get(key, 0) for record in records):
            wrong.append(f"totals.{key}")
    if wrong:
        raise ValueError(
            f"{path}: {wrong[0]} is not what metrics.jsonl comes to (best is round "
            f"{chosen['round']} by {chooser}); was one of them edited? Run the same command again."
        )


def best_record(records: Sequence[dict[str, Any]], chooser: str) -> dict[str, Any]:
    """The first of the best by the metric `chooser`; one that lacks it is the worst."""
    sign = -1.0 if lower_is_better(chooser) else 1.0

    def merit(record: dict[str, Any]) -> float:
        value = sign * number(record.get(chooser))
        return -np.inf if np.isnan(value) else value

    return max(records, key=merit)


def totals_of(records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """`totals` of a summary of these records."""
    return {
        "rounds": records[-1]["round"],
        "seconds": records[-1]["seconds"],
        "bytes_up": sum(record["bytes_up"] for record in records),
        "bytes_down": sum(record["bytes_down"] for record in records),
    }


def unfinished(folders: Iterable[Path | str]) -> list[Path]:
    """Run folders at or under `folders` that `find_runs` passes over, in path order."""
    found = {
        path.parent.resolve(): path.parent
        for folder in map(Path, folders)
        for path in sorted(folder.rglob("config.yaml"))
        if not (path.parent / "summary.json").is_file()
    }
    return list(found.values())


def said_of_unfinished(folders: Iterable[Path | str], quoted: str = "{}") -> list[str]:
    """Lines that say which runs at or under `folders` are unfinished, those that a sweep stopped at
    a rung in one. quoted: how a path is written."""
    found = unfinished(folders)
    stopped = [path for path in found if (path / RUNG).is_file()]
    others = (quoted.format(path) for path in found if path not in stopped)
    lines = [f"{path} is unfinished and is left out." for path in others]
    if stopped:
        runs = "1 run" if len(stopped) == 1 else f"{len(stopped)} runs"
        first = quoted.format(stopped[0])
        lines.append(f"{runs} that a sweep stopped at a rung left out: {first}, ...")
    return lines


def find_runs(folders: Iterable[Path | str]) -> list[Run]:
    """Every finished run (a folder with `summary.json`) at or under the folders, in the order of
    their paths, 9 before 10.

    Raises:
        ValueError: a folder does not exist or holds no finished run.
    """
    found: dict[Path, Run] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise ValueError(f"run folder {str(folder)!r} does not exist; name a finished run.")
        found_here = (path.parent for path in folder.rglob("summary.json"))
        here = sorted(found_here, key=lambda path: natural(str(path)))
        if not here:
            raise ValueError(f"no summary.json under {str(folder)!r}; finish a run there first.")
        for path in here:
            if path.resolve() not in found:
                found[path.resolve()] = read_run(path)
    return list(found.values())


def without_later(config: dict[str, Any]) -> dict[str, Any]:
    """`config` without the keys of `LATER` that are None in it."""
    kept = dict(config)
    for section, keys in LATER.items():
        if isinstance(found := kept.get(section), dict):
            given = lambda k, v, keys=keys: v is not None or k not in keys
            kept[section] = {k: v for k, v in found.items() if given(k, v)}
    return kept


def _without_seeds(value: Any) -> Any:
    """`value` without inner keys `seed`, such as that of a split."""
    if isinstance(value, list):
        return [_without_seeds(one) for one in value]
    if not isinstance(value, dict):
        return value
    return {key: _without_seeds(one) for key, one in value.items() if key != "seed"}


def group(runs: Iterable[Run]) -> list[Group]:
    """Group runs that differ only in seeds; ordered by data, evaluation, negatives and model. Runs
    whose data name other users or items are apart, whatever their configurations say."""
    kept: dict[str, dict[str, Run]] = {}
    repeats: dict[str, list[Run]] = {}
    for run in runs:
        key = json.dumps([run.setting(), run.catalogue()], sort_keys=True, default=str)
        plain = without_later(run.config)
        whole = {k: v for k, v in plain.items() if k not in LABELS and v is not None}
        same = json.dumps([run.summary["seed"], whole], sort_keys=True, default=str)
        if kept.setdefault(key, {}).setdefault(same, run) is not run:
            repeats.setdefault(key, []).append(run)
    groups = [
        Group(
            tuple(sorted(seeds.values(), key=lambda run: run.summary["seed"])),
            tuple(repeats.get(key, ())),
        )
        for key, seeds in kept.items()
    ]
    *rest, name = FIELDS
    key = lambda each: ([each.field(key) for key in rest], natural(each.field(name)))
    return sorted(groups, key=key)


def natural(text: str) -> list:
    """A key by which 9 comes before 10."""
    words = re.split(r"(\d+)", text)
    return [(0, int(word), "") if word.isdecimal() else (1, 0, word) for word in words]


def labels(groups: Sequence[Group]) -> list[str]:
    """The shortest name for each group that tells it from the others."""
    joined = [each.field("name") for each in groups]
    for key in FIELDS:
        more = [
            f"{text}, {each.field(key).rsplit('.', maxsplit=1)[-1]}"
            for text, each in zip(joined, groups, strict=True)
        ]
        if len(set(more)) > len(set(joined)):
            joined = more
    return [
        text
        + (f" ({each.runs[0].folder.name})" if joined.count(text) > 1 else "")
        + (f" ({len(each.runs)} seeds)" if len(each.runs) > 1 else "")
        for text, each in zip(joined, groups, strict=True)
    ]


def caption(groups: Sequence[Group]) -> str:
    """What all groups share of data, evaluation and negatives; the name of a single group."""
    shared = [key for key in FIELDS[:3] if len({each.field(key) for each in groups}) == 1]
    facts = [f"{'negatives ' * (key == 'negatives')}{groups[0].field(key)}" for key in shared]
    return ": ".join([*(labels(groups) if len(groups) == 1 else []), ", ".join(facts)])


def number(value: Any) -> float:
    """The value as a float, NaN for None (JSON's null, or a metric that was not measured)."""
    return float("nan") if value is None else float(value)


def records_of(path: Path) -> list[dict[str, Any]]:
    """The records of a `metrics.jsonl`, rounds ascending, at least one. Raises ValueError, naming
    the line, for one that is none."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; run it again or leave it out.") from None
    records: list[dict[str, Any]] = []
    for line, text in enumerate(lines, start=1):
        try:
            record = json.loads(text)
        except json.JSONDecodeError:
            raise ValueError(
                f"{path} line {line} is no whole record: {text[-40:]!r}; the run was cut short: "
                "resume it."
            ) from None
        if not isinstance(record, dict) or not isinstance(record.get("round"), int):
            raise ValueError(f"{path} line {line} has no integer `round`; run it again.")
        if records and record["round"] <= records[-1]["round"]:
            raise ValueError(
                f"{path} line {line} goes back to round {record['round']} from "
                f"{records[-1]['round']}; run it again."
            )
        numbers = {k: v for k, v in record.items() if k != "rejected_clients"}  # ids, by round
        wrong = [k for k, v in numbers.items() if not isinstance(v, int | float | None)]
        if wrong:
            raise ValueError(f"{path} line {line}: {wrong[0]!r} is no number; run it again.")
        records.append(record)
    if not records:
        raise ValueError(f"{path} is empty: no round was evaluated; resume the run.")
    return records


def _mapping(path: Path, parse: Callable[[str], Any]) -> dict[str, Any]:
    try:
        found = parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; run it again or leave it out.") from None
    except (json.JSONDecodeError, yaml.YAMLError):
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"{path} is malformed or half-written; run it again.")
    return found


def _per_user(path: Path) -> PerUser | None:
    if not path.exists():
        return None
    try:
        with np.load(path) as held:
            names = tuple(map(str, held["metrics"]))
            per_user = PerUser(held["values"], names, held["activity"], held["users"])
    except Exception as error:  # zipfile, pickle and format errors share no narrower base
        raise ValueError(f"{path} is malformed ({type(error).__name__}); run it again.") from None
    if per_user.values.shape != (per_user.activity.size, len(names)):
        raise ValueError(
            f"{path} holds values of shape {per_user.values.shape} for {per_user.activity.size} "
            f"users and {len(names)} metrics; run it again."
        )
    return per_user
