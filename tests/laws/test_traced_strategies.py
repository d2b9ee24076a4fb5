"""Numbers of strategies, clocks, graphs, utilities and aggregators may be traced.

A sweep over them is one compiled program: no branch hangs on what a number is. Each factory is
traced with all its float arguments at once; a share, another with every commit, also runs at two
values and is compared with the same numbers written in.
"""

import inspect
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rotating import in_turn
from strategies_registry import SMALL, client_of, fedmf, rate, with_layers
from worlds import KEY, USERS, named
from worlds import compiled as fast

from fedjax_rec import aggregate, clients, models, strategies
from fedjax_rec.data import pointwise
from fedjax_rec.data.store import Dataset
from fedjax_rec.types import Cohort, Model


class Numbers(NamedTuple):
    """make(model, examples, **numbers) -> Strategy, and two values of each number."""

    make: Callable
    numbers: dict[str, tuple[float, float]]
    model: Callable[[int], Model] = fedmf


def recipe(name: str, model=fedmf, others=(), **numbers) -> Numbers:
    """A recipe of that name, whose local optimizer is sgd(1) where it takes one."""
    make = getattr(strategies, name)
    local = {"optimizer": rate()} if "optimizer" in inspect.signature(make).parameters else {}
    return Numbers(partial(make, **local, **SMALL, **dict(others)), numbers, model)


def part(factory: Callable, use: Callable, **numbers) -> Numbers:
    """What use(model, examples, part) makes of a part of a strategy."""
    return Numbers(lambda m, e, **given: use(m, e, factory(**given)), numbers)


def timed(model, examples, clock):
    return strategies.fedavg(model, examples, optimizer=rate(), clock=clock, deadline=2.0, **SMALL)


def summed(model, examples, aggregator):
    client = clients.reporting(client_of(model, examples), ["steps"])
    return strategies.federated(client, model, aggregator=aggregator, clients_per_chunk=4)


def chosen(model, examples, utility):
    clock = strategies.lognormal_clock()
    return strategies.selective(
        model, examples, clients=8, utility=utility, clock=clock, optimizer=rate(), **SMALL
    )


def guided(model, examples, neighbours):
    graph = strategies.cosine_similarity()
    return strategies.graph_guided(
        client_of(models.guided(model, 0.1), examples),
        model,
        graph,
        neighbours,
        clients_per_chunk=4,
    )


