"""A loss that counts padding is found before a run begins, and no other is."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import clients, data, models, rows, simulate, strategies
from fedjax_rec.simulate import padding
from fedjax_rec.types import Model

KEY = jax.random.key(4)


@pytest.fixture(scope="module")
def world():
    found = data.synthetic(num_users=6, num_items=40, interactions_per_user=8)
    return data.pack(data.leave_one_out()(found), evaluation_negatives=0)


def model_of(loss, zeros: bool = False) -> Model:
    """Logits q_i . p of a shared table and a private vector, which may begin as zeros."""

    def init(key, common=None):
        draw = lambda *shape: (0 if zeros else 1) * jax.random.normal(key, shape)
        return {"item": rows.Table(draw(40, 3))}, draw(3)

    def whole(shared, private, batch, key):
        logits = shared["item"][batch["items"]] @ private
        each = jnp.logaddexp(0, logits) - batch["labels"] * logits
        return loss(each, batch["mask"], key)

    return Model(init, whole)


def right(each, mask, key):
    return (mask * each).sum() / jnp.maximum(mask.sum(), 1)


def dropped(each, mask, key):
    """Noise of its own on each example."""
    return right(each * jax.random.bernoulli(key, 0.5, each.shape), mask, key)


def without_bound(each, mask, key):
    """NaN where no example counts."""
    return (mask * each).sum() / mask.sum()


def in_batch(each, mask, key):
    """Examples are each other's negatives."""
    among = jnp.where(mask > 0, each, -jnp.inf)
    return right(jax.nn.logsumexp(among) - each, mask, key)


def regularized(each, mask, key):
    return right(each, mask, key) + 3.0


def plain(each, mask, key):
    return each.mean()


def plain_dropped(each, mask, key):
    return dropped(each, jnp.ones_like(mask), key)


def by_size(each, mask, key):
    return (mask * each).mean()


def by_size_regularized(each, mask, key):
    return by_size(each, mask, key) + 3.0


def run(model, world, recipe=strategies.fedavg):
    made = recipe(model, data.pointwise(4), optimizer=clients.sgd(0.1), batch_size=8)
    return next(simulate.simulate(made, world.store, 1, KEY))


def looked(model, world, examples=None):
    examples = examples or data.pointwise(4)
    made = strategies.fedavg(model, examples, optimizer=clients.sgd(0.1), batch_size=8)
    padding.refuse_counted_padding(made, made.init(KEY, 6), world.store)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("loss", [right, dropped, without_bound, in_batch, regularized])
def test_what_leaves_padding_out_passes(loss, zeros, world):
    looked(model_of(loss, zeros), world)


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (plain, r"of 2 examples it is [\d.]+, and [\d.]+ where the padding beside them is another"),
        (plain_dropped, "where the padding beside them is another"),
        (
            by_size,
            r"of two examples it is the sum of theirs, [\d.]+ and [\d.]+, and not their mean",
        ),
        (by_size_regularized, "the sum of theirs"),
    ],
)
def test_what_counts_padding_is_named_with_its_remedy(loss, told, zeros, world):
    """One line that names the loss."""
    with pytest.raises(ValueError, match=told) as error:
        looked(model_of(loss, zeros), world)
    line = str(error.value)
    assert line.startswith(
        "model.loss (test_counted_padding.model_of.<locals>.whole) counts padding: "
    )
    assert 'divide the sum by jnp.maximum(batch["mask"].sum(), 1)' in line
    assert "\n" not in line


def test_a_run_begins_with_it_whatever_stands_around_the_model(world):
    """Of the model that the strategy trains behind a view; a right one is trained."""
    for recipe in (strategies.fedavg, strategies.scaffold, strategies.gossip_sgd):
        with pytest.raises(ValueError, match=r"whole\) counts padding"):
            run(model_of(plain), world, recipe)
    assert run(model_of(right), world).round == 1


def test_clients_of_few_examples_and_of_none_are_looked_at(world):
    """One example of one client, beside which there is padding of itself; and nobody's."""
    few = replace(world.store, length=jnp.zeros(6, jnp.int32).at[2].set(1))
    with pytest.raises(ValueError, match="counts padding"):
        looked(model_of(plain), replace(world, store=few))
    looked(model_of(right), replace(world, store=few))
    none = replace(world.store, length=jnp.zeros(6, jnp.int32))
    looked(model_of(plain), replace(world, store=none))


def test_full_batches_have_padding_too():
    """Half of a batch without padding is called so; the examples that are left are the same."""
    batch = {"items": jnp.arange(5), "mask": jnp.ones(5)}
    one, other = padding.paddings(batch)
    np.testing.assert_array_equal(one["mask"], [1, 1, 1, 0, 0])
    np.testing.assert_array_equal(one["items"], [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(other["items"], [0, 1, 2, 0, 0])
    with pytest.raises(ValueError, match="no example of the batch counts"):
        padding.paddings({"mask": jnp.zeros(2)})


def test_every_client_of_a_model_says_what_it_trains_on(world):
    """So that its run is looked at: through wrappers of clients and of strategies."""
    model, examples = models.fedmf(40, width=2), data.pointwise(2)
    plain = clients.local_training(model, examples, clients.sgd(0.1))
    assert plain.examples is examples
    assert clients.reporting(plain, ["steps"]).examples is examples
    for name in ("fedavg", "fine_tuned_fedavg", "ditto", "ifca", "mime", "selective", "fsvrg"):
        more = {"clients": 2} if name == "selective" else {}
        made = getattr(strategies, name)(model, examples, **more)
        assert made.examples is examples, name
