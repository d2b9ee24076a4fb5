"""Local privacy: what each guarantees, measured, and whom; closed forms against sums over all
outcomes."""

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats as of_scipy

from fedjax_rec import privacy, testing
from fedjax_rec.privacy.priv_unit import cap
from fedjax_rec.testing.uploads import SHARED, uploads
from fedjax_rec.types import Now, Upload

pytestmark = pytest.mark.usefixtures("compiled_fast")
stats: Any = of_scipy  # whose types are those of any distribution
KEY, DRAWS = jax.random.key(9), 40_000
STAGES = {
    "local_laplace": lambda: privacy.local_laplace(0.5, 4.0),
    "local_gaussian": lambda: privacy.local_gaussian(1.5, 8.0, 1e-5),
    "one_bit_mean": lambda: privacy.one_bit_mean(0.5, 1.0),
    "priv_unit": lambda: privacy.priv_unit(1.5, 4.0),
}


def told(stage, x, draws=DRAWS) -> np.ndarray:
    """float[draws, len(x)]: what a client says of x, many times."""

    def one(key):
        upload = Upload({"x": jnp.float32(x)}, jnp.float32(1), {})
        return stage.send(key, (), upload, Now(jnp.int32(0), ()))[1].update["x"]

    return np.asarray(jax.jit(jax.vmap(one))(jax.random.split(KEY, draws)), np.float64)


def test_laplace_has_its_law_at_what_is_clipped():
    y = told(privacy.local_laplace(0.5, 2.0), [0.1, 3.0])
    for column, centre in zip(y.T, (0.1, 0.5), strict=True):
        assert stats.kstest(column, stats.laplace(centre, 0.5).cdf).pvalue > 1e-4
        # Four standard errors, which three percent less noise would miss.
        assert column.std() == pytest.approx(0.5 * 2**0.5, rel=4 * (5 / 4 / DRAWS) ** 0.5)
    # The ratio of densities at the farthest inputs is e^epsilon, and of D coordinates its power.
    ends = [stats.laplace(x, 0.5).logpdf(-9.0) for x in (-0.5, 0.5)]
    assert ends[0] - ends[1] == pytest.approx(2.0)
    assert privacy.whole_upload(2.0, 1000, rounds=3) == 6000


def test_gaussian_has_its_deviation_whatever_is_sent():
    stage = privacy.local_gaussian(1.5, 1.0, 1e-5)
    y = told(stage, [3.0, 4.0])
    sigma = privacy.gaussian_sigma(1.0, 1e-5) * 3.0
    for column, centre in zip(y.T, (0.9, 1.2), strict=True):
        assert stats.kstest(column, stats.norm(centre, sigma).cdf).pvalue > 1e-4
        assert column.std() == pytest.approx(sigma, rel=4 * (0.5 / DRAWS) ** 0.5)


@pytest.mark.parametrize(
    ("epsilon", "delta"), [(0.1, 1e-5), (1.0, 1e-5), (8.0, 1e-5), (0.5, 0.2), (30.0, 1e-10)]
)
def test_the_least_gaussian_noise_is_that_of_an_integral(epsilon, delta):
    """delta = E max(0, 1 - e^(epsilon - loss)) over the loss, N(1/2s^2, 1/s^2), by a sum."""
    sigma = privacy.gaussian_sigma(epsilon, delta)
    mean, deviation = 0.5 / sigma**2, 1 / sigma
    loss = np.linspace(epsilon, max(epsilon, mean) + 40 * deviation, 400_001)
    worth = -np.expm1(epsilon - loss) * stats.norm(mean, deviation).pdf(loss)
    assert np.trapezoid(worth, loss) == pytest.approx(delta, rel=1e-4)
    assert privacy.gaussian_delta(epsilon, sigma * 1.001) < delta
    if epsilon < 1:  # where the classical noise holds it is more
        assert sigma < math.sqrt(2 * math.log(1.25 / delta)) / epsilon


