"""`fr.load_run`: a finished run, with its numbers, its trained model, and what that recommends."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
import polars as pl

from .. import simulate
from ..check import one_of
from ..report.reading import Run, number, read_run
from ..types import Model, State
from . import config as configuration
from . import exported
from .config import Config, ConfigError, Evaluation
from .factories import unknown_argument
from .prepare import Experiment, prepare
from .recommend import recommend

WHICH = ("best", "last")


def load_run(path: Path | str) -> LoadedRun:
    """The finished run in a folder; its data and its state are read where they are first asked for.

    Args:
        path: The folder of the run, `out` of `fr.run` or `--out` of `fedjax-rec run`.

    Returns:
        The run.

    Raises:
        ValueError: There is no such folder, its run is unfinished, or a file of it is damaged.

    Example:
        >>> done = fr.load_run("runs/quickstart")
        >>> done.metrics.tail(1)
        >>> done.recommend(user=196, k=5)
    """
    folder = Path(path)
    if folder.is_file():
        raise ValueError(
            f"load_run(path={str(path)!r}) is a file; name the folder of the run, {folder.parent}."
        )
    if not folder.is_dir():
        raise ValueError(f"load_run(path={str(path)!r}): there is no such run; check the path.")
    if not (folder / "config.yaml").is_file():
        raise ValueError(f"load_run(path={str(path)!r}): no run is in this folder; check the path.")
    if not (folder / "metrics.jsonl").is_file() or not (folder / "summary.json").is_file():
        raise ValueError(
            f"load_run(path={str(path)!r}): the run is unfinished; the command that began it goes "
            "on with it."
        )
    return LoadedRun(read_run(folder))


@dataclass(frozen=True, repr=False)
class LoadedRun:
    """A finished run.

    Attributes:
        files: What its folder says, as `fedjax_rec.report` reads it.
        scratch: The temporary folder that goes with this object, where it lies in one.
    """

    files: Run
    scratch: Any = None

    def __repr__(self) -> str:
        chosen, best = self.summary["selected_by"], self.summary["best"]
        return (
            f"LoadedRun({self.path}: {self.summary['strategy']} of {self.summary['model']} on "
            f"{self.files.summary['data']['name']}, {self.summary['totals']['rounds']} rounds; "
            f"best {chosen} {number(best[chosen]):.4f} in round {best['round']})"
        )

    @property
    def path(self) -> Path:
        """The folder of the run."""
        return self.files.folder

    @property
    def config(self) -> dict[str, Any]:
        """The whole configuration, defaults included, as nested dicts."""
        return self.files.config

    @property
    def summary(self) -> dict[str, Any]:
        """`summary.json`: the best and the final metrics, totals, versions, the data."""
        return self.files.summary

    @cached_property
    def metrics(self) -> pl.DataFrame:
        """One row a measured round; plain names are of the test part."""
        return pl.DataFrame(self.files.records, infer_schema_length=None)

    @cached_property
    def read_config(self) -> Config:
        """The configuration with every part made."""
        return replace(configuration.read(self.config), name=str(self.summary["name"]))

    @cached_property
    def experiment(self) -> Experiment:
        """Data, strategy and measure, made again from the configuration.

        Raises:
            ValueError: The data of that name are not those of the run any more.
        """
        made = prepare(self.read_config)
        theirs, ours = self.summary["data"].get("digests"), made.read.digests
        if theirs != ours:
            raise ValueError(
                f"{self.path}: data.source={self.config['data']['source']!r} is not the data that "
                f"the run was made with any more ({theirs}, now {ours}); put those back."
            )
        return made

    @property
    def model(self) -> Model:
        """What scores `state.shared` with a client's slice of `state.private`."""
        return self.experiment.strategy.model

    @cached_property
    def state(self) -> State:
        """The state after the last round."""
        like = self.experiment.outline
        folder = self.path / "checkpoints"
        return simulate.load_state(folder, simulate.last_saved(folder), like)

    @cached_property
    def best(self) -> State:
        """The state after the best round, the one that `summary["best"]` is of.

        Raises:
            FileNotFoundError: The run did not keep it.
        """
        round = self.summary["best"]["round"]
        if round == simulate.last_saved(self.path / "checkpoints"):
            return self.state
        like = self.experiment.outline
        try:
            return simulate.load_state(self.path / "best", round, like)
        except FileNotFoundError:
            raise FileNotFoundError(
                f"{self.path}: only the state after the last round is here, and the best is round "
                f"{round}; use the last, or run again with keep_best: true."
            ) from None

    def state_of(self, which: str = "best") -> State:
        """`best` or `state`, by the names "best" and "last"."""
        one_of("state_of", "which", which, WHICH)
        return self.best if which == "best" else self.state

    def recommend(self, user: Any, k: int = 10, which: str = "best") -> pl.DataFrame:
        """The `k` items that the model ranks highest for a user, of those not yet seen.

        Seen are the items of the training and of the validation part; what is held out for the test
        may come up, and is marked.

        Args:
            user: The user's id as the data has it, such as 196 or "u7".
            k: How many items, at most.
            which: "best", the state after the best round, or "last".

        Returns:
            One row an item, the best first: `rank`, `item` (its id as the data has it), `title`
            (null where the data names none), `score`, and `held_out`, whether it is one of the
            user's test items.

        Raises:
            ValueError: The user is unknown, `k` is below 1, or the model ranks no items.
            FileNotFoundError: The run did not keep its best state.
        """
        return recommend(self.experiment, self.read_config, lambda: self.state_of(which), user, k)

    def similar_items(self, item: Any, k: int = 10, which: str = "best") -> pl.DataFrame:
        """The `k` items whose rows of the shared item tables are nearest to an item's, by the
        cosine of their angle.

        Args:
            item: The item's id as the data has it.
            k: How many items, at most.
            which: "best", the state after the best round, or "last".

        Returns:
            One row an item, the nearest first: `rank`, `item`, `title`, `similarity`.

        Raises:
            ValueError: The item is unknown, `k` is below 1, or the model shares no table of items.

        Example:
            >>> done.similar_items(item=50, k=5)
        """
        return exported.similar_items(self.experiment, lambda: self.state_of(which), item, k)

    def beyond_accuracy(
        self, k: int = 10, which: str = "best", categories: str | None = None
    ) -> dict[str, float]:
        """What the lists of all users are like together: coverage of the catalogue, Gini index,
        entropy, mean popularity, novelty, and the share of items that are not popular
        (`evaluate.beyond_accuracy`); and how far they are from what their users chose: in
        categories (`calibration`), in shares of popular items (`upd`), and in mean popularity
        (`popularity_lift`, and of those with the least and the most popular histories).

        Lists leave out what a user has in the training and the validation part; popularity and
        histories are of the training part.

        Args:
            k: Items a list.
            which: "best", the state after the best round, or "last".
            categories: The item feature that `calibration` is of, such as "genre"; None for the
                first that `data.categories` finds, and no `calibration` where it finds none.

        Returns:
            The number by its name.

        Raises:
            ValueError: `k` is below 1, items have no such feature, or the model ranks no items.

        Example:
            >>> done.beyond_accuracy(k=10)["coverage"]
        """
        state = lambda: self.state_of(which)
        return exported.beyond_accuracy(self.experiment, self.read_config, state, k, categories)

    def reliability(self, part: str = "test", which: str = "best", bins: int = 15) -> pl.DataFrame:
        """How often labelled examples are positive, by the probability that was predicted of them
        (`evaluate.reliability`).

        Args:
            part: "test" or "validation".
            which: "best", the state after the best round, or "last".
            bins: Of probabilities, of equal width.

        Returns:
            One row a bin that has examples: `low` and `high`, its ends, `examples`, `confidence`,
            their mean probability, and `rate`, the share of them that is positive. The mean of
            |rate - confidence| over the examples is the metric `ece` of the run.

        Raises:
            ValueError: The run is of no labelled examples, there is no such part, or `bins` is
                below 1.

        Example:
            >>> done.reliability(bins=10)
        """
        state = lambda: self.state_of(which)
        return exported.reliability(self.experiment, state, part, bins)

    def export(
        self, folder: Path | str, k: int = 10, which: str = "best", format: str = "parquet",
        scorer: bool = False,
    ) -> list[Path]:  # fmt: skip
        """Writes scores and weights to `folder`, for other programs.

        Args:
            folder: Is made where it is missing. `scores.parquet` (or `.csv`) has the `k` items of
                the highest scores of every user, of those not yet seen: `user`, `rank`, `item`,
                `score`; it is left out where the model ranks no items. weights.safetensors has
                every array by its path, such as `shared/item`; what clients keep is [N, ...].
                `items.json` has the ids and texts of items, in the order of the rows of item
                tables.
            k: Items a user.
            which: "best", the state after the best round, or "last".
            format: Of the scores, "parquet" or "csv".
            scorer: The program that scores all items too, as StableHLO (`scorer.mlirbc`).

        Returns:
            The files that were written.

        Raises:
            ValueError: `k` is below 1, or the format is unknown.

        Example:
            >>> done.export("runs/wide/export", k=100)
        """
        state = self.state_of(which)
        given = (self.experiment, self.read_config, state, Path(folder))
        return exported.export(*given, k, format, scorer)

    def export_peft(
        self,
        folder: Path | str,
        which: str = "best",
        base: str | None = None,
        client: int | None = None,
    ) -> list[Path]:
        """Writes the adapters to `folder` as PEFT reads them (`models.export_peft`).

        Args:
            folder: Is made where it is missing. Gets `adapter_config.json` and
                `adapter_model.safetensors`.
            which: "best", the state after the best round, or "last".
            base: What PEFT loads as the base, such as "HuggingFaceTB/SmolLM2-135M"; the `source` or
                `weights` of the model where it is None.
            client: The number of one client, where clients keep adapters of their own.

        Returns:
            The files that were written.

        Raises:
            ValueError: The model has no adapters of pretrained weights, clients keep adapters and
                none is named, or the rule has merged adapters into the base.

        Example:
            >>> done.export_peft("runs/tallrec/adapter", base="HuggingFaceTB/SmolLM2-135M")
        """
        given = self.config["model"].get("init_args") or {}
        state = self.state_of(which)
        return exported.export_peft(given, state, Path(folder), base, client)

    def evaluate(self, part: str = "test", which: str = "best", **changes: Any) -> dict[str, float]:
        """Measures the model once more, as the run did or otherwise.

        Args:
            part: "test" or "validation".
            which: "best", the state after the best round, or "last".
            **changes: Keys of `evaluation` that replace those of the run, such as
                `candidates="sampled"` or `metrics=["recall@20"]`.

        Returns:
            The mean over users by metric.

        Raises:
            ValueError: There is no such part, a key is unknown, or the run measured each client's
                own model right after training, which a state alone does not hold.
            FileNotFoundError: The run did not keep its best state.

        Example:
            >>> done.evaluate(candidates="sampled", metrics=["hr@10", "recall@50"])
        """
        known = [field.name for field in dataclasses.fields(Evaluation)]
        unknown_argument(changes, known, "evaluation")
        if "metrics" in changes:
            changes["metrics"] = tuple(changes["metrics"])
        wanted = replace(self.read_config.evaluation, **changes)
        if wanted.of == "personal":
            raise ConfigError(
                "evaluate(of=personal) needs each client's own model right after training; use "
                'of="aggregated", the server\'s model with what the client keeps.'
            )
        if wanted not in self._measured:
            self._measured[wanted] = self._measure(wanted)
        measure, values = self._measured[wanted]
        one_of("evaluate", "part", part, measure.cases)
        _, means = values(self.state_of(which))
        found = np.asarray(means[part], np.float64)
        return dict(zip(measure.protocol.summary_names, found.tolist(), strict=True))

    def unlearn(
        self,
        users: Sequence[Any],
        out: Path | str,
        methods: Sequence[str] = (),
        steps: int | None = None,
    ) -> dict[str, Any]:
        """Takes users out of the run, and says what is left of them (`experiment.unlearn.forget`).

        Args:
            users: Their ids as the data has them.
            out: A folder, which gets a run for each method.
            methods: "retrain", without them and exact, "replay", by what clients kept of what they
                sent, or both; both where they kept it, and else the first, where none is named.
            steps: Batches of a client in a round of the replay; those of the run where it is None.

        Returns:
            `rows`: of the model before and after each method seconds, rounds, bytes, the metric of
            those who stay, and the AUC by which who is forgotten is told from who never took part.

        Raises:
            ValueError: A user is unknown, nobody is left, or the run cannot be replayed.

        Example:
            >>> done.unlearn(users=[196, 42], out="runs/without")
        """
        from .unlearn import forget

        return forget(self, users, out, methods, steps)

    @cached_property
    def _measured(self) -> dict[Evaluation, tuple[simulate.Measure, Callable]]:
        """What was evaluated so far, compiled."""
        return {}

    def _measure(self, wanted: Evaluation) -> tuple[simulate.Measure, Callable]:
        """The measure that `wanted` asks for, and its values by the state."""
        experiment = self.experiment
        if wanted != self.read_config.evaluation:
            experiment = prepare(replace(self.read_config, evaluation=wanted))
        measure = experiment.measure
        # Of a round, whose info and clients only a personal measure reads, there is none here.
        return measure, jax.jit(lambda state: measure.values(state, None, None))