BANDWIDTHS = dict(downlink=(1e5, 2e6), uplink=(1e5, 5e5), latency=(0.1, 1.0), epochs=(1.0, 2.0))
TRACED = {
    "apfl": recipe("apfl", alpha=(0.3, 0.7), alpha_rate=(0.01, 0.1)),
    "colr": recipe(
        "colr", others=dict(rank=2), user_learning_rate=(0.5, 1.0), item_learning_rate=(0.5, 1.0)
    ),
    "cofedrec": recipe(
        "cofedrec",
        lambda n: models.pfedrec(n, width=6),
        others=dict(categories=3, anchors=5, epochs=1),
        strength=(0.01, 0.1),
        temperature=(0.1, 0.5),
        base_temperature=(0.1, 0.5),
        learning_rate=(0.1, 0.5),
        item_learning_rate=(1.0, 2.0),
    ),
    "ditto": recipe("ditto", lam=(0.1, 0.5)),
    "fedasync": recipe("fedasync", others=dict(concurrency=USERS), mixing=(0.3, 0.6)),
    "fedavg": recipe(
        "fedavg", others=dict(clock=strategies.lognormal_clock()), deadline=(0.2, 2.0)
    ),
    "fedca": recipe(
        "fedca",
        others=dict(one_in=3, axes=2, epochs=1),
        alpha=(0.1, 0.5),
        beta=(0.1, 0.5),
        interpolation=(0.5, 0.9),
        learning_rate=(0.01, 0.1),
    ),
    "fellrec": recipe(
        "fellrec",
        alpha=(0.3, 0.9),
        beta=(1.0, 3.0),
        loss_temperature=(0.05, 0.5),
        temperature=(0.1, 0.5),
    ),
    "fcf": Numbers(
        partial(strategies.fcf, clients_per_chunk=4),
        dict(unobserved_weight=(0.1, 1.0), regularization=(0.01, 0.1), memory=(0.3, 0.9)),
    ),
    "fedprox(rates)": Numbers(
        partial(strategies.fedprox, **SMALL),
        dict(user_learning_rate=(0.5, 1.0), item_learning_rate=(0.5, 1.0)),
    ),
    "feddyn": recipe("feddyn", alpha=(0.1, 0.5)),
    "f2mf": recipe(
        "f2mf",
        user_learning_rate=(0.5, 1.0),
        item_learning_rate=(0.5, 1.0),
        lam=(0.1, 0.5),
        rho=(1.0, 2.0),
        active_above=(8.0, 9.0),
        noise=(0.01, 0.1),
    ),
    "fedfast": recipe(
        "fedfast",
        others=dict(clients=8, clusters=3),
        user_learning_rate=(0.5, 1.0),
        item_learning_rate=(0.5, 1.0),
        discount=(0.3, 1.0),
        decay=(0.5, 0.9),
    ),
    "fedmf": recipe("fedmf", user_learning_rate=(0.5, 1.0), item_learning_rate=(0.5, 1.0)),
    "fedncf": recipe(
        "fedncf",
        with_layers,
        user_learning_rate=(0.5, 1.0),
        item_learning_rate=(0.5, 1.0),
        layer_learning_rate=(0.05, 0.1),
    ),
    "fedpergnn": recipe(
        "fedpergnn",
        lambda n: models.fedpergnn(n, width=6),
        others=dict(every=1),
        user_learning_rate=(0.5, 1.0),
        item_learning_rate=(0.5, 1.0),
    ),
    "hetefedrec": recipe(
        "hetefedrec",
        lambda n: models.hetefedrec(n, widths=(3, 6), decorrelation=0.1),
        others=dict(up_to=(10,), distilled=5),
        user_learning_rate=(0.5, 1.0),
        item_learning_rate=(0.5, 1.0),
        distillation_rate=(0.01, 0.1),
    ),
    "ifedrec": recipe(
        "ifedrec",
        lambda n: models.ifedrec(n, 1, 6, (5,), item_features=np.eye(n, 4)),
        others=dict(network_steps=2),
        user_learning_rate=(0.5, 1.0),
        item_learning_rate=(0.5, 1.0),
        network_learning_rate=(0.001, 0.05),
    ),
    "fedprox": recipe("fedprox", mu=(0.1, 1.0)),
    "fetch_sgd": recipe(
        "fetch_sgd",
        others=dict(keep=150, columns=100),
        momentum=(0.0, 0.5),
        learning_rate=(0.2, 0.5),
    ),
    "guarded": recipe(
        "guarded", others=dict(popular=3, rounds=1), alignment=(0.1, 1.0), separation=(0.1, 1.0)
    ),
    "kept_apart": recipe("kept_apart", others=dict(negatives=3), weight=(0.1, 1.0)),
    "gpfedrec": recipe(
        "gpfedrec",
        lambda n: models.gpfedrec(n, width=6),
        strength=(0.1, 1.0),
        learning_rate=(0.1, 0.5),
        user_learning_rate=(0.5, 1.0),
        item_learning_rate=(1.0, 2.0),
    ),
    "mime": recipe("mime", beta=(0.0, 0.5)),
    "mime_lite": recipe("mime_lite", beta=(0.0, 0.5)),
    "per_fedavg": recipe("per_fedavg", alpha=(0.1, 0.3), delta=(1e-3, 1e-2)),
    "pfedme": recipe("pfedme", lam=(5.0, 15.0), beta=(0.5, 1.0)),
    "pfedrec": recipe(
        "pfedrec",
        lambda n: models.pfedrec(n, width=6),
        learning_rate=(0.1, 0.5),
        item_learning_rate=(1.0, 2.0),
    ),
    "reptile": recipe("reptile", epsilon=(0.5, 1.0)),
    "above_mean": part(strategies.above_mean, guided, multiple=(0.5, 1.5)),
    "lognormal_clock": part(
        strategies.lognormal_clock,
        timed,
        speed=(500.0, 1000.0),
        spread=(0.5, 1.0),
        bandwidth_spread=(0.5, 1.0),
        jitter=(0.1, 0.3),
        **BANDWIDTHS,
    ),
    "traced_clock": part(
        strategies.traced_clock, timed, speed=(500.0, 1000.0), jitter=(0.1, 0.3), **BANDWIDTHS
    ),
    "oort": part(
        strategies.oort,
        chosen,
        preferred_seconds=(0.5, 2.0),
        alpha=(1.0, 2.0),
        explore=(0.9, 0.5),
        decay=(0.98, 0.5),
        explore_least=(0.2, 0.1),
    ),
    **{
        f"{name}({number})": part(getattr(aggregate, name), summed, **{number: values})
        for name in ("normalized", "normalized_per_row")
        for number, values in dict(momentum=(0.1, 0.9), proximal=(0.1, 0.5)).items()
    },
}
# Each is given the number of the recipe of another name.
PASSED_ON = {
    "attributing": ("ifedrec", {"learning_rate": "network_learning_rate"}),
    "apfl_client": ("apfl", {}),
    "ditto_client": ("ditto", {}),
    "dynamic": ("feddyn", {}),
    "maml": ("per_fedavg", {}),
    "pfedme_client": ("pfedme", {}),
    "propagating": ("fedfast", {}),
    "proximal": ("fedprox", {}),
    "federated": ("fedavg", {}),
}
# Whose number is decided on the host: of a graph, a shape, and a schedule or rule of others.
STATIC = {
    "erdos_renyi": {"probability"},
    "fed_sb": {"scale"},
    "federated_dropout": {"fraction"},
    "prune_fl": {"fraction"},
    "pruning": {"fraction"},
    "ptf_fedrec": {"swap", "confident"},
    "submodel": {"fraction"},
}
# Factories of local optimizers and servers, which `test_traced.py` holds, and of robust rules, of
# which `test_robust_rounds.py` does.
ELSEWHERE = {
    "centered_clip", "dnc", "foolsgold", "geometric_median", "hics", "norm_bound", "quorum",
    "row_norm_bound", "union",
    "annealed_sgd", "fed_adagrad", "fed_adam", "fed_avg_m", "fed_lion", "fed_yogi", "fedrap",
    "step", "stochastic_step",
}  # fmt: skip


