"""A model that begins where another one ended, in what the two have in common.

    init(key) = (values where a shared parameter has a value by its path, else drawn as before, ...)

A head trained under a frozen encoder before its adapters are, or a model that goes on with another
strategy ("warm start", fine-tuning). What clients keep is `strategies.started`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax

from ..factors import CORE
from ..trees import named, with_values
from ..types import Model


def started(model: Model, values: Mapping[str, Any]) -> Model:
    """`model` whose shared parameters begin at `values`, where these have one by their path.

    Args:
        model: any.
        values: arrays by key path, as `simulate.parameters(run).shared` or
            `trees.named(state.shared)` give; those that the model has no parameter for are left
            aside. Frozen ones come along: the trained ones were trained beside them. Parameters
            without a value begin as they did, and so do the adapters of `fed_sb`. A strategy that
            draws several models of one, as `ifca`, draws them alike.

    Raises:
        ValueError: where a value has another shape than its parameter, where none is used, and for
            a run of `fed_sb`.

    Example:
        >>> shared, private = model.init(key)
        >>> again = models.started(model, trees.named(shared))
    """
    outline = jax.eval_shape(model.init, jax.random.key(0))[0]
    if not with_values(outline, values)[1]:
        raise ValueError(
            f"started(values) has {', '.join(sorted(values)) or 'nothing'}, and the model "
            f"{', '.join(sorted(named(outline)))}; use a run of a model that shares some of these."
        )
    if cores := [name for name in values if CORE in name]:
        raise ValueError(
            f"started(values) has {cores[0]}, which is trained between factors that fed_sb draws "
            "anew; use a run of another rule."
        )

    def init(key, common=None):
        shared, private = model.init(key, common)
        return with_values(shared, values)[0], private

    return replace(model, init=init)
