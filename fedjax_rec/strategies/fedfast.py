"""FedFast: matrix factorization by few clients a round, of all clusters of users, from whom the
other users learn (Muhammad et al., "FedFast: going beyond average for faster training of federated
recommender systems", KDD 2020).

    S            <-  m clients, m / p of each of p clusters of users                    ActvSAMP
    u in S:          (p_u, Q_u) <- descent on f_u from (p_u, Q)
    Q[i]         <-  Q[i] + sum_u q_u[i] (Q_u[i] - Q[i]) / sum_u q_u[i],
                     q_u[i] = |Q_u[i] - Q[i]|_1                                         ActvAGG
    u not in S:  p_u <- p_u + gamma_t mean of the changes of p_v, v in S of u's cluster

Layers are averaged by examples, as by `fedavg`. `rounds.user_clusters` has the clusters,
`aggregate.by_change` the rows; each goes with other strategies as well.

**User vectors leave the clients**: each client of a round sends its own as it is, and the server
holds all of them, from which, with the item rows that it has anyhow, it reads what a user likes. In
`fedmf` they stay at home. They are billed both ways, and neither secure aggregation nor the clip of
a privacy mechanism covers them: both refuse a client that sends more than its update.

From the paper this differs so: rows are those that a client touched; the clusters that clients are
drawn from are made as the round begins, after the others have moved; and gamma_t falls by a factor
a round, where the paper says that it falls.
"""

from __future__ import annotations

from dataclasses import replace

from .. import trees, wire
from ..aggregate.by_change import by_change
from ..clients import groups, local_training, sgd
from ..data import Batches
from ..rounds.downlink import downloaded
from ..rounds.federated import federated
from ..rounds.user_clusters import from_clusters, propagating
from ..rounds.utility import Utility
from ..types import Aggregator, Client, Model, Packet, Strategy


def fedfast(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    clients: int | None = None,
    clusters: int = 20,
    discount: float | None = 1.0,
    decay: float = 0.9,
    turns: int = 10,
    utility: Utility | None = None,
    user_learning_rate: float = 1.0,
    item_learning_rate: float = 1.0,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    aggregator: Aggregator | None = None,
    **assembly,
) -> Strategy:
    """SGD on (p_u, Q) as in `fedmf`, by clients of all clusters, for all users of their clusters.

    A client of the round gets its vector, which the others may have moved, and sends it. Arguments
    that are not named here are those of `fedavg`.

    Args:
        model: with a private vector `user` and one user a client, such as `models.fedmf`.
        clients: m, of the cohort, which is the set of candidates; None for all of it, without
            ActvSAMP.
        clusters: p.
        discount: gamma_0 of the users who did not take part; None where they stay as they are.
        decay: what a round leaves of gamma.
        turns: of K-means.
        utility: how the m are drawn from clusters, see `from_clusters`; default `evenly()`.
        user_learning_rate: of p_u, and of all else that is private.
        item_learning_rate: of Q, and of all else that is shared.
        aggregator: default `by_change()`.
        assembly: as in `federated`, without `downlink`.

    Raises:
        ValueError: as `propagating` and `from_clusters`, and for a downlink or an aggregator with
            a seal, under which the vector would come down unbilled.

    Example:
        >>> model = models.fedmf(num_items, width=4)
        >>> strategy = strategies.fedfast(model, data.pointwise(4), clients=2, clusters=2)
    """
    aggregator = aggregator or by_change()
    for name, given in (("downlink", assembly.get("downlink")), ("aggregator", aggregator.seal)):
        if given is not None:
            raise ValueError(
                f"fedfast({name}) sends a client whole tables, and its vector beside them would "
                "not be counted; use plain downloads and an aggregator without a seal."
            )
    optimizer = groups({"private": sgd(user_learning_rate), "shared": sgd(item_learning_rate)})
    client = local_training(model, examples, optimizer, epochs, steps, batch_size, probe)
    strategy = federated(sending_user(client), model, aggregator=aggregator, **assembly)
    if discount is not None:
        strategy = propagating(strategy, clusters, discount, decay, turns)
    if clients is None:
        return strategy
    return from_clusters(strategy, clients, clusters, turns, utility)


def sending_user(client: Client) -> Client:
    """`client`, which gets the vector of its user from the server and sends what it made of it.

    Both ways are billed: four bytes a number, and a header. Stages and compressors leave it as it
    is.

    Args:
        client: that keeps a vector `user`, such as one of `models.fedmf`.

    Raises:
        ValueError: in the round, for a client that keeps none.

    Example:
        >>> client = clients.local_training(model, data.pointwise(4), clients.sgd(0.1))
        >>> strategy = strategies.federated(strategies.sending_user(client), model)
    """

    def update(key, private, shared, data, now):
        if not isinstance(private, dict) or "user" not in private:
            raise ValueError(
                "sending_user(client): the client keeps no vector `user`; use a model such as "
                "models.fedmf."
            )
        private, upload = client.update(key, private, shared, data, now)
        user = private["user"]
        down = upload.down
        if down is None:
            got = downloaded(trees.trainable(shared), upload.update).body
            down = wire.nbytes(Packet({"model": got, "user": user}))
        else:
            down = down + wire.nbytes(Packet(user))
        return private, replace(upload, aux=upload.aux | {"user": user}, down=down)

    return replace(client, update=update)
