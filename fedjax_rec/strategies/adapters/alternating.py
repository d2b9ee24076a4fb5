"""A local optimizer that trains one part of the model in a round and another in the next.

    round t trains the leaves of group t mod n  (and those of no group in every round)

RoLoRA: B, then A, of every adapter (Chen et al., "Robust federated finetuning of LLMs via
alternating optimization of LoRA", 2025). With one factor fixed in a round the mean of the other is
the mean of the products.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ...clients.optimizers import Local, as_local, path_of
from ...rows import LocalTable, is_table


def alternating(
    optimizer: Local | optax.GradientTransformation, groups: Sequence[str] = ("*lora_b", "*lora_a")
) -> Local:
    """`optimizer`, under which leaves whose path, `shared/layers/query/lora_a`, fits the pattern
    groups[i] move in rounds i, i + n, i + 2 n, ... alone, of n groups.

    The gradient of a leaf at rest is computed all the same. Raises ValueError for fewer than two
    groups, and where a group fits no parameter that is an array.
    """
    if isinstance(groups, str) or len(groups) < 2:
        raise ValueError(f"alternating(groups={groups!r}) alternates nothing; give two patterns.")
    return _alternating(as_local(optimizer), tuple(groups), 0)


def _alternating(inner: Local, groups: tuple[str, ...], round: Any) -> Local:
    def fits(path) -> int | None:
        return next((i for i, g in enumerate(groups) if fnmatch.fnmatch(path, g)), None)

    def init(params):
        leaves = jax.tree_util.tree_leaves_with_path(params, is_leaf=is_table)
        paths = [path_of(path) for path, x in leaves if not is_table(x)]
        for i, group in enumerate(groups):
            if i not in map(fits, paths):
                raise ValueError(
                    f"alternating(groups={groups}): {group!r} fits no parameter; "
                    f"there are {', '.join(paths)}."
                )
        return inner.init(params)

    def apply(state, params, gradients, active):
        state, after = inner.apply(state, params, gradients, active)

        def one(path, old, new):
            group = fits(path_of(path))
            if old is None or group is None or isinstance(old, LocalTable):
                return new
            return jnp.where(round % len(groups) == group, new, old)

        is_leaf = lambda x: x is None or is_table(x)
        return state, jax.tree_util.tree_map_with_path(one, params, after, is_leaf=is_leaf)

    def at(round, shared):
        later = inner if inner.at is None else inner.at(round, shared)
        return replace(_alternating(later, groups, round), at=None)

    return Local(init, apply, inner.covers, at)
