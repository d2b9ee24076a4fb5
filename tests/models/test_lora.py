"""LoRA and DoRA against NumPy, dropout, quantised and half-precision bases, and models whose
parameters live elsewhere."""

import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
from adapted import DEPTH, WIDTH, Block, adapted

from fedjax_rec import models, trees
from fedjax_rec.models.transformers import layers
from fedjax_rec.trees import Frozen

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (5, WIDTH))


pytestmark = pytest.mark.usefixtures("compiled_fast")


def one_layer(adapt=models.lora, base=lambda module: module, targets="query", **kwargs):
    """A linear layer, not stacked, inside a module, with an adapter whose B is not zero."""

    class Holder(nnx.Module):
        def __init__(self, rngs):
            self.query = layers.linear(rngs, WIDTH, 4)

    rngs = nnx.Rngs(0)
    held = base(models.freeze(Holder(rngs)))
    module = adapt(held, rngs, targets, rank=2, alpha=6.0, **kwargs)
    module.query.lora_b[...] = jax.random.normal(KEY, (2, 4))
    return module.query


def parts(layer):
    names = ("kernel", "bias", "lora_a", "lora_b")
    return [np.asarray(getattr(layer, name)[...], np.float64) for name in names]


def test_lora_is_its_equation():
    layer = one_layer()
    w, bias, a, b = parts(layer)
    want = np.asarray(X) @ (w + 3.0 * a @ b) + bias
    np.testing.assert_allclose(layer(X), want, atol=1e-5)


def test_a_begins_as_that_of_peft():
    """torch's kaiming_uniform_(a=sqrt(5)): within gain sqrt(3 / in), of gain sqrt(2 / (1 + 5))."""
    decoder = models.freeze(layers.linear(nnx.Rngs(0), 400, 4))

    class Holder(nnx.Module):
        def __init__(self):
            self.query = decoder

    a = np.asarray(models.lora(Holder(), nnx.Rngs(1), "query", rank=50).query.lora_a[...])
    bound = (2 / 6) ** 0.5 * (3 / 400) ** 0.5
    assert 0.99 * bound < np.abs(a).max() <= bound
    np.testing.assert_allclose(a.std(), bound / 3**0.5, rtol=0.02)


def test_an_adapted_head_is_heard_by_those_who_ask_for_few_tokens():
    size = models.LlamaSize(30, 8, 12, 1, 2, 1, 4, tied=False)
    for adapt in (models.lora, models.dora):
        decoder = models.freeze(models.llama(nnx.Rngs(0), size))
        adapt(decoder, nnx.Rngs(1), "head", rank=2)
        x, few = jnp.ones((3, 8)), jnp.array([7, 2])
        plain = decoder.logits(x, few)
        decoder.head.lora_b[...] += 0.5
        made = decoder.logits(x, few)
        np.testing.assert_allclose(made, decoder.logits(x)[:, few], atol=1e-5)
        assert np.abs(made - plain).max() > 0.1


