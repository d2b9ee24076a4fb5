"""A model that begins where another one ended, in what the two have in common.

    init(key) = (values where a shared parameter has a value by its path, else drawn as before, ...)

A head trained under a frozen encoder before its adapters are, or a model trained on other users
(fine-tuning, "warm start"). What clients keep is `strategies.started`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax

from ..trees import named, with_values
from ..types import Model


def started(model: Model, values: Mapping[str, Any]) -> Model:
    """`model` whose shared parameters begin at `values`, where these have one by their path.

    values: arrays by key path, as `simulate.parameters(run).shared` gives; those that the model has
    no parameter for are left aside. Parameters without a value begin as they did.
    Raises ValueError where a value has another shape than its parameter, and where none is used.
    """
    outline = jax.eval_shape(model.init, jax.random.key(0))[0]
    if not named(outline).keys() & values.keys():
        raise ValueError(
            f"started(values) has {', '.join(sorted(values)) or 'nothing'}, and the model "
            f"{', '.join(sorted(named(outline)))}; use a run of a model that shares some of these."
        )
    with_values(outline, values)

    def init(key):
        shared, private = model.init(key)
        return with_values(shared, values), private

    return replace(model, init=init)
