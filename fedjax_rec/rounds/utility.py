"""What it is worth to have a client in the round, from what it last reported.

- `by_size`          nothing but luck, with more of it for more data
- `power_of_choice`  its last loss (rpow-d of Cho, Wang & Joshi, AISTATS 2022)
- `oort`             what is to be learned from it, how long ago that was, and how slow it is
                     (Lai et al., OSDI 2021)
- `evenly`           as many of each group of clients (ActvSAMP of Muhammad et al., KDD 2020)
- `in_proportion`    as large a share of each

The server knows of a client only what it reported, when it reported it. See `selection.selecting`.

`N` clients, `C` candidates, `m` of them chosen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from .. import keys
from ..check import fraction, positive
from ..made import part
from ..types import PyTree, RoundInfo


@part
class Utility:
    """init(num_clients) -> state. observe(state, round, ids int32[m], RoundInfo) -> state.
    value(key, state, round, cohort, places) -> float[C]: the `places` highest are chosen, equals by
    lot; may be +-inf. What it draws is by client id; padding may have any value.
    """

    init: Callable[..., PyTree]
    value: Callable[..., jax.Array]
    observe: Callable[..., PyTree]


def by_size() -> Utility:
    """Without replacement, each draw with probability proportional to the number of interactions.

    As log n_k + Gumbel noise, of which the m highest are such a sample (Efraimidis & Spirakis,
    2006; Vieira, 2014).

    Example:
        >>> strategy = strategies.fedavg(model, data.pointwise(4))
        >>> few = strategies.selecting(strategy, strategies.by_size(), clients=2)
    """

    def value(key, state, round, cohort, places):
        noise = jax.vmap(jax.random.gumbel)(keys.for_client(key, cohort.ids))
        return jnp.log(cohort.data.sizes(cohort.ids)) + noise

    return Utility(lambda num_clients: (), value, lambda state, round, ids, info: state)


def power_of_choice() -> Utility:
    """The last loss that a client reported, the mean over its training; clients never chosen first.

    A client that was chosen and had nothing to report, for want of data or too late, counts as 0.

    Example:
        >>> worst = strategies.power_of_choice()
        >>> strategy = strategies.selective(model, data.pointwise(4), clients=2, utility=worst)
    """

    def observe(loss, round, ids, info):
        reported = jnp.where(info.weight > 0, _metric(info, "loss", "power_of_choice"), 0.0)
        return loss.at[ids].set(reported, mode="drop")

    return Utility(
        lambda num_clients: jnp.full(num_clients, jnp.inf),
        lambda key, loss, round, cohort, places: loss.at[cohort.ids].get(mode="clip"),
        observe,
    )


def oort(
    preferred_seconds: float | None = None,
    alpha: float = 2.0,
    explore: float = 0.9,
    decay: float = 0.98,
    explore_least: float = 0.2,
) -> Utility:
    """U_k = (u_k + sqrt(0.1 log R / R_k)) * min(1, T / t_k)^alpha in round R = 1, 2, ...

    u_k = n_k * loss_k, what is to be learned, as last reported in round R_k and then scaled to 0..1
    over the candidates, as released; the paper's is n_k sqrt(mean loss^2 of an example). t_k: the
    last `client_seconds`, of a strategy with a clock, also of a client that was too late. A share
    max(explore_least, explore * decay^(R - 1)) of the m places, in the mean, is for clients never
    seen, by lot; those that one of the two kinds cannot fill are for the other.

    Args:
        preferred_seconds: T, fixed (the paper's pacer moves it); None for no penalty.
        alpha: how hard slowness counts.
        explore: the share of places for clients never seen, in the first round.
        decay: what a round leaves of that share.
        explore_least: below which it does not fall.

    Raises:
        ValueError: for T or alpha not positive, and shares outside 0..1.

    Example:
        >>> oort = strategies.oort(preferred_seconds=30.0)
        >>> strategy = strategies.selective(model, data.pointwise(4), clients=2, utility=oort)
    """
    positive("oort", "alpha", alpha)
    if preferred_seconds is not None:
        positive("oort", "preferred_seconds", preferred_seconds)
    for name, x in (("explore", explore), ("decay", decay), ("explore_least", explore_least)):
        fraction("oort", name, x)

    def init(num_clients):
        blank = lambda dtype: jnp.zeros(num_clients, dtype)
        return {
            "gain": blank(jnp.float32), "seconds": blank(jnp.float32), "round": blank(jnp.int32),
        }  # fmt: skip

    def value(key, state, round, cohort, places):
        mine = jax.tree.map(lambda x: x.at[cohort.ids].get(mode="clip"), state)
        seen = mine["round"] > 0
        there = cohort.ids < cohort.data.num_clients
        low = jnp.where(seen & there, mine["gain"], jnp.inf).min()
        high = jnp.where(seen & there, mine["gain"], -jnp.inf).max()
        now = (round + 1).astype(jnp.float32)
        bonus = jnp.sqrt(0.1 * jnp.log(now) / jnp.maximum(mine["round"], 1))
        score = (mine["gain"] - low) / jnp.maximum(high - low, 1e-12) + bonus
        if preferred_seconds is not None:
            ratio = preferred_seconds / jnp.maximum(mine["seconds"], 1e-12)
            score *= jnp.minimum(1.0, ratio) ** alpha
        coin, lots = jax.random.split(key)
        share = jnp.maximum(explore_least, explore * decay ** (now - 1))
        room = jnp.floor(share * places + jax.random.uniform(coin))
        lot = jax.vmap(jax.random.uniform)(keys.for_client(lots, cohort.ids))
        new = there & ~seen
        turn = jnp.argsort(jnp.lexsort((lot, ~new)))
        # Explored first, then by score, then the other new ones where places are left.
        return jnp.where(new, jnp.where(turn < room, jnp.inf, -1.0 - lot), score)

    def observe(state, round, ids, info):
        gain = info.weight * _metric(info, "loss", "oort")
        came = jnp.where(info.weight > 0, ids, state["gain"].shape[0])
        seconds = state["seconds"]
        if preferred_seconds is not None:
            took = _metric(info, "client_seconds", "oort")
            seconds = seconds.at[ids].set(took, mode="drop")
        return {
            "gain": state["gain"].at[came].set(gain, mode="drop"),
            "seconds": seconds,
            "round": state["round"].at[ids].set(round + 1, mode="drop"),
        }

    return Utility(init, value, observe)


def evenly(groups: Sequence[int] | None = None) -> Utility:
    """As many clients of each group, by lot within it: of p groups with candidates enough, m / p
    each or one more, and which have that one more is by lot too.

    Places that a small group cannot fill are for the others; its clients are drawn more often.
    `user_clusters.from_clusters` renews the groups in each round.

    Args:
        groups: int[N], the group of each client, such as clusters of profiles that the server has;
            default one group of all, which is m clients by lot.

    Raises:
        ValueError: in `init`, for groups of more or fewer clients than there are.

    Example:
        >>> halves = strategies.evenly([k % 2 for k in range(dataset.num_clients)])
        >>> strategy = strategies.selective(model, data.pointwise(4), clients=2, utility=halves)
    """

    def value(key, group, round, cohort, places):
        return -_place_in_group(key, group, cohort)[0]

    return _of_groups("evenly", groups, value)


def in_proportion(groups: Sequence[int] | None = None) -> Utility:
    """As large a share of each group's candidates, by lot within it, so that every client is drawn
    about as often: of a group with n of the C candidates some m n / C.

    Args:
        groups: as in `evenly`.

    Raises:
        ValueError: as `evenly`.

    Example:
        >>> halves = strategies.in_proportion([k % 2 for k in range(dataset.num_clients)])
        >>> strategy = strategies.selective(model, data.pointwise(4), clients=2, utility=halves)
    """

    def value(key, group, round, cohort, places):
        within, of_group = jax.random.split(key)
        place, size = _place_in_group(within, group, cohort)
        mine = group.at[cohort.ids].get(mode="clip")
        # Without a beginning by lot large groups would come first.
        begin = jax.vmap(jax.random.uniform)(keys.for_client(of_group, mine))
        return -(place + begin) / size

    return _of_groups("in_proportion", groups, value)


def _of_groups(where: str, groups: Sequence[int] | None, value: Callable) -> Utility:
    """Of a state that is the group of each client, int32[N], whatever clients report."""

    def init(num_clients):
        if groups is None:
            return jnp.zeros(num_clients, jnp.int32)
        if len(groups) != num_clients:
            raise ValueError(
                f"{where}(groups) of {len(groups)} clients, and there are {num_clients}; give a "
                "group to each client."
            )
        return jnp.asarray(np.asarray(groups), jnp.int32)

    return Utility(init, value, lambda group, round, ids, info: group)


def _place_in_group(key, group, cohort) -> tuple[jax.Array, jax.Array]:
    """(0, 1, ... by lot among the candidates of its group, how many these are), float32[C] each."""
    there = cohort.ids < cohort.data.num_clients
    mine = group.at[cohort.ids].get(mode="clip")
    lot = jax.vmap(jax.random.uniform)(keys.for_client(key, cohort.ids))
    order = jnp.lexsort((lot, mine, ~there))
    count = jnp.arange(order.size)
    same = jnp.append(jnp.diff(mine[order]) == 0, False) & (count + 1 < there.sum())
    begins = jnp.append(True, ~same[:-1])
    first = jax.lax.cummax(jnp.where(begins, count, 0))
    last = jax.lax.cummin(jnp.where(same, order.size, count), reverse=True)
    put = lambda x: jnp.zeros(order.size).at[order].set(x)
    return put(count - first), put(last - first + 1)


def _metric(info: RoundInfo, name: str, where: str) -> jax.Array:
    if name not in info.metrics:
        raise ValueError(
            f"{where}() needs the metric {name!r} and the strategy reports "
            f"{', '.join(map(repr, info.metrics))}; use one that does, or another utility."
        )
    return info.metrics[name]