def test_dora_is_its_equation_without_merging():
    layer = one_layer(models.dora)
    w, bias, a, b = parts(layer)
    merged = w + 3.0 * a @ b
    want = np.asarray(X) @ (merged * np.linalg.norm(w, axis=0) / np.linalg.norm(merged, axis=0))
    np.testing.assert_allclose(layer(X), want + bias, atol=1e-5)
    # The norm of V has no gradient: that of m is then what the layer gives, divided by m.
    graph, params, rest = nnx.split(layer, nnx.Param, ...)
    slope = jax.grad(lambda p: nnx.merge(graph, p, rest)(X).sum())(params)
    want = (want / np.linalg.norm(w, axis=0)).sum(0)
    np.testing.assert_allclose(slope["lora_m"][...], want, rtol=1e-4)
    free = jax.grad(lambda b: (X @ (jnp.asarray(w) + 3 * a @ b) * np.linalg.norm(w, axis=0)
                               / np.linalg.norm(merged, axis=0)).sum())(jnp.asarray(b))  # fmt: skip
    np.testing.assert_allclose(slope["lora_b"][...], free, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("adapt", [models.lora, models.dora])
def test_an_adapter_begins_as_nothing(adapt):
    plain = models.freeze(Block(nnx.Rngs(3)))
    before = layers.stacked(plain, X)
    wrapped = adapt(plain, nnx.Rngs(0), targets="*query|out")
    np.testing.assert_allclose(layers.stacked(wrapped, X), before, atol=1e-6)


def test_dropout_is_on_the_way_into_a_alone_and_differs_by_layer_and_key():
    layer = one_layer(dropout=0.5)
    w, bias, a, b = parts(layer)
    layer.eval()
    np.testing.assert_allclose(layer(X), np.asarray(X) @ (w + 3.0 * a @ b) + bias, atol=1e-5)
    layer.train()
    x = jnp.ones((4000, WIDTH))
    y = np.asarray(layer(x))
    # Every input is kept with 1/2 and doubled: the mean stays.
    np.testing.assert_allclose(y.mean(0), np.ones(WIDTH) @ (w + 3.0 * a @ b) + bias, atol=0.3)
    assert np.abs(y - y.mean(0)).max() > 0.5

    model = adapted(7, dropout=0.5)
    shared, private = model.init(KEY)
    shared["layers"]["query"]["lora_b"] += 1.0
    batch = {"items": jnp.arange(3), "labels": jnp.ones(3), "mask": jnp.ones(3)}
    compiled = jax.jit(lambda key: model.loss(shared, private, batch, key))
    loss = lambda seed: float(compiled(jax.random.key(seed)))
    assert loss(1) == loss(1) != loss(2)


def test_layers_of_a_stack_draw_their_own_numbers():
    class Drops(nnx.Module):
        def __init__(self):
            self.scale = nnx.Param(jnp.ones(2))
            self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return jnp.concatenate([x[:, 1:], self.drop(jnp.ones((64, 1)))], 1)

    out = np.asarray(layers.stacked(Drops(), jnp.zeros((64, 2))))
    assert set(np.unique(out)) == {0.0, 2.0}
    assert (out[:, 0] != out[:, 1]).any()


@pytest.mark.parametrize(("qtype", "bits", "bound"), [("int8", 8, 1 / 254), ("int4", 4, 1 / 14),
                                                      ("nf4", 4, 0.16)])  # fmt: skip
def test_a_quantised_base_is_near_and_small(qtype, bits, bound):
    pytest.importorskip("qwix")
    layer = one_layer(base=lambda m: models.quantised(m, qtype, tile=3))
    exact = one_layer()
    w = np.asarray(exact.kernel[...])
    read = np.asarray(layers.weight(layer.kernel, jnp.float32))
    most = np.abs(w.reshape(2, 3, 4)).max(1, keepdims=True)  # of each tile and output
    assert (np.abs(read - w).reshape(2, 3, 4) <= bound * most + 1e-6).all()
    assert np.abs(read - w).max() > 0
    _, _, a, b = parts(exact)
    bias = np.asarray(exact.bias[...])
    np.testing.assert_allclose(layer(X), np.asarray(X) @ (read + 3.0 * a @ b) + bias, atol=1e-5)
    shared = {"kernel": Frozen(layer.kernel.get_value())}
    assert models.base_nbytes(shared) == w.size * bits // 8 + 4 * 2 * 4


def test_gradients_pass_a_quantised_base_under_vmap_and_remat():
    pytest.importorskip("qwix")
    model = adapted(7, base=lambda m: models.quantised(m, "nf4"))
    shared, private = model.init(KEY)
    read = lambda x: layers.weight(nnx.Param(x.value), jnp.float32)
    exact = {**shared, "layers": {
        name: {**part, "kernel": Frozen(read(part["kernel"]))}
        for name, part in shared["layers"].items()
    }}  # fmt: skip
    batch = {"items": jnp.arange(3), "labels": jnp.ones(3), "mask": jnp.ones(3)}

    def slopes(base):
        def loss(trained, items):
            whole = trees.with_frozen(trained, base)
            return model.loss(whole, private, {**batch, "items": items}, KEY)

        clients = jnp.stack([jnp.arange(3), jnp.arange(3) + 2])
        return jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(trees.trainable(base), clients)

    for x, y in zip(*(jax.tree.leaves(slopes(base)) for base in (shared, exact)), strict=True):
        assert x.shape[0] == 2
        np.testing.assert_allclose(x, y, atol=1e-6)


def test_a_base_in_half_precision_leaves_what_is_trained():
    model = adapted(7, base=models.in_dtype)
    full, half = adapted(7).init(KEY)[0], model.init(KEY)[0]
    kernel = half["layers"]["query"]["kernel"].value
    assert kernel.dtype == jnp.bfloat16
    assert half["layers"]["query"]["lora_a"].dtype == half["head"]["kernel"].dtype == jnp.float32
    exact = full["layers"]["query"]["kernel"].value
    np.testing.assert_array_equal(kernel, exact.astype(jnp.bfloat16))
    per_layer = 2 * WIDTH * (WIDTH + 1) + 2 * WIDTH + 1
    small, large = models.base_nbytes(half["layers"]), models.base_nbytes(full["layers"])
    assert large - small == 2 * DEPTH * per_layer
    scores = [np.asarray(model.score(x, model.init(KEY)[1], slice(None))) for x in (full, half)]
    np.testing.assert_allclose(*scores, atol=0.02)


def scores_of(model, shared, private):
    return np.asarray(model.score(shared, private, jnp.arange(7)))


def test_frozen_and_private_parameters_are_the_same_model():
    model = adapted(7)
    shared, private = model.init(KEY)
    shared["layers"]["out"]["lora_b"] += 0.3
    want = scores_of(model, shared, private)
    same = replace(model, init=lambda key, common=None: (shared, private))

    fixed = models.frozen_at(same, "*lora_a|head.*")
    held, _ = fixed.init(KEY)
    leaves = {jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(trees.trainable(held))}
    assert leaves == {"['layers']['out']['lora_b']", "['layers']['query']['lora_b']"}
    np.testing.assert_array_equal(scores_of(fixed, held, private), want)

    own = models.private_at(same, "layers.*.lora_b")
    rest, mine = own.init(KEY)
    assert set(mine["layers"]) == {"out", "query"} and "user" in mine
    assert "lora_b" not in rest["layers"]["out"]
    np.testing.assert_allclose(scores_of(own, rest, mine), want, atol=1e-6)
    a, b = (own.init(jax.random.key(i), KEY)[1] for i in (5, 6))
    np.testing.assert_array_equal(a["layers"]["out"]["lora_b"], b["layers"]["out"]["lora_b"])


def test_a_core_is_a_product_between_singular_vectors():
    model = adapted(7)
    small = models.with_core(model, scale=2.0)
    shared, private = small.init(KEY)
    free = {name for name, x in shared["layers"]["out"].items() if not isinstance(x, Frozen)}
    assert free == {"lora_core"}
    np.testing.assert_allclose(
        scores_of(small, shared, private), scores_of(model, *model.init(KEY)), atol=1e-6
    )
    part = shared["layers"]["out"]
    w = np.asarray(part["kernel"].value, np.float64)
    u, s, v = np.linalg.svd(w, full_matrices=False)
    a, b = np.asarray(part["lora_a"].value), np.asarray(part["lora_b"].value)
    # With the leading singular values between them they are the best of rank 2, twice over.
    best = (u[..., :2] * s[..., None, :2]) @ v[..., :2, :]
    np.testing.assert_allclose((a * s[..., None, :2]) @ b, 2 * best, atol=1e-5)
    core = jax.random.normal(KEY, part["lora_core"].shape)
    moved = {**shared, "layers": {**shared["layers"], "out": {**part, "lora_core": core}}}
    merged = w + np.asarray(part["lora_scale"].value)[:, None, None] * (a @ np.asarray(core) @ b)
    whole = {**part, "kernel": Frozen(jnp.float32(merged)), "lora_core": 0 * core}
    whole = {**shared, "layers": {**shared["layers"], "out": whole}}
    np.testing.assert_allclose(
        scores_of(small, moved, private), scores_of(small, whole, private), atol=1e-5
    )


def test_bad_arguments_end_in_one_line():
    with pytest.raises(ValueError, match=r"dropout=1\.0\) leaves nothing"):
        one_layer(dropout=1.0)
    misspelt = {"key": "key", "query|valeu": "valeu", "query|": "", "query | value": "query "}
    for targets, wrong in misspelt.items():
        told = f"'{wrong}' fits no linear layer; the model has query"
        with pytest.raises(ValueError, match=told):
            one_layer(targets=targets)
    with pytest.raises(ValueError, match="'nothing' fits no shared parameter; the model has head"):
        models.frozen_at(adapted(7), "nothing")
    with pytest.raises(ValueError, match="fits a row table"):
        models.private_at(models.fedmf(5), "item")
    with pytest.raises(ValueError, match="finds no adapter"):
        models.with_core(models.fedmf(5))
    with pytest.raises(ValueError, match="qtype='int3'"):
        models.quantised(Block(nnx.Rngs(0)), "int3")
    pytest.importorskip("qwix")
    with pytest.raises(ValueError, match="finds no frozen kernel"):
        models.quantised(Block(nnx.Rngs(0)))
