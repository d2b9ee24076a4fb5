"""FedPerGNN: clients with graphs of their own, expanded by users who share items with them and whom
nobody names (Wu et al., "A federated graph neural network framework for privacy-preserving
personalization", Nature Communications 2022).

    each round:        fedavg of the local graphs, rows averaged over the clients that touched them
    every T rounds:    client u -> third party:  E(i) for i in I_u, and p_u
                       third party -> u:         p_v of all v with an item of I_u, and who has which

E is a pseudonym of an item that all clients make with a key of theirs, so that the third party sees
which of its users share items, and not which items these are. It remembers the last p_v of each.

What hides a client's items from the server is composed: `data.covered` gives it pseudo-interacted
items, and `stages=[privacy.local_laplace(clip, epsilon)]` clips and noises what it sends. From the
paper this differs so: layers are light ones; pseudo items are trained as interactions, where there
their gradients are drawn from a normal law like those of the real ones; user vectors never go to
the server.

Dimensions: `N` clients of one user each, `C` cohort, `I` items, `D` width, `L` most interactions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

import jax
import jax.numpy as jnp

from .. import keys, wire
from ..aggregate import per_row
from ..check import at_least
from ..clients import groups, sgd
from ..data import Batches
from ..rounds.chunks import at, put
from ..rounds.cohort import vmapped
from ..rounds.inside import inside
from ..types import Aggregator, Cohort, Model, Packet, State, Strategy
from .central import holders
from .fedavg import fedavg

PSEUDONYM = 4  # words of 32 bits
ROWS_AT_ONCE = 256  # clients whose neighbours are counted together


def fedpergnn(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    every: int = 5,
    user_learning_rate: float = 1.0,
    item_learning_rate: float = 1.0,
    aggregator: Aggregator | None = None,
    **kwargs,
) -> Strategy:
    """SGD on user vectors and item rows through graphs at home, which are expanded every few
    rounds.

    In a round that expands, each client of the cohort that is heard sends its user vector and 16
    bytes an item after training, and gets the vectors of its neighbours and, for each of its items,
    a bit a neighbour: all that is counted, with the nine bytes of an empty message in other rounds.
    Neighbours are those that ever reported. The third party and the neighbours read user vectors as
    they are, which no stage hides. Metrics: those of `fedavg`, and `neighbours`, how many a client
    got. Arguments that are not named here are those of `fedavg`.

    Args:
        model: `models.fedpergnn(num_items)`.
        examples: `data.pointwise()`, or `data.covered` of it.
        every: T, rounds from one expansion to the next; the first comes after T rounds.
        user_learning_rate: of the user vector.
        item_learning_rate: of the item rows.
        aggregator: default `per_row()`.
        kwargs: as in `fedavg`, without what else says how a client steps. `batch_size` is of a
            graph too: a step sees the interactions of its batch.

    Raises:
        ValueError: for every < 1; in `init`, for another model; in the round, for clients of
            several users and for labelled examples.

    Example:
        >>> strategy = strategies.fedpergnn(models.fedpergnn(num_items), data.pointwise(4))
    """
    at_least("fedpergnn", "every", every, 1)
    optimizer = groups({"user": sgd(user_learning_rate), "shared": sgd(item_learning_rate)})
    inner = fedavg(
        model, examples, probe, optimizer=optimizer, aggregator=aggregator or per_row(), **kwargs
    )  # fmt: skip
    alone = lambda state: replace(state, server=state.server["training"])
    within = inside(inner, alone)
    sends, opens = cast(Any, within.packets), cast(Any, within.opened)

    def init(key, num_clients: int) -> State:
        names = jax.eval_shape(model.init, jax.random.key(0))[1]
        if sorted(names) != ["history", "near", "user"]:
            raise ValueError(
                f"fedpergnn() expands graphs, and the model keeps {', '.join(names) or 'nothing'}; "
                "use models.fedpergnn."
            )
        state = inner.init(key, num_clients)
        known = {
            "user": jnp.zeros_like(state.private["user"][:, 0]),
            "there": jnp.zeros(num_clients, bool),
        }
        return replace(state, server={"training": state.server, "known": known})

    def round(key, state: State, cohort: Cohort, chunk: int | None = None):
        met = _met(cohort.data)
        after, info = inner.round(key, alone(state), cohort, chunk)
        heard, nobody = info.weight > 0, cohort.data.num_clients
        kept = heard if info.verdicts is None else heard & (info.verdicts > 0)
        due = _due(after.round, every)
        ids, told = jnp.where(kept, cohort.ids, nobody), jnp.where(kept & due, cohort.ids, nobody)
        known, user = state.server["known"], after.private["user"][:, 0]
        known = {
            "user": put(known["user"], told, at(user, told)),
            "there": known["there"].at[told].set(True, mode="drop"),
        }

        def expanded():
            there = known["there"].astype(jnp.float32)[:, None]
            mine = at(met, told)
            near = neighbourhood(mine, at(user, told) * at(there, told), met * there, known["user"])
            return near[:, None], neighbours(told, mine, met * there)

        unchanged = at(after.private["near"], told), jnp.zeros(told.shape, jnp.int32)
        near, count = jax.lax.cond(due, expanded, lambda: unchanged)
        count = jnp.where(told < nobody, count, 0)
        private = {
            **after.private,
            "near": put(after.private["near"], told, near),
            "history": put(after.private["history"], ids, _history(met, ids, after)),
        }
        packets = asks(cohort, at(user, cohort.ids), due)
        up = jnp.where(heard, vmapped(wire.nbytes, packets)(packets), 0)
        items = at(met, cohort.ids).sum(1).astype(jnp.uint32)
        got = count.astype(jnp.uint32)
        down = 4 * user.shape[1] * got + (got * items + 7) // 8
        metrics = {**info.metrics, "neighbours": count.astype(jnp.float32)}
        info = replace(
            info, metrics=metrics, bytes_up=info.bytes_up + up, bytes_down=info.bytes_down + down
        )
        server = {"training": after.server, "known": known}
        return replace(after, private=private, server=server), info

    def packets(key, state: State, cohort: Cohort):
        after, _ = inner.round(key, alone(state), cohort)
        sent, nbytes = sends(key, state, cohort)
        user = at(after.private["user"][:, 0], cohort.ids)
        asked = asks(cohort, user, _due(after.round, every))
        sent = sent if isinstance(sent, tuple) else (sent,)
        return (*sent, asked), nbytes + vmapped(wire.nbytes, asked)(asked)

    # What clients ask is for the third party.
    opened = lambda state, messages, *args: opens(state, messages[0], *args)
    return replace(
        within, init=init, round=round, packets=packets, opened=opened if opens else None
    )


def asks(cohort: Cohort, user: jax.Array, due: jax.Array) -> Packet:
    """What clients ask the third party with, [C, ...]: pseudonyms of their items and user vectors
    float32[C, D]; nothing where no expansion is `due`."""
    store = cohort.data

    def one(id, user):
        place = jnp.arange(store.longest)
        length, start = store.sizes(id), store.start.at[id].get(mode="clip")
        item = store.items.at[start + place].get(mode="clip").astype(jnp.uint32)
        word = jnp.arange(PSEUDONYM, dtype=jnp.uint32)
        token = keys.mix(keys.mix(item)[:, None] ^ keys.mix(word))
        vector = wire.Live(user[None], jnp.reshape(due, 1))
        return Packet({"items": wire.Live(token, due & (place < length)), "user": vector})

    return vmapped(one, cohort.ids, user)(cohort.ids, user)


def neighbourhood(mine: jax.Array, own: jax.Array, met: jax.Array, vectors: jax.Array) -> jax.Array:
    """float32[C, D]: n_u, the mean over the items of `mine` float32[C, I] of the mean vector of the
    others who have them, 0 of items that nobody else has.

    met: float32[N, I] of all who are known, C among them; vectors: theirs, float32[N, D]; own:
    those of C.
    """
    others = jnp.maximum(met.sum(0) - 1, 0)
    share = jnp.where(others > 0, 1 / jnp.maximum(others, 1), 0.0)
    per_item = jnp.matmul(met.T, vectors, precision="highest") * share[:, None]
    total = jnp.matmul(mine, per_item, precision="highest") - (mine @ share)[:, None] * own
    return total / jnp.maximum(mine.sum(1), 1)[:, None]


def neighbours(ids: jax.Array, mine: jax.Array, met: jax.Array) -> jax.Array:
    """int32[C]: how many others of `met` float32[N, I] share an item with each of `mine`."""

    def one(each):
        id, row = each
        return ((met @ row > 0) & (jnp.arange(met.shape[0]) != id)).sum()

    size = min(ROWS_AT_ONCE, ids.size)
    return jax.lax.map(one, (ids, mine), batch_size=size).astype(jnp.int32)


def _due(played: jax.Array, every: int) -> jax.Array:
    """bool[]: whether graphs are expanded at the end of the round that is the `played`-th."""
    return played % every == 0


def _met(store) -> jax.Array:
    """float32[N, I]: who has which item."""
    if getattr(store, "owners", None) is not None:
        raise ValueError(
            "fedpergnn: clients hold several users; make each user a client (data.by_user)."
        )
    return holders(store)[:, 0]


def _history(met: jax.Array, ids: jax.Array, after: State) -> jax.Array:
    return at(met, ids)[:, None].astype(after.private["history"].dtype)
