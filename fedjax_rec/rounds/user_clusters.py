"""Clusters of users by their vectors, which the server holds: who takes part, and what those who do
not learn of those who do.

- `from_clusters`  m clients, as many of each cluster (ActvSAMP)
- `propagating`    the change of those who took part, for the others of their cluster (ActvAGG)

(Muhammad et al., "FedFast: going beyond average for faster training of federated recommender
systems", KDD 2020; users are drawn "in equal proportions" from clusters, which is as many of each,
or as large a share: `evenly` or `in_proportion`.) With S those who take part in round t, after it

    G        <- K-means of all users' vectors p, p_u of u in S as trained
    delta_c  =  mean of (p_u after - p_u before) over u in S of cluster c
    p_u      <- p_u + gamma_t delta_c      for each u of cluster c that is not in S

**The server holds every user's vector**, which `fedmf` leaves on the client: it is what this method
costs. A vector is in `State.private`, where it is scored with, and it is the server's too, since
the client got it and sent what became of it. Clients must send it, as those of
`strategies.fedfast` do. The others get theirs when it is their turn, or when they are recommended
something, as they get item rows; that is not billed, nor are those.

`N` clients of one user each, `C` cohort, `m` chosen of them, `p` clusters, `D` width.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import keys
from ..check import at_least, fraction
from ..models.text.residual_kmeans import kmeans, nearest
from ..types import Cohort, PyTree, State, Strategy
from .selection import selecting
from .utility import Utility, evenly


def from_clusters(
    strategy: Strategy,
    clients: int,
    clusters: int = 20,
    turns: int = 10,
    utility: Utility | None = None,
) -> Strategy:
    """`strategy` on `clients` of the candidates, as many of each cluster of users' vectors.

    Clusters are made anew in each round, of the vectors as it begins; in the first these are drawn,
    and it is a draw like any other. RoundInfo and `packets` are as of `selecting`.

    Args:
        strategy: whose clients keep a user's vector, and send it.
        clients: m.
        clusters: p.
        turns: of K-means.
        utility: of what is known of groups, default `evenly()`; or `in_proportion()`.

    Raises:
        ValueError: for numbers below 1; in `init`, for clients without one vector `user`, and for
            fewer of them than clusters; in the round, as `selecting`.

    Example:
        >>> client = clients.local_training(model, data.pointwise(4), clients.sgd(0.1))
        >>> strategy = strategies.federated(strategies.sending_user(client), model)
        >>> active = strategies.from_clusters(strategy, clients=2, clusters=2)
    """
    _check("from_clusters", clusters, turns)
    chosen = selecting(strategy, utility or evenly(), clients)

    def init(key, num_clients: int) -> State:
        state = chosen.init(key, num_clients)
        _check_users("from_clusters", clusters, state.private)
        return state

    def round(key, state: State, cohort: Cohort, chunk: int | None = None):
        found = _clusters(key, state.round, _users(state.private), clusters, turns)
        somebody = (cohort.ids < cohort.data.num_clients).any()
        found = jnp.where(somebody, found, state.server["selection"])
        state = replace(state, server={**state.server, "selection": found})
        return chosen.round(key, state, cohort, chunk)

    return replace(chosen, init=init, round=round)


def propagating(
    strategy: Strategy,
    clusters: int = 20,
    discount: float = 1.0,
    decay: float = 0.9,
    turns: int = 10,
) -> Strategy:
    """`strategy`, after whose round users who did not take part move as those of their cluster did.

    gamma_t = discount * decay^t in round t = 0, 1, ... Who takes part is who weighs something and
    is not rejected; of a cluster without any, nobody moves.

    Args:
        strategy: whose clients keep a user's vector, and send it.
        clusters: p.
        discount: gamma_0.
        decay: what a round leaves of it.
        turns: of K-means.

    Raises:
        ValueError: for numbers below 1, for a discount or a decay outside 0..1; in `init`, as
            `from_clusters`.

    Example:
        >>> client = clients.local_training(model, data.pointwise(4), clients.sgd(0.1))
        >>> strategy = strategies.federated(strategies.sending_user(client), model)
        >>> active = strategies.propagating(strategy, clusters=2, discount=0.5)
    """
    _check("propagating", clusters, turns)
    for name, x in (("discount", discount), ("decay", decay)):
        fraction("propagating", name, x)

    def init(key, num_clients: int) -> State:
        state = strategy.init(key, num_clients)
        _check_users("propagating", clusters, state.private)
        return state

    def round(key, state: State, cohort: Cohort, chunk: int | None = None):
        before, round = _users(state.private), state.round
        after, info = strategy.round(key, state, cohort, chunk)
        counted = info.weight > 0
        if info.verdicts is not None:
            counted &= info.verdicts > 0
        ids = jnp.where(counted, cohort.ids, len(before))
        part = jnp.zeros(len(before), bool).at[ids].set(True, mode="drop")
        users = _users(after.private)
        found = _clusters(key, round, users, clusters, turns)
        own = jax.nn.one_hot(found, clusters) * part[:, None]
        change = jnp.where(part[:, None], users - before, 0)
        sums = jnp.matmul(own.T, change, precision="highest")
        mean = sums / jnp.maximum(own.sum(0), 1)[:, None]
        gamma = discount * decay ** round.astype(jnp.float32)
        moved = jnp.where(part[:, None], users, users + gamma * mean[found])
        like = after.private["user"]
        private = {**after.private, "user": moved.reshape(like.shape).astype(like.dtype)}
        return replace(after, private=private), info

    return replace(strategy, init=init, round=round)


def _users(private: PyTree) -> jax.Array:
    """float32[N, D]."""
    return private["user"][:, 0].astype(jnp.float32)


def _clusters(key, round, users: jax.Array, clusters: int, turns: int) -> jax.Array:
    """int32[N]: the cluster of each user."""
    of_round = keys.stream(jax.random.fold_in(key, round), "clusters of users")
    return nearest(users, kmeans(of_round, users, clusters, turns))


def _check(where: str, clusters: int, turns: int) -> None:
    at_least(where, "clusters", clusters, 1)
    at_least(where, "turns", turns, 1)


def _check_users(where: str, clusters: int, private: PyTree) -> None:
    user = private.get("user") if isinstance(private, dict) else None
    if user is None or user.ndim != 3 or user.shape[1] != 1:
        raise ValueError(
            f"{where}(strategy) clusters users by one vector a client, and clients keep "
            f"{'none' if user is None else list(user.shape[1:])}; use a model such as "
            "models.fedmf, and one client a user."
        )
    if len(user) < clusters:
        raise ValueError(f"{where}(clusters={clusters}) of {len(user)} users; use fewer.")
