"""Weights & Biases: the metrics of each measured round and the configuration."""

from __future__ import annotations

import uuid
from typing import Any, Literal

from ..simulate import Progress
from .tracker import Tracker, Tracking, flat, remembered


def wandb(
    project: str = "fedjax_rec",
    name: str | None = None,
    mode: Literal["online", "offline", "disabled"] = "online",
    folder: str | None = None,
) -> Tracker:
    """Logs to Weights & Biases. Needs `pip install wandb`.

    Args:
        project: Where the run goes.
        name: Of the run; None for that of its folder.
        mode: "offline" writes files that `wandb sync` sends later.
        folder: Of wandb's files; None for `wandb/` in that of the run.

    Returns:
        A callback.

    Raises:
        CallbackError: From the run: wandb is missing, or cannot log in.

    Example:
        >>> fr.run("configs/quickstart.yaml", callbacks=[fr.callbacks.wandb()])  # doctest: +SKIP
    """

    def open(there: Any, progress: Progress) -> Tracking:
        of_run, _ = remembered(progress, "wandb", lambda: uuid.uuid4().hex)
        place = folder or (None if progress.folder is None else str(progress.folder))
        run = there.init(
            project=project,
            name=name or (progress.folder.name if progress.folder else None),
            id=of_run,
            resume="allow",
            dir=place,
            mode=mode,
            config=flat(progress.config or {}),
            reinit="create_new",  # runs of a sweep are open beside each other
        )
        return Tracking(
            lambda round, metrics: run.log(metrics, step=round),
            lambda failed: run.finish(exit_code=int(failed)),
        )

    return Tracker("wandb", "wandb", open)
