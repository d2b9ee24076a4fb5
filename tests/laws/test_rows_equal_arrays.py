"""A table of rows is the array: every strategy against itself on a model with plain arrays.

The array is copied, trained and uploaded whole by every client, over a hundred rounds of half of
the clients. What differs shows a term that moves every row at the server, or averages to zero over
all clients, and meets clients that hold some rows only: these are listed, so that the list must
shrink when one of them is mended.

The strategies take turns, see `rotating`.
"""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rotating import marks
from strategies_registry import STRATEGIES, fedmf
from worlds import KEY, USERS, compiled, named

from fedjax_rec import aggregate, rows
from fedjax_rec.data import pointwise
from fedjax_rec.types import Cohort, Model

ROUNDS = 100
# With the reason of each: what acts on rows that a client does not hold.
UNLIKE = {
    "fedavg_keeping(momentum)": "a row's momentum waits until its client touches it again",
}
# Whose parts are not defined on whole arrays, or take what only rows have.
APART = {"pfedme()", "ptf_fedrec()", "power_sgd(2)", "fetch_sgd()", "kept_apart(0.01)"}
# Who is done first depends on the bytes, which whole arrays have more of.
APART |= {"over_selection(8)", "over_selected(8)"}


def comparable() -> list[str]:
    """Strategies of a plain matrix factorization that take an aggregator."""
    return [
        name for name, r in STRATEGIES.items()
        if r.model is fedmf and "aggregator" in r.takes and name not in APART
    ]  # fmt: skip


def as_array(model: Model) -> Model:
    def init(key, common=None):
        shared, private = model.init(key, common)
        return rows.dense(shared), private

    return replace(model, init=init)


def after(name: str, model: Model, data) -> dict:
    strategy = STRATEGIES[name].make(model, pointwise(4), aggregator=aggregate.mean())
    state, step = strategy.init(KEY, USERS), compiled(strategy.round)
    draw = np.random.default_rng(1)
    for _ in range(ROUNDS):
        ids = draw.permutation(USERS)
        ids[USERS // 2 :] = USERS
        state, _ = step(KEY, state, Cohort(jnp.asarray(ids, jnp.int32), data.store))
    return {
        "shared": [np.asarray(x) for x in jax.tree.leaves(rows.dense(state.shared))],
        "users": np.asarray(jax.tree.leaves(state.private)[-1]),
    }


@pytest.mark.parametrize("name", [pytest.param(n, marks=marks(n, 24)) for n in comparable()])
def test_rows_are_the_array(name):
    data = named("compact")
    model = fedmf(data.num_items)
    touched, whole = (after(name, m, data) for m in (model, as_array(model)))
    near = [
        np.allclose(a, b, rtol=1e-4, atol=1e-5)
        for a, b in zip(touched["shared"], whole["shared"], strict=True)
    ]
    assert all(near) == (name not in UNLIKE), f"{name}: {UNLIKE.get(name, 'differs')}"
