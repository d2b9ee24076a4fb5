"""Sequential models against formulas in NumPy, what they may look at, and that they learn."""

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from fedjax_rec import models, rows, trees
from fedjax_rec.models.sequential.gru4rec import GRU, GRU4Rec
from fedjax_rec.models.sequential.hstu import Layer
from fedjax_rec.models.sequential.sasrec import Block, SASRec, drawn_items
from fedjax_rec.models.transformers.dropping import dropout, seeds
from fedjax_rec.models.transformers.lora import freeze, linears, lora

ITEMS, WIDTH, LENGTH = 12, 8, 5
KEY = jax.random.key(3)
RNG = np.random.default_rng(0)


def sasrec(loss, rngs):
    layers = lambda r: Block(WIDTH, WIDTH, 2, 0.0, jax.nn.relu, r, (2,))
    item = drawn_items(ITEMS, WIDTH, loss, rngs)
    return SASRec(item, ITEMS, WIDTH, LENGTH, layers, 0.0, loss, rngs)


def hstu(loss, rngs):
    layers = lambda r: Layer(WIDTH, LENGTH, 2, 0.0, r, (2,))
    item = drawn_items(ITEMS, WIDTH, loss, rngs)
    return SASRec(item, ITEMS, WIDTH, LENGTH, layers, 0.0, loss, rngs)


def compiled(f):
    """Compiled without costly optimisations: these tests compile for longer than they run."""
    return jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})


def scores(model, shared, private, history, items=slice(None)):
    """Of a user with that history."""
    score = lambda s, p, h: model.score(s, p, items, history=h)
    return compiled(score)(shared, private, jnp.int32(history))


def batch_of(examples=4, length=LENGTH, negatives=3, items=ITEMS):
    """Sequences i, i + 1, i + 2, ... in a circle of items; of the first, two places are padding."""
    start = RNG.integers(0, items, examples)
    line = (start[:, None] + np.arange(length + 1)) % items
    real = np.ones((examples, length), np.float32)
    real[0, :2] = 0
    line[0, :2] = line[0, 2]
    return {
        "inputs": jnp.int32(line[:, :-1]),
        "targets": jnp.int32(line[:, 1:]),
        "real": jnp.asarray(real),
        "negatives": jnp.int32(RNG.integers(0, items, (examples, negatives))),
        "mask": jnp.ones(examples),
    }


def far_from_zero(tree):
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: jnp.float32(rng.normal(size=x.shape) / 2), tree)


MAKE = {
    "sasrec": lambda **more: models.sasrec(
        ITEMS, width=WIDTH, length=LENGTH, heads=2, **{"dropout": 0.0, **more}
    ),
    "bert4rec": lambda **more: models.bert4rec(
        ITEMS, width=WIDTH, length=LENGTH, **{"dropout": 0.0, **more}
    ),
    "gru4rec": lambda **more: models.gru4rec(
        ITEMS, width=WIDTH, hidden=6, layers=2, **{"dropout": 0.0, **more}
    ),
    "hstu": lambda **more: models.hstu(
        ITEMS, width=WIDTH, length=LENGTH, heads=2, **{"dropout": 0.0, **more}
    ),
}
EVERY = pytest.mark.parametrize("name", MAKE)
# Attention from both sides, and the layers of HSTU, compile for long.
SLOW = pytest.mark.parametrize(
    "name",
    [pytest.param(k, marks=[pytest.mark.slow] if k in ("bert4rec", "hstu") else []) for k in MAKE],
)


# --- by hand


def f64(x):
    return np.asarray(x, np.float64)


def layer_norm(x, p):
    y = x - x.mean(-1, keepdims=True)
    return y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6) * f64(p["scale"]) + f64(p["bias"])


def dense(x, p):
    return x @ f64(p["kernel"]) + f64(p["bias"])


def at_layer(shared, number):
    return jax.tree.map(lambda x: x[number], shared["layers"])


def silu(x):
    return x / (1 + np.exp(-x))


def embedded(shared, history):
    table = shared["item"].values
    return WIDTH**0.5 * f64(table)[history] + f64(shared["position"])[-len(history) :]


def sasrec_by_hand(shared, history, heads=2):
    x = embedded(shared, history)
    for number in range(2):
        p, n = at_layer(shared, number), len(history)
        y, out = layer_norm(x, p["before"]), np.zeros((n, WIDTH))
        q, k, v = (dense(y, p[name]) for name in ("query", "key", "value"))
        for part in np.split(np.arange(WIDTH), heads):
            for t in range(n):
                score = np.array([q[t, part] @ k[s, part] for s in range(t + 1)])
                weight = np.exp(score / np.sqrt(len(part)))
                out[t, part] = weight / weight.sum() @ v[: t + 1, part]
        x = x + dense(out, p["out"])
        x = x + dense(np.maximum(dense(layer_norm(x, p["between"]), p["up"]), 0), p["down"])
    return layer_norm(x, shared["norm"])[-1]


