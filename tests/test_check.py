"""Checks: known numbers are held to their bounds, traced ones pass, shapes want numbers."""

import jax
import jax.numpy as jnp
import pytest

from fedjax_rec import check

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
