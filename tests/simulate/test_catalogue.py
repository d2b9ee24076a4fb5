"""A model of another catalogue than the data's is refused before the first round."""

import jax
import pytest
from crowd import KEY

from fedjax_rec import data, evaluate, models, simulate, strategies


@pytest.mark.parametrize("items", [10, 121])
@pytest.mark.parametrize("kind", [models.fedmf, models.sasrec])
def test_a_model_of_another_number_of_items_is_refused(items, kind):
    found = data.synthetic(num_users=12, num_items=120, interactions_per_user=8)
    dataset = data.pack(data.leave_one_out()(found), evaluation_negatives=20)
    of = {models.fedmf: data.pointwise(1), models.sasrec: data.sequences(length=4)}
    model = kind(items, width=4)
    measure = simulate.aggregated(
        model, evaluate.sampled(evaluate.metrics(["hr@10"])), {"test": dataset.test}
    )
    strategy = strategies.fedavg(model, of[kind])
    with pytest.raises(ValueError, match=rf"scores {items} items and the data have 120"):
        next(simulate.simulate(strategy, dataset.store, 1, KEY, measure=measure))
    assert jax.tree.leaves(strategy.init(KEY, 12).shared)
