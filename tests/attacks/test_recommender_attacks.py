"""FedRecAttack, A-ra and A-hum, PipAttack and FedAttack: their uploads against NumPy, and that they
attack."""

import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_targets import crowd, exposed

from fedjax_rec import aggregate, attacks, data, evaluate, models, rows, strategies
from fedjax_rec.rows import Table
from fedjax_rec.types import Cohort

sys.path.insert(0, str(Path(__file__).parents[1] / "aggregate"))
from robust_world import CLIENTS, ITEMS, LIARS, NOW, SHARED, WIDTH, uploads

pytestmark = pytest.mark.usefixtures("compiled_fast")
TARGETS, KEY = [5, 2], jax.random.key(4)
LIES = np.isin(np.arange(CLIENTS), LIARS)


def sides_of(there):
    there = np.asarray(there) > 0
    lies = jnp.asarray(LIES & there)
    return attacks.Sides(lies, jnp.asarray(there & ~LIES), NOW.client)


def forged(attack, shared, came, state=None):
    """(state, update) after a round with uploads `came` at the model `shared`."""
    state = attack.init(shared) if state is None else state
    now = replace(NOW, shared=shared)
    return jax.jit(attack.forge)(KEY, state, came.update, sides_of(came.weight), now)


def table_of(seed: int, scale: float = 1.0):
    values = scale * np.random.default_rng(seed).normal(size=(ITEMS, WIDTH))
    return np.float32(values), {**SHARED, "item": Table(jnp.float32(values))}


def sent_by(item, k: int) -> dict[int, np.ndarray]:
    """The rows that client k sends, by item."""
    ids = np.arange(ITEMS) if item.ids is None else np.asarray(item.ids[k])
    live = np.asarray(item.live[k])
    assert not np.asarray(item.values[k])[~live].any() and len(set(ids[live])) == live.sum()
    return {int(i): np.asarray(item.values[k, slot]) for slot, i in enumerate(ids) if live[slot]}


def public_of(profiles, num_items: int = ITEMS):
    users = np.repeat(np.arange(len(profiles)), [len(x) for x in profiles])
    return attacks.Published(users, np.concatenate(profiles), len(profiles), num_items)


logistic = lambda x: 1 / (1 + np.exp(-x))


def slope(f, x, step=1e-3):
    """df/dx of a function of an array, by differences."""
    x, out = np.asarray(x, np.float64), np.zeros(np.shape(x))
    for place in np.ndindex(*x.shape):
        d = np.zeros(x.shape)
        d[place] = step
        out[place] = (f(x + d) - f(x - d)) / 2 / step
    return out


@pytest.mark.parametrize("layout", ["whole", "ids"])
def test_fed_rec_attack_sends_clipped_rows_of_its_slope_and_leaves_the_rest_to_others(layout):
    public = public_of([[1, 5], [2, 9, 11], [7], [0, 3, 4, 5]])
    make = partial(attacks.fed_rec_attack, TARGETS, public, rate=0.5, kappa=6, bound=0.6)
    attack, came = make(among=3, user_rate=0.3), uploads(layout)
    items, shared = table_of(7)
    state, update = forged(attack, shared, came)
    users, left = np.asarray(state["users"], float), np.zeros((ITEMS, WIDTH))
    for vector, own in zip(users, [[1, 5], [2, 9, 11], [7], [0, 3, 4, 5]], strict=True):
        scores = items @ vector
        free = [i for i in range(ITEMS) if i not in own and i not in TARGETS]
        last = sorted(free, key=lambda i: -scores[i])[2]
        for t in set(TARGETS) - set(own):
            ahead = scores[last] - scores[t]
            weight = 1.0 if ahead >= 0 else np.exp(ahead)
            left[last] += weight * vector
            left[t] -= weight * vector
    assert (np.linalg.norm(left, axis=1) > 0.6).any()  # something is clipped
    chosen = {}
    for k in np.flatnonzero(LIES):
        sent = sent_by(update["item"], k)
        assert len(sent) == 6 and set(TARGETS) < set(sent)
        for i, row in sent.items():
            part = left[i] * min(1, 0.6 / max(np.linalg.norm(left[i]), 1e-12))
            np.testing.assert_allclose(row, -0.5 * part, rtol=1e-4, atol=1e-6)
            left[i] = left[i] - part
        assert not np.asarray(update["kernel"][k]).any()
        chosen[k] = set(sent)
    again = forged(attack, table_of(8)[1], came, state)[1]["item"]
    assert {k: set(sent_by(again, k)) for k in chosen} == chosen  # they keep to their rows
    assert chosen[LIARS[0]] != chosen[LIARS[1]]


