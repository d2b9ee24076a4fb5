"""Noise that is correlated over rounds: its law against the matrices that it comes from, what a
client can move against all that it could do, and errors against those of jax_privacy 2.0.0."""

import itertools
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_gaussian_mean import NAMES, bare

from fedjax_rec import privacy
from fedjax_rec.privacy.factorization import lower_toeplitz, sensitivity_of
from fedjax_rec.privacy.tree import nodes_of
from fedjax_rec.testing.uploads import aggregated

pytestmark = pytest.mark.usefixtures("compiled_fast")
KEY = jax.random.key(8)
ORDER = privacy.in_order(3, clients=12)
FORTY = privacy.in_order(40, clients=6040)
KINDS = {
    "banded": lambda: privacy.banded(3), "blt": lambda: privacy.blt(2),
    "tree": lambda: privacy.tree(), "toeplitz": lambda: privacy.toeplitz([2.0, 1.0, -0.5]),
}  # fmt: skip
# `toeplitz.optimize_banded_toeplitz(200, 16)` of jax_privacy 2.0.0, in float64.
LIBRARY = [
    0.59165141, 0.34363573, 0.28232416, 0.25113374, 0.23094771, 0.21613836, 0.2043922, 0.19455918,
    0.18598821, 0.17827031, 0.17112171, 0.16432185, 0.15767173, 0.15095182, 0.14384579, 0.13568811,
]  # fmt: skip


def noising(made) -> np.ndarray:
    """float64[T, m]: w = W Z, of m draws, each 1 in its turn and all others 0."""

    def told(which):
        count = itertools.count()

        def draw(key, shape):
            return jnp.full(shape, float(next(count) == which))

        rounds, kept = [], made.init((1,))
        with mock.patch.object(jax.random, "normal", draw), jax.disable_jit():
            for t in range(made.rounds):
                kept, w = made.next(jax.random.fold_in(KEY, t), kept, (1,))
                rounds.append(float(w[0]))
        return rounds, next(count)

    draws = told(-1)[1]
    return np.array([told(k)[0] for k in range(draws)]).T


@pytest.mark.parametrize("rounds", [1, 7, 8])
def test_prefix_sums_of_a_tree_are_the_best_estimates_from_its_nodes(rounds):
    """The mechanism tells nodes with noise; what is made of the complete ones up to t is unbiased
    and has the least variance for those below each node (Honaker, 2015): v_h = 2^h / (2^(h+1) - 1).
    """
    made = privacy.tree().over(rounds, ORDER)
    prefix = np.cumsum(noising(made), 0)
    scale = np.linalg.norm(nodes_of(rounds), axis=0).max()
    v = lambda h: 2**h / (2 ** (h + 1) - 1)
    wanted = [sum(v(h) for h in range(9) if t >> h & 1) * scale**2 for t in range(1, rounds + 1)]
    np.testing.assert_allclose((prefix**2).sum(1), wanted, rtol=1e-5)
    assert made.error == pytest.approx(np.mean(wanted) ** 0.5)


@pytest.mark.parametrize("name", ["toeplitz", "banded", "blt"])
def test_the_noise_is_what_the_inverse_of_the_matrix_makes(name):
    """w = C^-1 Z: C W is the identity for a Toeplitz C whose largest column has norm 1, and the
    error is that of sums of W."""
    made = KINDS[name]().over(9, ORDER)
    W = noising(made)
    C = np.linalg.inv(W)
    np.testing.assert_allclose(C, lower_toeplitz(C[:, 0]), atol=1e-5)
    assert np.linalg.norm(C[:, 0]) == pytest.approx(1, abs=1e-5)
    assert made.error == pytest.approx((np.cumsum(W, 0) ** 2).sum(1).mean() ** 0.5, rel=1e-5)
    if name == "toeplitz":
        np.testing.assert_allclose(C[:4, 0] * 5.25**0.5, [2, 1, -0.5, 0], atol=1e-5)
    if name == "banded":
        assert np.abs(C[3:, 0]).max() < 1e-5 < C[2, 0]
    for t in (1, 4, 9):
        assert made.sensitivity(t) == pytest.approx(sensitivity_of(C[:t, :t], ORDER), rel=1e-4)


