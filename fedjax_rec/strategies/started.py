"""A strategy whose clients begin with what they kept of another run, as `models.started` for what
all share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..trees import with_values
from ..types import Strategy


def started(strategy: Strategy, values: Mapping[str, Any]) -> Strategy:
    """`strategy` whose clients' private parameters [N, ...] begin at `values`, where these have one
    by key path, as `simulate.parameters(run).private` gives; others begin as they did.

    `init` raises ValueError where a value has another shape, as with other users.
    """

    def init(key, num_clients):
        state = strategy.init(key, num_clients)
        return replace(state, private=with_values(state.private, values))

    return replace(strategy, init=init)
