"""IPM and ALIE whose scale is looked for in each round, on the rule that they are up against.

    t* = argmax over t of | rule(u(t)) - rule(u(mean)) |

u(t) are the uploads of the round in which who lies says -t mean (IPM) or mean - t deviation (ALIE),
and u(mean) those in which it says the mean of the honest. The search goes up from `start` by steps
that double while the distance grows, and then by ever shorter ones, `evaluations` in all.

(Xie et al., UAI 2019, and Baruch et al., NeurIPS 2019, of the attacks; the search is that of
Allouah et al., "Fixing by mixing: a recipe for optimal Byzantine ML under heterogeneity", AISTATS
2023, as ByzFL has it: Optimal_InnerProductManipulation, Optimal_ALittleIsEnough.) ByzFL measures
from the mean of the honest itself; what the rule makes of that mean is the same thing wherever the
rule is a mean, and on the scale of the rule where it is a sum.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from .. import check, rows
from ..types import PyTree
from .attacked import Attack
from .honest import forged


def optimal_ipm(
    evaluations: int = 20, start: float = 0.0, step: float = 10.0, ratio: float = 0.8
) -> Attack:
    """`ipm` at the scale that moves the rule's result furthest.

    The adversary reads the uploads of all, and knows the rule and what it remembers, but not what
    it will draw. Malicious clients touch the rows that they touched, and every dense leaf. A round
    costs the rule `evaluations` + 1 times more.

    Args:
        evaluations: scales that are tried in a round, `start` among them.
        start: the first scale.
        step: how much further the second is.
        ratio: of a step to the one before it, once the distance no longer grows.

    Returns:
        An `Attack` on any model.

    Raises:
        ValueError: for evaluations below 1, unless step is positive and .5 < ratio < 1, and in a
            round that nobody judges.

    Example:
        >>> from fedjax_rec import attacks
        >>> push = attacks.optimal_ipm(evaluations=8)
        >>> rule = attacks.attacked(aggregate.median(), push, attacks.named([3, 7]))
    """
    scaled = lambda t: lambda mean, deviation: -t * mean
    return _searched("optimal_ipm", scaled, evaluations, start, step, ratio)


def optimal_alie(
    evaluations: int = 20, start: float = 0.0, step: float = 10.0, ratio: float = 0.8
) -> Attack:
    """`alie` at the z that moves the rule's result furthest.

    Arguments that are not named here are those of `optimal_ipm`, as are what the adversary knows
    and what its clients touch.

    Raises:
        ValueError: as `optimal_ipm`.

    Example:
        >>> from fedjax_rec import attacks
        >>> push = attacks.optimal_alie(evaluations=8)
        >>> rule = attacks.attacked(aggregate.median(), push, attacks.named([3, 7]))
    """
    scaled = lambda t: lambda mean, deviation: mean - t * deviation
    return _searched("optimal_alie", scaled, evaluations, start, step, ratio)


def _searched(
    where: str, scaled: Callable, evaluations: int, start: float, step: float, ratio: float
) -> Attack:
    """scaled(t) -> value(mean, deviation), what who lies says."""
    check.at_least(where, "evaluations", evaluations, 1)
    check.positive(where, "step", step)
    if not check.holds(ratio, lambda x: (x > 0.5) & (x < 1)):
        raise ValueError(f"{where}(ratio={check.shown(ratio)}) must be within; use .5 < ratio < 1.")

    def forge(key, state, update, sides, now):
        if sides.judged is None:
            raise ValueError(f"{where}: no rule is known; use it within attacked(aggregator, ...).")
        judged, said = sides.judged, lambda value: forged(update, sides, value)
        of_mean = judged(jax.random.fold_in(key, evaluations), said(lambda mean, deviation: mean))

        def moved(i, t):
            made = judged(jax.random.fold_in(key, i), said(scaled(t)))
            return jnp.sqrt(_squared_distance(made, of_mean))

        def turn(i, search):
            best, longest, step, grows = search
            t = best + step
            distance = moved(i, t)
            further = distance > longest
            grows &= further
            best, longest = jnp.where(further, t, best), jnp.where(further, distance, longest)
            return best, longest, jnp.where(grows, 2 * step, ratio * step), grows

        first = jnp.float32(start)
        search = first, moved(0, first), jnp.float32(step), jnp.bool_(True)
        best = jax.lax.fori_loop(1, evaluations, turn, search)[0]
        return state, said(scaled(best))

    return Attack(forge)


def _squared_distance(a: PyTree, b: PyTree) -> jax.Array:
    """|a - b|^2 of two updates, each id of which may stand more than once."""
    squares = jax.tree.map(
        lambda x, y: ((jnp.float32(x) - jnp.float32(y)) ** 2).sum(),
        rows.to_dense(a), rows.to_dense(b),
    )  # fmt: skip
    return sum(jax.tree.leaves(squares), start=jnp.zeros(()))