def test_gaussian_noise_is_pinned():
    assert privacy.gaussian_sigma(1.0, 1e-5) == pytest.approx(3.730632, rel=1e-6)
    assert privacy.gaussian_sigma(1.0, 1e-5, 4.0) == pytest.approx(4 * 3.730632, rel=1e-6)


def test_one_bit_is_unbiased_and_exactly_as_private_as_it_says():
    epsilon, clip = 1.0, 0.5
    size = clip * (math.e + 1) / (math.e - 1)
    x = [-0.5, -0.2, 0.0, 0.3, 0.5]
    y = told(privacy.one_bit_mean(clip, epsilon), [*x, 7.0])
    assert set(np.unique(np.abs(y)).round(5)) == {round(size, 5)}
    error = np.sqrt((size**2 - np.square([*x, 0.5])) / DRAWS)
    assert (np.abs(y.mean(0) - [*x, 0.5]) < 4.5 * error).all()
    up = (y > 0).mean(0)
    ratio = (up[4] / up[0], (1 - up[0]) / (1 - up[4]))
    assert np.log(ratio) == pytest.approx([epsilon, epsilon], abs=0.05)
    high = math.e / (1 + math.e)
    assert up[4] == pytest.approx(high, abs=4.5 * 0.5 / DRAWS**0.5)


@pytest.mark.parametrize("x", [[0.6, 0.0, 0.8], [0.3, -0.3, 0.1], [0.0, 0.0, 0.0], [6.0, 0.0, 8.0]])
def test_a_direction_is_told_without_bias_and_as_far_off_as_it_says(x):
    clip, epsilon, x = 2.0, 2.0, np.array(x)
    t, _, mu = cap(epsilon)
    y = told(privacy.priv_unit(clip, epsilon), x)
    cut = x * min(1.0, clip / max(np.linalg.norm(x), 1e-30))
    assert (np.abs(y.mean(0) - cut) < 4.5 * y.std(0) / DRAWS**0.5).all()
    square = (y**2).sum(1)
    expected = (clip / mu) ** 2 * (len(x) + t * mu)
    assert abs(square.mean() - expected) < 4.5 * square.std() / DRAWS**0.5


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0, 50.0])
def test_a_cap_is_the_best_that_is_as_private(epsilon):
    t, p, mu = cap(epsilon)
    normal = stats.norm
    # Of one number along the direction: the density within the cap over that beyond it.
    ratio = np.log(p) - normal.logsf(t) - np.log1p(-p) + normal.logcdf(t)
    assert ratio == pytest.approx(epsilon)
    inside = p * normal.pdf(t) / normal.sf(t) - (1 - p) * normal.pdf(t) / normal.cdf(t)
    assert inside == pytest.approx(mu)
    others = np.linspace(0, 12, 20_001)
    chance = 1 / (1 + np.exp(-epsilon) * normal.cdf(others) / normal.sf(others))
    means = chance * normal.pdf(others) / normal.sf(others)
    means -= (1 - chance) * normal.pdf(others) / normal.cdf(others)
    assert means.max() == pytest.approx(mu, rel=1e-6)


def test_two_opposite_directions_are_told_apart_by_epsilon():
    clip, epsilon = 1.0, 2.0
    t, p, mu = cap(epsilon)
    stage = privacy.priv_unit(clip, epsilon)
    of_one, of_other = (told(stage, [side, 0.0])[:, 0] * mu / clip > t for side in (1.0, -1.0))
    assert of_one.mean() == pytest.approx(p, abs=4.5 * 0.5 / DRAWS**0.5)
    assert np.log(of_one.mean() / of_other.mean()) == pytest.approx(epsilon, abs=0.12)


def test_a_direction_has_less_noise_than_a_gaussian_of_a_little_delta():
    for epsilon in (0.5, 2.0, 8.0):
        assert 1 / cap(epsilon)[2] < 2 * privacy.gaussian_sigma(epsilon, 1e-5)


