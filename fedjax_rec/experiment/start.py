"""A run that begins with what another one has learned: the key `start_from`."""

from __future__ import annotations

from collections.abc import Callable

from .. import models, simulate, strategies
from ..types import Model, Strategy
from .config import Config, ConfigError


def start_from(config: Config, model: Model) -> tuple[Model, Callable[[Strategy], Strategy]]:
    """The model, and what makes of a strategy the one to run. Raises ConfigError where there is no
    such run, or its parameters do not fit."""
    if config.start_from is None:
        return model, lambda strategy: strategy
    try:
        found = simulate.parameters(config.start_from)
        begun = models.started(model, found.shared)
    except (OSError, ValueError) as error:
        raise ConfigError(f"start_from={config.start_from}: {error}") from error
    return begun, lambda strategy: strategies.started(strategy, found.private)