def hstu_by_hand(shared, history, heads=2):
    x = embedded(shared, history)
    for number in range(2):
        p, n = at_layer(shared, number), len(history)
        y, out = layer_norm(x, p["before"]), np.zeros((n, WIDTH))
        u, v, q, k = (silu(dense(y, p[name])) for name in ("gate", "value", "query", "key"))
        for h, part in enumerate(np.split(np.arange(WIDTH), heads)):
            for t in range(n):
                for s in range(t + 1):
                    score = q[t, part] @ k[s, part] + f64(p["distance"])[h, t - s]
                    out[t, part] += silu(score) / LENGTH * v[s, part]
        x = x + dense(layer_norm(out, p["after"]) * u, p["out"])
    return layer_norm(x, shared["norm"])[-1]


@pytest.mark.parametrize("by_hand", [sasrec_by_hand, hstu_by_hand], ids=["sasrec", "hstu"])
@pytest.mark.parametrize("size", [LENGTH, 3])
def test_scores_equal_the_formula(by_hand, size):
    """A short history, which is padded, scores as if it were alone."""
    model = MAKE[by_hand.__name__.split("_")[0]]()
    shared, private = far_from_zero(model.init(KEY))
    history = np.array([7, 2, 11, 2, 5])[:size]
    padded = np.concatenate([np.full(LENGTH - size, -1), history])
    want = f64(shared["item"].values) @ by_hand(shared, history)
    got = scores(model, shared, private, padded)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)
    some = scores(model, shared, private, padded, jnp.int32([4, 4, 9]))
    np.testing.assert_allclose(some, want[[4, 4, 9]], rtol=1e-3, atol=1e-4)


def test_the_recurrent_layer_is_that_of_flax():
    layer, cell = GRU(4, 6, nnx.Rngs(0)), flax.linen.GRUCell(6)
    x = jnp.float32(RNG.normal(size=(3, LENGTH, 4)))
    kernels, biases = (np.split(f64(v), 3, -1) for v in (layer.input.kernel, layer.input.bias))
    recurrent = np.split(f64(layer.state.kernel), 3, -1)
    params = {}
    for i, gate in enumerate("rzn"):
        params["i" + gate] = {"kernel": kernels[i], "bias": biases[i]}
        params["h" + gate] = {"kernel": recurrent[i]}
    params["hn"]["bias"] = np.zeros(6)
    h = jnp.zeros((3, 6))
    got = layer(x, jnp.ones((3, LENGTH), bool))
    for t in range(LENGTH):
        h, _ = cell.apply({"params": params}, h, x[:, t])
        np.testing.assert_allclose(got[:, t], h, rtol=1e-4, atol=1e-5)
    # Places before the first item change nothing.
    late = jnp.arange(LENGTH) >= 2
    np.testing.assert_allclose(
        layer(x, jnp.broadcast_to(late, (3, LENGTH)))[:, -1],
        layer(x[:, 2:], jnp.ones((3, LENGTH - 2), bool))[:, -1],
        rtol=1e-5,
    )


def states_of(name, batch):
    """states(batch) of the model, far from zero."""
    build = {
        "sasrec": lambda r: sasrec(models.sampled_bce(), r),
        "hstu": lambda r: hstu(models.sampled_bce(), r),
        "gru4rec": lambda r: GRU4Rec(ITEMS, WIDTH, 6, 1, 0.0, models.sampled_bce(), r),
    }[name]
    module = build(nnx.Rngs(0))
    nnx.update(module, far_from_zero(nnx.state(module)))
    rows_of = module.item[...][batch["inputs"]]
    return compiled(lambda x, real: module.states(x, real))(rows_of, batch["real"] > 0)


@pytest.mark.parametrize("name", ["sasrec", "hstu", "gru4rec"])
def test_later_items_change_no_earlier_state(name):
    batch = batch_of()
    changed = batch["inputs"].at[:, 3:].set((batch["inputs"][:, 3:] + 5) % ITEMS)
    a, b = (states_of(name, {**batch, "inputs": x}) for x in (batch["inputs"], changed))
    np.testing.assert_allclose(a[:, :3], b[:, :3], rtol=1e-5, atol=1e-6)
    assert (np.abs(a[:, 3:] - b[:, 3:]).max(-1) > 1e-3).all()


