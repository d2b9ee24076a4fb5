"""Guarantees against pinned values of dp_accounting and jax_privacy, and against closed forms."""

import math

import numpy as np
import pytest

from fedjax_rec import privacy

pytest.importorskip("dp_accounting", reason="pip install 'fedjax-rec[privacy]'")
N = 6040  # the users of MovieLens-1M
DELTA = N**-1.1
HUNDRED = privacy.poisson_sampled(100 / N, N)


@pytest.mark.parametrize(
    ("z", "delta", "epsilon"),
    [(1.0, DELTA, 1.261), (0.5, 1e-5, 10.700), (0.8, 1e-5, 2.764), (1.0, 1e-5, 1.528),
     (2.0, 1e-5, 0.4665)],
)  # fmt: skip
def test_two_hundred_rounds_of_a_hundred_clients(z, delta, epsilon):
    assert privacy.epsilon_of(z, 200, HUNDRED, delta) == pytest.approx(epsilon, rel=1e-3)


def test_a_cohort_that_is_cut_off_costs_more():
    cut = privacy.poisson_sampled(100 / N, N, largest=140)
    assert privacy.epsilon_of(1.0, 200, cut, DELTA) == pytest.approx(1.2816, rel=1e-3)


def test_one_round_of_everybody_is_the_gaussian_mechanism():
    """delta(epsilon) = Phi(1/2z - epsilon z) - e^epsilon Phi(-1/2z - epsilon z) (Balle & Wang)."""
    z, epsilon = 1.3, 2.0
    phi = lambda x: 0.5 * math.erfc(-x / math.sqrt(2))
    delta = phi(0.5 / z - epsilon * z) - math.exp(epsilon) * phi(-0.5 / z - epsilon * z)
    everybody = privacy.poisson_sampled(1.0, N)
    assert privacy.epsilon_of(z, 1, everybody, delta) == pytest.approx(epsilon, rel=1e-3)
    # T rounds of z are one of z / sqrt(T).
    assert privacy.epsilon_of(3 * z, 9, everybody, delta) == pytest.approx(epsilon, rel=1e-3)


def test_exchanging_a_client_moves_a_sum_twice_as_far():
    """All of N - 1 clients but one: near the Gaussian mechanism of half the noise multiplier."""
    nearly = privacy.fixed_size(N - 1, N)
    all_of_half = privacy.epsilon_of(2.0, 10, privacy.poisson_sampled(1.0, N), 1e-5)
    assert privacy.epsilon_of(4.0, 10, nearly, 1e-5) > 0.99 * all_of_half


@pytest.mark.parametrize("epsilon", [0.5, 2.0, 8.0])
def test_the_noise_found_is_enough_and_hardly_more(epsilon):
    z = privacy.noise_for(epsilon, DELTA, 200, HUNDRED)
    assert epsilon * 0.985 < privacy.epsilon_of(z, 200, HUNDRED, DELTA) <= epsilon


def test_rounds_that_nobody_is_in_are_paid_for():
    few = privacy.poisson_sampled(0.02, 200)
    assert few.slack == pytest.approx(0.98**200)
    assert privacy.epsilon_of(4.0, 10, few, 1e-5) == np.inf
    many = privacy.poisson_sampled(0.2, 200)
    assert privacy.epsilon_of(4.0, 10, many, 1e-5) < np.inf


def test_nothing_done_tells_nothing_and_no_noise_tells_all():
    assert privacy.epsilon_of(1.0, 0, HUNDRED, DELTA) == 0
    assert privacy.epsilon_of(0.0, 1, HUNDRED, DELTA) == np.inf


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: privacy.poisson_sampled(0.0, N), r"poisson_sampled\(rate=0.0\) must be positive"),
        (lambda: privacy.poisson_sampled(1.5, N), r"rate=1.5\) is no fraction"),
        (lambda: privacy.fixed_size(N, N), r"fixed_size\(size=6040\) is too large"),
        (lambda: privacy.epsilon_of(-1.0, 1, HUNDRED, DELTA), r"noise_multiplier=-1.0"),
        (lambda: privacy.epsilon_of(1.0, 1, HUNDRED, 1.0), r"delta=1.0\) is too large"),
        (lambda: privacy.noise_for(0.0, DELTA, 1, HUNDRED), r"epsilon=0.0\) must be positive"),
        (
            lambda: privacy.noise_for(1.0, 1e-9, 10, privacy.poisson_sampled(0.02, 200)),
            "no noise is enough over 10 rounds",
        ),
    ],
)
def test_what_is_out_of_range_is_said_in_a_line(wrong, said):
    with pytest.raises(ValueError, match=said):
        wrong()
