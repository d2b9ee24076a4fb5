"""IFedRec against a loop in NumPy over clients, rows and the network; bytes; new items; errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_hetefedrec import ITEMS, USERS, examples, items_of, rows_of, split

from fedjax_rec import aggregate, compress, data, models, privacy, simulate, strategies, wire
from fedjax_rec.data.splits import TEST, TRAIN, Split
from fedjax_rec.types import Cohort, Packet

pytestmark = pytest.mark.usefixtures("compiled_fast")

WIDTH, FI, LAYER, STRENGTH = 4, 3, 5, 40.0
RATES = {"user_learning_rate": 0.7, "item_learning_rate": 2.0}
RATE, STEPS = 0.05, 3
KEY = jax.random.key(5)
# Who is there, round by round; 9 is nobody.
COHORTS = [range(USERS), [8, 0, 3, 9, 2]]
WHAT = np.random.default_rng(3).normal(size=(ITEMS, FI)).astype(np.float32)


@pytest.fixture(scope="module")
def dataset():
    return data.pack(split(), evaluation_negatives=0)


def model_of(**given):
    given = {
        "width": WIDTH,
        "layers": (LAYER,),
        "strength": STRENGTH,
        "item_features": WHAT,
    } | given
    return models.ifedrec(ITEMS, 1, **given)


def strategy_of(model=None, **parts):
    given = {"network_learning_rate": RATE, "network_steps": STEPS, "clients_per_chunk": 4, **RATES}
    return strategies.ifedrec(model or model_of(), examples(), **given | parts)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def trained(w, b, q, r, items, client):
    """(w, b, {item: change}) of a client after a step on its scorer and one on its rows."""
    named, labels = rows_of(items, client)
    labels = np.array(labels)
    error = (sigmoid(q[named] @ w + b) - labels) / len(named)
    w = w - RATES["user_learning_rate"] * error @ q[named]
    b = b - RATES["user_learning_rate"] * error.sum()
    error = (sigmoid(q[named] @ w + b) - labels) / len(named)
    change = {}
    for i in set(named):
        slope = error[np.array(named) == i].sum() * w
        slope = slope + STRENGTH * 2 * (q[i] - r[i]) / q.size
        change[i] = -RATES["item_learning_rate"] * slope
    return w, b, change


def through(network, x):
    hidden = np.maximum(x @ network[0]["kernel"] + network[0]["bias"], 0)
    return hidden, np.tanh(hidden @ network[1]["kernel"] + network[1]["bias"])


class Adam:
    """Kingma & Ba, ICLR 2015, beside one network."""

    def __init__(self, network):
        self.m = [{name: 0 * x for name, x in layer.items()} for layer in network]
        self.v = [{name: 0 * x for name, x in layer.items()} for layer in network]
        self.t = 0

    def step(self, network, known, q):
        self.t += 1
        hidden, r = through(network, WHAT.astype(float))
        of_last = known[:, None] * 2 * (r - q) / (known.sum() * WIDTH) * (1 - r**2)
        of_first = of_last @ network[1]["kernel"].T * (hidden > 0)
        slopes = [
            {"kernel": WHAT.T @ of_first, "bias": of_first.sum(0)},
            {"kernel": hidden.T @ of_last, "bias": of_last.sum(0)},
        ]
        for layer, m, v, g in zip(network, self.m, self.v, slopes, strict=True):
            for name in layer:
                m[name] = 0.9 * m[name] + 0.1 * g[name]
                v[name] = 0.999 * v[name] + 0.001 * g[name] ** 2
                # 1 - 0.999^t has four digits in float32, in which optax takes it.
                of_m, of_v = (1 - np.float32(x) ** np.float32(self.t) for x in (0.9, 0.999))
                up, down = m[name] / of_m, v[name] / of_v
                layer[name] = layer[name] - RATE * up / (np.sqrt(down) + 1e-8)


def test_two_rounds_are_the_loop(dataset):
    strategy, everyone = strategy_of(), items_of(split())
    state = strategy.init(KEY, USERS)
    wide = lambda tree: jax.tree.map(lambda x: np.asarray(x, np.float64), tree)
    begin = wide(state.shared["attributes"].value)
    q, r, network = wide(state.shared["model"]["item"].values), begin["rows"], begin["network"]
    np.testing.assert_allclose(through(network, WHAT)[1], r, rtol=1e-6, atol=1e-6)
    w, b = wide(state.private["weight"])[:, 0], wide(state.private["bias"])[:, 0]
    known, adam = np.zeros(ITEMS, bool), Adam(network)
    assert not begin["known"].any()
    for cohort in COHORTS:
        sums, counts = np.zeros_like(q), np.zeros(ITEMS)
        for k in (k for k in cohort if k < USERS):
            w[k], b[k], change = trained(w[k], b[k], q, r, everyone[k], k)
            for i, x in change.items():
                sums[i] += x
                counts[i] += 1
        q = q + sums / np.maximum(counts, 1)[:, None]
        known |= counts > 0
        for _ in range(STEPS):
            adam.step(network, known, q)
        r = through(network, WHAT)[1]
        state, _ = strategy.round(KEY, state, Cohort(jnp.array(list(cohort)), dataset.store))
        now = state.shared["attributes"].value
        np.testing.assert_allclose(state.shared["model"]["item"].values, q, rtol=1e-6, atol=1e-6)
        np.testing.assert_array_equal(now["known"], known)
        np.testing.assert_allclose(now["rows"], r, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(state.private["weight"][:, 0], w, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(state.private["bias"][:, 0], b, rtol=1e-6, atol=1e-6)
        for mine, layer in zip(now["network"], network, strict=True):
            for name, x in layer.items():
                np.testing.assert_allclose(mine[name], x, rtol=1e-6, atol=1e-6)
    assert known.any() and np.abs(q - r).max() > 0.1
    # A score is by the trained row, or by what attributes make of an item that nobody trained.
    fake = state.shared["attributes"].value | {"known": jnp.arange(ITEMS) % 2 == 0}
    shared = {**state.shared, "attributes": type(state.shared["attributes"])(fake)}
    mine = jax.tree.map(lambda x: x[3], state.private)
    want = np.where((np.arange(ITEMS) % 2 == 0)[:, None], q, r) @ w[3] + b[3]
    scored = strategy.model.score(shared, mine, slice(None), 0)
    np.testing.assert_allclose(scored, want, atol=2e-6)
    few = jnp.array([5, 2, 2])
    np.testing.assert_allclose(strategy.model.score(shared, mine, few, 0), want[few], atol=2e-6)


def test_both_tables_are_billed_down_and_one_up(dataset):
    strategy = strategy_of()
    state, cohort = strategy.init(KEY, USERS), Cohort(jnp.arange(USERS), dataset.store)
    _, info = strategy.round(KEY, state, cohort)
    packets, up = strategy.packets(KEY, state, cohort)
    for k in range(USERS):
        mine = jax.tree.map(lambda x, k=k: x[k], packets)
        assert len(wire.to_bytes(mine)) == up[k] == info.bytes_up[k]
        items = set(rows_of(items_of(split())[k], k)[0])
        assert info.bytes_down[k] == wire.nbytes(
            Packet({"model": mine.body["model"], "rows": mine.body["model"]})
        )
        assert info.bytes_down[k] > 2 * 4 * WIDTH * len(items)
    # The network and the attributes are in no message.
    bare = strategies.pfedrec(models.pfedrec(ITEMS, width=WIDTH), examples(), clients_per_chunk=4)
    _, plain = bare.round(KEY, bare.init(KEY, USERS), cohort)
    assert (info.bytes_up - plain.bytes_up < 16).all() and (info.bytes_up >= plain.bytes_up).all()


def test_without_strength_the_rows_are_those_of_pfedrec(dataset):
    """And the network looks on."""
    mine = strategy_of(model_of(strength=0.0))
    theirs = strategies.pfedrec(
        models.pfedrec(ITEMS, 1, WIDTH), examples(), learning_rate=RATES["user_learning_rate"],
        item_learning_rate=RATES["item_learning_rate"], aggregator=aggregate.per_row(),
        clients_per_chunk=4,
    )  # fmt: skip
    a, b = mine.init(KEY, USERS), theirs.init(KEY, USERS)
    np.testing.assert_array_equal(a.shared["model"]["item"].values, b.shared["item"].values)
    for _ in range(3):
        cohort = Cohort(jnp.arange(USERS), dataset.store)
        a, b = mine.round(KEY, a, cohort)[0], theirs.round(KEY, b, cohort)[0]
    np.testing.assert_allclose(a.shared["model"]["item"].values, b.shared["item"].values, rtol=1e-6)


def world():
    """Users of town 0 met items of kind 0, and those of town 1 the others; items 0 to 3 are new."""
    towns, kinds, rng = np.arange(24) % 2, np.arange(30) % 2, np.random.default_rng(1)
    pairs = [(u, i) for u in range(24) for i in range(4, 30) if towns[u] == kinds[i]]
    users, items = np.array([pair for pair in pairs if rng.random() < 0.6]).T
    found = data.from_arrays("towns", [*users, 0, 0, 1, 1], [*items, 0, 2, 1, 3])
    persons, names = (np.asarray(x).astype(int) for x in (found.user_names, found.item_names))
    absent = names < 4
    part = np.where(absent[found.items], TEST, TRAIN).astype(np.int8)
    return (
        data.pack(Split(found, part, absent), evaluation_negatives=0),
        towns[persons],
        kinds[names],
        names,
    )


def test_new_items_are_ranked_by_their_attributes():
    packed, towns, kinds, names = world()
    what = np.eye(2, dtype=np.float32)[kinds]
    model = models.ifedrec(30, 1, 4, (6,), 1.0, item_features=what)
    strategy = strategies.ifedrec(
        model, data.pointwise(2), user_learning_rate=0.5, item_learning_rate=5.0,
        network_learning_rate=0.02, network_steps=10,
    )  # fmt: skip
    *_, last = simulate.simulate(strategy, packed.store, 40, jax.random.key(0))
    state, fresh = last.state, np.argsort(names)[:4]
    known = np.asarray(state.shared["attributes"].value["known"])
    assert not known[fresh].any() and known.sum() == 26
    right = 0
    for at, town in enumerate(towns):
        mine = jax.tree.map(lambda x, at=at: x[at], state.private)
        score = np.asarray(model.score(state.shared, mine, jnp.array(fresh), 0))
        alike = kinds[fresh] == town
        right += score[alike].min() > score[~alike].max()
    assert right == len(towns)


def test_what_it_refuses():
    plain = data.pointwise(2)
    with pytest.raises(ValueError, match=r"attributed\(model\) shares .*give a model that shares"):
        models.attributed(models.gmf(ITEMS), WHAT)
    with pytest.raises(ValueError, match=r"item_features: \(3, 14\)\): give \[14, Fi\]"):
        model_of(item_features=WHAT.T)
    with pytest.raises(ValueError, match="ifedrec knows nothing of items"):
        model_of(item_features=None)
    with pytest.raises(ValueError, match=r"make the model with models\.ifedrec"):
        strategies.ifedrec(models.fedmf(ITEMS), plain).init(KEY, USERS)
    with pytest.raises(ValueError, match=r"ifedrec\(downlink\) sends a client whole tables"):
        strategy_of(downlink=compress.cast())
    sealed = privacy.secure_aggregation(8.0, clients=USERS, protocol=privacy.light_secagg())
    with pytest.raises(ValueError, match=r"ifedrec\(aggregator\) sends a client whole tables"):
        strategy_of(aggregator=sealed)
    with pytest.raises(ValueError, match=r"attributing\(steps=0\)"):
        strategy_of(network_steps=0)