def test_fed_rec_attack_trains_its_users_by_adam_on_public_pairs():
    """Two items are left to draw, whose rows are the same, so that it does not matter which."""
    profiles = [sorted(set(range(ITEMS)) - {5, other}) for other in (9, 12, 9)]
    attack = attacks.fed_rec_attack(
        [5], public_of(profiles), kappa=4, among=1, user_rate=0.1, batch_size=4
    )
    (first, _), (items, _) = table_of(1), table_of(2)
    both = [
        np.where(np.isin(np.arange(ITEMS), [5, 9, 12])[:, None], x[5], x) for x in (first, items)
    ]
    came = uploads("whole")
    shared = [{**SHARED, "item": Table(jnp.asarray(x))} for x in both]
    before, _ = forged(attack, shared[0], came)
    after, _ = forged(attack, shared[1], came, before)
    users, items = np.asarray(before["users"], float), both[1]
    gradient = np.zeros_like(users)
    for u, own in enumerate(profiles):
        for i in own:
            apart = items[i] - items[5]
            gradient[u] -= logistic(-users[u] @ apart) * apart
    moments = before["adam"][0]
    mean = 0.9 * np.asarray(moments.mu) + 0.1 * gradient
    square = 0.999 * np.asarray(moments.nu) + 0.001 * gradient**2
    step = mean / (1 - 0.9**2) / (np.sqrt(square / (1 - 0.999**2)) + 1e-8)
    np.testing.assert_allclose(after["users"], users - 0.1 * step, rtol=1e-4, atol=1e-5)


def blank(shared, n: int = CLIENTS):
    """Uploads of nothing, of `n` clients."""
    spread = lambda x: jnp.broadcast_to(x, (n, *x.shape))
    return jax.tree.map(spread, rows.zero_update(shared))


def drawn_users(client: int, draws: int, scale: float):
    """float64[draws, D]: what A-ra draws for a client in a round with `KEY`."""
    keys = jax.random.split(jax.random.fold_in(KEY, client), draws)
    one = lambda key: jax.random.normal(jax.random.split(key, 1)[0], (1, WIDTH))[0]
    return scale * np.array([one(key) for key in keys], float)


def test_a_ra_sends_the_slope_of_drawn_users_liking_targets():
    model, (items, _) = models.fedmf(ITEMS, width=WIDTH), table_of(3)
    shared = {"item": Table(jnp.asarray(items))}
    attack = attacks.a_ra(model, TARGETS, rate=0.7, scale=0.8, draws=4)
    sides = sides_of(np.ones(CLIENTS))
    now = replace(NOW, shared=shared)
    _, update = jax.jit(attack.forge)(KEY, (), blank(shared), sides, now)
    for k in LIARS:
        users, sent = drawn_users(k, 4, 0.8), sent_by(update["item"], k)
        assert sorted(sent) == sorted(TARGETS)
        for t in TARGETS:
            wanted = (logistic(-users @ items[t])[:, None] * users).mean(0) / 2
            np.testing.assert_allclose(sent[t], 0.7 * wanted, rtol=1e-4, atol=1e-6)


