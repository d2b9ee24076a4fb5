"""Two models side by side: each is trained as it is alone, and scores are mixed."""

import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
from worlds import KEY, USERS, compiled, named

from fedjax_rec import clients, data, models, strategies
from fedjax_rec.types import Cohort

pytestmark = pytest.mark.usefixtures("compiled_fast")

DATA = named("compact")
PARTS = {
    "first": models.fedmf(DATA.num_items, width=4, scale=0.3),
    "second": models.gmf(DATA.num_items, width=6),
}
BOTH = models.hybrid(*PARTS.values(), share=0.3)


def trained(model):
    """The state after two rounds of everybody."""
    strategy = strategies.fedavg(
        model, data.pointwise(2), optimizer=clients.sgd(0.2), batch_size=16, epochs=2
    )
    state, step = strategy.init(KEY, USERS), compiled(strategy.round)
    for _ in range(2):
        state, info = step(KEY, state, Cohort(jnp.arange(USERS), DATA.store))
    return state, info


def test_each_part_is_trained_as_it_is_alone():
    both, info = trained(BOTH)
    losses = []
    for name, part in PARTS.items():

        def begun(key, common=None, name=name):
            return tuple(tree[name] for tree in BOTH.init(key, common))

        alone, of_part = trained(replace(part, init=begun))
        losses.append(of_part.metrics["loss"])
        for mine, want in ((both.shared, alone.shared), (both.private, alone.private)):
            jax.tree.map(
                lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-5, atol=1e-6),
                mine[name],
                want,
            )
    np.testing.assert_allclose(info.metrics["loss"], sum(losses), rtol=1e-5)


def test_scores_are_mixed_and_the_ends_are_the_parts():
    shared, private = compiled(BOTH.init)(KEY)
    one, other = (
        np.asarray(part.score(shared[name], private[name], slice(None)))
        for name, part in PARTS.items()
    )
    for share in (0.0, 0.3, 1.0):
        mixed = models.hybrid(*PARTS.values(), share=share)
        got = mixed.score(shared, private, slice(None))
        np.testing.assert_allclose(got, share * one + (1 - share) * other, rtol=1e-5, atol=1e-6)


def test_what_cannot_be_mixed_is_said():
    with pytest.raises(ValueError, match=r"hybrid\(share=1\.5\)"):
        models.hybrid(*PARTS.values(), share=1.5)
    labelled = models.logistic(dense=3)
    with pytest.raises(ValueError, match=r"one has a ranking and the other has none; give two"):
        models.hybrid(PARTS["first"], labelled)
    two = models.hybrid(labelled, labelled)
    assert two.ranking is None and two.predict is not None
