"""Central fitting: what the same histories give when nobody keeps them to himself.

    (shared, private) = fit(all histories of the cohort)

Nothing is sent, since everything is where it is fitted: a line of reference for every federated
number on the same split and under the same protocol, and no federated algorithm. A fit that
iterates, as `ials`, goes on in the next round.

Dimensions: `N` clients, `C` cohort, `M` most users of a client, `I` items.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .. import keys, trees
from ..data import Store
from ..models import Fit
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
        return State(shared, everybody(begins, num_clients), (), {}, jnp.int32(0))

    held = lambda state: {"private state": (state.private, SMALLER)}

    def round(key, state: State, cohort: Cohort, chunk: int | None = None):
        ids, store = cohort.ids, cohort.data
        there = jnp.zeros(store.num_clients, bool).at[ids].set(True, mode="drop")
        before = state.shared, state.private
        *after, loss = fit.solve(histories(store) * there[:, None, None], *before)
        _check_filled(before, tuple(after))
        # Of nobody's history there is nothing to fit.
        some = (store.sizes(ids) * (ids < store.num_clients)).any()
        shared, fitted = trees.select(some, after[0], state.shared), after[1]
        private = jax.tree.map(
            lambda new, old: jnp.where(trees.leading(there, new), new, old), fitted, state.private
        )
        weight = store.sizes(ids).astype(jnp.float32)
        nothing = jnp.zeros(ids.shape, jnp.uint32)
        losses = jnp.where(ids < store.num_clients, loss, 0.0)
        info = RoundInfo({"loss": losses}, weight, nothing, nothing)
        return State(shared, private, (), {}, state.round + 1), info

    return Strategy(beginning(fresh, held), round, model)


def histories(store) -> jax.Array:
    """float32[N, M, I]: 1 where a user of a client met an item in training, whatever its rating,
    as in `data.pointwise`. Raises ValueError for labelled examples, which are no user's items."""
    if not isinstance(store, Store):
        raise ValueError(
            f"central() fits histories, of which {type(store).__name__} has none; use a "
            "data.source of interactions."
        )
    place = jnp.arange(store.items.shape[0])
    client = jnp.searchsorted(store.start, place, side="right") - 1
    user = 0 if store.users is None else store.users
    zeros = jnp.zeros((store.num_clients, store.members, store.num_items), jnp.float32)
    return zeros.at[client, user, store.items].set(1.0)


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
