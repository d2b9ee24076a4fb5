"""Callbacks: functions that a run calls after each measured round, and trackers of other libraries.

callback(progress: simulate.Progress) -> None | simulate.Stop
"""

from .early_stopping import early_stopping
from .mlflow import mlflow
from .tensorboard import tensorboard
from .tracker import Tracker, Tracking
from .wandb import wandb

__all__ = ["Tracker", "Tracking", "early_stopping", "mlflow", "tensorboard", "wandb"]
