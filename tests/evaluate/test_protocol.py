"""Protocols on whole data sets, against evaluations in plain NumPy that share nothing with them."""

from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import evaluate
from fedjax_rec.data import Cases
from fedjax_rec.evaluate.protocol import catalogue_of_all
from fedjax_rec.types import Model, Ranking

USERS, ITEMS, WIDTH = 11, 320, 5
METRICS = ["hr@3", "ndcg@3", "recall@5", "mrr", "auc"]


class World:
    """Eleven users with up to three held-out items; user 4 has seen 300 items, user 7 none."""

    def __init__(self, members: int = 1, seed: int = 0):
        rng = np.random.default_rng(seed)
        # Coarse values, so that scores tie.
        self.item = rng.integers(-1, 2, (ITEMS, WIDTH)).astype(np.float32)
        self.user = rng.integers(-1, 2, (USERS, WIDTH)).astype(np.float32)
        sizes = [3, 9, 1, 30, 300, 12, 5, 0, 2, 60, 7]
        orders = [rng.permutation(ITEMS) for _ in sizes]
        pairs = list(zip(orders, sizes, strict=True))
        self.seen = [np.sort(order[:n]) for order, n in pairs]
        self.held = [order[n : n + 1 + u % 3] for u, (order, n) in enumerate(pairs)]
        self.negatives = np.stack([order[-8:] for order in orders]).astype(np.int32)
        self.ratings = [rng.integers(1, 6, len(h)).astype(np.float32) for h in self.held]
        targets = np.full((USERS, 3), -1, np.int32)
        ratings = np.zeros((USERS, 3), np.float32)
        for u, held in enumerate(self.held):
            targets[u, : len(held)], ratings[u, : len(held)] = held, self.ratings[u]
        users = np.arange(USERS)
        clients = users // members
        self.cases = Cases(
            users=jnp.int32(users),
            clients=jnp.int32(clients),
            members=jnp.int32(users % members),
            targets=jnp.asarray(targets),
            ratings=jnp.asarray(ratings),
            negatives=jnp.asarray(self.negatives),
            seen=jnp.int32(np.concatenate(self.seen)),
            seen_start=jnp.int32(np.cumsum([0, *sizes[:-1]])),
            seen_count=jnp.int32(sizes),
            rows=jnp.int32(np.unique(clients, return_index=True)[1]),
        )
        padded = np.zeros((-(-USERS // members) * members, WIDTH), np.float32)
        padded[:USERS] = self.user
        self.private = jnp.asarray(padded.reshape(-1, members, WIDTH))
        self.model = Model(
            lambda key, common=None: None,
            lambda *_: None,
            Ranking.of(lambda shared, private, items, user: shared[items] @ private[user]),
        )

    def values(self, protocol, cases=None, model=None, **kwargs):
        run = self.running(protocol, cases, model, **kwargs)
        return np.array(jax.jit(run)(jnp.asarray(self.item), self.private))

    def running(self, protocol, cases=None, model=None, **kwargs):
        return lambda shared, private: evaluate.evaluate_users(
            model or self.model, protocol, shared, private, cases or self.cases, **kwargs
        )


def by_sorting(scores, held, others):
    """METRICS of one user: a sorted list, others before held-out items where scores tie."""
    ranked = sorted([(-scores[i], 0) for i in others] + [(-scores[i], 1) for i in held])
    ranks = [place for place, (_, relevant) in enumerate(ranked, 1) if relevant]
    ideal = sum(1 / np.log2(1 + r) for r in range(1, min(len(held), 3) + 1))
    pairs = [(np.sign(scores[h] - scores[o]) + 1) / 2 for h in held for o in others]
    return [
        float(ranks[0] <= 3),
        sum(1 / np.log2(1 + r) for r in ranks if r <= 3) / ideal,
        sum(r <= 5 for r in ranks) / len(held),
        1 / ranks[0],
        np.mean(pairs),
    ]


@pytest.fixture(scope="module")
def world():
    return World()


def test_full_catalogue_is_the_sorted_list_without_seen_items(world):
    protocol = evaluate.full_catalogue(evaluate.metrics(METRICS), ITEMS)
    assert protocol.names == tuple(METRICS) == protocol.summary_names
    want = []
    for u in range(USERS):
        others = set(range(ITEMS)) - set(world.seen[u]) - set(world.held[u])
        want.append(by_sorting(world.item @ world.user[u], world.held[u], sorted(others)))
    np.testing.assert_allclose(world.values(protocol), want, rtol=1e-5, atol=1e-6)


def test_sampled_is_the_sorted_list_of_the_negatives(world):
    protocol = evaluate.sampled(evaluate.metrics(METRICS))
    want = [
        by_sorting(world.item @ world.user[u], world.held[u], world.negatives[u])
        for u in range(USERS)
    ]
    np.testing.assert_allclose(world.values(protocol), want, rtol=1e-5, atol=1e-6)


def test_rating_error_is_over_all_ratings_and_not_over_users(world):
    protocol = evaluate.rating_error()
    values = world.values(protocol)
    errors = [world.item[h] @ world.user[u] - world.ratings[u] for u, h in enumerate(world.held)]
    np.testing.assert_allclose(values[:, 0], [np.mean(e**2) for e in errors], rtol=1e-5)
    np.testing.assert_allclose(values[:, 1], [np.mean(abs(e)) for e in errors], rtol=1e-5)
    every = np.concatenate(errors)
    counts = np.array([len(h) for h in world.held])
    assert protocol.summary_names == ("rmse", "mae") and not protocol.larger_is_better
    want = [np.sqrt(np.mean(every**2)), np.mean(abs(every))]
    np.testing.assert_allclose(protocol.summarise(values, counts), want, rtol=1e-5)
    # Users who were not measured count for nothing.
    values[3] = np.nan
    every = np.concatenate([e for u, e in enumerate(errors) if u != 3])
    want = [np.sqrt(np.mean(every**2)), np.mean(abs(every))]
    np.testing.assert_allclose(protocol.summarise(values, counts), want, rtol=1e-5)


def test_a_prediction_that_is_nan_is_infinitely_wrong_and_padding_may_hold_anything(world):
    """A user of the worst model counts; a user with fewer held-out items has NaN at its padding."""
    protocol = evaluate.rating_error()
    fine = world.values(protocol)
    counts = np.array([len(h) for h in world.held])
    # Padding of targets asks for item 0, which no user holds out here.
    assert all(0 not in held for held in world.held)
    table = jnp.asarray(world.item)
    run = world.running(protocol)
    np.testing.assert_array_equal(run(table.at[0].set(jnp.nan), world.private), fine)
    broken = np.asarray(run(table, world.private.at[3].set(jnp.nan)))
    assert np.isinf(broken[3]).all()
    np.testing.assert_array_equal(np.delete(broken, 3, 0), np.delete(fine, 3, 0))
    assert np.isinf(protocol.summarise(broken, counts)).all()


@pytest.mark.parametrize("size", [1, 4, 100])
def test_users_per_chunk_changes_nothing(world, size):
    protocol = evaluate.full_catalogue(evaluate.metrics(METRICS), ITEMS)
    want = world.values(protocol)
    np.testing.assert_array_equal(world.values(protocol, users_per_chunk=size), want)


def test_users_of_one_client_have_their_own_vectors(world):
    protocol = evaluate.full_catalogue(evaluate.metrics(METRICS), ITEMS)
    np.testing.assert_array_equal(World(members=3).values(protocol), world.values(protocol))


def test_a_user_with_nothing_held_out_is_nan(world):
    cases = world.cases
    fields = {name: getattr(cases, name) for name in cases.__dataclass_fields__}
    fields["targets"] = cases.targets.at[2].set(-1)
    for protocol in (
        evaluate.full_catalogue(evaluate.metrics(METRICS), ITEMS),
        evaluate.sampled(evaluate.metrics(METRICS)),
        evaluate.rating_error(),
    ):
        values = world.values(protocol, Cases(**fields))
        assert np.isnan(values[2]).all() and not np.isnan(np.delete(values, 2, 0)).any()


def without(world, name):
    fields = {n: getattr(world.cases, n) for n in world.cases.__dataclass_fields__}
    return Cases(**{**fields, name: None})


def test_errors_are_one_line_with_the_remedy(world):
    wanted = evaluate.metrics(["hr@3"])
    for told, call in {
        "the model scored 320 items": lambda: world.values(evaluate.full_catalogue(wanted, 50)),
        "evaluation_negatives=99": lambda: world.values(
            evaluate.sampled(wanted), without(world, "negatives")
        ),
        "has no ratings": lambda: world.values(evaluate.rating_error(), without(world, "ratings")),
        "users_per_chunk=0": lambda: world.values(evaluate.sampled(wanted), users_per_chunk=0),
        "hold several users": lambda: evaluate.probe_clients(
            evaluate.sampled(wanted), {"test": World(members=2).cases}
        ),
    }.items():
        with pytest.raises(ValueError) as error:
            call()
        assert told in str(error.value) and "\n" not in str(error.value)


def test_a_metric_of_more_places_than_items_is_warned_of():
    with pytest.warns(UserWarning, match=r"num_items=120\): hr@500 looks at 500 places"):
        evaluate.full_catalogue(evaluate.metrics(["hr@10", "hr@500"]), 120)


def test_a_probe_sees_what_evaluate_users_sees(world):
    """The same scores through a client's eyes: by its id, NaN where it has nothing held out."""
    for protocol in (
        evaluate.full_catalogue(evaluate.metrics(METRICS), ITEMS),
        evaluate.sampled(evaluate.metrics(METRICS)),
    ):
        rows = world.cases.rows.at[6].set(-1)
        fields = {n: getattr(world.cases, n) for n in world.cases.__dataclass_fields__}
        probe = evaluate.probe_clients(protocol, {"test": Cases(**{**fields, "rows": rows})})

        def one(client, probe=probe):
            scorer = world.model.scorer(jnp.asarray(world.item), world.private[client])
            return probe(scorer, SimpleNamespace(id=client, longest=300))["test"]

        values = np.array(jax.jit(jax.vmap(one))(jnp.arange(USERS)))
        want = world.values(protocol)
        want[6] = np.nan
        np.testing.assert_array_equal(values, want)


def test_a_probe_leaves_out_all_that_was_seen_however_little_was_trained_on(world):
    """Validation may be larger than training and test: user 4 has seen 300 items, trained on 3."""
    protocol = evaluate.full_catalogue(evaluate.metrics(["recall@50", "auc"]), ITEMS)
    probe = evaluate.probe_clients(protocol, {"test": world.cases})

    def one(client):
        scorer = world.model.scorer(jnp.asarray(world.item), world.private[client])
        return probe(scorer, SimpleNamespace(id=client, longest=jnp.int32(3)))["test"]

    found = jax.jit(jax.vmap(one))(jnp.arange(USERS))
    np.testing.assert_array_equal(found, world.values(protocol))


def squared(catalogue) -> Model:
    """score = (square of what `catalogue` gives) . p_u, where it is made of the catalogue."""
    score = lambda shared, private, ready, _, items, user: ready[items] @ private[user]
    ranking = Ranking(score, lambda shared, private: jnp.square(catalogue(shared, private)))
    return Model(lambda key, common=None: None, lambda *_: None, ranking)


def shapes(jaxpr, name: str) -> set:
    """What the operations `name` anywhere in `jaxpr` make."""
    found = {e.outvars[0].aval.shape for e in jaxpr.eqns if e.primitive.name == name}
    for part in (part for e in jaxpr.eqns for part in e.params.values()):
        if hasattr(part, "jaxpr"):
            found |= shapes(part.jaxpr, name)
    return found


@pytest.mark.parametrize("own", [False, True])
def test_a_catalogue_is_made_once_for_all_unless_it_is_the_clients_own(world, own):
    made_of = lambda shared, private: shared + private[0] if own else shared
    model, table = squared(made_of), jnp.asarray(world.item)
    found = catalogue_of_all(model, table, world.private)
    assert (found is None) == own
    if not own:
        np.testing.assert_array_equal(found, world.item**2)
    protocol = evaluate.full_catalogue(evaluate.metrics(METRICS), ITEMS)
    run = world.running(protocol, model=model, users_per_chunk=4)
    size = (4, ITEMS, WIDTH) if own else (ITEMS, WIDTH)
    assert shapes(jax.make_jaxpr(run)(table, world.private).jaxpr, "square") == {size}
    want = []
    for u in range(USERS):
        rows = (world.item + world.user[u]) ** 2 if own else world.item**2
        others = set(range(ITEMS)) - set(world.seen[u]) - set(world.held[u])
        want.append(by_sorting(rows @ world.user[u], world.held[u], sorted(others)))
    values = world.values(protocol, model=model, users_per_chunk=4)
    np.testing.assert_allclose(values, want, rtol=1e-5, atol=1e-6)


def test_a_catalogue_of_nothing_and_clients_that_keep_nothing(world):
    table = jnp.asarray(world.item)
    assert catalogue_of_all(world.model, table, world.private) == ()
    assert catalogue_of_all(world.model, table, {}) == ()
    alike = squared(lambda shared, private: shared)
    np.testing.assert_array_equal(catalogue_of_all(alike, table, {"none": {}}), table**2)
    # Its shape depends on what a client keeps, and its values do not.
    sized = squared(lambda shared, private: shared[: private.shape[0]])
    assert catalogue_of_all(sized, table, world.private).shape == (1, WIDTH)


def reader() -> Model:
    """score = 2 q_i . (sum of the rows of the history), with rows that are encoded once."""

    def context(shared, private, history):
        if history is None:
            raise ValueError("reader reads a history.")
        real = (history >= 0)[:, None]
        return (real * shared[jnp.maximum(history, 0)]).sum(0)

    def score(shared, private, ready, read, items, user):
        return ready[items] @ read

    ranking = Ranking(score, lambda shared, private: 2.0 * shared, context)
    return Model(lambda key, common=None: None, lambda *_: None, ranking)


def test_scores_from_a_history_are_measured_on_all_users_and_by_a_probe(world):
    rng = np.random.default_rng(5)
    history = np.full((USERS, 6), -1, np.int32)
    for u, seen in enumerate(world.seen):
        last = rng.permutation(seen)[:6]
        history[u, 6 - len(last) :] = last
    cases = replace(world.cases, history=jnp.asarray(history))
    protocol = evaluate.full_catalogue(evaluate.metrics(METRICS), ITEMS)
    want = []
    for u in range(USERS):
        scores = 2 * world.item @ world.item[history[u][history[u] >= 0]].sum(0)
        others = set(range(ITEMS)) - set(world.seen[u]) - set(world.held[u])
        want.append(by_sorting(scores, world.held[u], sorted(others)))
    got = world.values(protocol, cases, reader(), users_per_chunk=4)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)

    probe = evaluate.probe_clients(protocol, {"test": cases, "again": cases})

    def one(client):
        scorer = reader().scorer(jnp.asarray(world.item), ())
        return probe(scorer, SimpleNamespace(id=client, longest=300))

    each = jax.jit(jax.vmap(one))(jnp.arange(USERS))
    np.testing.assert_array_equal(each["test"], got)
    np.testing.assert_array_equal(each["again"], got)
    # A client's own rows are encoded once, whatever is measured on them.
    jaxpr = jax.make_jaxpr(one)(0)
    assert str(jaxpr).count(" = mul 2.0") == 1
    with pytest.raises(ValueError, match="reader reads a history"):
        world.values(protocol, model=reader())


def test_a_model_that_scores_no_items_is_refused_in_one_line(world):
    blind = replace(world.model, ranking=None)
    wanted = evaluate.sampled(evaluate.metrics(["hr@3"]))
    for call in (lambda: world.values(wanted, model=blind), lambda: blind.scorer(None, None)):
        with pytest.raises(ValueError, match=r"^model\.score: .*candidates: examples") as error:
            call()
        assert "\n" not in str(error.value)


def test_two_protocols_in_one_pass_are_each_by_itself(world):
    metrics = evaluate.metrics(METRICS)
    full, sampled = evaluate.full_catalogue(metrics, ITEMS), evaluate.sampled(metrics)
    both = evaluate.beside(full, sampled, "sampled_")
    assert both.names == (*METRICS, *(f"sampled_{name}" for name in METRICS))
    values = world.values(both)
    each = [world.values(protocol) for protocol in (full, sampled)]
    np.testing.assert_array_equal(values, np.concatenate(each, 1))
    held = jnp.int32([len(h) for h in world.held])
    means = both.summarise(values, held)
    np.testing.assert_array_equal(means, np.nanmean(np.concatenate(each, 1), 0, dtype=np.float32))
