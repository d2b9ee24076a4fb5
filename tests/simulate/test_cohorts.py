"""Every sampler draws distinct clients, reproducibly and inside jit; each what it says."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec.simulate import cohorts

N = 12
TRACE = [[1.0] * 6 + [0.0] * 6, [0.0] * 6 + [1.0] * 6]
SAMPLERS = {
    "full": lambda: cohorts.full(),
    "uniform": lambda: cohorts.uniform(5),
    "uniform of all": lambda: cohorts.uniform(N),
    "fixed": lambda: cohorts.fixed([7, 0, 3]),
    "in turns": lambda: cohorts.in_turns(5, seed=2),
    "poisson": lambda: cohorts.poisson(0.3),
    "poisson, few places": lambda: cohorts.poisson(0.9, largest=4),
    "available": lambda: cohorts.available([0.5] * N, 6),
    "available by trace": lambda: cohorts.available(TRACE, 4),
    "dropout": lambda: cohorts.dropout(cohorts.uniform(5), 0.4),
    "dropout of available": lambda: cohorts.dropout(cohorts.available(TRACE, 4), 0.4),
}


@functools.cache
def drawn(name: str, rounds: int = 400) -> np.ndarray:
    """int32[rounds, C], jitted, a key a round."""
    made = SAMPLERS[name]()
    numbers = jnp.arange(rounds)
    keys = jax.vmap(lambda r: jax.random.fold_in(jax.random.key(3), r))(numbers)
    return np.asarray(jax.jit(jax.vmap(lambda k, r: made.draw(k, r, N)))(keys, numbers))


def frequency(ids: np.ndarray) -> np.ndarray:
    """How often each client was drawn, per round."""
    return np.bincount(ids.reshape(-1), minlength=N + 1)[:N] / len(ids)


@pytest.mark.parametrize("name", SAMPLERS)
def test_ids_are_clients_or_empty_places_and_distinct(name):
    ids = drawn(name)
    assert ids.dtype == np.int32 and ids.shape[1] == SAMPLERS[name]().size(N)
    assert ids.min() >= 0 and ids.max() <= N
    for row in ids:
        real = row[row < N]
        assert len(set(real)) == len(real)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_same_key_and_round_draw_the_same_with_and_without_jit(name):
    made = SAMPLERS[name]()
    key = jax.random.fold_in(jax.random.key(3), 9)
    for _ in range(2):
        np.testing.assert_array_equal(made.draw(key, jnp.int32(9), N), drawn(name)[9])


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - {"full", "fixed"}))
def test_other_rounds_draw_others(name):
    assert len(np.unique(np.sort(drawn(name), 1), axis=0)) > 1 or name == "uniform of all"


def test_full_is_everyone_and_fixed_the_given():
    assert (drawn("full") == np.arange(N)).all()
    assert (drawn("fixed") == [7, 0, 3]).all()


@pytest.mark.parametrize(("n", "size"), [(12, 5), (13, 4), (12, 6), (7, 7), (100, 33)])
def test_in_turns_comes_round_in_one_order_and_deals_evenly(n, size):
    made = cohorts.in_turns(size, seed=4)
    period = -(-n // size)
    ids = [np.asarray(made.draw(jax.random.key(r), jnp.int32(r), n)) for r in range(2 * period)]
    for first, again in zip(ids[:period], ids[period:], strict=True):
        np.testing.assert_array_equal(first, again)
    real = [row[row < n] for row in ids[:period]]
    assert sorted(np.concatenate(real)) == list(range(n))
    counts = [len(row) for row in real]
    assert max(counts) - min(counts) <= 1 and made.size(n) == max(counts) <= size
    assert made.sampling is not None
    told = made.sampling(n)
    assert told.apart == period and told.ordered and told.expected == n / period
    other = np.asarray(cohorts.in_turns(size, seed=5).draw(jax.random.key(0), jnp.int32(0), n))
    assert size == n or sorted(other) != sorted(ids[0])


def test_uniform_draws_each_client_equally_often():
    assert (drawn("uniform") < N).all()
    # 400 rounds of 5 in 12: five standard deviations.
    assert np.abs(frequency(drawn("uniform")) - 5 / 12).max() < 5 * np.sqrt(5 / 12 * 7 / 12 / 400)


def test_poisson_has_the_rate_and_keeps_to_its_places():
    sizes = (drawn("poisson") < N).sum(1)
    assert abs(sizes.mean() - 0.3 * N) < 5 * np.sqrt(N * 0.3 * 0.7 / 400)
    assert 0.5 < sizes.var() / (N * 0.3 * 0.7) < 1.5
    few = drawn("poisson, few places")
    assert ((few < N).sum(1) == 4).mean() > 0.95
    # Who is left out is chosen uniformly.
    assert np.abs(frequency(few) - 4 / 12).max() < 0.12
    assert cohorts.poisson(1.0).size(N) == N and cohorts.poisson(1e-9).size(N) == 2
    assert cohorts.poisson(0.01).size(1_000_000) == 10_000 + 597 + 1


def test_available_replays_a_trace_and_never_picks_an_absent_client():
    ids = drawn("available by trace")
    for r, row in enumerate(ids):
        assert len(row[row < N]) == 4
        assert ((row < 6) if r % 2 == 0 else (row >= 6)).all()
    assert np.abs(frequency(ids) - 4 / 12).max() < 0.13


def test_available_leaves_places_empty_where_too_few_are_there():
    made = cohorts.available([1.0, 1.0] + [0.0] * (N - 2), 5)
    ids = np.asarray(made.draw(jax.random.key(0), jnp.int32(0), N))
    assert sorted(ids) == [0, 1, N, N, N]


def test_dropout_fails_at_its_rate():
    missing = (drawn("dropout") == N).mean()
    assert abs(missing - 0.4) < 5 * np.sqrt(0.4 * 0.6 / 2000)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: cohorts.uniform(0), "uniform(size=0)"),
        (lambda: cohorts.uniform(13).size(N), "use size <= 12"),
        (lambda: cohorts.uniform(13).draw(jax.random.key(0), 0, N), "use size <= 12"),
        (lambda: cohorts.fixed([]), "at least one"),
        (lambda: cohorts.in_turns(0), "in_turns(size=0)"),
        (lambda: cohorts.in_turns(13).size(N), "use size <= 12"),
        (lambda: cohorts.in_turns(1).sampling(N), "use clients >= 24"),
        (lambda: cohorts.in_turns(3, seed=-1), "in_turns(seed=-1)"),
        (lambda: cohorts.fixed([1, 1]), "distinct"),
        (lambda: cohorts.fixed([12]).size(N), "outside 0..11"),
        (lambda: cohorts.fixed([-1]).size(N), "outside 0..11"),
        (lambda: cohorts.poisson(1.1), "poisson(rate=1.1)"),
        (lambda: cohorts.poisson(0.0), "poisson(rate=0.0) must be positive"),
        (lambda: cohorts.dropout(cohorts.full(), 1.0), "dropout(rate=1.0) is too large"),
        (lambda: cohorts.poisson(0.5, largest=0), "poisson(largest=0)"),
        (lambda: cohorts.available([0.5] * 3, 2).size(N), "describes 3 clients and there are 12"),
        (lambda: cohorts.available([1.5], 1), "between 0 and 1"),
        (lambda: cohorts.available([[0.5, float("nan")]], 1), "between 0 and 1"),
        (lambda: cohorts.available([0.5] * N, 13).size(N), "use size <= 12"),
        (lambda: cohorts.dropout(cohorts.full(), -0.1), "dropout(rate=-0.1)"),
    ],
)
def test_errors_are_one_line_with_the_remedy(make, told):
    with pytest.raises(ValueError) as error:
        make()
    assert told in str(error.value) and "\n" not in str(error.value)
