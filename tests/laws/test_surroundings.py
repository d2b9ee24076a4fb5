"""Laws of clients, clocks, utilities, exchanges, graphs, cohorts and protocols that ship."""

import pytest
from rotating import in_turn
from surroundings_registry import (
    CLIENTS,
    CLOCKS,
    COHORTS,
    EXCHANGES,
    FUSIONS,
    GRAPHS,
    JUDGES,
    PROTOCOLS,
    QUANTISERS,
    UTILITIES,
)

from fedjax_rec import models, testing

TABLES = [
    (testing.check_clock, CLOCKS),
    (testing.check_utility, UTILITIES),
    (testing.check_exchange, EXCHANGES),
    (testing.check_graph, GRAPHS),
    (testing.check_cohorts, COHORTS),
    (testing.check_protocol, PROTOCOLS),
    (testing.check_fusion, FUSIONS),
    (testing.check_quantiser, QUANTISERS),
]


@pytest.mark.parametrize(
    ("check", "entry"),
    [pytest.param(check, e, id=name) for check, table in TABLES for name, e in table.items()],
)
def test_what_surrounds_a_round_keeps_its_laws(check, entry):
    check(entry.make(), **entry.claims)


@pytest.mark.parametrize("name", in_turn(CLIENTS, 12))
def test_clients_keep_their_laws(name):
    entry = CLIENTS[name]
    testing.check_client(entry.make(), **entry.claims)


@pytest.mark.parametrize("name", JUDGES)
def test_judges_keep_their_laws(name, compiled_fast):
    pytest.importorskip("tokenizers")
    testing.check_judge(JUDGES[name].make())


def test_the_default_of_semantic_ids_keeps_the_laws_of_quantisers():
    testing.check_quantiser(models.Quantiser(models.residual_kmeans))