def test_randomized_response_tells_truly_as_often_as_it_says_and_counts_without_bias():
    items = jnp.asarray([True, False, True])
    keys = jax.random.split(KEY, DRAWS)
    y = np.asarray(jax.jit(jax.vmap(lambda k: privacy.randomized_response(k, items, 1.5)))(keys))
    p = math.exp(1.5) / (1 + math.exp(1.5))
    assert y.mean(0) == pytest.approx([p, 1 - p, p], abs=4.5 * 0.5 / DRAWS**0.5)
    assert np.log(y[:, 0].mean() / y[:, 1].mean()) == pytest.approx(1.5, abs=0.05)
    error = math.sqrt(p * (1 - p) / DRAWS) / (2 * p - 1)
    assert privacy.share_of_clients(jnp.asarray(y), 1.5) == pytest.approx(
        [1, 0, 1], abs=4.5 * error
    )


@pytest.mark.parametrize(
    ("e0", "n", "delta"), [(1.0, 2000, 1e-6), (2.0, 5000, 1e-5), (0.5, 1000, 1e-8)]
)
def test_shuffled_coins_are_as_private_as_the_theorem_says(e0, n, delta):
    """Of n - 1 clients that hold 0 and one that holds 0 or 1, all by randomized response: a count
    is all that a shuffler lets out, and its delta is a sum over counts."""
    epsilon, p = privacy.shuffled(e0, n, delta), math.exp(e0) / (1 + math.exp(e0))
    others = stats.binom(n - 1, 1 - p)
    count = np.arange(n + 1)
    of = lambda one: one * others.pmf(count - 1) + (1 - one) * others.pmf(count)
    truly, falsely = of(p), of(1 - p)
    spent = lambda e: max(
        np.maximum(a - math.exp(e) * b, 0).sum() for a, b in ((truly, falsely), (falsely, truly))
    )
    assert spent(epsilon) <= delta < spent(epsilon / 8)
    assert epsilon < 0.7 * e0


def test_what_the_theorem_does_not_cover_is_not_amplified():
    assert privacy.shuffled(5.0, 1000, 1e-6) == 5.0
    assert privacy.shuffled(1.0, 10**4, 1e-6) == pytest.approx(0.21403, abs=1e-5)


@pytest.mark.parametrize("name", STAGES)
def test_stages_keep_their_laws_and_tell_all_rows(name):
    upload = uploads("ids")
    one = jax.tree.map(lambda x: x[0], replace(upload, aux={}))
    sent = STAGES[name]().send(KEY, (), one, Now(jnp.int32(0), SHARED))[1].update["item"]
    assert sent.ids is None and bool(sent.live.all()) and bool((sent.values != 0).all())
    with pytest.raises(ValueError, match="clients send 'steps' beside their update"):
        STAGES[name]().send(KEY, (), jax.tree.map(lambda x: x[0], upload), Now(jnp.int32(0), ()))
    bare = replace(
        STAGES[name](), send=lambda k, m, u, now: STAGES[name]().send(k, m, replace(u, aux={}), now)
    )
    testing.check_stage(bare)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: privacy.local_laplace(0.0, 1.0), r"local_laplace\(clip=0.0\) must be positive"),
        (lambda: privacy.local_gaussian(1.0, 1.0, 1.0), r"delta=1.0\) is too large"),
        (lambda: privacy.one_bit_mean(1.0, -1.0), r"epsilon=-1.0\) must be positive"),
        (lambda: privacy.priv_unit(0.0, 1.0), r"priv_unit\(clip=0.0\) must be positive"),
        (lambda: privacy.priv_unit(1.0, 100.0), r"use epsilon <= 64, or leave the stage out"),
        (lambda: privacy.shuffled(1.0, 0, 0.1), r"clients=0\) is too small"),
    ],
)
def test_what_is_out_of_range_is_said_in_a_line(wrong, said):
    with pytest.raises(ValueError, match=said):
        wrong()