@pytest.mark.parametrize("name", ["toeplitz", "blt", "tree"])
def test_rounds_of_the_mechanism_have_its_covariance_on_rows_and_leaves(name):
    """Whitened noise of five rounds is white: each deviation within .9%, so that 2% too little is
    seen, and no two rounds are correlated by more than four standard errors."""
    z, bound, clients, draws, rounds = 0.8, 1.5, 10.0, 8000, 5
    made = KINDS[name]().over(rounds, ORDER)
    private = privacy.gaussian_mean(privacy.whole(bound), z, clients, made)
    upload = bare("ids")
    clear = aggregated(privacy.gaussian_mean(privacy.whole(bound), 0.0, clients), upload)[1]

    def one(key):
        state, told = None, []
        for t in range(rounds):
            state, update, _ = aggregated(
                private, upload, key=jax.random.fold_in(key, t), state=state
            )
            told.append({n: update[n] - clear[n] for n in NAMES})
        return told

    found = jax.jit(jax.vmap(one))(jax.random.split(KEY, draws))
    W = noising(made) * z * bound / clients
    whiten = np.linalg.inv(np.linalg.cholesky(W @ W.T))
    for n in NAMES:
        off = np.stack([np.asarray(x[n], np.float64) for x in found]).reshape(rounds, -1)
        white = whiten @ off
        covariance = white @ white.T / white.shape[1]
        error = 4 / white.shape[1] ** 0.5
        assert np.abs(np.sqrt(np.diag(covariance)) - 1).max() < error / 2**0.5 < 0.02
        assert np.abs(covariance - np.diag(np.diag(covariance))).max() < error
        each = np.sqrt((off[0].reshape(draws, -1) ** 2).mean(0))  # of every number of every row
        assert np.abs(each / (W[0] ** 2).sum() ** 0.5 - 1).max() < 6 / np.sqrt(2 * draws)


def test_one_band_is_the_noise_and_the_accounting_of_rounds_by_themselves():
    made = privacy.banded(1).over(9, ORDER)
    clip, upload = privacy.whole(1.0), bare("ids")
    alone = aggregated(privacy.gaussian_mean(clip, 0.7, 10.0), upload)[1]
    mine = aggregated(privacy.gaussian_mean(clip, 0.7, 10.0, made), upload)[1]
    for n in NAMES:
        np.testing.assert_array_equal(alone[n], mine[n])
    pytest.importorskip("dp_accounting", reason="pip install 'fedjax-rec[privacy]'")
    for rounds, times in ((1, 1), (4, 2), (9, 3)):
        told = privacy.epsilon_of(2.0, rounds, ORDER, 1e-5)
        assert told == privacy.epsilon_of(2.0, rounds, ORDER, 1e-5, correlated=made)
        everybody = privacy.poisson_sampled(1.0, 12)
        assert told == pytest.approx(privacy.epsilon_of(2.0, times, everybody, 1e-5), rel=1e-3)


