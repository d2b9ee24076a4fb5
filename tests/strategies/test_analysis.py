"""Memory: sizes in words, budgets, XLA's account of clients that train adapters, and the chunks
that follow from it."""

import functools
from dataclasses import replace
from functools import partial

import jax
import numpy as np
import pytest
from pulling import MODEL, OPTIONS, USERS, pulling, store

from fedjax_rec import strategies
from fedjax_rec.bench import adapters as bench
from fedjax_rec.models.transformers.bert import BertSizes
from fedjax_rec.rounds import memory
from fedjax_rec.rounds import plan as analysis
from fedjax_rec.rounds.memory import allowed_bytes, bytes_of, memory_budget
from fedjax_rec.rounds.plan import peak_bytes, plan
from fedjax_rec.types import Cohort

KEY = jax.random.key(0)
# A base of 2.1 MiB; a client's adapters and activations are 1.4.
SMALL = BertSizes(vocabulary=2000, width=64, layers=8, heads=4, hidden=256, positions=32)
WORLD = bench.World(SMALL, clients=12, batch=4, tokens=16, rank=4)


@functools.cache
def account(world: bench.World):
    return bench.account(world)


def least(world: bench.World) -> int:
    return world.adapter_bytes() + world.activation_bytes()


@pytest.mark.parametrize(
    ("size", "want"),
    [(4096, 4096), ("512", 512), ("2GiB", 2**31), ("1.5 MB", 1_500_000), ("3 kib", 3072)],
)
def test_sizes_in_words(size, want):
    assert bytes_of("here", size) == want


@pytest.mark.parametrize("size", ["", "much", "2XB", "-1GiB", "0", 0, "1e9"])
def test_what_is_no_size(size):
    with pytest.raises(ValueError, match=r"here=.* is no size of memory; use one like 512MiB"):
        bytes_of("here", size)


@pytest.mark.parametrize(("processes", "want"), [(1, 8), (2, 4), (16, 1)])
def test_devices_of_other_hosts_have_memory_of_their_own(monkeypatch, processes, want):
    monkeypatch.setattr(memory.jax, "process_count", lambda: processes)
    assert memory.sharing(8) == want


def test_a_budget_holds_within_and_comes_before_the_environment(monkeypatch):
    monkeypatch.delenv(memory.VARIABLE, raising=False)
    device = allowed_bytes()
    assert device == int(0.9 * memory.device_bytes())
    monkeypatch.setenv(memory.VARIABLE, "3MiB")
    assert allowed_bytes() == 3 * 2**20
    with memory_budget("2MiB"):
        with memory_budget(None):
            assert allowed_bytes() == 2 * 2**20
        with memory_budget(100):
            assert allowed_bytes() == 100
    assert allowed_bytes() == 3 * 2**20
    monkeypatch.setenv(memory.VARIABLE, "lots")
    with pytest.raises(ValueError, match="FEDJAX_REC_MEMORY='lots' is no size"):
        allowed_bytes()


def test_a_client_takes_little_more_than_adapters_and_activations():
    """And not less, which would say that the closed form counts too much."""
    assert 1 <= account(WORLD).each / least(WORLD) <= 1.5


@pytest.mark.slow
def test_rematerialisation_keeps_what_goes_into_each_layer():
    lean = replace(WORLD, remat=True)
    assert 1 <= account(lean).each / least(lean) <= 2.5
    assert account(lean).each < 0.6 * account(WORLD).each


def test_the_base_is_there_once():
    found = account(WORLD)
    assert found.base < found.arguments < 1.2 * found.base
    # Given up to the call and taken over by what comes out of it, not copied.
    assert found.fresh < 0.1 * found.base
    # Neither does any client hold one, nor the temporaries.
    assert found.each < found.base and found.alone < 0.5 * found.base


@pytest.mark.slow
def test_temporaries_grow_by_the_same_with_every_client():
    assert bench.account(WORLD, (3, 6)).each == pytest.approx(account(WORLD).each, rel=0.05)


@pytest.mark.slow
def test_a_chunk_of_encoders_fits_its_budget():
    found = account(WORLD)
    budget = found.fixed + int(5.5 * found.each)
    chunk, peak = traced(WORLD.strategy(str(budget)), WORLD.cohort(), WORLD.clients)
    assert chunk.clients == 5 and chunk.each == found.each
    assert budget - found.each < peak <= budget


def traced(strategy, cohort, clients):
    """(the chunk that is planned, peak bytes of the round in such chunks)."""
    state = jax.eval_shape(lambda: strategy.init(KEY, clients))
    chunk = plan(strategy, KEY, state, cohort)
    call = jax.jit(partial(strategy.round, chunk=chunk.clients), donate_argnums=1)
    compiled = call.lower(KEY, state, cohort).compile(compiler_options=OPTIONS)
    return chunk, peak_bytes(compiled.memory_analysis())


def counting(monkeypatch) -> list:
    made: list = []
    real = analysis.analysed
    monkeypatch.setattr(analysis, "analysed", lambda *a: made.append(1) or real(*a))
    return made


def small(**kwargs):
    return strategies.federated(pulling(), MODEL, **kwargs), Cohort(np.arange(USERS), store())


def test_small_models_are_not_analysed(monkeypatch):
    monkeypatch.delenv(memory.VARIABLE, raising=False)
    made = counting(monkeypatch)
    for asked in (None, 4):
        chunk, _ = traced(*small(clients_per_chunk=asked), USERS)
        assert chunk == analysis.Chunk(asked or USERS)
    assert made == []


def test_chunks_follow_from_a_budget_and_fit_it(monkeypatch):
    made = counting(monkeypatch)
    strategy, cohort = small()
    with memory_budget("1GiB"):
        first, _ = traced(strategy, cohort, USERS)
    assert len(made) == 2 and first.clients == USERS and first.each > 0
    budget = first.fixed + 3 * first.each + 1
    with memory_budget(budget):
        tight, peak = traced(strategy, cohort, USERS)
    assert len(made) == 4 and tight.clients == 3
    assert budget - 2 * first.each < peak < budget + first.each


def test_a_large_base_is_analysed_without_being_asked(monkeypatch):
    monkeypatch.delenv(memory.VARIABLE, raising=False)
    made = counting(monkeypatch)
    monkeypatch.setattr(analysis, "LARGE", 16)
    chunk, _ = traced(*small(), USERS)
    assert len(made) == 2 and chunk.each is not None


@pytest.mark.slow  # that chunks change nothing is a law: tests/laws/test_rounds.py
def test_rounds_in_chunks_by_a_budget_are_those_by_number():
    strategy, cohort = small(clients_per_chunk="1GiB")
    other, _ = small(clients_per_chunk=4)
    a, b = (
        jax.jit(s.round, compiler_options=OPTIONS)(KEY, s.init(KEY, USERS), cohort)
        for s in (strategy, other)
    )
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("asked", "told"),
    [(0, r"federated\(clients_per_chunk=0\)"), ("few", r"clients_per_chunk='few' is no size")],
)
def test_what_is_neither_a_number_nor_a_budget(asked, told):
    with pytest.raises(ValueError, match=told):
        small(clients_per_chunk=asked)


def test_a_budget_below_one_client_says_what_one_takes():
    strategy, cohort = small(clients_per_chunk="1KiB")
    with pytest.raises(MemoryError, match=r"'1KiB': a round of one client at a time takes .* MiB"):
        plan(strategy, KEY, strategy.init(KEY, USERS), cohort)
