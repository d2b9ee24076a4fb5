"""TIGER against whole sequences in NumPy, its beam against a loop, and what it sends."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedjax_rec import clients, data, models, rows, strategies, trees, weights
from fedjax_rec.data.sources.sources import find
from fedjax_rec.models.sequential.tiger import of_ids
from fedjax_rec.types import Cohort

ITEMS, WIDTH, LENGTH, HEADS, LAYERS = 17, 8, 4, 2, 2
RNG = np.random.default_rng(3)
IDS = models.told_apart(RNG.integers(0, 3, (ITEMS, 2)), 3)
LEVELS = len(IDS.sizes)
OFFSETS = np.cumsum([0, *IDS.sizes])
HISTORY = [-1, 4, 0, 9]
KEY = jax.random.key(1)


def made(beam=None, rate=0.0, ids=IDS):
    return of_ids(ids, WIDTH, LENGTH, LAYERS, HEADS, rate, beam)


@cache
def drawn():
    """Shared parameters with noise on all that is trained."""
    rng = np.random.default_rng(0)
    shared, _ = made().init(KEY)
    noisy = lambda x: x + jnp.float32(0.4 * rng.normal(size=x.shape))
    return trees.with_frozen(jax.tree.map(noisy, trees.trainable(shared)), shared)


def compiled(f):
    return jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})


def scored(model, history, items=slice(None)):
    score = lambda shared, h: model.score(shared, {}, items, history=h)
    return np.asarray(compiled(score)(drawn(), jnp.int32(history)))


# --- by hand: one sequence of codes after another, all of it, without anything that is shared


def f64(x):
    return np.asarray(x, np.float64)


def layer_norm(x, p):
    y = x - x.mean(-1, keepdims=True)
    return y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6) * f64(p["scale"]) + f64(p["bias"])


def dense(x, p):
    return x @ f64(p["kernel"]) + f64(p["bias"])


def states_by_hand(tokens, places):
    """[n, D] of codes (level, code) at places of items, each looking at itself and those before."""
    shared = drawn()
    trunk = shared["trunk"]
    table, position = f64(shared["code"]), f64(trunk["position"])
    x = np.array([table[OFFSETS[level] + code] for level, code in tokens]) * WIDTH**0.5
    x = x + position[places]
    for number in range(LAYERS):
        p = jax.tree.map(lambda x, number=number: x[number], trunk["layers"])
        y, out = layer_norm(x, p["before"]), np.zeros(x.shape)
        q, k, v = (dense(y, p[name]) for name in ("query", "key", "value"))
        for part in np.split(np.arange(WIDTH), HEADS):
            for t in range(len(x)):
                worth = np.array([q[t, part] @ k[s, part] for s in range(t + 1)])
                weight = np.exp(worth / np.sqrt(len(part)))
                out[t, part] = weight / weight.sum() @ v[: t + 1, part]
        x = x + dense(out, p["out"])
        x = x + dense(np.maximum(dense(layer_norm(x, p["between"]), p["up"]), 0), p["down"])
    return layer_norm(x, trunk["norm"])


def codes_of(items):
    return [(level, code) for item in items for level, code in enumerate(IDS.codes[item])]


def scores_by_hand(history, prefix):
    """[K] of the code after a history and the first codes of the next item."""
    items = [i for i in history if i >= 0]
    places = [LENGTH - len(items) + n for n in range(len(items)) for _ in range(LEVELS)]
    tokens = codes_of(items) + list(enumerate(prefix))
    state = states_by_hand(tokens, places + [LENGTH] * len(prefix))[-1]
    level = len(prefix)
    return f64(drawn()["code"])[OFFSETS[level] : OFFSETS[level + 1]] @ state


def log_softmax(x):
    return x - np.log(np.exp(x).sum())


def children(prefix):
    n = len(prefix)
    return sorted({row[n] for row in IDS.codes.tolist() if tuple(row[:n]) == tuple(prefix)})


@cache
def leading_by_hand(prefix):
    """{code: log-probability} of the codes that lead on to an item, after `HISTORY`."""
    codes = children(prefix)
    return dict(zip(codes, log_softmax(scores_by_hand(HISTORY, prefix)[codes]), strict=True))


def exhaustive_by_hand():
    return np.array(
        [
            sum(leading_by_hand(tuple(row[:m]))[row[m]] for m in range(LEVELS))
            for row in IDS.codes.tolist()
        ]
    )


def test_items_are_ranked_by_the_log_probabilities_of_their_codes():
    expected = exhaustive_by_hand()
    assert IDS.collided > 4 and expected.std() > 0.3
    np.testing.assert_allclose(scored(made(), HISTORY), expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(np.exp(expected).sum(), 1)
    some = scored(made(), HISTORY, jnp.int32([5, 2]))
    np.testing.assert_allclose(some, expected[[5, 2]], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("width", [2, 5])
def test_the_beam_is_that_of_a_loop(width):
    beam = [((), 0.0)]
    for _ in range(LEVELS):
        longer = [
            ((*prefix, c), total + p)
            for prefix, total in beam
            for c, p in leading_by_hand(prefix).items()
        ]
        beam = sorted(longer, key=lambda one: -one[1])[:width]
    expected = np.full(ITEMS, -1e9)
    for prefix, total in beam:
        expected[IDS.codes.tolist().index(list(prefix))] = total
    np.testing.assert_allclose(scored(made(width), HISTORY), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "codes",
    [np.arange(9)[:, None], RNG.integers(0, 2, (9, 3)), RNG.permutation(16)[:9][:, None] // [4, 1]],
    ids=["one level", "many collide", "no further code"],
)
def test_a_beam_of_all_items_is_exhaustive(codes):
    ids = models.told_apart(codes % 16, 16)
    whole, beam = made(ids=ids), made(beam=9, ids=ids)
    shared = jax.tree.map(lambda x: 5 * x, trees.trainable(whole.init(KEY)[0]))
    shared = trees.with_frozen(shared, whole.init(KEY)[0])
    score = lambda m: compiled(lambda h: m.score(shared, {}, slice(None), history=h))
    for history in ([-1, -1, -1, -1], [3, 1, 4, 1]):
        a, b = (np.asarray(score(m)(jnp.int32(history))) for m in (whole, beam))
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(np.exp(a).sum(), 1, rtol=1e-5)


def test_the_loss_is_the_cross_entropy_of_the_codes_that_lead_on():
    items = np.array([[2, 2, 2, 7, 1], [11, 3, 3, 16, 8], [0, 0, 0, 0, 0]])
    real = np.array([[0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]], np.float32)
    total = []
    for row, there in zip(items[:2], real[:2].astype(bool), strict=True):
        line = [row[place] for place in range(LENGTH) if there[place]] + [row[-1]]
        places = [LENGTH + 1 - len(line) + n for n in range(len(line)) for _ in range(LEVELS)]
        tokens = codes_of(line)
        states = states_by_hand(tokens[:-1], places[:-1])
        nll = []
        for n, (level, code) in enumerate(tokens[LEVELS:]):
            of_level = f64(drawn()["code"])[OFFSETS[level] : OFFSETS[level + 1]]
            before = [c for _, c in tokens[LEVELS + n - level : LEVELS + n]]
            leads = children(before)
            worth = (of_level @ states[LEVELS - 1 + n])[leads]
            nll.append(-log_softmax(worth)[leads.index(code)])
        total += np.reshape(nll, (-1, LEVELS)).sum(1).tolist()
    batch = {
        "inputs": jnp.int32(items[:, :-1]), "targets": jnp.int32(items[:, 1:]),
        "real": jnp.asarray(real), "mask": jnp.float32([1, 1, 0]),
    }  # fmt: skip
    value = compiled(lambda shared: made().loss(shared, {}, batch, KEY))(drawn())
    assert len(total) == 2 + 4
    np.testing.assert_allclose(value, np.mean(total), rtol=1e-4)
    dropped = compiled(lambda shared: made(rate=0.5).loss(shared, {}, batch, KEY))(drawn())
    assert abs(dropped - value) > 0.01


def test_more_items_than_places_are_refused():
    with pytest.raises(
        ValueError, match=r"length=4 places and read 5 items; make it with length=5"
    ):
        scored(made(), [1, 2, 3, 4, 5])


# --- federated


def world(found, ids, length, width=16, rate=0.01, rounds=40, dropout=0.0):
    """(data, model, what it shares after `rounds` of all users)."""
    examples = data.sequences(length)
    packed = data.pack(data.leave_one_out()(found), evaluation_negatives=0, history=length)
    model = of_ids(ids, width, length, 2, 1, dropout, None)
    strategy = strategies.fedavg(
        model, examples, batch_size=1, optimizer=clients.sgd(0.1), server=optax.adam(rate)
    )
    state = strategy.init(KEY, packed.store.num_clients)
    everyone = Cohort(jnp.arange(packed.store.num_clients), packed.store)
    step, losses = jax.jit(strategy.round), []
    for _ in range(rounds):
        before = state
        state, info = step(KEY, state, everyone)
        losses.append(float(info.metrics["loss"].mean()))
    return packed, before.shared, state.shared, info, losses


def recall(shared, histories, ids, length, beam, width=16, k=10):
    """The share of the exhaustive first `k` among the beam's, over histories."""
    made = lambda beam: of_ids(ids, width, length, 2, 1, 0.0, beam)

    def first(model, history):
        return jax.lax.top_k(model.score(shared, {}, slice(None), history=history), k)[1]

    found = [jax.jit(lambda h, m=m: jax.lax.map(lambda x: first(m, x), h)) for m in map(made, beam)]
    one, *others = (np.asarray(f(histories)) for f in found)
    share = lambda a, b: np.mean([len({*x} & {*y}) / k for x, y in zip(a, b, strict=True)])
    return [share(one, other) for other in others]


