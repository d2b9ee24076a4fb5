"""What scores the items of a finished run, as a program of StableHLO with what was learned inside.

scorer.mlirbc   portable bytecode: (client, member[, history]) -> float32[I]
scorer.json     which client and member a user is, the ids of the I items in order, and how many
                last items (by place, -1 before the first) a model of sequences takes

Any compiler of StableHLO takes it (https://openxla.org/stablehlo/compatibility); arguments
are int32.
"""

from __future__ import annotations

import json
from pathlib import Path

import jax
import jax.numpy as jnp
from jax import export

from ..data.partition import members_of
from ..storage import whole
from ..types import State
from .config import Config
from .prepare import Experiment

BYTECODE, IDS = "scorer.mlirbc", "scorer.json"


def write_scorer(experiment: Experiment, config: Config, state: State, folder: Path) -> list[Path]:
    """Writes both files; returns their paths. Raises ValueError where no items are ranked."""
    split, partition = experiment.read.split, experiment.read.partition
    model = experiment.strategy.model
    if split is None or partition is None or model.ranking is None:
        raise ValueError(
            "export(scorer=True): the model predicts labelled examples and ranks no items; leave "
            "it out."
        )

    def score(client, member, *history):
        mine = jax.tree.map(lambda x: x[client], state.private)
        last = history[0] if history else None
        return model.score(state.shared, mine, slice(None), member, last)

    size = config.examples.history
    shapes = ((), (), *([(size,)] if size else []))
    # Unused ones are kept, so that what it takes does not depend on the model.
    made = export.export(jax.jit(score, keep_unused=True))(
        *(jax.ShapeDtypeStruct(s, jnp.int32) for s in shapes)
    )
    known = split.interactions
    places = zip(partition.client_of_user.tolist(), members_of(partition)[0].tolist(), strict=True)
    ids = {
        "users": dict(zip(known.user_names.tolist(), places, strict=True)),
        "items": known.item_names.tolist(),
        "history": size,
    }
    files = {
        BYTECODE: made.mlir_module_serialized,
        IDS: json.dumps(ids, ensure_ascii=False).encode(),
    }
    for name, content in files.items():
        with whole(folder / name) as beside:
            beside.write_bytes(content)
    return [folder / name for name in files]
