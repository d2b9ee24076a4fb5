"""Noise in shares: its law, what is left of it when clients drop out, how far one client moves a
sum, and accounting against the code of the papers' authors and against sums over all integers."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats as of_scipy
from test_secure_aggregation import cohort, played

from fedjax_rec import privacy
from fedjax_rec.privacy.fixed_point import Grid
from fedjax_rec.privacy.shares import STRAY, grid_with, sensitivity_of_rounded, with_noise

pytestmark = pytest.mark.usefixtures("compiled_fast")
stats: Any = of_scipy
KEY = jax.random.key(4)
KINDS = {"skellam": privacy.skellam, "discrete_gaussian": privacy.discrete_gaussian}


def masses(name: str, deviation: float, reach: int) -> np.ndarray:
    at = np.arange(-reach, reach + 1)
    if name == "skellam":
        return stats.skellam(deviation**2 / 2, deviation**2 / 2).pmf(at)
    found = np.exp(-(at**2) / (2 * deviation**2))
    return found / found.sum()


@pytest.mark.parametrize("deviation", [0.6, 7.3, 500.0])
@pytest.mark.parametrize("name", KINDS)
def test_the_table_holds_the_law_and_draws_come_from_it(name, deviation):
    law = KINDS[name](1.0, 1.0, 1).law(1 / deviation)
    size, stays = 2**law.bits, np.ldexp(law.cut.astype(np.float64), -64)
    told = (stays + np.bincount(law.other, 1 - stays, size)) / size
    wanted = masses(name, deviation, law.zero)
    assert np.abs(told[: len(wanted)] - wanted).sum() < 1e-9
    assert told[len(wanted) :].sum() < 1e-12
    draws = 400_000
    x = np.asarray(jax.jit(lambda key: law.draw(key, (draws,)))(KEY))
    found = np.bincount(x + law.zero, minlength=len(wanted))
    often = wanted * draws > 20
    away = (found[often] - wanted[often] * draws) ** 2 / (wanted[often] * draws)
    assert stats.chi2(often.sum()).sf(away.sum()) > 1e-5


def summed(noise, x, weights, clients=8, bits=24, step=2.0**-6):
    hidden = privacy.secure_aggregation(1.0, clients, bits, step, noise=noise)
    return played(hidden, cohort(clients), x, weights)[1:]


@pytest.mark.parametrize("away", [0, 2])
@pytest.mark.parametrize("name", KINDS)
def test_a_sum_is_the_plain_one_and_whole_steps_of_noise_enough_for_those_who_stay(name, away):
    """Of 40,000 numbers a deviation within 1.5%, so that 2% too little is seen."""
    clients, numbers, step, z, clip = 8, 40_000, 2.0**-6, 0.9, 1.5
    x = np.random.default_rng(0).normal(size=(clients, numbers)) * 0.02
    weights = np.ones(clients)
    weights[:away] = 0
    make = KINDS[name]
    clear, told = summed(make(clip, 0.0, 6), x, weights)
    assert told.sum() == clients - away
    lengths = np.linalg.norm(x, axis=1, keepdims=True)
    plain = (x * np.minimum(1, clip / lengths))[weights > 0].mean(0)
    assert lengths.min() > clip and np.abs(clear - plain).max() < 1.01 * step
    mean, _ = summed(make(clip, z, 6), x, weights)
    off = (mean - clear) * (clients - away) / step
    assert np.abs(off - off.round()).max() < 2e-2
    share = (clients - away) / 6  # of the noise that was asked for, of clients beyond m more
    assert off.std() * step == pytest.approx(z * clip * share**0.5, rel=0.014)
    assert abs(off.mean()) < 4 * off.std() / numbers**0.5


def test_of_fewer_than_the_noise_needs_nothing_is_opened():
    x, weights = np.zeros((8, 5)), np.ones(8)
    weights[:3] = 0
    for there, opened in ((5, 5), (6, 0)):
        mean, told = summed(privacy.skellam(1.0, 1.0, there), x, weights)
        assert told.sum() == opened and mean.any() == bool(opened)


def test_no_upload_is_longer_after_rounding_than_the_sensitivity():
    """Halves in all places, of which plain rounding is too long for one client in fifty."""
    numbers, many, step = 64, 20_000, 0.25
    grid = Grid(1.0, 4, 24)
    noise = privacy.skellam(1.0, 0.0, 1)
    half = jnp.full(numbers, 0.5 * step)
    most = sensitivity_of_rounded(1.0, step, numbers)
    assert most.l2 == pytest.approx(math.sqrt(16 + 16 + 4 + 4))
    assert most.l1 == pytest.approx(40)  # integers: no more than the square

    def one(key):
        plain = grid.signed(grid.rounded(key, half)[0])
        mine = grid.signed(with_noise(noise, grid, key, half)[0])
        return (plain**2).sum(), (mine**2).sum(), mine.sum()

    plain, mine, total = jax.jit(jax.vmap(one))(jax.random.split(KEY, many))
    assert (plain > 40).mean() > 0.01 and mine.max() <= most.l2**2
    count = np.arange(40)  # the norm squared is how many are rounded up, and stays below 40
    short = stats.binom(numbers, 0.5).pmf(count)
    assert total.mean() == pytest.approx(short @ count / short.sum(), abs=5 * 4 / many**0.5)
    rng = np.random.default_rng(1)
    wild = rng.standard_cauchy((2000, numbers)) * 10.0 ** rng.uniform(-6, 9, (2000, 1))
    sent = jax.vmap(lambda k, x: grid.signed(with_noise(noise, grid, k, x)[0]))(
        jax.random.split(KEY, 2000), jnp.float32(wild)
    )
    assert (sent**2).sum(1).max() <= most.l2**2


# (z, m, step, d, T) and epsilon at delta = 1e-5 of the authors' `accounting_utils.py` (google-
# research/federated, distributed_dp), its conversion from Renyi divergences that of dp_accounting.
PINNED = [
    ((4.0, 48, 2**-10, 26_912, 10), 3.64419, 3.64420),
    ((1.0, 64, 2**-8, 2**14, 1), 4.92119, 4.92123),
    ((8.0, 100, 2**-12, 2**20, 50), 4.14293, 4.14293),
    ((2.0, 10, 2**-6, 1000, 5), 5.62935, 5.62960),
]


@pytest.mark.parametrize(("given", "gaussian", "skellam"), PINNED)
def test_epsilon_is_that_of_the_authors(given, gaussian, skellam):
    pytest.importorskip("dp_accounting", reason="pip install 'fedjax-rec[privacy]'")
    z, there, step, numbers, rounds = given
    for make, epsilon in ((privacy.discrete_gaussian, gaussian), (privacy.skellam, skellam)):
        found = privacy.epsilon_of_shares(make(1.0, z, there), step, numbers, rounds, 1e-5)
        assert found == pytest.approx(epsilon, rel=1e-5)
    turns = privacy.in_order(rounds, clients=5000)
    told = privacy.epsilon_of_shares(make(1.0, z, there), step, numbers, rounds, 1e-5, turns)
    assert told == privacy.epsilon_of_shares(make(1.0, z, there), step, numbers, 1, 1e-5)


def test_in_a_fine_grid_it_is_the_gaussian_mechanism():
    pytest.importorskip("dp_accounting", reason="pip install 'fedjax-rec[privacy]'")
    import dp_accounting as dp

    accountant = dp.rdp.RdpAccountant(range(2, 257))
    accountant.compose(dp.GaussianDpEvent(3.0), 20)
    for make in KINDS.values():
        noise = make(1.0, 3.0, 50)
        told = privacy.epsilon_of_shares(noise, 2.0**-14, 1000, 20, 1e-6)
        assert told == pytest.approx(accountant.get_epsilon(1e-6), rel=0.01)
        assert privacy.epsilon_of_shares(noise, 2.0**-3, 1000, 20, 1e-6) > 1.5 * told
    assert privacy.epsilon_of_shares(make(1.0, 0.0, 50), 1e-3, 9, 1, 1e-6) == math.inf
    assert privacy.epsilon_of_shares(noise, 1e-3, 9, 0, 1e-6) == 0


@pytest.mark.parametrize("order", [2, 5, 20])
@pytest.mark.parametrize(
    ("name", "deviation", "shares", "loose"),
    [("skellam", 3.0, 4, 1.1), ("skellam", 20.0, 4, 1.002), ("discrete_gaussian", 3.0, 4, 1.001),
     ("discrete_gaussian", 0.7, 3, 1.3)],
)  # fmt: skip
def test_divergences_bound_those_of_a_sum_over_all_integers(name, deviation, shares, loose, order):
    """One number that one client moves by one step, of a sum of m shares."""
    share = masses(name, deviation, math.ceil(16 * deviation) + 20)
    whole = np.ones(1)
    for _ in range(shares):
        whole = np.convolve(whole, share)
    here, there = (np.log(np.maximum(x, 1e-300)) for x in (whole[:-1], whole[1:]))
    exact = np.logaddexp.reduce(order * here - (order - 1) * there) / (order - 1)
    moves = sensitivity_of_rounded(1.0, 1.0, 1).__class__(1, 1.0, 1.0)
    told = KINDS[name](1.0, 1.0, 1).renyi(order, moves, deviation, shares)
    assert exact * (1 - 1e-6) <= told < loose * exact


@pytest.mark.parametrize("name", KINDS)
def test_the_modulus_has_room_for_the_noise_but_once_in_a_trillion(name):
    noise = KINDS[name](1.0, 1.0, 48)
    grid, room = grid_with("", 1.0, 64, 20, None, noise)
    assert 64 * grid.levels + room < 2**18 <= 64 * (grid.levels + 1) + room + 60
    deviation = 8 * noise.deviation(grid.step)
    assert 1e-3 * STRAY < 2 * stats.norm(0, deviation).sf(room) <= STRAY
    grid, room = grid_with("", 1.0, 64, 10, None, noise)  # tails of no normal law
    deviation = 8 * noise.deviation(grid.step)
    assert deviation < 5
    assert 2 * masses(name, deviation, 400)[401 + room :].sum() <= STRAY


@pytest.mark.parametrize(
    ("kwargs", "told"),
    [
        (dict(clients=64, bits=8), r"bits=8, clients=64\).*does not fit; use bits=9"),
        (dict(clients=64, bits=12, step=1e-3), "does not fit; use bits=19"),
        (dict(clients=16, bits=20), r"noise in 48 shares.*use there <= 16"),
        (dict(clients=64, bits=32, step=1e-5), "tables are for 4096; use step >= 3.52e-05"),
    ],
)
def test_what_cannot_work_is_refused_with_what_does(kwargs, told):
    noise = privacy.skellam(1.0, 1.0, 48)
    with pytest.raises(ValueError, match=told):
        privacy.secure_aggregation(1.0, **kwargs, noise=noise)
    if "bits=" in told.rpartition("use ")[2]:
        kwargs["bits"] = int(told.rpartition("=")[2])
        privacy.secure_aggregation(1.0, **kwargs, noise=noise)
        with pytest.raises(ValueError, match=f"use bits={kwargs['bits']}"):
            privacy.secure_aggregation(1.0, **{**kwargs, "bits": kwargs["bits"] - 1}, noise=noise)


def test_numbers_that_shape_a_table_are_refused_traced():
    with pytest.raises(ValueError, match=r"noise_multiplier=.*cannot be traced"):
        jax.jit(lambda z: privacy.skellam(1.0, z, 4).clip)(1.0)
    with pytest.raises(ValueError, match=r"clip=0.0\) must be positive"):
        privacy.discrete_gaussian(0.0, 1.0, 4)
