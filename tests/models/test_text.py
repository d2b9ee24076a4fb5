"""Models of item texts against NumPy, and adapters against a base that they are merged into."""

import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from fedjax_rec import factors, models, trees
from fedjax_rec.models.text.text_tower import whitening
from fedjax_rec.rows import Gathered, is_table

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
import tiny_bert

ITEMS, WIDTH, MEMBERS, COMPONENTS = 20, 4, 3, 5
RNG, KEY = np.random.default_rng(0), jax.random.key(0)
BATCH = {
    "items": jnp.int32([3, 7, 3, 19, 0]),
    "labels": jnp.float32([1, 0, 0, 1, 1]),
    "users": jnp.int32([0, 2, 1, 1, 2]),
    "mask": jnp.float32([1, 1, 1, 1, 0]),
}
# These tests compile for longer than they run.
compiled = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def make(factory, folder=None, members=MEMBERS, **kwargs):
    folder = folder or tiny_bert.folder()
    return factory(
        ITEMS, members, tiny_bert.titles(ITEMS), str(folder), components=COMPONENTS, width=WIDTH,
        scale=0.5, **kwargs,
    )  # fmt: skip


def drawn(model, seed=0):
    """(shared, private) with noise on all that is trained, so that nothing is zero."""
    rng = np.random.default_rng(seed)
    noisy = lambda x: x + 0.3 * rng.standard_normal(x.shape).astype(np.float32)
    is_leaf = lambda x: type(x).__name__ == "Frozen"
    shared, private = compiled(model.init)(jax.random.key(seed))
    return jax.tree.map(lambda x: x if is_leaf(x) else noisy(x), (shared, private), is_leaf=is_leaf)


def white(folder=None):
    """[I, k], by the covariance matrix instead of the singular values of the embeddings."""
    e = models.sentences(tiny_bert.titles(ITEMS), folder or tiny_bert.folder())
    values, vectors = np.linalg.eigh(np.cov(e.T.astype(float), bias=True))
    w = vectors[:, ::-1][:, :COMPONENTS] / np.sqrt(values[::-1][:COMPONENTS])
    return (e - e.mean(0)) @ w


