"""TensorBoard: scalars of each measured round and the configuration as hyper-parameters, by
tensorboardX, which needs neither TensorFlow nor PyTorch."""

from __future__ import annotations

from typing import Any

from ..simulate import Progress
from .tracker import Tracker, Tracking, flat, folder_of, numbers, spelled


def tensorboard(folder: str | None = None) -> Tracker:
    """Writes what `tensorboard --logdir` shows. Needs `pip install tensorboardX`.

    TensorBoard knows no `@` in names: `hr@10` is `hr_at_10` there.

    Args:
        folder: Where event files go; None for `tensorboard/` in the folder of the run.

    Returns:
        A callback.

    Raises:
        CallbackError: From the run: tensorboardX is missing, or there is no folder.

    Example:
        >>> kept = fr.callbacks.tensorboard()  # doctest: +SKIP
        >>> fr.run("configs/quickstart.yaml", callbacks=[kept])  # doctest: +SKIP
    """

    def open(writers: Any, progress: Progress) -> Tracking:
        place = folder_of(progress, folder, "folder")
        place = place / "tensorboard" if folder is None else place
        # What a run that was killed wrote after its checkpoint is written again, and counts once.
        # Files are named by the second; the suffix keeps two of one second apart.
        writer = writers.SummaryWriter(
            str(place), purge_step=progress.round, filename_suffix=f".{progress.round}"
        )
        shown = {k: "null" if v is None else v for k, v in flat(progress.config or {}).items()}
        measured = dict.fromkeys(map(spelled, numbers(progress.metrics)), 0.0)
        for summary in writers.summary.hparams(shown, measured):
            writer.file_writer.add_summary(summary)

        def write(round: int, metrics: dict[str, float]) -> None:
            for name, value in metrics.items():
                writer.add_scalar(spelled(name), value, round)
            writer.flush()

        return Tracking(write, lambda failed: writer.close())

    return Tracker("tensorboard", "tensorboardX", open)