def patterns(rounds: int, sampling):
    """Sets of rounds that a client may be in, the largest of them."""
    b = sampling.apart
    if sampling.ordered:
        return [tuple(range(r, rounds, b)) for r in range(min(b, rounds))]
    most = -(-rounds // b)
    sets = (p for k in range(1, most + 1) for p in itertools.combinations(range(rounds), k))
    return [p for p in sets if all(y - x >= b for x, y in itertools.pairwise(p))]


def by_hand(encoder: np.ndarray, sampling) -> float:
    """The longest C u, u of +-1 in the rounds of a pattern."""
    found = 0.0
    for p in patterns(encoder.shape[1], sampling):
        for signs in itertools.product([1, -1], repeat=len(p)):
            found = max(found, float(np.linalg.norm(encoder[:, list(p)] @ np.array(signs))))
    return found


@pytest.mark.parametrize("make", [privacy.in_order, privacy.separated])
@pytest.mark.parametrize("separation", [1, 2, 3, 5])
def test_no_client_moves_the_noisy_rounds_further_than_the_sensitivity(make, separation):
    rounds, sampling = 9, make(separation, clients=40)
    tree = nodes_of(rounds)
    for corr in (privacy.banded(1), privacy.banded(separation), privacy.blt(2)):
        C = np.linalg.inv(noising(corr.over(rounds, sampling)))
        assert sensitivity_of(C.round(6), sampling) == pytest.approx(by_hand(C, sampling), rel=1e-4)
    signed = lower_toeplitz(np.array([1.0, -0.6, 0.3, -0.1, *[0.0] * 5]))
    for encoder in (tree, signed, lower_toeplitz(1 / np.arange(1.0, 10))):
        told, most = sensitivity_of(encoder, sampling), by_hand(encoder, sampling)
        assert told >= most * (1 - 1e-9)
        if (encoder >= 0).all() and sampling.ordered:
            assert told == pytest.approx(most)
        assert told < 1.6 * most


def test_coefficients_and_errors_are_those_of_the_library():
    """Root mean square error times sensitivity over 200 rounds, 40 apart."""
    told = lambda made: made.error * made.sensitivity(200)
    mine = privacy.banded(16).over(200, FORTY)
    theirs = privacy.toeplitz(LIBRARY).over(200, FORTY)
    assert told(theirs) == pytest.approx(7.449793, rel=1e-6)
    assert told(mine) == pytest.approx(7.449793, rel=1e-6)
    assert mine.sensitivity(200) == pytest.approx(5**0.5)
    # Where more buffers win less than 1% the library stops at one: theta = .94116, omega = .41018.
    assert told(privacy.blt(1).over(200, FORTY)) == pytest.approx(6.549913, rel=1e-6)
    assert told(privacy.blt(2).over(200, FORTY)) < 6.549913
    assert told(privacy.banded(1).over(200, FORTY)) == pytest.approx(22.4165, rel=1e-5)
    assert [f(200, FORTY).copies for f in (privacy.banded(16).over, privacy.tree().over)] == [15, 8]


def test_where_everybody_is_in_every_round_no_correlation_helps():
    everybody = privacy.poisson_sampled(1.0, 100)
    alone, *others = (
        f.over(30, everybody).error * f.over(30, everybody).sensitivity(30)
        for f in (privacy.banded(1), privacy.banded(8), privacy.blt(2), privacy.tree())
    )
    assert min(others) > 0.9999 * alone


def test_epsilon_is_that_of_one_gaussian_mechanism_and_grows_by_rounds():
    pytest.importorskip("dp_accounting", reason="pip install 'fedjax-rec[privacy]'")
    made = privacy.banded(16).over(200, FORTY)
    z = privacy.noise_for(2.0, 1e-5, 200, FORTY, made)
    spent = [privacy.epsilon_of(z, t, FORTY, 1e-5, correlated=made) for t in (1, 40, 41, 120, 200)]
    assert sorted(spent) == spent and 1.98 < spent[-1] <= 2.0
    # After one round a client is in its first row alone, and after b in one whole column.
    for told, size in ((spent[0], LIBRARY[0]), (spent[1], 1.0)):
        assert z / size == pytest.approx(privacy.gaussian_sigma(told, 1e-5), rel=5e-3)
    # sqrt(5) times the noise of one Gaussian mechanism, by the analytic formula.
    assert z == pytest.approx(privacy.gaussian_sigma(2.0, 1e-5) * 5**0.5, rel=5e-3)


def test_numbers_of_noise_and_bound_may_be_traced():
    upload, made = bare("ids"), privacy.blt(2).over(9, ORDER)

    def one(z, bound):
        private = privacy.gaussian_mean(privacy.whole(bound), z, 10.0, made)
        state = aggregated(private, upload)[0]
        return aggregated(private, upload, state=state)[1]

    for a, b in zip(*(map(np.asarray, jax.tree.leaves(x)) for x in (
        jax.jit(one)(0.7, 1.5), one(0.7, 1.5))), strict=True):  # fmt: skip
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda: privacy.banded(0), r"banded\(bands=0\) is too small"),
        (lambda: privacy.blt(9), "use buffers <= 8"),
        (lambda: privacy.toeplitz([0.0, 1.0]), "has no inverse"),
        (lambda: privacy.in_order(5, clients=9), r"clients=9\) is too small; use clients >= 10"),
        (
            lambda: privacy.tree().over(9, privacy.fixed_size(3, 12)),
            "use cohorts that come in order, simulate.in_turns, or everybody",
        ),
        (
            lambda: privacy.banded(2).over(9, privacy.poisson_sampled(0.3, 12)),
            "rounds of a client come by chance",
        ),
        (
            lambda: privacy.epsilon_of(
                1.0, 9, privacy.in_order(2, 12), 1e-5, correlated=privacy.tree().over(9, ORDER)
            ),
            "is for clients Sampling",
        ),
        (
            lambda: privacy.epsilon_of(
                1.0, 10, ORDER, 1e-5, correlated=privacy.tree().over(9, ORDER)
            ),
            "use rounds <= 9",
        ),
        (
            lambda: privacy.gaussian_mean(
                privacy.adaptive(1.0), 1.0, 10, privacy.tree().over(9, ORDER)
            ),
            "use a bound that stays",
        ),
    ],
)  # fmt: skip
def test_what_would_be_no_guarantee_is_refused(wrong, said):
    with pytest.raises(ValueError, match=said):
        wrong()
