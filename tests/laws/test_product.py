"""Every family of models under every strategy and every kind of measurement.

A pair trains, what is measured moves with what is trained, and a run goes on to the same bits; or
it is refused in one line, before anything is written. Pairs are traced: a part that drops what it
does not know (a history, a catalogue, predictions) fails there; fewer are run. They take turns, see
`rotating`.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapted import adapted
from compiling import fast
from rotating import marks
from strategies_registry import STRATEGIES
from worlds import KEY, clicks, same, world

from fedjax_rec import data, evaluate, models, simulate
from fedjax_rec.types import Cohort, Model, Strategy

USERS, ITEMS, LENGTH = 9, 60, 4
ENGINES = {"federated", "selecting", "over_selection", "graph_guided", "asynchronous"}
ENGINES |= {"decentralized", "power_sgd", "propagating", "from_clusters"}


@dataclass(frozen=True)
class Family:
    """make(items) -> Model; examples: what it trains on; store: "items" or "clicks".
    measures: of those below that it can be measured by."""

    make: Callable[[int], Model]
    examples: Callable
    store: str = "items"
    measures: tuple[str, ...] = ("aggregated", "personal")


FAMILIES = {
    "rows and a private vector": Family(
        lambda n: models.fedmf(n, width=4, scale=0.3), lambda: data.pointwise(4)
    ),
    # Half of it is a network still; of four units and two, pruned, nothing is left to rank by.
    "layers": Family(lambda n: models.mlp(n, width=4, layers=(8, 4)), lambda: data.pointwise(4)),
    "history": Family(
        lambda n: models.sasrec(n, width=4, length=LENGTH, layers=1, dropout=0.0),
        lambda: data.sequences(LENGTH, 3),
    ),
    "catalogue and adapters": Family(adapted, lambda: data.pointwise(4)),
    "predictions": Family(
        lambda n: models.dlrm(n, sparse=5, dense=3, width=4, bottom=(4,), top=(4,)),
        lambda: data.examples(),
        "clicks",
        ("on_examples",),
    ),
}


@functools.cache
def packed():
    return world(USERS, ITEMS, 6, history=LENGTH)


def pairs():
    for name in STRATEGIES:
        for family, known in FAMILIES.items():
            for measure in known.measures:
                if measure != "personal" or takes_probe(name):
                    yield name, family, measure


def takes_probe(name: str) -> bool:
    """Whether the entry can look at clients' own models: engines get clients that are made."""
    kinds = [p.kind for p in inspect.signature(STRATEGIES[name].make).parameters.values()]
    engine = name.split("(")[0] in ENGINES
    return inspect.Parameter.VAR_KEYWORD in kinds and not engine


def assembled(name: str, family: str, measure: str) -> tuple[Strategy, object, simulate.Measure]:
    """(strategy, store, measure) of a pair. Raises ValueError where it is refused."""
    recipe, known = STRATEGIES[name], FAMILIES[family]
    dataset = packed() if known.store == "items" else clicks()
    model = known.make(dataset.num_items)
    if recipe.model.__name__ == "prunable":
        model = models.prunable(model)
    protocol = evaluate.full_catalogue(evaluate.metrics(["ndcg@30"]), dataset.num_items)
    parts = {"test": dataset.test}
    more = {}
    if measure == "personal":
        more["probe"] = evaluate.probe_clients(protocol, parts)
    strategy = recipe.make(model, known.examples(), **more)
    if measure == "on_examples":
        return strategy, dataset.store, simulate.on_examples(strategy.model, parts)
    if measure == "personal":
        return strategy, dataset.store, simulate.personal(protocol, parts)
    return strategy, dataset.store, simulate.aggregated(strategy.model, protocol, parts)


def traced(strategy: Strategy, store, measure: simulate.Measure) -> None:
    """A round and a measurement, by their shapes."""
    state = jax.eval_shape(lambda: strategy.init(KEY, store.num_clients))
    ids = jnp.arange(store.num_clients)

    def one(key, state, store):
        after, info = strategy.round(key, state, Cohort(ids, store))
        return after, measure.values(after, info, ids)

    after, (of_users, over_all) = jax.eval_shape(one, KEY, state, store)
    assert jax.tree.structure(after) == jax.tree.structure(state)
    for x, y in zip(jax.tree.leaves(after), jax.tree.leaves(state), strict=True):
        assert (x.shape, x.dtype) == (y.shape, y.dtype)
    assert set(of_users) == set(over_all) == {"test"}


def refusal(error: ValueError) -> str:
    """The one line of a refusal, which says what to do."""
    said = str(error).split("\n---")[0].strip()
    assert "\n" not in said and "; " in said, f"no refusal in one line: {error!r}"
    return said


@pytest.mark.parametrize(
    ("name", "family", "measure"),
    [pytest.param(*pair, marks=marks("traced/" + "/".join(pair), 12)) for pair in pairs()],
)
def test_every_pair_is_traced_or_refused_in_one_line(name, family, measure):
    try:
        traced(*assembled(name, family, measure))
    except ValueError as error:
        assert refusal(error)


@pytest.mark.parametrize(
    ("name", "family", "measure"),
    [pytest.param(*pair, marks=marks("/".join(pair), 60)) for pair in pairs()],
)
def test_pairs_train_are_measured_and_resume(name, family, measure):
    try:
        strategy, store, measured = assembled(name, family, measure)
        traced(strategy, store, measured)
    except ValueError as error:
        assert refusal(error)
        return
    rounds = STRATEGIES[name].rounds
    parts = simulate.Parts(strategy, measure=measured)
    played = functools.partial(
        simulate.simulate, strategy, store, rounds, KEY, measure=measured, every=rounds // 2,
        calls=simulate.program(lambda _: parts).of(KEY),
    )  # fmt: skip
    with fast():
        run = played()
        first = next(run)
        begun = jax.tree.map(jnp.copy, first.state)
        (*_, last) = run
        (*_, rest) = played(state=begun)
    same(rest.state, last.state)
    assert rest.metrics | {"seconds": 0} == last.metrics | {"seconds": 0}
    moved = np.nan_to_num(first.values["test"]) != np.nan_to_num(last.values["test"])
    assert last.metrics["loss"] != first.metrics["loss"] and moved.any()
