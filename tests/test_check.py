"""Checks: known numbers are held to their bounds, traced ones pass, shapes want numbers."""

import jax
import jax.numpy as jnp
import pytest

from fedjax_rec import check, clients, compress, data, models, strategies

BOUNDS = {
    "positive": (lambda x: check.positive("f", "x", x), (0, -1.0, float("nan")), (1, 1e-9)),
    "at_least": (lambda x: check.at_least("f", "x", x, 2), (1, 1.9, float("nan")), (2, 3.5)),
    "below": (lambda x: check.below("f", "x", x, 2), (2, 3.5, float("nan")), (1, -1.0)),
    "fraction": (lambda x: check.fraction("f", "x", x), (-0.1, 1.1, float("nan")), (0, 0.5, 1)),
}


@pytest.mark.parametrize("name", BOUNDS)
def test_known_numbers_are_held_to_their_bounds_inside_jit_too(name):
    bound, outside, inside = BOUNDS[name]
    for wrap in (float, jnp.float32):
        for number in outside:
            with pytest.raises(ValueError, match=r"f\(x="):
                bound(wrap(number))
            with pytest.raises(ValueError, match=r"f\(x="):
                jax.jit(lambda n=wrap(number): bound(n))()
        for number in inside:
            bound(wrap(number))
            jax.jit(lambda n=wrap(number): bound(n))()


@pytest.mark.parametrize("name", BOUNDS)
def test_traced_numbers_pass(name):
    bound, outside, _ = BOUNDS[name]
    jax.jit(bound)(outside[0])
    jax.vmap(bound)(jnp.float32(outside))


def test_one_number_of_many_outside_is_enough():
    with pytest.raises(ValueError, match="must be positive"):
        check.positive("f", "x", jnp.float32([1, 2, 0]))


def test_what_sets_a_shape_wants_a_number():
    check.static("f", "x", 0.1)
    check.static("f", "x", jnp.float32(0.1))
    with pytest.raises(ValueError, match=r"f\(x=.*cannot be traced; give a number for x"):
        jax.jit(lambda x: check.static("f", "x", x))(0.1)


SEEDED = {
    "fetch_sgd": lambda seed: strategies.fetch_sgd(*of_model(), keep=1, seed=seed),
    "colr": lambda seed: strategies.colr(*of_model(), seed=seed),
    "fedrecon": lambda seed: strategies.fedrecon(*of_model(), seed=seed),
    "anew": lambda seed: strategies.anew(
        clients.local_training(*of_model(), clients.sgd(0.1)), seed
    ),
    "lognormal_clock": lambda seed: strategies.lognormal_clock(seed=seed),
    "erdos_renyi": lambda seed: strategies.erdos_renyi(0.5, seed),
    "stochastic_step": lambda seed: strategies.stochastic_step(seed=seed),
    "seeded_projection": lambda seed: compress.seeded_projection(2, seed),
    "seeded_low_rank": lambda seed: compress.seeded_low_rank(2, seed),
    "count_sketch": lambda seed: compress.count_sketch(seed=seed),
    "subspace": lambda seed: clients.subspace(clients.sgd(0.1), 2, seed),
    "hashed": lambda seed: models.hashed(8, seed=seed),
}


def of_model():
    return models.fedmf(9, width=2), data.pointwise(1)


@pytest.mark.parametrize("name", SEEDED)
@pytest.mark.parametrize("seed", [-1, 1.5, 2**40])
def test_seeds_are_whole_numbers_of_32_bits(name, seed):
    """Of those beyond jax takes the rest, and two seeds are one run."""
    with pytest.raises(ValueError, match=rf"^{name}\(seed={seed}\) is no seed; use 0 <= seed"):
        SEEDED[name](seed)
    SEEDED[name](2**32 - 1)