def test_a_hum_mines_hard_users_of_a_deep_model_and_sends_rows_and_layers():
    model = models.mlp(ITEMS, width=WIDTH, layers=[4], scale=0.8)
    shared = model.init(jax.random.key(2))[0]
    attack = attacks.a_hum(
        model, TARGETS, rate=0.7, layer_rate=0.2, scale=0.8, draws=3, steps=5, user_rate=0.9
    )
    now, sides = replace(NOW, shared=shared), sides_of(np.ones(CLIENTS))
    _, update = jax.jit(attack.forge)(KEY, (), blank(shared), sides, now)
    flat = {jax.tree_util.keystr(p): x for p, x in rows.nodes_with_path(shared)}
    arrays = {p: np.asarray(x.values if rows.is_table(x) else x, float) for p, x in flat.items()}
    of = lambda end: next(p for p in arrays if p.endswith(end))
    table = of("['item']")
    w1, b1 = of("['layers']['0']['kernel']"), of("['layers']['0']['bias']")
    w2, b2 = of("['readout']['kernel']"), of("['readout']['bias']")

    def loss(users, arrays, label):
        total = []
        for user in np.atleast_2d(users):
            for t in TARGETS:
                inner = np.concatenate([user, arrays[table][t]]) @ arrays[w1] + arrays[b1]
                score = float((np.maximum(inner, 0) @ arrays[w2] + arrays[b2])[0])
                total.append(np.log1p(np.exp(-score if label else score)))
        return np.mean(total)

    told = {jax.tree_util.keystr(p): x for p, x in rows.nodes_with_path(update)}
    for k in LIARS:
        users = drawn_users(k, 3, 0.8)
        for _ in range(5):
            pushed = [slope(lambda u: loss(u, arrays, 0), user, 1e-5) for user in users]
            users = users - 0.9 * np.array(pushed)
        for path, x in arrays.items():
            with_it = lambda new, path=path, users=users: loss(users, {**arrays, path: new}, 1)
            wanted = slope(with_it, x, 1e-5)
            if path == table:
                sent = sent_by(told[path], k)
                assert sorted(sent) == sorted(TARGETS)
                for t in TARGETS:
                    np.testing.assert_allclose(sent[t], -0.7 * wanted[t], rtol=2e-3, atol=1e-5)
            else:
                np.testing.assert_allclose(told[path][k], -0.2 * wanted, rtol=2e-3, atol=1e-5)
    honest = np.setdiff1d(np.arange(CLIENTS), LIARS)
    assert all(not np.asarray(x)[honest].any() for x in jax.tree.leaves(update))


@pytest.mark.parametrize(("layout", "distance"), [("whole", 0.2), ("ids", 0.5)])
def test_pip_attack_adds_targets_no_longer_than_its_own_rows(layout, distance):
    """The nearer bound is in the way of every step, the other of none."""
    public = public_of([np.repeat(np.arange(10), 4), np.arange(ITEMS)])
    attack = attacks.pip_attack(
        TARGETS,
        public,
        rate=9.0,
        alpha=0.4,
        distance=distance,
        levels=[0.5],
        users=3,
        profile=4,
        fits=2,
    )
    came, (items, shared) = uploads(layout), table_of(5)
    state, update = forged(attack, shared, came)
    f = jax.tree.map(lambda x: np.asarray(x, float), state["fitted"])
    size = np.sqrt((items.astype(float) ** 2).mean())

    def lure(q):
        told = np.tanh(q / size @ f["first"] + f["first_bias"]) @ f["second"] + f["second_bias"]
        popular = told[0] - np.log(np.exp(told).sum())
        return np.log1p(np.exp(-f["users"] @ q)).mean() - 0.4 * popular

    clipped = []
    for k in np.flatnonzero(LIES):
        before, after = sent_by(came.update["item"], k), sent_by(update["item"], k)
        bound = distance * max(np.linalg.norm(x) for x in before.values())
        assert set(after) == set(before) | set(TARGETS)
        for i in set(before) - set(TARGETS):
            np.testing.assert_array_equal(before[i], after[i])
        for t in TARGETS:
            step = -9.0 * slope(lure, items[t], 1e-5)
            clipped.append(np.linalg.norm(step) > bound)
            wanted = step * min(1, bound / np.linalg.norm(step))
            np.testing.assert_allclose(after[t], wanted, rtol=1e-3, atol=1e-5)
    assert clipped == [distance == 0.2] * 4
    np.testing.assert_array_equal(came.update["kernel"], update["kernel"])


