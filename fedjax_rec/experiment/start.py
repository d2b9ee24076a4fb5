"""A run that begins with what another one has learned: the key `start_from`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import jax

from .. import models, simulate, strategies
from ..data.digest import CATALOGUE
from ..types import Model, Strategy
from .config import Config, ConfigError


def start_from(
    config: Config, model: Model, num_clients: int, digests: Mapping[str, str]
) -> tuple[Model, Callable[[Strategy], Strategy]]:
    """The model, and what makes of a strategy the one to run. Raises ConfigError where there is no
    such run, or what it learned does not fit: its rows are of other users or items."""
    folder = config.start_from
    if folder is None:
        return model, lambda strategy: strategy

    def told(error) -> ConfigError:
        return ConfigError(f"start_from={folder}: {error}")

    try:
        theirs = simulate.made_of(folder).get(CATALOGUE)
        if theirs != digests[CATALOGUE]:
            raise ValueError(
                f"that run is of other users or items ({theirs}, these are {digests[CATALOGUE]}), "
                "to whom its rows belong; start from a run on the same ones."
            )
        found = simulate.parameters(folder)
        own = simulate.outline(lambda: model.init(jax.random.key(0))[0])
        simulate.Lent(own).refuse_other(found.lent, "what it learned")
        begun = models.started(model, found.shared)
    except (OSError, ValueError) as error:
        raise told(error) from error

    def of(strategy: Strategy) -> Strategy:
        try:
            strategy = strategies.started(strategy, found.private)
            jax.eval_shape(lambda: strategy.init(jax.random.key(0), num_clients))
        except ValueError as error:
            raise told(error) from error
        return strategy

    return begun, of
