"""PIECK: items are made popular by what the rows of popular items are, which anybody can see.

The adversary mines the popular items: rows that many clients train move most. It adds up how far
each row moved between the first rounds in which one of its clients takes part, and takes the P that
moved furthest, targets left out. From then on, with q_p of the popular items and q_t of a target,

    UEA (user embedding approximation)   l = -1/P sum_p log s(q_p . q_t)
    IPE (item popularity enhancement)    l = -lambda (1/|P+| sum_{p in P+} kappa_p cos(q_p, q_t)
                                                      + the same of P-)

and each malicious client sends -rate dl/dq_t for the rows of the targets and nothing else. UEA
takes q_p for vectors of users, whom training has drawn to what they like; IPE turns the target the
way of popular items. kappa_p = 2 (P + 1 - r) / (P (P + 1)) of the r-th item; P+ are those whose
cosine is positive, P- the others.

(Zhang, Li, et al., "Preventing the popular item embedding based attack in federated
recommendations", ICDE 2024; the weights kappa and lambda are those of the released code.) There
each attacker mines for itself, from two rounds an epoch apart, and until then takes any items for
popular; here all are one adversary's, who sees more rounds and waits.

`T` targets, `P` popular items, `I` items, `D` width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from .. import check
from ..types import PyTree
from . import pushed
from .attacked import Attack

TINY = 1e-12


def pieck_uea(
    targets: Sequence[int], rate: float = 1.0, popular: int = 50, mining: int = 4
) -> Attack:
    """Pushes items towards popular ones in the place of users: PIECK-UEA.

    The adversary reads the server's item table in the rounds that one of its clients takes part in,
    and no upload. It has to know the rate at which items learn. Malicious clients touch the rows of
    the targets alone; until it has mined they change nothing.

    Args:
        targets: ids of the items that are pushed.
        rate: the learning rate of items, of one honest client. Positive.
        popular: P, how many items it takes for popular.
        mining: between how many rounds it watches rows move.

    Returns:
        An `Attack` on models with one table of items, such as `models.fedmf`.

    Raises:
        ValueError: for no target, one twice, or numbers out of range; and in a round, for a target
            that the catalogue does not have, and for a model without such a table.

    Example:
        >>> from fedjax_rec import attacks
        >>> push = attacks.pieck_uea(targets=[7], popular=5)
        >>> rule = attacks.attacked(aggregate.total(), push, attacks.from_id(30))
    """
    return _pieck("pieck_uea", targets, rate, popular, mining, _user_embedding)


def pieck_ipe(
    targets: Sequence[int],
    rate: float = 1.0,
    popular: int = 50,
    mining: int = 4,
    strength: float = 0.9,
) -> Attack:
    """Turns items the way of popular ones: PIECK-IPE.

    Arguments that are not named here are those of `pieck_uea`, as are what the adversary knows and
    what its clients touch.

    Args:
        strength: lambda. The released code has .9 below 10% of attackers, and else .5.

    Raises:
        ValueError: as `pieck_uea`, and unless strength is positive.

    Example:
        >>> from fedjax_rec import attacks
        >>> push = attacks.pieck_ipe(targets=[7], popular=5)
    """
    check.positive("pieck_ipe", "strength", strength)

    def slope(target, chosen):
        return strength * _popularity(target, chosen)

    return _pieck("pieck_ipe", targets, rate, popular, mining, slope)


def _user_embedding(target: jax.Array, chosen: jax.Array) -> jax.Array:
    """-dl/dq_t of UEA, [T, D], for targets [T, D] and popular items [P, D]."""
    scores = target @ chosen.T
    return jax.nn.sigmoid(-scores) @ chosen / chosen.shape[0]


def _popularity(target: jax.Array, chosen: jax.Array) -> jax.Array:
    """-1/lambda dl/dq_t of IPE, [T, D]; a pair of which one is zero has no direction."""
    length = lambda x: jnp.maximum(jnp.linalg.norm(x, axis=-1, keepdims=True), TINY)
    size = chosen.shape[0]
    kappa = jnp.arange(size, 0, -1) * (2 / (size * (size + 1)))
    to, way = chosen / length(chosen), target / length(target)
    cosines = way @ to.T
    positive = cosines > 0
    count = lambda side: jnp.maximum(side.sum(1, keepdims=True), 1)
    shares = kappa * jnp.where(positive, 1 / count(positive), 1 / count(~positive))
    return (shares @ to - (shares * cosines).sum(1, keepdims=True) * way) / length(target)


def _pieck(
    where: str, targets: Sequence[int], rate, popular: int, mining: int, slope: Callable
) -> Attack:
    wanted = pushed.wanted(where, targets)
    check.positive(where, "rate", rate)
    check.at_least(where, "popular", popular, 1)
    check.at_least(where, "mining", mining, 1)

    def items_of(shared: PyTree) -> jax.Array:
        values = pushed.items_of(where, shared, wanted)
        if popular > values.shape[0] - len(wanted):
            raise ValueError(
                f"{where}(popular={popular}) is more than the items beside the targets; use "
                f"popular <= {values.shape[0] - len(wanted)}."
            )
        return values

    def init(shared):
        items = items_of(shared)
        return {
            "seen": jnp.zeros_like(items), "moved": jnp.zeros(items.shape[0]),
            "looks": jnp.int32(0),
        }  # fmt: skip

    def learn(state, now):
        items = items_of(now.shared)
        watches = (state["looks"] > 0) & (state["looks"] <= mining)
        moved = jnp.linalg.norm(items - state["seen"], axis=-1)
        return {
            "seen": items, "moved": state["moved"] + jnp.where(watches, moved, 0),
            "looks": state["looks"] + 1,
        }  # fmt: skip

    def forge(key, state, update, sides, now):
        items, at = items_of(now.shared), jnp.asarray(wanted, jnp.int32)
        _, chosen = jax.lax.top_k(state["moved"].at[at].set(-1), popular)
        step = jnp.where(state["looks"] > mining, rate * slope(items[at], items[chosen]), 0)
        said = pushed.of_tables(update, step)
        return state, pushed.sent(where, update, sides.lies, at, said)

    return Attack(forge, init, learn)