def test_pip_attack_learns_what_is_popular_and_what_its_users_like():
    """Rows of popular items lie on one side; f tells them, and users go there."""
    public = public_of([np.repeat(np.arange(10), 4), np.arange(ITEMS)])
    attack = attacks.pip_attack(
        [19], public, levels=[0.5], users=5, profile=5, fits=200, fit_rate=0.05
    )
    side = np.where(np.arange(ITEMS) < 10, 1.0, -1.0)[:, None] * [1.0, 0.5, 0.0]
    items = np.float32(side + 0.3 * np.random.default_rng(0).normal(size=(ITEMS, WIDTH)))
    shared = {**SHARED, "item": Table(jnp.asarray(items))}
    state, update = forged(attack, shared, uploads("whole"))
    f = state["fitted"]
    told = np.tanh(items / np.sqrt((items**2).mean()) @ f["first"] + f["first_bias"])
    told = told @ np.asarray(f["second"]) + np.asarray(f["second_bias"])
    assert (np.argmax(told[:19], 1) == (np.arange(19) >= 10)).all()
    scores = np.asarray(f["users"]) @ items.T
    assert scores[:, :10].mean() > scores[:, 10:].mean() + 0.5
    assert sent_by(update["item"], LIARS[0])[19] @ np.array([1.0, 0.5, 0.0]) > 0