def test_whitened_directions_are_the_principal_ones():
    e = RNG.standard_normal((50, 7)).astype(np.float32) * [5, 4, 3, 2, 1, 0.5, 0.1] + 3
    mean, w = whitening(e, 4)
    x = (e - mean) @ w
    np.testing.assert_allclose(x.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(np.cov(x.T, bias=True), np.eye(4), atol=1e-4)
    values, vectors = np.linalg.eigh(np.cov(e.T.astype(float), bias=True))
    for i in range(4):
        cosine = w[:, i] @ vectors[:, -1 - i] * np.sqrt(values[-1 - i])
        np.testing.assert_allclose(abs(cosine), 1, rtol=1e-3)
    with pytest.raises(ValueError, match=r"components=8\) of texts with 7 directions; use at most"):
        whitening(e, 8)


def gelu(x):
    return x * 0.5 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize(
    ("factory", "layers"), [(models.text_tower, (6, 3)), (models.text_and_rows, ())]
)
def test_towers_score_by_the_formula(factory, layers):
    model = make(factory, layers=layers)
    shared, private = drawn(model)
    x = np.asarray(shared["text"].value, float)
    sizes = range(len(layers) + 1)
    for i in sizes:
        part = shared["project"]["layers"][str(i)]
        x = (gelu(x) if i else x) @ np.asarray(part["kernel"]) + np.asarray(part["bias"])
    if factory is models.text_and_rows:
        x = x + np.asarray(shared["item"].values)
    user = np.asarray(private["user"]) + np.asarray(shared["centre"])
    score = compiled(lambda items, u: model.score(shared, private, items, u))
    for u in range(MEMBERS):
        expected = x @ user[u]
        np.testing.assert_allclose(score(jnp.arange(ITEMS), u), expected, rtol=1e-4, atol=1e-5)
    some = compiled(lambda items: model.score(shared, private, items, 1))(jnp.int32([4, 2]))
    np.testing.assert_allclose(some, (x @ user[1])[[4, 2]], rtol=1e-4, atol=1e-5)
    z = (x[BATCH["items"]] * user[BATCH["users"]]).sum(1)
    y, mask = np.asarray(BATCH["labels"]), np.asarray(BATCH["mask"])
    loss = (np.log1p(np.exp(z)) - y * z) * mask
    loss_of = lambda *params: model.loss(*gathered(*params), BATCH, jax.random.key(0))
    value = compiled(loss_of)(shared, private)
    np.testing.assert_allclose(value, loss.sum() / mask.sum(), rtol=1e-4)


def gathered(shared, private):
    """As training hands them: tables by the rows of the batch."""
    ids = BATCH["items"]
    one = lambda t: Gathered((ids,), (t.values[ids],), t.fields) if is_table(t) else t
    return jax.tree.map(one, shared, is_leaf=is_table), private


def test_texts_are_whitened_and_rows_start_at_nothing():
    tower, both = make(models.text_tower), make(models.text_and_rows)
    shared, _ = compiled(tower.init)(jax.random.key(0))
    text, expected = np.asarray(shared["text"].value), white()
    # Up to the sign of each direction.
    signs = np.sign((text * expected).sum(0))
    np.testing.assert_allclose(text * signs, expected, rtol=1e-2, atol=1e-3)
    with_rows, _ = compiled(both.init)(jax.random.key(0))
    assert not np.asarray(with_rows["item"].values).any()
    np.testing.assert_allclose(catalogue(tower, shared), catalogue(both, with_rows), rtol=1e-6)


def catalogue(model, shared):
    """What the model makes of its texts once for all."""
    return compiled(model.ranking.catalogue)(shared, {"user": jnp.zeros((MEMBERS, WIDTH))})


def merged(folder, shared, scale, depth):
    """The folder with s A B added to the kernels of the adapted layers, in `tmp`."""
    tensors = tiny_bert.tensors()
    first = tiny_bert.CONFIG["num_hidden_layers"] - depth
    for name in ("query", "value"):
        a, b = (np.asarray(shared["layers"][name][k]) for k in ("lora_a", "lora_b"))
        for i in range(depth):
            key = f"encoder.layer.{first + i}.attention.self.{name}.weight"
            tensors[key] = tensors[key] + scale * (a[i] @ b[i]).T
    save_file(tensors, str(folder / "model.safetensors"))
    return folder


@pytest.mark.parametrize("depth", [pytest.param(1, marks=pytest.mark.slow), 2])
def test_adapters_do_what_a_merged_base_does(tmp_path, depth):
    model = make(models.text_encoder, trained_layers=depth, rank=2, alpha=3.0)
    shared, private = drawn(model)
    folder = shutil.copytree(tiny_bert.folder(), tmp_path / "merged")
    changed = models.sentences(
        tiny_bert.titles(ITEMS), merged(folder, shared, 3.0 / 2, depth), length=16
    )
    mean, w = (np.asarray(shared[k].value) for k in ("mean", "white"))
    project = shared["project"]["layers"]["0"]
    x = (changed - mean) @ w @ np.asarray(project["kernel"]) + np.asarray(project["bias"])
    user = np.asarray(private["user"]) + np.asarray(shared["centre"])

    @compiled
    def measured(shared, private):
        score = model.scorer(shared, private)()
        return (
            [score(slice(None), u) for u in range(MEMBERS)],
            score(jnp.int32([5, 0]), 1),
            model.loss(shared, private, BATCH, jax.random.key(0)),
        )

    everything, some, value = measured(shared, private)
    np.testing.assert_allclose(np.stack(everything), user @ x.T, rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(some, x[[5, 0]] @ user[1], rtol=2e-3, atol=2e-3)
    z = (x[BATCH["items"]] * user[BATCH["users"]]).sum(1)
    loss = (np.logaddexp(0, z) - np.asarray(BATCH["labels"]) * z)[:4].mean()
    np.testing.assert_allclose(value, loss, rtol=2e-3)


def test_an_encoder_starts_where_the_tower_stands():
    encoder, tower = make(models.text_encoder), make(models.text_tower)
    shared, _ = compiled(encoder.init)(jax.random.key(0))
    same, _ = compiled(tower.init)(jax.random.key(0))
    for name in ("project", "centre"):
        same[name] = shared[name]
    a, b = catalogue(encoder, shared), catalogue(tower, same)
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
    names = {name: set(part) for name, part in shared["layers"].items()}
    assert names["query"] > {"kernel", "bias", "lora_a", "lora_b"}
    assert names["up"] == {"kernel", "bias"}


def test_roles_of_the_adapters():
    everyone = make(models.text_encoder, a="frozen", rank=2)
    shared, private = jax.eval_shape(everyone.init, jax.random.key(0))
    assert type(shared["layers"]["query"]["lora_a"]).__name__ == "Frozen"
    assert shared["layers"]["query"]["lora_b"].shape == (1, 2, 12)
    assert set(private) == {"user"}
    assert jax.eval_shape(everyone.ranking.catalogue, shared, private).shape == (ITEMS, WIDTH)
    own = make(models.text_encoder, b="private", rank=2, members=1)
    shared, private = drawn(own)
    assert own.ranking.catalogue(shared, private) == ()
    assert "lora_b" not in shared["layers"]["query"]
    other = drawn(own, 1)[1]
    other["user"] = private["user"]
    score = compiled(lambda private: own.score(shared, private, slice(None), 0))
    assert abs(np.asarray(score(private)) - np.asarray(score(other))).max() > 1e-3


def test_bad_input_in_one_line(tmp_path):
    titles, folder = tiny_bert.titles(ITEMS), tiny_bert.folder()
    wrong = [
        (lambda: models.text_tower(ITEMS), "text_tower needs titles, and the data does not"),
        (lambda: models.text_encoder(5, 1, titles, folder), "20 titles for 5 items; give one"),
        (lambda: make(models.text_encoder, trained_layers=4), r"=4\) of 3 layers; use at most 3"),
        (
            lambda: make(models.text_encoder, targets="keys"),
            r"targets='keys'\): 'keys' fits no linear",
        ),
        (lambda: make(models.text_encoder, b="own"), r"b='own'\) is unknown.*'private'"),
        (lambda: make(models.text_tower, layers=(0,)), r"layers=0\) must be positive"),
    ]
    for call, message in wrong:
        with pytest.raises(ValueError, match=message):
            call()


def test_unisrec_is_sasrec_whose_rows_are_projected_texts():
    sizes = dict(width=WIDTH, length=5, layers=1, dropout=0.0)
    folder, titles = str(tiny_bert.folder()), tiny_bert.titles(ITEMS)
    texts = models.unisrec(ITEMS, 1, titles, folder, components=COMPONENTS, scale=0.5, **sizes)
    table = models.sasrec(ITEMS, **sizes)
    shared, _ = drawn(texts)
    part = shared["item"]["project"]["layers"]["0"]
    rows = np.asarray(shared["item"]["text"].value) @ part["kernel"] + part["bias"]
    rest = {name: value for name, value in shared.items() if name != "item"}
    like = table.init(jax.random.key(0))[0]
    with_rows = {**rest, "item": replace(like["item"], values=jnp.float32(rows))}
    history = jnp.int32([-1, 7, 7, 2, 19])

    def scores(model, shared):
        return model.score(shared, {}, slice(None), history=history)

    expected = compiled(partial(scores, table))(with_rows)
    np.testing.assert_allclose(compiled(partial(scores, texts))(shared), expected, rtol=1e-4)
    batch = {
        "inputs": jnp.int32([[3, 7, 3, 19, 0]]),
        "targets": jnp.int32([[7, 3, 19, 0, 4]]),
        "negatives": jnp.int32([[1, 2, 8]]),
        "real": jnp.ones((1, 5)),
        "mask": jnp.ones(1),
    }
    ids = [batch[name] for name in ("inputs", "targets", "negatives")]
    taken = Gathered(tuple(ids), tuple(jnp.float32(rows)[i] for i in ids), like["item"].fields)
    loss = lambda model, shared: compiled(lambda: model.loss(shared, {}, batch, KEY))()
    np.testing.assert_allclose(loss(texts, shared), loss(table, {**rest, "item": taken}), rtol=1e-5)


def test_unisrec_with_adapters_begins_as_without_and_trains_nothing_else():
    sizes = dict(width=WIDTH, length=5, layers=1, dropout=0.0, projector=(6,))
    made = (ITEMS, 1, tiny_bert.titles(ITEMS), str(tiny_bert.folder()))
    plain = models.unisrec(*made, components=COMPONENTS, **sizes)
    shared, _ = drawn(plain)
    adapted = models.unisrec(*made, components=COMPONENTS, rank=2, **sizes)
    begun = models.started(adapted, trees.named(shared)).init(KEY)[0]
    history = jnp.int32([-1, 7, 7, 2, 19])
    scores = lambda model, shared: model.score(shared, {}, slice(None), history=history)
    np.testing.assert_allclose(scores(adapted, begun), scores(plain, shared), rtol=1e-5)
    trained = {name.split("'")[-2] for name in trees.named(trees.trainable(begun))}
    assert trained == {"lora_a", "lora_b"}
    assert len(factors.pairs(begun)) == 8  # six of the layers and two of the projector
    few = models.unisrec(*made, components=COMPONENTS, rank=2, targets="layers.query", **sizes)
    assert len(factors.pairs(few.init(KEY)[0])) == 1
    with pytest.raises(ValueError, match="gate' fits no linear"):
        models.unisrec(*made, components=COMPONENTS, rank=2, targets="layers.gate", **sizes)


def test_text_sasrec_is_sasrec_whose_rows_are_projected_texts_and_own_rows():
    sizes = dict(width=WIDTH, length=5, layers=1, dropout=0.0)
    folder, titles = str(tiny_bert.folder()), tiny_bert.titles(ITEMS)
    known = dict(components=COMPONENTS, scale=0.5)
    both = models.text_sasrec(ITEMS, 1, titles, folder, **known, **sizes)
    shared, _ = drawn(both)
    item, text = shared["item"], np.asarray(shared["item"]["text"].value)
    own = np.asarray(item["row"].values)
    assert not np.asarray(compiled(both.init)(KEY)[0]["item"]["row"].values).any()
    part = item["project"]["layers"]["0"]
    rows = text @ part["kernel"] + part["bias"] + own
    table = models.sasrec(ITEMS, **sizes)
    like = table.init(jax.random.key(0))[0]["item"]
    with_rows = {**shared, "item": replace(like, values=jnp.float32(rows))}
    history = jnp.int32([-1, 7, 7, 2, 19])
    scores = lambda m: compiled(lambda s: m.score(s, {}, slice(None), history=history))
    np.testing.assert_allclose(scores(both)(shared), scores(table)(with_rows), 1e-4, 1e-6)


@pytest.mark.parametrize("loss", [models.sampled_softmax(), models.full_softmax()])
def test_rows_begin_at_the_principal_directions_of_texts(loss):
    folder, titles = str(tiny_bert.folder()), tiny_bert.titles(ITEMS)
    plain = models.sasrec(ITEMS, width=4, length=5, layers=1, loss=loss)
    model = models.text_rows(plain, ITEMS, titles, folder, scale=0.05)
    (shared, _), (before, _) = (compiled(m.init)(KEY) for m in (model, plain))
    found = getattr(shared["item"], "values", shared["item"])
    embeddings = np.asarray(models.sentences(titles, folder), np.float64)
    u, _, _ = np.linalg.svd(embeddings - embeddings.mean(0), full_matrices=False)
    ratio = np.asarray(found) / (0.05 * ITEMS**0.5 * u[:, :4])
    np.testing.assert_allclose(np.abs(ratio), 1, rtol=1e-3)
    np.testing.assert_allclose(ratio, np.tile(np.sign(ratio[0]), (ITEMS, 1)), rtol=1e-3)
    same = jax.tree.map(lambda a, b: bool((a == b).all()), shared["layers"], before["layers"])
    assert all(jax.tree.leaves(same))


@pytest.mark.parametrize("kind", ["sasrec", "hstu"])
def test_from_texts_is_text_rows_around_the_model(kind):
    folder, titles = str(tiny_bert.folder()), tiny_bert.titles(ITEMS)
    sizes = {"width": 4, "length": 5, "layers": 1}
    around = models.text_rows(getattr(models, kind)(ITEMS, **sizes), ITEMS, titles, folder)
    model = getattr(models, f"{kind}_from_texts")(ITEMS, 1, titles, folder, **sizes)
    got, want = (compiled(m.init)(KEY) for m in (model, around))
    jax.tree.map(np.testing.assert_array_equal, got, want)


def test_what_text_rows_cannot_begin_is_said():
    folder, titles = str(tiny_bert.folder()), tiny_bert.titles(ITEMS)
    made = partial(models.text_rows, num_items=ITEMS, titles=titles, weights=folder)
    with pytest.raises(ValueError, match=r"text_rows\(model\) has no table of 20 rows; use"):
        made(models.fedmf(ITEMS + 1, width=4))
    with pytest.raises(ValueError, match=r"text_rows\(model\) has \['.*, \['.* of 20 rows"):
        made(models.neumf(ITEMS))
    with pytest.raises(ValueError, match=r"components=64\) of texts with \d+ directions"):
        made(models.fedmf(ITEMS, width=64))
    with pytest.raises(ValueError, match="text_rows needs titles"):
        models.text_rows(models.fedmf(ITEMS, width=4), ITEMS)
