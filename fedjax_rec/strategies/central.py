"""Central fitting: what the same histories give when nobody keeps them to himself.

    (shared, private) = fit(all histories of the cohort, what it kept)

Nothing is sent, since everything is where it is fitted: a line of reference for every federated
number on the same split and under the same protocol, and no federated algorithm. A fit that
iterates, as `ials`, goes on in the next round; what it needs for that beside the model, as the
moments of `lightgcn`, is in `State.server`.

Dimensions: `N` clients, `C` cohort.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .. import keys, trees
from ..data import Store
from ..data.negatives import Search
from ..models import Fit, Histories
from ..rounds.cohort import SMALLER, beginning, everybody
from ..types import Cohort, Model, PyTree, RoundInfo, State, Strategy


def central(model: Model, examples=None, probe=None, *, fit: Fit) -> Strategy:
    """Fits `model` to everything that the cohort holds, in one place.

    Args:
        model: what is filled, and then scores.
        examples: taken as every strategy takes it, and not used.
        probe: likewise.
        fit: how the parameters are found, such as `models.ease()`.

    Returns:
        A strategy whose round fits once and sends no bytes. Clients outside the cohort count for
        nothing and keep what they had. Its metric `loss` is the fit's.

    Raises:
        MemoryError: in `init`, the private parts of all clients are more than a run may take.
        ValueError: in `round`, the fit fills another model, or the data are labelled examples.

    Example:
        >>> strategy = strategies.central(models.item_weights(num_items), fit=models.ease(l2=300.0))
    """

    def fresh(key, num_clients: int) -> State:
        shared = model.init(keys.stream(key, "shared"))[0]
        common = keys.stream(key, "private")
        begins = lambda id: model.init(keys.for_client(common, id), common)[1]
        private = everybody(begins, num_clients)
        return State(shared, private, (), fit.init(shared, private), jnp.int32(0))

    held = lambda state: {
        "private state": (state.private, SMALLER),
        "what the fit keeps": (state.server, SMALLER),
    }

    def round(key, state: State, cohort: Cohort, chunk: int | None = None):
        ids, store = cohort.ids, cohort.data
        there = jnp.zeros(store.num_clients, bool).at[ids].set(True, mode="drop")
        before = state.shared, state.private
        drawn = jax.random.fold_in(keys.stream(key, "fit"), state.round)
        kept, (*after, loss) = fit.solve(drawn, state.server, histories(store, there), *before)
        _check_filled(before, tuple(after))
        # Of nobody's history there is nothing to fit.
        some = (store.sizes(ids) * (ids < store.num_clients)).any()
        shared, fitted = trees.select(some, after[0], state.shared), after[1]
        kept = trees.select(some, kept, state.server)
        private = jax.tree.map(
            lambda new, old: jnp.where(trees.leading(there, new), new, old), fitted, state.private
        )
        weight = store.sizes(ids).astype(jnp.float32)
        nothing = jnp.zeros(ids.shape, jnp.uint32)
        losses = jnp.where(ids < store.num_clients, loss, 0.0)
        info = RoundInfo({"loss": losses}, weight, nothing, nothing)
        return State(shared, private, (), kept, state.round + 1), info

    return Strategy(beginning(fresh, held), round, model)


def holders(store) -> jax.Array:
    """float32[N, members, I]: 1 where somebody met an item in training.

    Raises ValueError for labelled examples, which are no user's items.
    """
    row, _ = _rows(store)
    met = jnp.zeros((store.num_clients * store.members, store.num_items))
    return met.at[row, store.items].set(1.0).reshape(store.num_clients, store.members, -1)


def histories(store, there: jax.Array | None = None) -> Histories:
    """Who met what in training, of the clients for whom `there` bool[N] holds, by default all.
    Raises ValueError for labelled examples, which are no user's items."""
    row, client = _rows(store)
    owner = client if store.owners is None else store.owners
    sizes = store.num_clients, store.members, store.num_items
    nobody = store.num_clients * store.members
    counted = row if there is None else jnp.where(there[client], row, nobody)
    order = jnp.lexsort((store.items, counted))
    users, items = counted[order], store.items[order]
    again = (users[1:] == users[:-1]) & (items[1:] == items[:-1])
    users = users.at[1:].set(jnp.where(again, nobody, users[1:]))
    late = jnp.argsort(users == nobody, stable=True)
    order, users, items = order[late], users[late], items[late]
    unmet = _unmet(users, items, nobody, store.num_items)
    return Histories(row[order], owner[order], items, users < nobody, unmet, *sizes)


def _rows(store) -> tuple[jax.Array, jax.Array]:
    """(row of the users of all clients, client), int32 of each interaction."""
    if not isinstance(store, Store):
        raise ValueError(
            f"central() fits histories, of which {type(store).__name__} has none; use a "
            "data.source of interactions."
        )
    place = jnp.arange(store.items.shape[0])
    client = jnp.searchsorted(store.start, place, side="right") - 1
    return client * store.members + (0 if store.users is None else store.users), client


def _unmet(row: jax.Array, item: jax.Array, rows: int, items: int) -> Search:
    """Draws among the items that are not listed for a row, of ordered pairs; those of row `rows`
    are none."""
    begin = jnp.searchsorted(row, jnp.arange(rows + 1)).astype(jnp.int32)
    length = begin[1:] - begin[:-1]
    gaps = item - (jnp.arange(item.size) - begin[row])
    return Search(gaps, begin[:-1], length, items - length, steps=items.bit_length())


def _check_filled(before: tuple[PyTree, PyTree], after: tuple[PyTree, PyTree]) -> None:
    """Raises ValueError where what was fitted are not the parameters of the model."""
    held, filled = (trees.named(jax.eval_shape(lambda x: x, tree)) for tree in (before, after))
    shapes = [{name: (x.shape, x.dtype) for name, x in part.items()} for part in (held, filled)]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"central(fit=...) fills {_listed(filled)} and the model holds {_listed(held)}; use "
            "the model that the fit names, with the sizes of the data."
        )


def _listed(outline: dict) -> str:
    of = {"0": "shared", "1": "private"}
    return ", ".join(f"{of[name[1]]}{name[3:]} {list(x.shape)}" for name, x in outline.items())
