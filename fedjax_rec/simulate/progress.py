"""What a run tells of itself after each measured round, and who is told.

    callback(progress) -> None | Stop

A callback is a function, called after every measured round; a `Stop` that it returns ends the run
properly. One that has to be closed (a file, a connection) is a context manager as well: it is
entered before the first round and left after the last, with what went wrong, if anything did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ..types import State


@dataclass(frozen=True)
class Stop:
    """What a callback returns to end the run after this round. reason: in a few words."""

    reason: str


@dataclass(frozen=True)
class Progress:
    """What one measured round hands to callbacks and to who iterates over `simulate`.

    round: how many rounds are done. running: the state after it, whose arrays the next round takes
    over; `state` is a copy of it; of several processes both are what `gathered` takes. metrics:
    what goes to `metrics.jsonl`: means over users (plain names are the test part, others are
    prefixed, `validation_hr@10`), `loss` and the client's other numbers, weighted by examples, NaN
    of a round in which nobody took part,
    `clients` in a round, since the last measured round `rejected` clients, `rejected_share`, their
    share, and bytes, and of these the mean of one client in one round in which it sent, or got,
    any; of the last round `rejected_by_rule`, the share whose verdict was 0, where the aggregator
    gives verdicts, and what parts tell (`trees.Told`). values: part ->
    float32[U, M], per user. rejected: round -> the clients of which nothing was taken, since their
    round was not finite (see `types.RoundInfo`). records: the metrics of all measured rounds so
    far, this one the last, those before the run was resumed among them. config: the whole
    configuration, as nested dicts, and folder: of the run, where it has them. stop: what a
    callback of `simulate` said.
    """

    round: int
    running: State
    metrics: dict[str, Any]
    values: dict[str, np.ndarray]
    rejected: dict[int, list[int]] = field(default_factory=dict)
    records: Sequence[Mapping[str, Any]] = ()
    config: Mapping[str, Any] | None = None
    folder: Path | None = None
    stop: Stop | None = None

    @cached_property
    def state(self) -> State:
        """The state after the round, to keep: a copy, made where it is first asked for.

        Raises:
            RuntimeError: where that is after the next round began.
        """
        leaves = jax.tree.leaves(self.running)
        if any(isinstance(x, jax.Array) and x.is_deleted() for x in leaves):
            raise RuntimeError(
                f"the state after round {self.round} was not asked for before the next round "
                "began, which took its arrays over; take step.state inside the loop."
            )
        return jax.tree.map(lambda x: x.copy() if hasattr(x, "copy") else x, self.running)


Callback = Callable[[Progress], Stop | None]


class CallbackError(RuntimeError):
    """A callback raised, or returned something else than None or Stop; it is named."""


def name_of(callback: Callback) -> str:
    """What a callback is called in messages.

    Args:
        callback: a function, or an object that is called as one.

    Example:
        >>> simulate.name_of(print)
        'print'
    """
    return getattr(callback, "name", None) or getattr(callback, "__name__", type(callback).__name__)


@contextmanager
def attending(callbacks: Sequence[Callback]) -> Iterator[None]:
    """Enters those of the callbacks that are context managers, and leaves them at the end.

    Args:
        callbacks: in the order of the configuration; left in the opposite one.

    Raises:
        CallbackError: where one cannot be entered or left.

    Example:
        >>> with simulate.attending([print]):
        ...     pass  # the rounds
    """
    with ExitStack() as entered:
        for callback in callbacks:
            if hasattr(callback, "__enter__") and hasattr(callback, "__exit__"):
                with _named(callback, "could not begin"):
                    callback.__enter__()
                entered.push(_leaving(callback))
        yield


def _leaving(callback: Any) -> Callable[..., None]:
    def leave(*error) -> None:
        with _named(callback, "could not end"):
            callback.__exit__(*error)

    return leave


def told(callbacks: Sequence[Callback], progress: Progress) -> tuple[str, Stop] | None:
    """Calls all of them in order.

    Args:
        callbacks: functions (Progress) -> None | Stop.
        progress: what they are told.

    Returns:
        The name and the word of the first that says stop; None where none does.

    Raises:
        CallbackError: naming it, where one raises, or returns anything else.

    Example:
        >>> progress = simulate.Progress(1, None, {"loss": 0.5}, {})
        >>> simulate.told([lambda progress: simulate.Stop("enough")], progress)
        ('<lambda>', Stop(reason='enough'))
    """
    said = None
    for callback in callbacks:
        with _named(callback, f"failed after round {progress.round}"):
            answer = callback(progress)
            if answer is not None and not isinstance(answer, Stop):
                raise TypeError(f"it returned {answer!r}; return None or simulate.Stop(reason)")
        if answer is not None and said is None:
            said = name_of(callback), answer
    return said


@contextmanager
def _named(callback: Callback, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # whatever others' code raises
        line = " ".join(str(error).split())
        if not isinstance(error, ValueError | TypeError) or not line:
            line = f"{type(error).__name__}: {line}" if line else type(error).__name__
        raise CallbackError(f"callback {name_of(callback)} {what}: {line}") from error
