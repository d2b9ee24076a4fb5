"""Laws of clients, clocks, utilities, exchanges, graphs, cohorts and protocols that ship."""

import pytest
from rotating import in_turn
from surroundings_registry import (
    CLIENTS,
    CLOCKS,
    COHORTS,
    EXCHANGES,
    GRAPHS,
    PROTOCOLS,
    UTILITIES,
)

from fedjax_rec import testing

TABLES = [
    (testing.check_clock, CLOCKS),
    (testing.check_utility, UTILITIES),
    (testing.check_exchange, EXCHANGES),
    (testing.check_graph, GRAPHS),
    (testing.check_cohorts, COHORTS),
    (testing.check_protocol, PROTOCOLS),
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
