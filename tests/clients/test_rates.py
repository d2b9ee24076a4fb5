"""The two rates that recipes take in place of an optimizer."""

import jax
import jax.numpy as jnp
import pytest

from fedjax_rec import clients, data, models, strategies
from fedjax_rec.clients.rates import rated
from fedjax_rec.types import Model, Now

MODEL = models.fedmf(5, width=2)


def test_no_rate_is_the_optimizer_or_its_default():
    given = clients.sgd(2.0)
    assert rated(MODEL, given, None, None) is given
    assert rated(MODEL, None, None, None).rate("shared/item", None) == 0.1


@pytest.mark.parametrize(
    ("user", "item", "of"),
    [(20.0, 60.0, (20.0, 60.0)), (20.0, None, (20.0, 0.1)), (None, 60.0, (0.1, 60.0))],
)
def test_rates_are_those_of_their_parts(user, item, of):
    local = rated(MODEL, None, user, item)
    now = Now(jnp.int32(0), ())
    assert (local.rate("private/user", now), local.rate("shared/item", now)) == of


def test_a_model_that_keeps_nothing_takes_a_rate_of_what_is_shared():
    bare = Model(lambda key, common=None: ({"item": jnp.zeros(3)}, {}), lambda *_: jnp.zeros(()))
    local = rated(bare, None, None, 5.0)
    assert local.init({"shared": {"item": jnp.zeros(3)}, "private": {}}, None).keys() == {"shared"}


def test_an_optimizer_beside_rates_is_refused():
    with pytest.raises(ValueError, match=r"optimizer and item_learning_rate=2\.0 are both given"):
        strategies.fedavg(
            MODEL, data.pointwise(1), optimizer=clients.sgd(1.0), item_learning_rate=2.0
        )


def test_recipes_of_one_family_train_at_the_same_rates():
    """FedProx without its pull is FedMF, whose item rows it averages, at FedMF's rates."""
    from fedjax_rec import aggregate, simulate

    found = data.synthetic(num_users=6, num_items=20, interactions_per_user=5)
    store = data.pack(data.leave_one_out()(found), evaluation_negatives=0).store
    rates = {"user_learning_rate": 20.0, "item_learning_rate": 60.0}
    model, examples = models.fedmf(20, width=2), data.pointwise(1)
    ours = strategies.fedprox(model, examples, mu=0.0, aggregator=aggregate.per_row(), **rates)
    losses = []
    for strategy in (ours, strategies.fedmf(model, examples, **rates)):
        steps = simulate.simulate(strategy, store, 2, jax.random.key(0))
        losses.append([step.metrics["loss"] for step in steps])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