@SLOW
def test_padding_touches_nothing(name):
    """What stands at padded places and in padded examples changes neither loss nor gradient."""
    model = MAKE[name]()
    shared, private = far_from_zero(model.init(KEY))
    batch = batch_of()
    batch["mask"] = batch["mask"].at[3].set(0)
    other = dict(batch)
    for field in ("inputs", "targets"):
        other[field] = batch[field].at[0, :2].set(9).at[3].set(4)
    other["negatives"] = batch["negatives"].at[3].set(1)
    grad = compiled(jax.value_and_grad(lambda s, b: model.loss(s, private, b, KEY)))
    (a, of_a), (b, of_b) = grad(shared, batch), grad(shared, other)
    np.testing.assert_allclose(a, b, rtol=1e-5)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-3, atol=1e-6), of_a, of_b)


# --- losses


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def loss_by_hand(kind, t, each):
    """(value by the library, value place by place)."""
    batch = batch_of(negatives=3)
    batch["mask"] = batch["mask"].at[3].set(0)
    if each:
        batch["negatives"] = jnp.int32(RNG.integers(0, ITEMS, (4, LENGTH, 3)))
    table, states = RNG.normal(size=(ITEMS, WIDTH)), RNG.normal(size=(4, LENGTH, WIDTH))
    counts = np.asarray(batch["real"] * batch["mask"][:, None])
    q = np.full(ITEMS, 1 / ITEMS)
    if kind == "log q told":
        q = RNG.dirichlet(np.ones(ITEMS))
        batch["log_q"] = jnp.log(jnp.float32(q))[batch["negatives"]]
    loss = {
        "gbce": lambda: models.gbce(t),
        "softmax": lambda: models.sampled_softmax(),
        "log q": lambda: models.log_q_softmax(),
        "log q told": lambda: models.log_q_softmax(),
        "full": lambda: models.full_softmax(),
    }[kind]()
    item = jnp.float32(table)
    got = loss.value(jnp.float32(states), item, "targets", batch, jnp.asarray(counts), ITEMS)
    ids, total = np.asarray(batch["negatives"]), 0.0
    for b, p in zip(*np.nonzero(counts), strict=True):
        target = int(batch["targets"][b, p])
        drawn = ids[b, p] if each else ids[:3].reshape(-1)  # of the examples that are real
        down = table[[i for i in drawn if i != target]] @ states[b, p]
        up = table[target] @ states[b, p]
        if kind == "full":
            total += np.log(np.exp(table @ states[b, p]).sum()) - up
        elif kind == "softmax":
            total += np.log(np.exp(up) + np.exp(down).sum()) - up
        elif kind.startswith("log q"):
            worth = [np.exp(table[i] @ states[b, p]) / q[i] for i in drawn if i != target]
            total += np.log(np.exp(up) + sum(worth) / len(drawn)) - up
        else:
            a = len(down) / (ITEMS - 1)
            beta = a * (t * (1 - 1 / a) + 1 / a)
            positive = np.log(sigmoid(up) ** beta)
            total -= (positive + np.log(1 - sigmoid(down)).sum()) / (len(down) + 1)
    return float(got), total / counts.sum()


@pytest.mark.parametrize("each", [False, True], ids=["shared", "each"])
@pytest.mark.parametrize(
    ("kind", "t"),
    [
        ("gbce", 0.0), ("gbce", 0.75), ("softmax", None), ("log q", None), ("log q told", None),
        ("full", None),
    ],
)  # fmt: skip
def test_losses_equal_the_formula(kind, t, each):
    got, want = loss_by_hand(kind, t, each)
    np.testing.assert_allclose(got, want, rtol=1e-4)


def test_gbce_is_bce_at_zero_and_calibrated_at_one():
    """At t = 1 the scores that minimise the loss say how likely the next item is: with the target
    drawn by p and k uniform negatives, s(score_i) = p_i (theorem 5.1 of the paper)."""
    counts, k, items = jnp.ones((1, 1)), 2, 4
    states, share = jnp.ones((1, 1, 1)), np.array([0.5, 0.3, 0.15, 0.05])
    pairs = [(i, a, b) for i in range(items) for a in range(items) for b in range(items)]
    pairs = [(i, a, b) for i, a, b in pairs if i not in (a, b)]  # negatives are not the target
    targets, negatives = jnp.int32([[p[0]] for p in pairs]), jnp.int32([p[1:] for p in pairs])
    weight = jnp.float32([share[p[0]] for p in pairs]) / (items - 1) ** k

    def expected(score, t):
        def one(target, drawn):
            batch = {"targets": target[None], "negatives": drawn[None], "mask": jnp.ones(1)}
            return models.gbce(t).value(states, score[:, None], "targets", batch, counts, items)

        return (weight * jax.vmap(one)(targets, negatives)).sum()

    def minimum(t):
        descend = lambda _, score: score - 4.0 * jax.grad(lambda s: expected(s, t))(score)
        return sigmoid(np.asarray(jax.lax.fori_loop(0, 1000, descend, jnp.full(items, 0.1))))

    np.testing.assert_allclose(minimum(1.0), share, atol=0.01)
    # Plain BCE: s(score) = p / (p + (1 - p) k / (I - 1)).
    np.testing.assert_allclose(minimum(0.0), share / (share + (1 - share) * k / 3), atol=0.01)


