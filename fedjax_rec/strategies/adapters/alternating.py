"""A local optimizer that trains one part of the model in a round and another in the next.

    round t trains the leaves of group t mod n  (and those of no group in every round)

RoLoRA: B, then A, of every adapter (Chen et al., "Robust federated finetuning of LLMs via
alternating optimization of LoRA", 2025). With one factor fixed in a round the mean of the other is
the mean of the products.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence

import jax.numpy as jnp
import optax

from ...clients.optimizers import Local, as_local, path_of
from ...rows import LocalTable, is_table, map_nodes_with_path, nodes_with_path


def alternating(
    optimizer: Local | optax.GradientTransformation, groups: Sequence[str] = ("*lora_b", "*lora_a")
) -> Local:
    """Trains the leaves of group i of n in rounds i, i + n, i + 2 n, ... alone.

    The gradient of a leaf at rest is computed all the same.

    Args:
        optimizer: what steps.
        groups: one pattern a group, which the path of a leaf, such as
            `shared/layers/query/lora_a`, fits; the first that fits counts.

    Returns:
        A `Local` with the state of `optimizer`; leaves of no group move in every round.

    Raises:
        ValueError: for fewer than two groups and, when a client starts, where a group fits no
            parameter that is an array.

    Example:
        >>> from fedjax_rec import clients
        >>> from fedjax_rec.strategies import adapters
        >>> optimizer = adapters.alternating(clients.sgd(0.1), ("*lora_b", "*lora_a"))
    """
    if isinstance(groups, str) or len(groups) < 2:
        raise ValueError(f"alternating(groups={groups!r}) alternates nothing; give two patterns.")
    inner, groups = as_local(optimizer), tuple(groups)

    def fits(path) -> int | None:
        return next((i for i, g in enumerate(groups) if fnmatch.fnmatch(path, g)), None)

    def init(params, now):
        leaves = nodes_with_path(params)
        paths = [path_of(path) for path, x in leaves if not is_table(x)]
        for i, group in enumerate(groups):
            if i not in map(fits, paths):
                raise ValueError(
                    f"alternating(groups={groups}): {group!r} fits no parameter; "
                    f"there are {', '.join(paths)}."
                )
        return inner.init(params, now)

    def apply(state, params, gradients, active, now):
        state, after = inner.apply(state, params, gradients, active, now)

        def one(path, old, new):
            group = fits(path_of(path))
            if group is None or isinstance(old, LocalTable):
                return new
            return jnp.where(now.round % len(groups) == group, new, old)

        return state, map_nodes_with_path(one, params, after)

    return Local(init, apply, inner.covers)
