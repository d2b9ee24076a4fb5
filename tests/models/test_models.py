"""Models against formulas written in NumPy, and `from_nnx`: roles, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fedjax_rec import models, rows, trees
from fedjax_rec.models import objectives
from fedjax_rec.rows import Gathered, Table

ITEMS, WIDTH, MEMBERS = 20, 4, 3
KEY = jax.random.key(1)
RNG = np.random.default_rng(0)
ONE = {
    "items": jnp.int32([3, 7, 3, 19, 0]),
    "labels": jnp.float32([1, 0, 0, 1, 1]),
    "mask": jnp.float32([1, 1, 1, 1, 0]),
}
SEVERAL = {**ONE, "users": jnp.int32([0, 2, 1, 1, 2])}
PAIRS = {**SEVERAL, "items": jnp.int32([[3, 1], [7, 2], [3, 4], [19, 3], [0, 0]])}
BATCHES = {"one": ONE, "several": SEVERAL, "pairs": PAIRS}


def relu(x):
    return np.maximum(x, 0)


def mean_loss(objective: str, z, batch) -> float:
    """By the definition, example by example."""
    y, mask = np.asarray(batch["labels"], float), np.asarray(batch["mask"])
    loss = {
        "bce": lambda: -y * np.log(1 / (1 + np.exp(-z))) - (1 - y) * np.log(1 / (1 + np.exp(z))),
        "squared_error": lambda: (z - y) ** 2,
        "bpr": lambda: -np.log(1 / (1 + np.exp(-(z[:, 0] - z[:, 1])))),
    }[objective]()
    return (loss * mask).sum() / mask.sum()


def values(tree, *path):
    for name in path:
        tree = tree[name]
    tree = tree.values if isinstance(tree, Table) else tree
    return np.asarray(tree, np.float64)


def half(shared, private, number, features, users, items):
    path = ("halves", str(number))
    p = values(private, *path, "user")[users]
    q = values(shared, *path, "item")[items]
    p = np.broadcast_to(p.reshape(p.shape[0], *[1] * (q.ndim - p.ndim), WIDTH), q.shape)
    if features == "product":
        return p * q
    x = np.concatenate([p, q], -1)
    layers = shared["halves"][str(number)]["features"]["layers"]
    for name in sorted(layers):
        x = relu(x @ values(layers, name, "kernel") + values(layers, name, "bias"))
    return x


def by_hand(name, shared, private, users, items):
    """Scores [B] or [B, 2] by the paper's formula."""
    if name == "fedmf":
        p, q = values(private, "user")[users], values(shared, "item")[items]
        return (p.reshape(p.shape[0], *[1] * (q.ndim - 2), WIDTH) * q).sum(-1)
    if name == "pfedrec":
        w, b = values(private, "weight")[users], values(private, "bias")[users]
        q = values(shared, "item")[items]
        shape = (w.shape[0], *[1] * (q.ndim - 2))
        return (w.reshape(*shape, WIDTH) * q).sum(-1) + b.reshape(shape)
    halves = {"gmf": ["product"], "mlp": ["tower"], "neumf": ["product", "tower"]}[name]
    x = np.concatenate(
        [half(shared, private, i, f, users, items) for i, f in enumerate(halves)], -1
    )
    readout = shared["readout"]
    return (x @ values(readout, "kernel") + values(readout, "bias"))[..., 0]


def make(name, members, objective="bce"):
    layers = {} if name in ("fedmf", "gmf", "pfedrec") else {"layers": (5, 4)}
    return getattr(models, name)(
        ITEMS, members, width=WIDTH, objective=getattr(models, objective)(), **layers
    )


def initialised(name, members, objective="bce"):
    """A model and parameters far from zero, no two users alike."""
    model = make(name, members, objective)
    start = model.init(KEY)
    rng = np.random.default_rng(2)
    shared, private = jax.tree.map(lambda x: jnp.float32(rng.normal(size=x.shape)), start)
    return model, shared, private


def gathered(shared, batch):
    """`shared` as a client's loss sees it."""
    return rows.map_tables(
        lambda t: Gathered(
            tuple(batch[f] for f in t.fields), tuple(t.values[batch[f]] for f in t.fields), t.fields
        ),
        shared,
    )


NAMES = pytest.mark.parametrize("name", ["fedmf", "gmf", "mlp", "neumf", "pfedrec"])


