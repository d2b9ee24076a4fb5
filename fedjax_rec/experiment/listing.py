"""What there is to name in a configuration: `fedjax-rec list strategies`."""

from __future__ import annotations

import importlib
import inspect

from ..attacks import Attack
from ..check import one_of
from ..data import Batches, EvaluationDraws, Field
from ..evaluate import metrics
from ..models import Fusion, Judge
from ..privacy import Clip, Correlation, Shares
from ..simulate import Cohorts
from ..strategies import Clock
from ..types import Aggregator, Compressor, Model, Server, Stage, Strategy
from .factories import find
from .shipped import shipped
from .short_names import factories_of

KINDS = {
    "strategies": Strategy, "models": Model, "compressors": Compressor, "aggregators": Aggregator,
    "examples": Batches, "cohorts": Cohorts, "servers": Server, "stages": Stage, "clocks": Clock,
    "attacks": Attack, "clips": Clip, "noises": Correlation,
    "shares": Shares, "fields": Field, "candidates": EvaluationDraws,
    "fusions": Fusion, "judges": Judge,
}  # fmt: skip
OTHERS = ("data", "splits", "clients", "metrics", "callbacks", "configs")
METRICS = ("hr@k", "ndcg@k", "mrr", "mrr@k", "recall@k", "precision@k", "map", "map@k", "auc")
SPLITS = (
    "leave_one_out", "random_leave_one_out", "ratio", "temporal_ratio", "global_time", "as_given",
    "cold_users", "warm_users", "cold_items", "warm_items",
)  # fmt: skip
PARTITIONS = ("by_user", "by_hash", "by_attribute", "by_vectors", "dirichlet")


def kinds() -> list[str]:
    """What may be listed."""
    return [*KINDS, *OTHERS]


def listed(kind: str) -> list[dict[str, str]]:
    """Rows of `name`, `path` and `about`. Raises ValueError for another kind."""
    one_of("list", "kind", kind, kinds())
    if kind == "data":
        from ..data.sources.sources import known

        return [
            {"name": row["name"], "path": str(row["where"] or "not here"), "about": row["licence"]}
            for row in known()
        ]
    if kind == "configs":
        return [
            {"name": name, "path": str(file), "about": _first_comment(file.read_text())}
            for name, file in shipped().items()
        ]
    if kind == "metrics":
        such = lambda name: metrics([name.replace("@k", "@10")])[0].name
        return [{"name": name, "path": name, "about": f"such as {such(name)}"} for name in METRICS]
    if kind in ("splits", "clients"):
        paths = [f"fedjax_rec.data.{x}" for x in (SPLITS if kind == "splits" else PARTITIONS)]
    elif kind == "callbacks":
        room = importlib.import_module("fedjax_rec.callbacks")
        paths = [f"fedjax_rec.callbacks.{x}" for x in room.__all__]
    else:
        paths = list(factories_of(KINDS[kind]).values())
    return [
        {"name": path.rpartition(".")[2], "path": path, "about": about(find(path, kind))}
        for path in paths
    ]


def about(factory) -> str:
    """The first sentence of what a factory says of itself."""
    text = " ".join((inspect.getdoc(factory) or "").split("\n\n")[0].split())
    return text if len(text) <= 160 else f"{text[:157]}..."


def _first_comment(text: str) -> str:
    line = next(iter(text.splitlines()), "")
    return line.removeprefix("#").strip() if line.startswith("#") else ""
