"""Models that see others through a view are, at first, those models: in what they lose, score and
predict, in the catalogue and the context that scoring needs, and in what is there at all."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fedjax_rec import data, evaluate, models, trees
from fedjax_rec.evaluate.protocol import catalogue_of_all
from fedjax_rec.models.transformers import layers
from fedjax_rec.rows import is_table

pytestmark = pytest.mark.usefixtures("compiled_fast")

ITEMS, WIDTH, MEMBERS = 9, 4, 2
KEY, COMMON = jax.random.key(0), jax.random.key(1)
HISTORY = jnp.int32([-1, -1, 3, 8, 3])
BATCH = {
    "items": jnp.int32([3, 7, 3, 0]),
    "labels": jnp.float32([1, 0, 0, 1]),
    "users": jnp.int32([0, 1, 1, 0]),
    "history": jnp.int32([[-1, 2, 5], [1, 1, 1], [-1, -1, 0], [4, 8, 7]]),
    "mask": jnp.float32([1, 1, 1, 0]),
}


class Layer(nnx.Module):
    def __init__(self, rngs):
        self.query = layers.linear(rngs, WIDTH, WIDTH)


class Below(nnx.Module):
    """A frozen linear layer with an adapter, over item rows; a private vector for each user."""

    def __init__(self, objective, rngs):
        draw = jax.random.normal
        self.item = models.Rows(draw(rngs.params(), (ITEMS, WIDTH)), fields=("items", "history"))
        self.user = models.Private(draw(rngs.params(), (MEMBERS, WIDTH)))
        self.lean = models.Private(draw(rngs.common(), (WIDTH,)))
        self.layer = models.lora(models.freeze(Layer(rngs)), rngs, "query", rank=2, alpha=4.0)
        self.objective = objective

    def through(self, x):
        return self.layer.query(x)

    def whom(self, users):
        return self.user[users] + self.lean[...]


class Reading(Below):
    """Scores from a history, as SASRec: its mean, through the layer."""

    def loss(self, batch, key):
        read = jax.vmap(self.read)(batch["history"]) + self.whom(batch["users"])
        return self.objective((self.item[batch["items"]] * read).sum(-1), batch)

    def read(self, history):
        real = (history >= 0)[:, None]
        mean = (real * self.item[jnp.maximum(history, 0)]).sum(0) / jnp.maximum(real.sum(), 1)
        return self.through(mean)

    def score(self, items, user, reading):
        return self.item[items] @ (reading + self.whom(user))


class Texts(Below):
    """Scores with a catalogue, as text towers do: all items through the layer."""

    def loss(self, batch, key):
        vectors = self.through(self.item[batch["items"]])
        return self.objective((vectors * self.whom(batch["users"])).sum(-1), batch)

    def prepare(self):
        return self.through(self.item[...])

    def score(self, items, user, prepared):
        return prepared[items] @ self.whom(user)


class Answers(Below):
    """Predicts labelled examples and scores no items."""

    def loss(self, batch, key):
        return self.objective(self.predict(batch), batch)

    def predict(self, batch):
        return (self.through(self.item[batch["items"]]) * self.whom(batch["users"])).sum(-1)


def made(kind, objective=models.bce()):
    return models.from_nnx(partial(kind, objective))


def moved(model):
    """`model` whose adapters begin at something, so that it matters where they are kept."""

    def init(key, common=None):
        shared, private = model.init(key, common)
        query = shared["layer"]["query"]
        query = {**query, "lora_b": query["lora_b"] + 0.3}
        return {**shared, "layer": {"query": query}}, private

    return replace(model, init=init)


def inside(model):
    """What the inner model begins with, as most have it."""
    return model.init(KEY)


def elsewhere(model):
    return model.init(jax.random.key(7))[0]


# name -> (the model behind a view, what the inner one sees at first).
VIEWS = {
    "frozen_at": (lambda m: models.frozen_at(m, "*lora_a|item"), inside),
    "private_at": (lambda m: models.private_at(m, "*lora_*"), inside),
    "with_core": (models.with_core, inside),
    "prunable": (models.prunable, inside),
    "guided": (lambda m: models.guided(m, 0.5), inside),
    "started": (
        lambda m: models.started(m, trees.named(elsewhere(m))),
        lambda m: (elsewhere(m), m.init(KEY)[1]),
    ),
}


def same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def seen(model, shared, private):
    """All that `model` makes of these, in one compiled call."""

    @jax.jit
    def run(shared, private):
        out = {"loss": model.loss(shared, private, BATCH, KEY)}
        if model.predict is not None:
            out["predicted"] = model.predict(shared, private, BATCH)
        if model.ranking is not None:
            out["catalogue"] = model.ranking.catalogue(shared, private)
            out["context"] = model.ranking.context(shared, private, HISTORY)
            for items in (slice(None), jnp.int32([4, 4, 0])):
                out[str(items)] = model.score(shared, private, items, 1, HISTORY)
        return out

    return run(shared, private)


@pytest.mark.parametrize("kind", [Reading, Texts, Answers])
@pytest.mark.parametrize("name", VIEWS)
def test_a_model_behind_a_view_is_at_first_the_model(name, kind):
    view, begins = VIEWS[name]
    # A core stands where A B is zero.
    inner = made(kind) if name == "with_core" else moved(made(kind))
    outer = view(inner)
    shared, private = outer.init(KEY)
    want = seen(inner, *begins(inner))
    same(seen(outer, shared, private), want)
    assert (outer.ranking is None, outer.predict is None) == (kind is Answers, kind is not Answers)
    if kind is not Answers:
        assert bool(jax.tree.leaves(want["catalogue"])) == (kind is Texts)
        assert bool(jax.tree.leaves(want["context"])) == (kind is Reading)
    else:
        with pytest.raises(ValueError, match=r"model\.score: .*candidates: examples"):
            outer.score(shared, private, slice(None))


@pytest.mark.parametrize("name", VIEWS)
def test_what_starts_alike_starts_alike_behind_a_view(name):
    model = VIEWS[name][0](moved(made(Reading)))
    a, b = (model.init(jax.random.key(k), COMMON) for k in (2, 3))
    assert jax.tree.structure(a) == jax.tree.structure(model.init(KEY))
    np.testing.assert_array_equal(a[1]["lean"], b[1]["lean"])
    assert (a[1]["user"] != b[1]["user"]).all()
    if name == "private_at":
        want = made(Reading).init(COMMON)[0]["layer"]["query"]["lora_a"]
        for _, mine in (a, b):
            np.testing.assert_array_equal(mine["layer"]["query"]["lora_a"], want)


@pytest.mark.parametrize("kind", [Reading, Texts, Answers])
@pytest.mark.parametrize("who", ["teacher", "student"])
def test_of_two_models_the_one_that_is_asked_scores_and_predicts(who, kind):
    factory = lambda objective: moved(made(kind, objective))
    both = models.mutual(factory, factory, scored_by=who)
    shared, private = both.init(KEY)
    keys = dict(zip(("teacher", "student"), jax.random.split(KEY), strict=True))
    inner = factory(models.bce())
    found, want = seen(both, shared, private), seen(inner, *inner.init(keys[who]))
    assert float(found.pop("loss")) > float(want.pop("loss"))
    same(found, want)
    # Embeddings of the teacher's are its client's own.
    if kind is Texts:
        stacked = jax.tree.map(lambda x: jnp.stack([x, x]), private)
        assert (catalogue_of_all(both, shared, stacked) is None) == (who == "teacher")


@pytest.mark.parametrize("name", VIEWS)
def test_a_catalogue_is_made_once_unless_clients_keep_what_it_is_made_of(name):
    outer = VIEWS[name][0](made(Texts))
    shared, private = outer.init(KEY)
    stacked = jax.tree.map(lambda x: jnp.stack([x, x + 1]), private)
    found = catalogue_of_all(outer, shared, stacked)
    assert (found is None) == (name == "private_at")
    if found is not None:
        same(found, outer.ranking.catalogue(shared, private))


def test_a_model_that_reads_says_what_it_needs():
    for model in (made(Reading), models.prunable(made(Reading))):
        with pytest.raises(
            ValueError, match=r"^Reading scores from a history; .*history="
        ) as error:
            model.score(*model.init(KEY), slice(None))
        assert "\n" not in str(error.value)


def test_sasrec_behind_views_is_sasrec():
    inner = models.sasrec(ITEMS, width=WIDTH, length=5, layers=1)
    shared, private = jax.jit(inner.init)(KEY)
    want = jax.jit(lambda s, p: inner.score(s, p, slice(None), 0, HISTORY))(shared, private)
    for view in (
        models.prunable,
        partial(models.guided, strength=0.1),
        partial(models.private_at, targets="position|norm.*"),
        partial(models.frozen_at, targets="layers.*"),
    ):
        outer = view(inner)
        score = jax.jit(lambda s, p, m=outer: m.score(s, p, slice(None), 0, HISTORY))
        same(score(*jax.jit(outer.init)(KEY)), want)


def test_masked_values_are_masked_to_scores_from_a_history_too():
    """A row that is off is zero where it is read and where it is scored."""
    model = models.prunable(made(Reading))
    shared, private = model.init(KEY)
    mask = {**shared["mask"].value}
    mask["model/item"] = mask["model/item"].at[jnp.array([3, 8])].set(False)
    off = {**shared, "mask": trees.Frozen(mask)}
    got = model.score(off, private, slice(None), 0, HISTORY)
    table = shared["model"]["item"]
    assert is_table(table)
    values = replace(table, values=table.values.at[jnp.array([3, 8])].set(0.0))
    want = made(Reading).score(
        {**shared["model"], "item": values}, private, slice(None), 0, HISTORY
    )
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert not np.asarray(got)[[3, 8]].any() and np.asarray(got).any()


def test_predictions_behind_a_view_are_measured():
    """Adapters that a client keeps predict its examples, each client's its own."""
    model = models.private_at(made(Answers), "*lora_b")
    shared, private = model.init(KEY)
    own = jax.tree.map(lambda x: jnp.stack([x, x]), private)
    query = own["layer"]["query"]
    query["lora_b"] = query["lora_b"].at[1].add(1.0)
    rng = np.random.default_rng(0)
    fields = {
        "items": rng.integers(0, ITEMS, 14).astype(np.int32),
        "users": np.zeros(14, np.int32),
        "labels": rng.integers(0, 2, 14),
    }
    # Six held-out examples of each of two clients, and one to train on.
    client, part = np.repeat([0, 1], 7), np.int8([2] * 6 + [0] + [2] * 6 + [0])
    held = data.pack_examples(data.Examples("kept", fields, client, part)).test
    got = evaluate.predict_examples(model, shared, own, held)
    for k in (0, 1):
        mine = jax.tree.map(lambda x, k=k: x[k], own)
        batch = {name: jnp.asarray(x[7 * k : 7 * k + 6]) for name, x in fields.items()}
        want = model.predict(shared, mine, batch)
        np.testing.assert_allclose(got[6 * k : 6 * k + 6], want, rtol=1e-5, atol=1e-6)
