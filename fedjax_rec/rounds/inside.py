"""A strategy inside another, whose state is part of the other's, and what it tells from there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

from .. import keys
from ..types import State, Strategy


def inside(
    strategy: Strategy, view: Callable[[State], State], stream: str | None = None
) -> Strategy:
    """`strategy` with `packets`, `uploads`, `opened` and `chunk` of a state that holds its own;
    what it does not tell, it does not tell from there either. `init` and `round` stay those of its
    own state: the strategy around it has others.

    view: its own state, of that around it. stream: under which name the strategy around it hands
    its key on; None for the key as it is.
    """
    handed = (lambda key: key) if stream is None else (lambda key: keys.stream(key, stream))

    def of_cohort(tells: Any):
        if tells is None:
            return None
        return lambda key, state, cohort: tells(handed(key), view(state), cohort)

    opens, rule = (cast(Any, x) for x in (strategy.opened, strategy.chunk))
    return replace(
        strategy,
        packets=of_cohort(strategy.packets),
        uploads=of_cohort(strategy.uploads),
        # Of shapes alone, of which the key has one that cannot be folded.
        chunk=None if rule is None else lambda key, state, cohort: rule(key, view(state), cohort),
        opened=None if opens is None else lambda state, *args: opens(view(state), *args),
    )
