"""Click models against their equations, written out example by example in NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import models
from fedjax_rec.types import Model

FIELDS, DENSE, WIDTH, IDS, B = 4, 3, 5, 30, 6
SIZES = {"sparse": FIELDS, "dense": DENSE, "width": WIDTH, "scale": 0.7}


def relu(x):
    return np.maximum(x, 0)


def affine(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def mlp(layers, x, last=True):
    for i, layer in sorted(layers.items(), key=lambda pair: int(pair[0])):
        x = affine(layer, x)
        if last or int(i) + 1 < len(layers):
            x = relu(x)
    return x


def dlrm(logit, e, x):
    first = mlp(logit["bottom"]["layers"], x)
    vectors = [first, *e]
    products = [vectors[i] @ vectors[j] for i in range(len(vectors)) for j in range(i)]
    top = np.concatenate([first, products])
    return mlp(logit["top"]["layers"], top, last=False)[0]


def dcn(logit, e, x):
    first = np.concatenate([x, *e])
    crossed = first
    for _, cross in sorted(logit["crosses"].items()):
        below = crossed @ cross["down"]["kernel"] if "down" in cross else crossed
        crossed = first * affine(cross["up"], below) + crossed
    deep = mlp(logit.get("deep", {"layers": {}})["layers"], first)
    return affine(logit["readout"], np.concatenate([crossed, deep]))[0]


def deepfm(logit, e, x):
    pairs = sum(a[1:] @ b[1:] for a, b in itertools.combinations(e, 2))
    deep = mlp(logit["deep"]["layers"], np.concatenate([x, *(v[1:] for v in e)]), last=False)[0]
    return affine(logit["first"], x)[0] + sum(v[0] for v in e) + pairs + deep


@pytest.mark.parametrize(
    ("make", "written"),
    [
        (lambda: models.dlrm(IDS, bottom=(7,), top=(6, 4), **SIZES), dlrm),
        (lambda: models.dcn(IDS, layers=3, deep=(6, 4), **SIZES), dcn),
        (lambda: models.dcn(IDS, rank=2, deep=(), **SIZES), dcn),
        (lambda: models.deepfm(IDS, deep=(6,), **SIZES), deepfm),
    ],
    ids=["dlrm", "dcn", "dcn of low rank", "deepfm"],
)
def test_the_logit_is_the_equation(make, written):
    model: Model = make()
    shared, private = model.init(jax.random.key(0))
    rng = np.random.default_rng(1)
    # Biases start at 0, where a wrong one would not show.
    shared = jax.tree.map(lambda p: p + 0.1 * rng.normal(size=p.shape).astype(np.float32), shared)
    batch = {
        "ids": rng.integers(0, IDS, (B, FIELDS)),
        "dense": rng.normal(size=(B, DENSE)).astype(np.float32),
        "labels": rng.integers(0, 2, B).astype(np.float32),
        "mask": np.array([1, 1, 1, 1, 0, 0], np.float32),
    }
    table = np.asarray(shared["table"]["table"].values, np.float64)
    logit = jax.tree.map(lambda p: np.asarray(p, np.float64), shared["logit"])
    named = lambda tree: {str(k): named(v) if isinstance(v, dict) else v for k, v in tree.items()}
    rows = zip(batch["ids"], batch["dense"], strict=True)
    want = np.array([written(named(logit), table[i], x) for i, x in rows])
    assert model.predict is not None
    found = model.predict(shared, private, jax.tree.map(jnp.asarray, batch))
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)
    signed = np.where(batch["labels"] == 1, want, -want)
    loss = model.loss(shared, private, jax.tree.map(jnp.asarray, batch), jax.random.key(0))
    np.testing.assert_allclose(loss, np.log1p(np.exp(-signed))[:4].mean(), rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: models.dlrm(0), r"dlrm\(num_items=0\)"),
        (lambda: models.dcn(5, layers=0), r"dcn\(layers=0\)"),
        (lambda: models.dcn(5, rank=0), r"dcn\(rank=0\)"),
        (lambda: models.deepfm(5, scale=0.0), r"deepfm\(scale=0.0\)"),
    ],
)
def test_impossible_models_are_refused(make, complaint):
    with pytest.raises(ValueError, match=complaint):
        make()


def test_a_click_model_scores_no_items():
    model = models.dlrm(IDS, **SIZES)
    with pytest.raises(ValueError, match="candidates: examples"):
        model.score(*model.init(jax.random.key(0)), slice(None))
