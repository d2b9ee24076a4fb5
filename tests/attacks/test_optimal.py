"""A scale that is looked for on the rule: the search in NumPy, and that it does more harm."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_forged import CLIENTS, HERE, LIARS, LIES, NOW, SHARED, by_loop, flat, made, uploads

from fedjax_rec import aggregate, attacks

pytestmark = pytest.mark.usefixtures("compiled_fast")
SIDES = attacks.Sides(
    jnp.isin(jnp.arange(CLIENTS), jnp.array(LIARS)),
    jnp.isin(jnp.arange(CLIENTS), jnp.array([k for k in HERE if k not in LIARS])),
    NOW.client,
)
VALUES = {
    "ipm": lambda t: lambda mean, deviation: -t * mean,
    "alie": lambda t: lambda mean, deviation: mean - t * deviation,
}


def krum(said: np.ndarray) -> np.ndarray:
    """The upload with the least sum of squared distances to its n - f - 2 nearest."""
    apart = ((said[:, None] - said[None]) ** 2).sum(-1)
    near = np.sort(apart, 1)[:, 1 : len(said) - len(LIARS) - 2 + 1]
    return said[near.sum(1).argmin()]


def searched(distance, evaluations: int, step: float, ratio: float) -> float:
    """ByzFL's search, up from 0 by doubled steps and then by shorter ones."""
    best, longest, left = 0.0, distance(0.0), evaluations - 1
    while left:
        found = distance(best + step)
        left -= 1
        if found <= longest:
            step *= ratio
            break
        best, longest, step = best + step, found, 2 * step
    while left:
        found = distance(best + step)
        left -= 1
        if found > longest:
            best, longest = best + step, found
        step *= ratio
    return best


@pytest.mark.parametrize("layout", ["whole", "ids"])
@pytest.mark.parametrize("name", ["ipm", "alie"])
def test_the_scale_is_that_of_the_search(name, layout):
    rule, came = aggregate.krum(f=len(LIARS)), uploads(layout)

    def judged(key, update):
        summary = rule.reduce((), replace(came, update=update), NOW)
        return rule.finish(key, (), summary, NOW)[1]

    attack = getattr(attacks, f"optimal_{name}")(evaluations=9, step=0.7, ratio=0.7)
    sides = replace(SIDES, judged=judged)
    forge = jax.jit(lambda update: attack.forge(jax.random.key(0), (), update, sides, NOW)[1])
    after = flat(replace(came, update=forge(came.update)))[0]
    before, said = flat(came)
    numbers = np.arange(before.shape[1]) < before.shape[1] - 3  # the last are whole numbers
    forged = lambda value: np.where(numbers, by_loop(before, said, value), before)
    of_mean = krum(forged(lambda mean, deviation: mean))
    distance = lambda t: np.sqrt(((krum(forged(VALUES[name](t))) - of_mean) ** 2).sum())
    best = searched(distance, 9, 0.7, 0.7)
    assert best > 0
    np.testing.assert_allclose(after, forged(VALUES[name](best)), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(after[~LIES], before[~LIES])


def test_who_knows_the_rule_does_it_more_harm():
    """Krum passes over what shouts, and what is looked for on it moves it."""
    malicious, came = attacks.named([0, 3, 7]), uploads("ids")
    rule = lambda attack: attacks.attacked(aggregate.krum(3), attack, malicious)
    under = lambda attack: np.asarray(made(rule(attack), came)[1])
    told = under(attacks.alie(0.0))  # the mean of the honest
    harm = lambda attack: np.linalg.norm(under(attack) - told)
    optimal = harm(attacks.optimal_ipm(evaluations=10, step=0.5))
    assert optimal > 0 and optimal >= harm(attacks.ipm(0.1)) - 1e-4


def test_without_a_rule_it_says_so():
    forge = attacks.optimal_ipm().forge
    with pytest.raises(ValueError, match="no rule is known; use it within attacked"):
        forge(jax.random.key(0), (), uploads("ids").update, SIDES, NOW)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: attacks.optimal_ipm(evaluations=0), "use evaluations >= 1"),
        (lambda: attacks.optimal_alie(step=0.0), "use step > 0"),
        (lambda: attacks.optimal_alie(ratio=0.5), "use .5 < ratio < 1"),
    ],
)
def test_wrong_arguments_are_one_line(make, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        make()
    assert "\n" not in str(error.value)


def test_what_the_adversary_tries_is_not_remembered():
    """A rule that moves its own state is judged without moving it."""
    rule = attacks.attacked(
        aggregate.centered_clip(2.0), attacks.optimal_ipm(evaluations=3), attacks.named([0, 7])
    )
    state = rule.init(SHARED)
    after = made(rule, uploads("ids"), state)[0]
    plain = aggregate.centered_clip(2.0)
    assert jax.tree.structure(after["rule"]) == jax.tree.structure(plain.init(SHARED))
