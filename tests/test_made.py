"""What parts say of themselves, and of factories that were given where a part goes."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import pytest

from fedjax_rec import aggregate, clients, compress, data, evaluate, models, simulate, strategies
from fedjax_rec.types import Compressor, Stage

MODEL = models.fedmf(60, width=4)


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda: compress.top_k(0.1), "top_k(fraction=0.1)"),
        (lambda: compress.error_feedback(compress.top_k(0.1), rows=8),
         "error_feedback(compressor=top_k(fraction=0.1), rows=8)"),
        (lambda: compress.chain(compress.rotate(), compress.cast()),
         "chain(first=rotate(), second=cast())"),
        (lambda: compress.partition({"rows": compress.cast()}),
         "partition(rules={'rows': cast()})"),
        (aggregate.per_row, "per_row()"),
        (lambda: aggregate.median(5), "median(floor=5)"),
        (lambda: data.pointwise(2), "pointwise(negatives=2)"),
        (lambda: clients.sgd(0.1), "sgd(learning_rate=0.1)"),
        (lambda: simulate.uniform(4), "uniform(size=4)"),
        (lambda: strategies.step(0.3), "step(learning_rate=0.3)"),
        (lambda: strategies.fedmf(MODEL, data.pointwise(1), uplink=compress.top_k(0.1)),
         "fedmf(model=fedmf(num_items=60, width=4, objective=objective), "
         "examples=pointwise(negatives=1), uplink=top_k(fraction=0.1))"),
    ],
)  # fmt: skip
def test_a_part_says_what_made_it(made, told):
    assert repr(made()) == told


def halved(fraction: float = 0.5) -> Compressor:
    """A factory of somebody else's."""
    return compress.top_k(fraction / 2)


def quarter(of, fraction: float = 0.5) -> Compressor:
    """A factory of somebody else's, which takes one."""
    return of(fraction / 4)


def test_a_factory_of_a_user_may_take_a_factory():
    assert repr(quarter(compress.top_k)) == "quarter(of=top_k)"


def test_the_factory_of_a_user_counts_and_what_has_none_says_its_kind():
    assert repr(halved(0.2)) == "halved(fraction=0.2)"
    assert repr(Stage(lambda *x: x)) == "Stage(...)"
    assert repr(replace(halved(), linear=True)) == "Compressor(...)"


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda: strategies.fedmf(MODEL, data.pointwise(1), uplink=compress.top_k), "uplink=top_k"),
        (lambda: strategies.fedmf(MODEL, data.pointwise), "batches=pointwise"),
        (lambda: strategies.fedmf(models.fedmf, data.pointwise(1)), "model=fedmf"),
        (lambda: strategies.fedavg(MODEL, data.pointwise(1), aggregator=aggregate.median),
         "aggregator=median"),
        (lambda: compress.error_feedback(compress.top_k), "compressor=top_k"),
        (lambda: compress.ef21(compress.top_k), "compressor=top_k"),
        (lambda: compress.chain(compress.rotate(), compress.top_k), "second=top_k"),
        (lambda: compress.partition({"rows": compress.top_k}), "rules=top_k"),
        (lambda: strategies.gossip_sgd(MODEL, data.pointwise(1), exchange=strategies.gossip),
         "exchange=gossip"),
    ],
)  # fmt: skip
def test_forgotten_parentheses_are_named(made, told):
    with pytest.raises(TypeError) as error:
        made()
    assert f"({told}) is given a factory; call it, {told}(...)." in str(error.value)


def test_what_takes_a_factory_gets_one():
    schedule = lambda round: 0.1
    assert repr(compress.scheduled(compress.top_k, schedule)).startswith("scheduled(make=top_k")
    assert repr(clients.scheduled(clients.sgd, schedule)).startswith("scheduled(make=sgd")


def world():
    found = data.synthetic(num_users=6, num_items=60, interactions_per_user=5)
    return data.pack(data.leave_one_out()(found))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"strategy": strategies.fedmf}, "simulate(strategy=fedmf) is given a factory"),
        ({"cohorts": simulate.full}, "simulate(cohorts=full) is given a factory"),
        ({"key": 0}, "simulate(key=0) is no key; give jax.random.key(0)"),
        ({"store": world}, "give its training part, dataset.store"),
    ],
)
def test_what_was_mistaken_for_an_argument_of_simulate(changes, told):
    strategy = strategies.fedmf(MODEL, data.pointwise(1))
    given = {"strategy": strategy, "store": world().store, "rounds": 1, "key": jax.random.key(0)}
    changes = {name: x() if x is world else x for name, x in changes.items()}
    with pytest.raises(TypeError) as error:
        next(simulate.simulate(**{**given, **changes}))
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("model", "examples", "told"),
    [
        (MODEL, data.pairwise(), "pairs with objective=models.bpr()"),
        (replace(MODEL, loss=lambda s, p, b, k: jnp.ones(4) * p["user"].sum()), data.pointwise(1),
         "gives [4] of a batch and not one number; give their mean, models.masked_mean"),
    ],
)  # fmt: skip
def test_a_loss_that_is_no_number_is_named(model, examples, told):
    strategy = strategies.fedavg(model, examples)
    with pytest.raises(ValueError) as error:
        next(simulate.simulate(strategy, world().store, 1, jax.random.key(0)))
    assert told in str(error.value)


def test_a_small_catalogue_is_packed_without_the_negatives_that_nobody_asked_for():
    """138 items, and users with more than 138 - 198 of them."""
    found = data.synthetic(num_users=6, num_items=138, interactions_per_user=20)
    split = data.leave_one_out()(found)
    assert data.pack(split).test.negatives is None
    for asked in ({"evaluation_negatives": 99}, {"negatives": "symmetric"}):
        with pytest.raises(ValueError, match="takes 198 items"):
            data.pack(split, **asked)
    larger = data.synthetic(num_users=6, num_items=400, interactions_per_user=20)
    assert data.pack(data.leave_one_out()(larger)).test.negatives.shape[1] == 99
    assert repr(found).startswith("Interactions('synthetic': 6 users, ")
    with pytest.raises(TypeError, match=r"pack\(split=Interactions\) is no split"):
        data.pack(found)


def test_a_message_shows_what_is_short():
    with pytest.raises(ValueError, match=r"leave_one_out\(ties=Interactions"):
        data.leave_one_out(data.synthetic(num_users=6, num_items=60, interactions_per_user=5))
    with pytest.raises(ValueError, match="evaluation_negatives=99"):
        evaluate.sampled(evaluate.metrics(["hr@10"])).measure(
            lambda items, user: items, type("Case", (), {"negatives": None})
        )


def test_a_factory_of_a_text_makes_parts():
    """As in a notebook's `%run` or in `exec`, where a function belongs to no module."""
    space: dict = {}
    head = "from fedjax_rec import compress\nfrom fedjax_rec.types import Compressor\n\n"
    exec(head + "def own() -> Compressor:\n    return compress.top_k(0.5)\n", space)
    assert repr(space["own"]()) == "own()"