INNER = {
    "gbce": lambda: models.gbce(0.75),
    "softmax": lambda: models.sampled_softmax(0.2),
    "full": models.full_softmax,
}


@pytest.mark.parametrize("kind", INNER)
def test_cosines_are_the_loss_of_states_and_rows_of_length_one(kind):
    batch, counts = batch_of(negatives=3), jnp.ones((4, LENGTH))
    table, states = RNG.normal(size=(ITEMS, WIDTH)), RNG.normal(size=(4, LENGTH, WIDTH))
    one = lambda x: jnp.float32(x / np.linalg.norm(x, axis=-1, keepdims=True))
    value = lambda loss, states, table: loss.value(
        jnp.float32(states), jnp.float32(table), "targets", batch, counts, ITEMS
    )
    loss = models.cosine(INNER[kind]())
    assert loss.whole == INNER[kind]().whole
    got = value(loss, states, table)
    np.testing.assert_allclose(got, value(INNER[kind](), one(states), one(table)), rtol=1e-5)
    longer = table * RNG.uniform(0.5, 2, (ITEMS, 1))
    np.testing.assert_allclose(value(loss, 3 * states, longer), got, rtol=1e-5)
    slope = jax.grad(lambda t: value(loss, states, t))(jnp.zeros((ITEMS, WIDTH)))
    assert np.isfinite(slope).all()  # also where rows have no direction
    with pytest.raises(ValueError, match="one of cosines already"):
        models.cosine(loss)


def test_what_is_trained_by_cosines_is_ranked_by_them():
    model = MAKE["sasrec"](loss=models.cosine(INNER["softmax"]()))
    shared, private = far_from_zero(model.init(KEY))
    history = np.array([-1, 3, 1, 4, 9])
    table = np.asarray(shared["item"].values)
    want = scores(MAKE["sasrec"](), shared, private, history) / np.linalg.norm(table, axis=-1)
    np.testing.assert_allclose(scores(model, shared, private, history), want, rtol=1e-4)


def test_a_loss_without_negatives_says_what_to_do():
    batch = batch_of()
    batch.pop("negatives")
    model = MAKE["sasrec"]()
    with pytest.raises(ValueError, match=r"needs negatives; give sequences\(negatives=128\)"):
        model.loss(*model.init(KEY), batch, KEY)


# --- training


@SLOW
def test_every_model_learns_what_comes_next(name):
    """Items follow one another in a circle: all are as popular, and the next one is certain."""
    loss = dict.fromkeys(("sasrec", "gru4rec"), models.sampled_softmax())
    more = {"last": 0.7} if name == "bert4rec" else {}
    model = MAKE[name](loss=loss.get(name, models.full_softmax()), **more)
    shared, private = model.init(KEY)
    adam = optax.adam(0.02 if name == "gru4rec" else 0.01)

    def step(carry, key):
        shared, state = carry
        of_batch, of_negatives, of_loss = jax.random.split(key, 3)
        start = jax.random.randint(of_batch, (16, 1), 0, ITEMS)
        line = (start + jnp.arange(LENGTH + 1)) % ITEMS
        drawn = jax.random.randint(of_negatives, (16, 2), 0, ITEMS)
        batch = {"inputs": line[:, :-1], "targets": line[:, 1:], "negatives": drawn}
        batch |= {"real": jnp.ones((16, LENGTH)), "mask": jnp.ones(16)}
        loss, slope = jax.value_and_grad(lambda s: model.loss(s, private, batch, of_loss))(shared)
        change, state = adam.update(slope, state)
        return (optax.apply_updates(shared, change), state), loss

    start, of_steps = (shared, adam.init(shared)), jax.random.split(KEY, 150)
    (shared, _), losses = compiled(lambda a, b: jax.lax.scan(step, a, b))(start, of_steps)
    assert losses[-10:].mean() < 0.6 * losses[:10].mean()

    def best(history):
        return model.score(shared, private, slice(None), history=history).argmax()

    history = (jnp.arange(ITEMS)[:, None] + jnp.arange(LENGTH)) % ITEMS
    right = compiled(jax.vmap(best))(history) == (jnp.arange(ITEMS) + LENGTH) % ITEMS
    assert right.mean() > 0.7  # chance is 1 / 12


