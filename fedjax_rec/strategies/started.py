"""A strategy whose clients begin with what they kept of another run, as `models.started` for what
all share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..trees import with_values
from ..types import Strategy


def started(strategy: Strategy, values: Mapping[str, Any]) -> Strategy:
    """`strategy` whose clients begin with `values`, where what they keep has one by key path.

    The rest begins as it did, and values without a place are left aside.

    Args:
        strategy: any.
        values: arrays [N, ...] by key path, as `simulate.parameters(run).private` or
            `trees.named(state.private)` give.

    Raises:
        ValueError: in `init`, where a value has another shape, as with other users.

    Example:
        >>> strategy = strategies.fedavg(model, data.pointwise(4))
        >>> again = strategies.started(strategy, trees.named(strategy.init(key, 3).private))
    """

    def init(key, num_clients):
        state = strategy.init(key, num_clients)
        return replace(state, private=with_values(state.private, values)[0])

    return replace(strategy, init=init)
