"""Nothing ships outside the laws: each public factory of a room stands in the registry."""

import inspect
import typing

import pytest
import registry
import surroundings_registry as around
from compressors_registry import COMPRESSORS
from strategies_registry import STRATEGIES

from fedjax_rec import (
    aggregate,
    attacks,
    clients,
    compress,
    data,
    evaluate,
    models,
    privacy,
    simulate,
    strategies,
)
from fedjax_rec.clients import Local
from fedjax_rec.data import Batches
from fedjax_rec.models import Fit, ItemLoss
from fedjax_rec.simulate.cohorts import Cohorts
from fedjax_rec.strategies import adapters
from fedjax_rec.types import Aggregator, Client, Compressor, Model, Server, Strategy

ROOMS = [
    ((compress, adapters), Compressor, COMPRESSORS),
    ((aggregate, attacks, adapters, privacy), Aggregator, registry.AGGREGATORS | registry.PRIVATE),
    ((strategies,), Server, registry.SERVERS),
    ((clients, adapters), Local, registry.LOCAL),
    ((models,), Model, registry.MODELS | registry.FITTED),
    ((models,), Fit, registry.FITS),
    ((data, attacks), Batches, registry.BATCHES | registry.EXAMPLES),
    ((models,), ItemLoss, registry.ITEM_LOSSES),
]
# Their entries take a model, or are made by a test of their own, so that none is made here.
RECIPES = [
    ((strategies,), Strategy, STRATEGIES),
    ((clients, strategies, adapters), Client, around.CLIENTS.keys() | around.OF_THEIR_STRATEGY),
    ((strategies,), strategies.Clock, around.CLOCKS),
    ((strategies,), strategies.Utility, around.UTILITIES),
    ((strategies,), strategies.Exchange, around.EXCHANGES),
    ((strategies,), strategies.Graph, around.GRAPHS),
    ((simulate,), Cohorts, around.COHORTS),
    ((evaluate,), evaluate.Protocol, around.PROTOCOLS.keys() | around.OF_EXAMPLES),
    ((models,), models.Fusion, around.FUSIONS),
    ((models,), models.Judge, around.JUDGES),
    ((models,), models.Quantiser, around.QUANTISERS),
]


def factories(rooms, kind) -> set[str]:
    """Names of the public functions of `rooms` that return a `kind`."""
    return set().union(*(_factories(room, kind) for room in rooms))


def _factories(room, kind) -> set[str]:
    names = getattr(room, "__all__", None) or [
        name
        for name, value in vars(room).items()
        if inspect.isfunction(value) and value.__module__ == room.__name__
    ]
    found = set()
    for name in names:
        value = getattr(room, name)
        public = inspect.isfunction(value) and not name.startswith("_")
        if public and typing.get_type_hints(value).get("return") is kind:
            found.add(name)
    return found


@pytest.mark.parametrize(
    ("rooms", "kind", "table"), [*ROOMS, *RECIPES], ids=lambda x: getattr(x, "__name__", "")
)
def test_every_public_factory_is_registered(rooms, kind, table):
    registered = {name.split("(")[0] for name in table}
    shipped = factories(rooms, kind)
    assert shipped, f"no factory of {kind.__name__} is left"
    assert shipped - registered == set(), (
        f"add them to the registries in tests/laws ({kind.__name__})"
    )
    assert registered - shipped == set(), "registered, but not public any more"


def test_every_objective_is_registered():
    objectives = {
        name
        for name in models.__all__
        if inspect.isfunction(getattr(models, name))
        and typing.get_type_hints(getattr(models, name)).get("return") == models.Objective
    }
    assert objectives == {"bce", "bpr", "squared_error", "summed", "weighted"}
    for name in objectives:
        assert f"fedmf({name})" in registry.MODELS


@pytest.mark.parametrize(
    ("rooms", "kind", "table"), ROOMS, ids=lambda x: getattr(x, "__name__", "")
)
def test_entries_make_what_they_say(rooms, kind, table):
    for entry in table.values():
        make = entry[0] if isinstance(entry, tuple) else getattr(entry, "make", entry)
        made = make(12, 1) if kind is Model else make()
        assert isinstance(made, kind)