@cache
def small_world():
    found = data.synthetic(num_users=40, num_items=150, interactions_per_user=14, seed=2)
    ids = models.told_apart(np.random.default_rng(0).integers(0, 6, (150, 3)), 6)
    return ids, *world(found, ids, length=8)


def test_codes_are_frozen_and_not_sent():
    ids, _, before, after, info, losses = small_world()
    assert losses[-1] < losses[0] - 0.5
    for name in ("codes", "trie"):
        a, b = (jax.tree.leaves(shared[name]) for shared in (before, after))
        assert all((np.asarray(x) == np.asarray(y)).all() for x, y in zip(a, b, strict=True))
    np.testing.assert_array_equal(after["codes"].value, ids.codes)
    trained = trees.nbytes(trees.trainable(after))
    up = np.asarray(info.bytes_up)
    assert ((trained <= up) & (up < trained + 200)).all() and not rows.tables(after)


def test_a_beam_finds_what_is_first():
    ids, packed, _, shared, _, _ = small_world()
    wide, narrow = recall(shared, packed.test.history, ids, 8, (None, 64, 10))
    assert wide >= 0.99 > narrow


def test_a_beam_of_64_finds_what_is_first_on_movielens():
    """Codes of MiniLM's embeddings, half trained."""
    if find("ml-100k") is None:
        pytest.skip("needs ml-100k; fetch it with fedjax-rec data get.")
    try:
        weights.find("minilm")
    except FileNotFoundError as error:
        pytest.skip(str(error))
    found = data.implicit(data.load("ml-100k"))
    ids = models.semantic_ids(data.titles(found))
    packed, _, shared, _, losses = world(found, ids, 10, rate=0.01, rounds=60)
    assert losses[-1] < losses[0] - 1
    wide, narrow = recall(shared, packed.test.history[:200], ids, 10, (None, 64, 10))
    assert wide >= 0.99 > narrow
