"""IFedRec: what clients learn of items and what the server knows of them, held together (Zhang et
al., "When federated recommendation meets cold-start problem: separating item attributes and user
interactions", WWW 2024; released code github Zhangcx19/IFedRec).

    client u:   (p_u, Q_u)  <-  descent on  l_u(p_u, Q_u) + strength * mean |Q_u - R|^2   from Q
    server:     Q <- the mean of Q_u
                M <- `network_steps` steps of Adam on  mean_{i known} |M(y_i) - q_i|^2 / D
                R <- M(y)

A new item is scored by its row of R: `models.attributed` has the model. Attributes stay with the
server, interactions with the clients. In each batch a step on what is private and then one on the
rows, as the released IPFedRec, which is PFedRec aligned so.

From the paper this differs so: a client has the rows that it touches, and pulls these alone, where
there every client pulls its copy of the whole table; a row is the mean over who touched it.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import optax

from .. import rows, trees, wire
from ..aggregate import per_row
from ..check import at_least, positive
from ..clients import groups, local_training, sgd
from ..data import Batches
from ..models.attributed import represented
from ..rounds.downlink import downloaded
from ..rounds.federated import federated
from ..servers.step import as_server, step
from ..types import Aggregator, Client, Model, Packet, PyTree, Server, Strategy, Transform


def ifedrec(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    user_learning_rate: float = 1.0,
    item_learning_rate: float = 1.0,
    network_learning_rate: float = 0.005,
    network_steps: int = 1,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    aggregator: Aggregator | None = None,
    server: Server | Transform | None = None,
    **assembly,
) -> Strategy:
    """Descent on private scorers and item rows beside a network of attributes at the server.

    What comes down are the rows that a client touches and, of R, the same ones: twice the bytes of
    `pfedrec`, and both are counted. Arguments that are not named here are those of `fedavg`.

    Args:
        model: `models.ifedrec(num_items, ...)`, or another from `models.attributed`.
        user_learning_rate: of what is private.
        item_learning_rate: of the item rows.
        network_learning_rate: of Adam on M.
        network_steps: of a round, each over all known items.
        aggregator: default `per_row()`.
        assembly: as in `federated`, without `downlink`.

    Raises:
        ValueError: for a rate that is not positive, network_steps < 1, a downlink and an aggregator
            with a seal, under which R would come down unbilled, and for another model.

    Example:
        >>> genres = np.eye(num_items, 5, dtype=np.float32)
        >>> model = models.ifedrec(num_items, width=4, item_features=genres)
        >>> strategy = strategies.ifedrec(model, data.pointwise(4), network_steps=5)
    """
    aggregator = aggregator or per_row()
    for name, given in (("downlink", assembly.get("downlink")), ("aggregator", aggregator.seal)):
        if given is not None:
            raise ValueError(
                f"ifedrec({name}) sends a client whole tables, and R beside them would not be "
                "counted; use plain downloads and an aggregator without a seal."
            )
    optimizer = [
        groups({"private": sgd(user_learning_rate)}), groups({"shared": sgd(item_learning_rate)})
    ]  # fmt: skip
    client = local_training(model, examples, optimizer, epochs, steps, batch_size, probe)
    server = attributing(server, network_learning_rate, network_steps)
    return federated(with_both(client), model, aggregator=aggregator, server=server, **assembly)


def with_both(client: Client) -> Client:
    """`client`, to whom the rows of R come down that it touches, beside those of Q."""

    def update(key, private, shared, data, now):
        private, upload = client.update(key, private, shared, data, now)
        got = downloaded(trees.trainable(shared), upload.update).body
        down = wire.nbytes(Packet({"model": got, "rows": got}))
        return private, replace(upload, down=down)

    return replace(client, update=update)


def attributing(
    server: Server | Transform | None = None, learning_rate: float = 0.005, steps: int = 1
) -> Server:
    """`server` on a model from `models.attributed`, whose network it trains after each step.

    Rows that no upload has moved yet are no target of the network. Under noise on every row all of
    them move in the first round, and new items are scored by noise.

    Args:
        server: what steps on the rows; default `step(1.0)`.
        learning_rate: of Adam, which may be traced.
        steps: of a round, each over all known items.

    Returns:
        A `Server` whose state has the moments of Adam.

    Raises:
        ValueError: for learning_rate <= 0 and steps < 1, and in `init` for a model without
            attributes.

    Example:
        >>> server = strategies.attributing(strategies.step(1.0), learning_rate=0.01, steps=10)
    """
    positive("attributing", "learning_rate", learning_rate)
    at_least("attributing", "steps", steps, 1)
    inner, adam = as_server(server or step(1.0)), optax.adam(learning_rate)

    def init(shared):
        network = _checked(shared)["attributes"].value["network"]
        return {"rows": inner.init(shared), "network": adam.init(network)}

    def apply(state, shared, update):
        moved, after = inner.apply(state["rows"], shared, update)
        beside = after["attributes"].value
        (changed,) = filter(rows.is_table, rows.nodes(update["model"]))
        (table,) = rows.tables(after["model"])
        known = beside["known"] | _touched(changed)
        target = jnp.asarray(table.values, jnp.float32)

        def loss(network):
            apart = ((represented(network, beside["described"]) - target) ** 2).mean(-1)
            return jnp.where(known, apart, 0).sum() / jnp.maximum(known.sum(), 1)

        def one(_, held):
            network, moments = held
            change, moments = adam.update(jax.grad(loss)(network), moments, network)
            return optax.apply_updates(network, change), moments

        begin = beside["network"], state["network"]
        network, moments = jax.lax.fori_loop(0, steps, one, begin)
        beside = {
            **beside, "network": network, "known": known,
            "rows": represented(network, beside["described"]),
        }  # fmt: skip
        return {"rows": moved, "network": moments}, {**after, "attributes": trees.Frozen(beside)}

    return Server(init, apply)


def _touched(update: rows.RowsUpdate) -> jax.Array:
    """bool[I]: the rows that are live in an update, each of which may stand in it several times."""
    ids = jnp.arange(update.size) if update.ids is None else update.ids
    ids = jnp.where(update.live, ids, update.size)
    return jnp.zeros(update.size, bool).at[ids].set(True, mode="drop")


def _checked(shared: PyTree) -> PyTree:
    if not isinstance(shared, dict) or "attributes" not in shared:
        raise ValueError(
            "ifedrec(model) needs what is known of items; make the model with models.ifedrec or "
            "models.attributed."
        )
    return shared
