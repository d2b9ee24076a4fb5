"""Pytree arithmetic and frozen leaves."""

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_rec import trees
from fedjax_rec.trees import Frozen

TREE = {"a": jnp.float32([1, 2]), "base": Frozen({"w": jnp.ones((3, 3))}), "z": jnp.float32(4)}


def test_frozen_leaves_are_left_out_and_put_back():
    part = trees.trainable(TREE)
    assert [x.shape for x in jax.tree.leaves(part)] == [(2,), ()]
    back = trees.with_frozen(jax.tree.map(lambda x: x + 1, part), TREE)
    assert jax.tree.structure(back) == jax.tree.structure(TREE)
    assert back["a"].tolist() == [2, 3] and float(back["z"]) == 5
    assert back["base"].value["w"] is TREE["base"].value["w"]


def test_several_frozen_leaves_come_back_in_their_places():
    tree = {"x": Frozen(1), "y": [jnp.zeros(1), Frozen(2)], "z": Frozen(3)}
    back = trees.with_frozen(trees.trainable(tree), tree)
    assert (back["x"].value, back["y"][1].value, back["z"].value) == (1, 2, 3)


def test_arithmetic():
    a = {"x": jnp.float32([1, 2]), "y": jnp.float32(3)}
    b = trees.scale(a, 2)
    assert trees.add(a, b)["x"].tolist() == [3, 6]
    assert float(trees.subtract(a, b)["y"]) == -3
    assert trees.zeros_like(a)["x"].tolist() == [0, 0]
    assert trees.select(jnp.bool_(True), a, b)["y"] == 3
    assert trees.select(jnp.bool_(False), a, b)["y"] == 6


def test_weighted_sum_is_over_the_leading_axis():
    x = np.random.default_rng(0).normal(size=(5, 3, 2)).astype(np.float32)
    w = np.float32([1, 0, 2, -1, 0.5])
    got = trees.weighted_sum(jnp.asarray(w), {"x": jnp.asarray(x), "y": jnp.arange(5.0)})
    np.testing.assert_allclose(got["x"], np.tensordot(w, x, 1), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got["y"], w @ np.arange(5), rtol=1e-6)


def test_nbytes_counts_arrays_outlines_and_keys():
    tree = {"a": jnp.zeros((3, 4)), "b": jnp.zeros(5, jnp.int8), "c": jnp.zeros(2, jnp.bfloat16)}
    assert trees.nbytes(tree) == 48 + 5 + 4
    assert trees.nbytes(jax.eval_shape(lambda: tree)) == 57
    assert trees.nbytes(TREE) == 8 + 36 + 4


def test_nbytes_of_random_keys_is_what_they_hold():
    key = jax.random.key(0)
    assert trees.nbytes({"key": key}) == jax.random.key_data(key).nbytes
