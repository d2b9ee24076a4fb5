"""The two rates that recipes take in place of an optimizer, as FedMF has them: one of what is
private, one of what is shared.

    p_k <- p_k - eta_user g,   Q <- Q - eta_item g
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax

from ..types import Model, Transform
from .optimizers import Local, groups, sgd

DEFAULT = 0.1
Optimizer = Local | Sequence[Local] | Transform


def rated(
    model: Model, optimizer: Optimizer | None, user_learning_rate: Any, item_learning_rate: Any
) -> Any:
    """`optimizer`, or SGD with these rates, or `sgd(0.1)` where all three are None.

    Args:
        model: whose parameters they are of.
        optimizer: what a recipe was given.
        user_learning_rate: of all that is private; None for 0.1.
        item_learning_rate: of all that is shared; None for 0.1.

    Raises:
        ValueError: for an optimizer and rates, or a rate of what the model does not have.
    """
    rates = {"user_learning_rate": user_learning_rate, "item_learning_rate": item_learning_rate}
    given = {name: rate for name, rate in rates.items() if rate is not None}
    if not given:
        return optimizer or sgd(DEFAULT)
    if optimizer is not None:
        raise ValueError(
            f"optimizer and {', '.join(f'{name}={rate}' for name, rate in given.items())} are both "
            "given; give the optimizer, or the rates of plain SGD."
        )
    shared, private = jax.eval_shape(model.init, jax.random.key(0))
    parts = {"private": (user_learning_rate, private), "shared": (item_learning_rate, shared)}
    there = {
        name: sgd(DEFAULT if rate is None else rate)
        for name, (rate, part) in parts.items()
        if rate is not None or jax.tree.leaves(part)
    }
    return groups(there)
