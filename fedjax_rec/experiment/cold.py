"""Cold users fit what they keep before they are measured: the key `evaluation.fit`."""

from __future__ import annotations

import jax
import numpy as np

from .. import clients, data, simulate
from ..data.cold_users import is_cold, support_of_cold
from ..data.splits import TRAIN
from ..types import Strategy
from .config import Config, ConfigError, Evaluation


def with_fit(
    config: Config, measure: simulate.Measure, strategy: Strategy, split, partition
) -> simulate.Measure:
    """`measure`, before which every cold user fits what its client keeps to what is known of it,
    with the server's model frozen. Raises ConfigError where there is nobody to fit, nothing to fit
    to, or nothing that is kept."""
    fit, wanted = config.evaluation.fit, config.data
    assert fit is not None
    new, support = is_cold(split), support_of_cold(split)
    trains = support.interactions.users[support.part == TRAIN]
    if not trains.size:
        raise ConfigError(
            "evaluation.fit: no user is cold and has known rows; use data.split: cold_users, or "
            "leave evaluation.fit out."
        )
    ids = np.unique(partition.client_of_user[trains])
    beside = np.isin(partition.client_of_user, ids) & ~new
    if beside.any():
        raise ConfigError(
            f"evaluation.fit: client {partition.client_of_user[beside][0]} holds cold users and "
            "others, who share what it keeps; use data.clients: by_user."
        )
    outline = jax.eval_shape(lambda: strategy.init(jax.random.key(0), partition.num_clients))
    if not jax.tree.leaves(outline.private):
        raise ConfigError(
            "evaluation.fit: the clients of this model keep nothing to fit; leave it out."
        )
    sampled = wanted.negatives == "symmetric"
    with jax.ensure_compile_time_eval():  # a run is traced, and its data are not
        known = data.pack(
            support, partition, wanted.negatives, wanted.evaluation_negatives if sampled else 0,
            seed=config.seed, evaluation_draws=wanted.evaluation_draws,
        )  # fmt: skip
    optimizer = clients.groups({"private": clients.sgd(fit.learning_rate)})
    client = clients.local_training(
        strategy.model, config.examples, optimizer, fit.epochs, None, fit.batch_size
    )
    key = jax.random.fold_in(jax.random.key(config.seed), 1)
    return simulate.fitted(measure, client, known.store, ids, key)


def whose(evaluation: Evaluation) -> str:
    """What tables say of whose model was measured, after the protocol."""
    if evaluation.of == "personal":
        return ", own model"
    return "" if evaluation.fit is None else ", cold users fitted"
