"""MLflow: the metrics of each measured round and the configuration as parameters."""

from __future__ import annotations

import time
from typing import Any

from ..simulate import Progress
from .tracker import Tracker, Tracking, flat, remembered, spelled

LONGEST = 6000  # of a parameter
AT_ONCE = 100  # parameters in one call


def mlflow(
    experiment: str = "fedjax_rec", tracking_uri: str | None = None, name: str | None = None
) -> Tracker:
    """Logs to MLflow. Needs `pip install mlflow-skinny`.

    MLflow knows no `@` in names: `hr@10` is `hr_at_10` there.

    Args:
        experiment: What runs are listed under; it is made where there is none.
        tracking_uri: A server, a database, or a folder; None for what MLFLOW_TRACKING_URI says.
            MLflow wants a database to have the whole of it installed, `pip install mlflow`, and a
            folder to be allowed, MLFLOW_ALLOW_FILE_STORE=true.
        name: Of the run; None for that of its folder.

    Returns:
        A callback.

    Raises:
        CallbackError: From the run: mlflow is missing, or its store cannot be reached.

    Example:
        >>> kept = fr.callbacks.mlflow(tracking_uri="sqlite:///mlflow.db")  # doctest: +SKIP
        >>> fr.run("configs/quickstart.yaml", callbacks=[kept])  # doctest: +SKIP
    """

    def open(there: Any, progress: Progress) -> Tracking:
        client, entities = there.MlflowClient(tracking_uri), there.entities
        called = name or (progress.folder.name if progress.folder else None)

        def make() -> str:
            found = client.get_experiment_by_name(experiment)
            of = found.experiment_id if found else client.create_experiment(experiment)
            return client.create_run(of, run_name=called).info.run_id

        of_run, before = remembered(progress, "mlflow", make)
        if before:
            client.update_run(of_run, status="RUNNING")
        else:
            known = flat(progress.config or {})
            given = [entities.Param(key, str(value)[:LONGEST]) for key, value in known.items()]
            for i in range(0, len(given), AT_ONCE):
                client.log_batch(of_run, params=given[i : i + AT_ONCE])

        def write(round: int, metrics: dict[str, float]) -> None:
            now = int(1000 * time.time())
            told = [
                entities.Metric(spelled(key), value, now, round) for key, value in metrics.items()
            ]
            client.log_batch(of_run, metrics=told)

        return Tracking(
            write, lambda failed: client.set_terminated(of_run, "KILLED" if failed else "FINISHED")
        )

    return Tracker("mlflow", "mlflow", open)