# Of recipes that take an optimizer as well, in whose place `clients.rates` puts them for all alike.
RATES = {"user_learning_rate", "item_learning_rate"}


def floats(factory) -> set[str]:
    """The arguments of a factory that are floats, or floats or something else."""
    given = inspect.signature(factory).parameters
    found = {
        p for p, x in given.items() if "float" in str(x.annotation).replace(" ", "").split("|")
    }
    return found - RATES if "optimizer" in given else found


def test_every_float_argument_is_traced_or_said_to_be_static():
    for room in (strategies, aggregate):
        for name in room.__all__:
            factory = getattr(room, name)
            if not inspect.isfunction(factory) or name in ELSEWHERE or not floats(factory):
                continue
            if name in STATIC:
                assert floats(factory) == STATIC[name], name
                continue
            of, renamed = PASSED_ON.get(name, (name, {}))
            held = [x for key, x in TRACED.items() if key.split("(")[0] == of]
            numbers = {number for x in held for number in x.numbers}
            assert {renamed.get(x, x) for x in floats(factory)} <= numbers, name


def outcome(name: str, data: Dataset, numbers: dict, rounds: int = 1):
    """What `rounds` rounds lead to: the model, private parts and what was measured."""
    entry = TRACED[name]
    strategy = entry.make(entry.model(40), pointwise(4), **numbers)
    state = strategy.init(KEY, data.num_clients)
    cohort = Cohort(jnp.arange(data.num_clients), data.store)
    for _ in range(rounds):
        state, info = strategy.round(KEY, state, cohort)
    return state.shared, state.private, info.metrics, info.weight


@pytest.mark.parametrize("name", TRACED)
def test_no_branch_hangs_on_a_number(name):
    data = named("whole")
    numbers = {number: jnp.float32(first) for number, (first, _) in TRACED[name].numbers.items()}
    jax.eval_shape(lambda numbers: outcome(name, data, numbers), numbers)


@pytest.mark.parametrize("name", in_turn(TRACED, 24))
def test_traced_numbers_are_numbers_and_compile_once(name):
    data = named("whole")

    @chex.assert_max_traces(n=1)
    def run(numbers):
        return outcome(name, data, numbers, 2)

    chex.clear_trace_counter()
    traced, outcomes = fast(run), []
    for i in range(2):
        numbers = {number: pair[i] for number, pair in TRACED[name].numbers.items()}
        outcomes.append(traced({k: jnp.float32(v) for k, v in numbers.items()}))
        plain = fast(lambda numbers=numbers: outcome(name, data, numbers, 2))()
        chex.assert_trees_all_equal_shapes_and_dtypes(outcomes[-1], plain)
        chex.assert_trees_all_close(outcomes[-1], plain, rtol=1e-4, atol=1e-5)
    pairs = zip(*map(jax.tree.leaves, outcomes), strict=True)
    assert any(float(jnp.abs(a.astype(float) - b).max()) > 1e-6 for a, b in pairs)
