"""The audit of a mechanism: its bound against closed forms, another library and planted faults."""

import math

import jax
import pytest

from fedjax_rec import leaks, privacy

COUNT, DELTA = 40_000, 1e-6


def test_without_delta_the_bound_is_that_of_the_binomial():
    """All of r guesses right: q^r = level, q = 1 / (1 + e^-epsilon)."""
    for r in (5, 100, 1000):
        q = 0.05 ** (1 / r)
        assert abs(leaks.epsilon_below(2000, r, r, 0.0, 0.05) - math.log(q / (1 - q))) < 1e-6
    assert leaks.epsilon_below(100, 100, 50, 0.0, 0.05) == 0.0
    assert leaks.unlikely(10, 4, 4, 0.0, 0.0) == 1 / 16


@pytest.mark.parametrize(
    ("canaries", "guesses", "right", "epsilon", "delta", "told"),
    [
        (1000, 100, 95, 1.0, 1e-5, 0.0006639144683528),
        (1000, 1000, 700, 0.5, 1e-5, 0.0001867555867981),
        (10_000, 400, 390, 2.0, 1e-5, 0.0039669389),
        (200, 50, 50, 3.0, 0.0, 0.0880925265607908),
    ],
)
def test_probabilities_are_those_of_jax_privacy(canaries, guesses, right, epsilon, delta, told):
    """jax_privacy 2.0.0, `auditing._one_run_p_value`, run apart."""
    found = leaks.unlikely(canaries, guesses, right, epsilon, delta)
    assert abs(found / told - 1) < 1e-6


def bounds(noise_multiplier: float) -> list[float]:
    """Of 20 runs of a mechanism with that much noise."""
    mechanism = privacy.gaussian_mean(privacy.whole(1.0), noise_multiplier, COUNT)
    return [
        leaks.canaries(mechanism, 1.0, jax.random.key(i), COUNT, 600, DELTA).epsilon
        for i in range(20)
    ]


def test_what_is_measured_stays_under_what_is_accounted_and_a_fault_is_found():
    """20 of 20 runs are under; with half of the noise that is accounted for 20 of 20 are above."""
    accounted = privacy.epsilon_of(2.0, 1, privacy.poisson_sampled(1.0, COUNT), DELTA)
    assert 2.2 < accounted < 2.3
    honest, faulty = bounds(2.0), bounds(1.0)
    assert max(honest) < accounted and min(honest) > 0.9
    assert min(faulty) > accounted


def test_numbers_out_of_range_are_told():
    for wrong, told in (
        (lambda: leaks.epsilon_below(10, 5, 6, 0.0, 0.05), "guesses=5"),
        (lambda: leaks.epsilon_below(10, 11, 6, 0.0, 0.05), "canaries=10"),
        (lambda: leaks.epsilon_below(10, 5, 5, 0.0, 1.0), "level=1"),
    ):
        with pytest.raises(ValueError, match=told):
            wrong()
