"""The residual quantiser of an autoencoder against its formula in NumPy, and what it learns."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import models
from fedjax_rec.models.text.rq_vae import loss, quantised

KEY = jax.random.key(3)
RNG = np.random.default_rng(1)
LEVELS, CODES, WIDTH, BETA = 3, 4, 2, 0.3
pytestmark = pytest.mark.usefixtures("compiled_fast")


def held():
    """Of vectors of 5, one hidden layer of 3."""
    layer = lambda a, b: {"kernel": RNG.normal(size=(a, b)) * 0.7, "bias": RNG.normal(size=b) * 0.1}
    made = {
        "encoder": [layer(5, 3), layer(3, WIDTH)],
        "decoder": [layer(WIDTH, 3), layer(3, 5)],
        "centres": RNG.normal(size=(LEVELS, CODES, WIDTH)),
    }
    return jax.tree.map(np.float64, made)


def through(layers, x):
    """(what comes out, what went into each layer)."""
    into = []
    for i, one in enumerate(layers):
        x = np.maximum(x, 0) if i else x
        into.append(x)
        x = x @ one["kernel"] + one["bias"]
    return x, into


def back(layers, into, g):
    """(gradients of the layers, of what went in), by the chain rule."""
    slopes = []
    for i in reversed(range(len(layers))):
        slopes.insert(0, {"kernel": np.outer(into[i], g), "bias": g})
        g = layers[i]["kernel"] @ g
        g = g * (into[i] > 0) if i else g
    return slopes, g


def by_hand(held, x):
    """(loss, gradients, codes) of one vector."""
    z, into = through(held["encoder"], x)
    rest, codes, of_z, of_centres, near = z, [], 0, np.zeros_like(held["centres"]), 0
    for level, means in enumerate(held["centres"]):
        apart = [((rest - mean) ** 2).sum() for mean in means]
        code = apart.index(min(apart))
        of_centres[level, code] = -2 * (rest - means[code])
        of_z = of_z + BETA * 2 * (rest - means[code])
        near += (1 + BETA) * apart[code]
        rest = rest - means[code]
        codes.append(code)
    said, last = through(held["decoder"], z - rest)
    decoder, g = back(held["decoder"], last, -2 * (x - said))
    encoder, _ = back(held["encoder"], into, g + of_z)  # as if the sum of centres were z
    slopes = {"encoder": encoder, "decoder": decoder, "centres": of_centres}
    return ((x - said) ** 2).sum() + near, slopes, codes


def test_loss_and_gradients_are_those_of_the_formula():
    mine, vectors = held(), RNG.normal(size=(6, 5))
    want = [by_hand(mine, x) for x in vectors]
    float32 = jax.tree.map(jnp.float32, mine)
    got, slopes = jax.value_and_grad(loss)(float32, jnp.float32(vectors), BETA)
    np.testing.assert_allclose(got, np.mean([x for x, _, _ in want]), rtol=1e-5)
    mean = jax.tree.map(lambda *x: np.mean(x, 0), *[x for _, x, _ in want])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5), slopes, mean)
    z = np.stack([through(mine["encoder"], x)[0] for x in vectors])
    codes, rests, chosen = quantised(jnp.float32(z), float32["centres"])
    np.testing.assert_array_equal(codes, [x for _, _, x in want])
    np.testing.assert_allclose(rests[:, 0], z, rtol=1e-6)
    np.testing.assert_allclose(rests[:, 1], z - chosen[:, 0], atol=1e-5)


def test_its_codes_tell_clusters_apart_and_stand_not_idle():
    """Twelve clusters on a bent sheet: each has a code of its own, and no code has none."""
    middle = RNG.normal(size=(12, 2)) * 2
    lifted = np.concatenate([middle, np.sin(middle), middle**2 / 4], 1)
    vectors = np.repeat(lifted, 20, 0) + RNG.normal(size=(240, 6)) * 0.01
    made = models.rq_vae(width=2, hidden=(16,), steps=300, learning_rate=0.005)
    codes, centres = made.quantise(KEY, vectors, 2, 6)
    assert codes.shape == (240, 2) and centres.shape == (2, 6, 2)
    of_cluster = np.asarray(codes).reshape(12, 20, 2)
    assert (of_cluster == of_cluster[:, :1]).all((1, 2)).mean() > 0.8
    assert len(np.unique(of_cluster[:, 0], axis=0)) >= 10
    assert len(np.unique(codes[:, 0])) == 6
    again, _ = made.quantise(KEY, vectors, 2, 6)
    np.testing.assert_array_equal(codes, again)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: models.rq_vae(width=0), r"rq_vae\(width=0\) is too small"),
        (lambda: models.rq_vae(hidden=(8, 0)), r"rq_vae\(hidden=0\) is too small"),
        (lambda: models.rq_vae(commitment=0), r"rq_vae\(commitment=0\)"),
        (
            lambda: models.rq_vae(steps=1).quantise(KEY, np.ones((3, 2)), 2, 4),
            r"codes=4\) of 3 vectors",
        ),
    ],
)
def test_what_cannot_be_is_said(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_a_factory_is_no_quantiser():
    with pytest.raises(TypeError, match=r"quantiser=rq_vae\) is given a factory; call it"):
        models.semantic_ids(["a"], codes=1, quantiser=models.rq_vae)