@EVERY
def test_dropout_and_masking_are_for_training_alone(name):
    model = MAKE[name](dropout=0.5)
    shared, private = far_from_zero(model.init(KEY))
    batch = batch_of()
    loss = compiled(lambda key: model.loss(shared, private, batch, key))
    assert len({float(loss(jax.random.key(i))) for i in range(4)}) == 4
    history, quiet = [1, 2, 3, 4, 5], MAKE[name]()
    a, b = (scores(m, shared, private, history) for m in (model, quiet))
    np.testing.assert_array_equal(a, b)


def test_dropout_keeps_its_share_and_its_mean():
    x = jnp.ones((200, 500))
    one, two = seeds(jnp.uint32(5), 2)
    a, b = dropout(one, x, 0.2), dropout(two, x, 0.2)
    for y in (a, b):
        assert set(np.unique(y)) == {0.0, 1.25}
        assert abs(float((y == 0).mean()) - 0.2) < 5 * 0.4 / np.sqrt(x.size)
        assert abs(np.corrcoef(y[:, :-1].reshape(-1), y[:, 1:].reshape(-1))[0, 1]) < 0.02
    assert abs(np.corrcoef(a.reshape(-1), b.reshape(-1))[0, 1]) < 0.02
    assert dropout(None, x, 0.2) is x and dropout(one, x, 0.0) is x


# --- roles


@EVERY
def test_items_are_rows_but_for_the_full_softmax(name):
    shared, private = MAKE[name]().init(KEY)
    assert isinstance(shared["item"], rows.Table) and not private
    fields = {"bert4rec": ("targets", "negatives")}.get(name, ("inputs", "targets", "negatives"))
    assert shared["item"].fields == fields
    whole, _ = MAKE[name](loss=models.full_softmax()).init(KEY)
    assert not rows.tables(whole) and whole["item"].shape == (ITEMS, WIDTH)


def test_adapters_attach_to_a_frozen_backbone_and_train():
    def build(rngs):
        module = sasrec(models.sampled_softmax(), rngs)
        return lora(freeze(module), rngs, "layers.query|layers.value", rank=2)

    module = sasrec(models.sampled_softmax(), nnx.Rngs(0))
    names = ("down", "key", "out", "query", "up", "value")
    assert list(linears(module)) == [f"layers.{name}" for name in names]
    model = models.from_nnx(build)
    shared, private = model.init(KEY)
    assert shared["layers"]["query"]["lora_a"].shape == (2, WIDTH, 2)
    batch, start = batch_of(), trees.trainable(shared)
    # The item rows stay trainable; what is frozen has no gradient at all.
    dense = sorted(jax.tree_util.keystr(p) for p, _ in jax.tree.leaves_with_path(start))
    assert len(dense) == 5 and sum("lora" in name for name in dense) == 4

    @compiled
    def descend(some):
        loss = lambda s: model.loss(trees.with_frozen(s, shared), private, batch, KEY)
        value, slope = jax.value_and_grad(loss)(some)
        return jax.tree.map(lambda x, g: x - 0.1 * g, some, slope), value

    trained, values = start, []
    for _ in range(20):
        trained, value = descend(trained)
        values.append(float(value))
    assert values[-1] < values[0] - 0.05
    assert (np.asarray(trained["layers"]["value"]["lora_b"]) != 0).any()


def test_bad_sizes_are_named():
    with pytest.raises(ValueError, match=r"sasrec\(heads=3\) does not divide width=8"):
        models.sasrec(ITEMS, width=8, heads=3)
    with pytest.raises(ValueError, match=r"hstu\(length=0\)"):
        models.hstu(ITEMS, length=0)
    with pytest.raises(ValueError, match=r"bert4rec\(masked=1.5\)"):
        models.bert4rec(ITEMS, masked=1.5)
    with pytest.raises(ValueError, match=r"gru4rec\(layers=0\)"):
        models.gru4rec(ITEMS, layers=0)
    with pytest.raises(ValueError, match=r"gbce\(t=2\)"):
        models.gbce(2)
    model = models.sasrec(ITEMS, width=8, length=3)
    with pytest.raises(ValueError, match=r"has length=3 places and read 5 items"):
        model.loss(*model.init(KEY), batch_of(), KEY)
