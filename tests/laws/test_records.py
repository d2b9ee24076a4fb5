"""Records of a round have the types and shapes that their annotations say.

Records stand for outlines and for axes of `vmap` too, so they are not checked wherever one is made,
but here, on those of a round, in and outside of the trace.
"""

from dataclasses import fields, replace
from typing import get_type_hints

import jax
import jax.numpy as jnp
import pytest
from beartype.door import is_bearable
from jaxtyping import jaxtyped
from worlds import KEY, federated, named

from fedjax_rec import aggregate, models
from fedjax_rec.types import Cohort, Now, RoundInfo, State, Upload


def wrong(record) -> list[str]:
    """The fields that are not as annotated; one letter is one size in all of them."""
    hints = get_type_hints(type(record))
    with jaxtyped("context"):
        return [
            field.name
            for field in fields(record)
            if not is_bearable(getattr(record, field.name), hints[field.name])
        ]


@pytest.fixture(scope="module")
def seen():
    """The records of one round, by type; those inside the trace as it has them."""
    seen = {}
    data = named("whole")
    inner = aggregate.mean()

    def reduce(state, uploads, now):
        seen[Upload], seen[Now] = wrong(uploads), wrong(now)
        return inner.reduce(state, uploads, now)

    strategy = federated(
        data, models.fedmf(data.num_items, width=3), aggregator=replace(inner, reduce=reduce)
    )
    state = jax.eval_shape(lambda: strategy.init(KEY, data.num_clients))
    cohort = Cohort(jnp.arange(data.num_clients, dtype=jnp.int32), data.store)
    outlines = jax.eval_shape(strategy.round, KEY, state, cohort)
    return {**seen, Cohort: wrong(cohort), **{type(x): wrong(x) for x in outlines}}


@pytest.mark.parametrize("kind", [Cohort, Now, RoundInfo, State, Upload])
def test_records_of_a_round_are_as_annotated(seen, kind):
    assert seen[kind] == []


def test_a_wrong_record_is_told():
    n = 4
    right = RoundInfo({}, jnp.ones(n), *(jnp.zeros(n, jnp.uint32),) * 2)
    assert wrong(right) == []
    assert wrong(replace(right, bytes_up=jnp.zeros(n, jnp.int32))) == ["bytes_up"]
    assert wrong(replace(right, verdicts=jnp.ones(n + 1))) == ["verdicts"]
    assert wrong(replace(right, weight=jnp.ones((n, 2)))) == ["weight"]
    assert wrong(Cohort(jnp.zeros(3), ())) == ["ids"]