@pytest.mark.parametrize("layout", ["whole", "ids"])
def test_fed_attack_sends_the_slope_of_hardest_pairs_turned_round(layout):
    """Client 7 has no profile that is known, and sends what it trained."""
    profiles = [[1, 5], [2, 9, 11], [7], [0, 3, 4, 5]]
    attack = attacks.fed_attack(public_of(profiles), rate=0.5, hardest=3, user_rate=2.0, scale=0.3)
    came, (items, shared) = uploads(layout), table_of(9)
    state, update = forged(attack, shared, came)
    user, sent = np.asarray(state["users"][0], float), sent_by(update["item"], 0)
    order = np.argsort(items @ user)
    far, near = order[:3], order[::-1][:3]
    assert set(sent) == {*far, *near}
    for i, j in zip(far, near, strict=True):
        push = 0.5 / 3 * logistic(user @ items[j] - user @ items[i]) * user
        np.testing.assert_allclose(sent[i], push, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(sent[j], -push, rtol=1e-4, atol=1e-6)
    again = forged(attack, shared, came, state)[0]["users"][0]
    assert np.asarray(again - user) @ (items[[1, 5]].mean(0) - items.mean(0)) > 0  # it goes on
    for old, new in zip(jax.tree.leaves(came.update), jax.tree.leaves(update), strict=True):
        np.testing.assert_array_equal(np.asarray(old)[7], np.asarray(new)[7])


def test_published_is_a_share_of_what_each_user_trains_on():
    found = crowd()
    part = data.leave_one_out()(found).part
    count = np.bincount(found.users[part == 0], minlength=60)
    for share in (0.01, 0.2, 1.0):
        public = attacks.published(found, share=share)
        taken = np.bincount(public.users, minlength=60)
        np.testing.assert_array_equal(taken, np.ceil(np.round(share * count, 9)))
        pairs = set(zip(found.users[part == 0], found.items[part == 0], strict=True))
        assert set(zip(public.users, public.items, strict=True)) <= pairs
    assert len(set(zip(public.users, public.items, strict=True))) == count.sum()
    np.testing.assert_array_equal(
        public.count, np.bincount(found.items[part == 0], minlength=public.num_items)
    )


def test_an_item_that_nobody_was_shown_is_shown_by_what_is_public():
    """FedRecAttack and PipAttack, six accounts; item 39 is what nobody likes."""
    added = attacks.random_profiles([39], share=0.1, filler=5)
    public = attacks.published(crowd(), share=0.1)
    attacks_ = {
        "fed_rec": attacks.fed_rec_attack([39], public, rate=0.3, kappa=8, user_rate=0.1, among=5),
        "pip": attacks.pip_attack([39], public, rate=0.3, profile=5, fit_rate=0.1),
    }
    for name, attack in attacks_.items():
        rule = attacks.attacked(aggregate.total(), attack, attacks.from_id(60))
        assert exposed(added, rule)[0] > 0.5, name


def test_imagined_users_show_an_item_to_real_ones():
    """A-ra and A-hum against a deep model with summed gradients."""
    ds = data.pack(
        attacks.random_profiles([39], share=0.1, filler=5)(crowd()), evaluation_negatives=0
    )
    model = models.mlp(ds.num_items, width=4, layers=[4], scale=0.1)
    protocol = evaluate.exposure(evaluate.metrics(["er@5"]), [39], 40)

    def shown(rule):
        strategy = strategies.fedsgd(
            model, data.pointwise(2), aggregator=rule, server=strategies.step(0.1), batch_size=64
        )

        @jax.jit
        def run(key):
            state = strategy.init(key, ds.num_clients)
            cohort = Cohort(jnp.arange(ds.num_clients), ds.store)
            turn = lambda i, state: strategy.round(key, state, cohort, 70)[0]
            state = jax.lax.fori_loop(0, 40, turn, state)
            return evaluate.evaluate_users(model, protocol, state.shared, state.private, ds.test)

        return float(np.nanmean(np.asarray(run(jax.random.key(1)))))

    before = shown(aggregate.total())
    for attack in (attacks.a_ra(model, [39]), attacks.a_hum(model, [39], user_rate=0.1)):
        after = shown(attacks.attacked(aggregate.total(), attack, attacks.from_id(60)))
        assert before < 0.1 and after > 0.5


def test_fed_attack_serves_everybody_worse():
    attack = attacks.fed_attack(attacks.published(crowd(), share=1.0), rate=0.3, hardest=10)
    rule = attacks.attacked(aggregate.total(), attack, attacks.drawn(60, 0.1))
    before = exposed(data.leave_one_out(), aggregate.total())[1]
    assert exposed(data.leave_one_out(), rule)[1] < before - 0.1


PUBLIC = public_of([[1, 5], [2, 9]])
MF = models.fedmf(ITEMS, width=WIDTH)
TWO = {"item": Table(jnp.zeros((4, 2))), "other": Table(jnp.zeros((4, 2)))}
QUERY = {"item": Table(jnp.zeros((4, 2)), ("query",))}


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: attacks.published("synthetic", share=0.0), "share=0.0.*use 0 < share <= 1"),
        (lambda: attacks.published("synthetic", share=1.5), "share=1.5.*use 0 < share <= 1"),
        (lambda: attacks.fed_rec_attack([1, 2], PUBLIC, kappa=1), "kappa=1.*use kappa >= 2"),
        (lambda: attacks.fed_rec_attack([1], PUBLIC, bound=0.0), "bound > 0"),
        (lambda: attacks.fed_rec_attack([20], PUBLIC, kappa=4).init(SHARED), "no item 20"),
        (lambda: attacks.fed_rec_attack([1], PUBLIC).init(SHARED), "kappa=60.*use kappa <= 20"),
        (
            lambda: attacks.fed_rec_attack([1], PUBLIC, kappa=4, among=18).init(SHARED),
            "among <= 17",
        ),
        (
            lambda: attacks.fed_rec_attack([1], PUBLIC, kappa=4).init({"w": jnp.zeros(3)}),
            "0 tables",
        ),
        (
            lambda: attacks.fed_rec_attack([1], public_of([[3]], 9), kappa=4).init(SHARED),
            "knows 9 items and the model has 20",
        ),
        (lambda: attacks.a_ra(MF, []), "names no items"),
        (lambda: attacks.a_hum(MF, [1], steps=0), "use steps >= 1"),
        (lambda: attacks.a_ra(MF, [20]).init(MF.init(KEY)[0]), "no item 20"),
        (lambda: attacks.a_ra(MF, [2]).init(SHARED), "does not share what the model of the run"),
        (lambda: attacks.a_ra(MF, [2]).init(QUERY), "pushes rows of tables of items"),
        (lambda: attacks.a_hum(MF, [2]).init({"w": jnp.zeros(3)}), "the model has none"),
        (lambda: attacks.pip_attack([20], PUBLIC), "no item 20"),
        (lambda: attacks.pip_attack([1], PUBLIC, profile=2, levels=[0.5, 0.5]), "sum below 1"),
        (lambda: attacks.pip_attack([1], PUBLIC), "use profile <= 3"),
        (lambda: attacks.pip_attack([1], PUBLIC, profile=2, alpha=-1.0), "alpha >= 0"),
        (lambda: attacks.pip_attack([1], PUBLIC, profile=2).init(TWO), "2 tables"),
        (lambda: attacks.fed_attack(PUBLIC, candidates=10), "candidates >= 60"),
        (lambda: attacks.fed_attack(PUBLIC).init(SHARED), "more items than the 20"),
    ],
)
def test_wrong_arguments_are_one_line(make, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        make()
    assert "\n" not in str(error.value)