@NAMES
@pytest.mark.parametrize("world", ["one", "several", "pairs"])
def test_losses_and_scores_equal_the_formula(name, world):
    batch = BATCHES[world]
    objective = "bpr" if world == "pairs" else "bce"
    model, shared, private = initialised(name, 1 if world == "one" else MEMBERS, objective)
    users = np.asarray(batch.get("users", np.zeros(5, int)))
    z = by_hand(name, shared, private, users, np.asarray(batch["items"]))
    want = mean_loss(objective, z, batch)
    np.testing.assert_allclose(model.loss(shared, private, batch, KEY), want, rtol=1e-4)
    seen = gathered(shared, batch)
    np.testing.assert_allclose(model.loss(seen, private, batch, KEY), want, rtol=1e-4)
    for user in range(1 if world == "one" else MEMBERS):
        everyone = np.arange(ITEMS)
        z = by_hand(name, shared, private, np.full(ITEMS, user), everyone)
        np.testing.assert_allclose(
            model.score(shared, private, slice(None), user), z, rtol=1e-4, atol=1e-5
        )
        some = model.score(shared, private, jnp.int32([4, 4, 9]), user)
        np.testing.assert_allclose(some, z[[4, 4, 9]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("objective", ["bce", "squared_error"])
def test_gradients_of_the_tables_equal_the_formula(objective):
    model, shared, private = initialised("fedmf", 1, objective)
    grad = jax.grad(lambda s, p: model.loss(s, p, ONE, KEY), argnums=(0, 1))
    of_shared, of_private = grad(shared, private)
    p, q = values(private, "user")[0], values(shared, "item")
    i, y = np.asarray(ONE["items"]), np.asarray(ONE["labels"])
    z = q[i] @ p
    slope = 1 / (1 + np.exp(-z)) - y if objective == "bce" else 2 * (z - y)
    slope = slope * np.asarray(ONE["mask"]) / 4
    table = np.zeros((ITEMS, WIDTH))
    np.add.at(table, i, slope[:, None] * p)
    np.testing.assert_allclose(of_shared["item"].values, table, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(of_private["user"][0], slope @ q[i], rtol=1e-4, atol=1e-6)
    assert not table[0].any()  # named by padding alone


def test_objectives_are_stable_and_refuse_wrong_shapes():
    batch = {"labels": jnp.float32([0, 1]), "mask": jnp.ones(2)}
    assert float(models.bce()(jnp.float32([1000, -1000]), batch)) == 1000
    assert float(models.bce()(jnp.float32([-1000, 1000]), batch)) == 0
    assert float(models.masked_mean(jnp.ones(3), jnp.zeros(3))) == 0
    with pytest.raises(ValueError, match=r"scores of shape \(2,\); train it on data.pairwise"):
        models.bpr()(jnp.zeros(2), batch)


def test_slopes_of_the_logistic_loss_are_right_to_the_second_order():
    """At 0 above all, where models with zero rows begin, and where nothing is finite."""
    x = jnp.float32([-np.inf, -100, -3, 0, 1e-3, 2, 100])
    first, second = jax.grad(objectives.softplus), jax.grad(jax.grad(objectives.softplus))
    s = 1 / (1 + np.exp(-np.float64(x)))
    np.testing.assert_allclose(objectives.softplus(x), np.log1p(np.exp(np.float64(x))), 1e-6, 1e-7)
    np.testing.assert_allclose(jax.vmap(first)(x), s, atol=1e-7)
    np.testing.assert_allclose(jax.vmap(second)(x), s * (1 - s), atol=1e-7)
    assert float(first(jnp.float32(np.inf))) == 1


def test_a_summed_objective_is_the_sum_of_a_whole_batch():
    z, y = np.array([0.3, -1.2, 0.7, 9.0]), np.array([1.0, 0.0, 0.0, 1.0])
    batch = {"labels": jnp.float32(y), "mask": jnp.float32([1, 1, 1, 0]), "count": jnp.full(4, 3.0)}
    wanted = (np.log1p(np.exp(z)) - y * z)[:3].sum()
    value = models.summed(models.bce())(jnp.float32(z), batch)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    with pytest.raises(ValueError, match=r"train it on data.counted"):
        models.summed(models.bce())(jnp.float32(z), ONE)


def test_bad_widths_are_named():
    for build in (models.fedmf, models.gmf, models.pfedrec):
        with pytest.raises(ValueError, match=r"width=0\) must be positive"):
            build(5, width=0)
    with pytest.raises(ValueError, match=r"layers=\[\]"):
        models.mlp(5, layers=())
    with pytest.raises(ValueError, match=r"layers=\[8, 0\]"):
        models.neumf(5, layers=(8, 0))


def test_pfedrec_scorers_start_from_one_common_draw():
    """As the paper's code and the module's docstring have it: for all clients, not for each."""
    from fedjax_rec import clients
    from fedjax_rec.data import batches

    model = models.pfedrec(ITEMS, width=WIDTH)
    client = clients.local_training(model, batches.pointwise(4), clients.sgd(0.1))
    a, b = client.init(KEY, jnp.int32(0)), client.init(KEY, jnp.int32(1))
    np.testing.assert_array_equal(a["weight"], b["weight"])
    np.testing.assert_array_equal(a["bias"], b["bias"])


def test_pfedrec_starts_as_torch_linear_and_members_alike():
    shared, private = models.pfedrec(2000, members=3, width=16).init(KEY)
    assert abs(float(shared["item"].values.std()) - 1) < 0.02
    assert float(jnp.abs(private["weight"]).max()) <= 0.25
    assert private["weight"].shape == (3, 16) and private["bias"].shape == (3,)
    np.testing.assert_array_equal(private["weight"][0], private["weight"][2])


class Everything(nnx.Module):
    def __init__(self, rngs):
        self.layer = nnx.Linear(2, 2, rngs=rngs)
        self.item = models.Rows(jnp.ones((5, 2)), fields=("items", "others"))
        self.mine = models.Private(jnp.zeros(2))
        self.base = models.Frozen(jnp.full((2,), 3.0))

    def loss(self, batch, key):
        out = self.layer(self.item[batch["items"]] + self.item[batch["others"]])
        return (out @ (self.mine[...] + self.base[...])).mean()

    def score(self, items, user):
        return self.item[items] @ self.base[...]


def test_from_nnx_puts_each_variable_where_its_role_says():
    model = models.from_nnx(Everything)
    shared, private = model.init(KEY)
    assert set(shared) == {"layer", "item", "base"} and set(private) == {"mine"}
    assert isinstance(shared["item"], Table) and shared["item"].fields == ("items", "others")
    assert isinstance(shared["base"], trees.Frozen)
    assert set(shared["layer"]) == {"kernel", "bias"}
    np.testing.assert_array_equal(model.score(shared, private, jnp.int32([1])), [6])
    other = model.init(jax.random.key(2))[0]
    assert (other["layer"]["kernel"] != shared["layer"]["kernel"]).any()
    batch = {"items": jnp.int32([1, 2]), "others": jnp.int32([0, 4])}
    want = model.loss(shared, private, batch, KEY)
    got = model.loss(gathered(shared, batch), private, batch, KEY)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_from_nnx_refuses_variables_without_a_role():
    class Normed(nnx.Module):
        def __init__(self, rngs):
            self.inner = nnx.BatchNorm(3, rngs=rngs)

    with pytest.raises(TypeError, match=r"^from_nnx: variable inner\.\w+ holds.*LayerNorm"):
        models.from_nnx(Normed)


class Dropping(nnx.Module):
    """A module that holds random state, as `nnx.Dropout` does where it is given rngs."""

    def __init__(self, rngs):
        self.item = models.Rows(jnp.ones((5, 2)))
        self.dropout = nnx.Dropout(0.5, rngs=rngs)

    def loss(self, batch, key):
        return self.dropout(self.item[batch["items"]], rngs=nnx.Rngs(key)).mean()

    def score(self, items, user):
        return self.item[items].sum(-1)


def test_from_nnx_takes_modules_with_random_state():
    model = models.from_nnx(Dropping)
    shared, private = model.init(KEY)
    batch = {"items": jnp.int32([0, 1, 2, 3])}
    draws = {float(model.loss(shared, private, batch, jax.random.key(i))) for i in range(8)}
    assert len(draws) > 1
    np.testing.assert_array_equal(model.score(shared, private, slice(None)), np.full(5, 2))


class Sliced(nnx.Module):
    def __init__(self, rngs):
        self.item = models.Rows(jnp.ones((5, 2)))

    def loss(self, batch, key):
        return self.item[batch["items"][:1]].sum()

    def score(self, items, user):
        return self.item[items].sum(-1)


def test_a_table_is_indexed_by_ids_of_the_batch_and_by_nothing_else():
    model = models.from_nnx(Sliced)
    shared, private = model.init(KEY)
    assert float(model.loss(gathered(shared, ONE), private, ONE, KEY)) == 2
    other = {**ONE, "items": ONE["items"] + 100}
    with pytest.raises(ValueError, match=r"other than batch\['items'\] or ids among them; index"):
        model.loss(gathered(shared, ONE), private, other, KEY)
