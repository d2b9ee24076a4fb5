"""Which items a user has: what messages tell of them, and what cover rows hide."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedjax_rec import clients, compress, data, keys, leaks, models, rows, strategies
from fedjax_rec.types import Cohort

pytestmark = pytest.mark.usefixtures("compiled_fast")
KEY, USERS, ITEMS = jax.random.key(3), 40, 320
SHIFT = 101  # the negative of item i is item i + SHIFT


def evenly(users: int, items: int, each: int) -> data.Dataset:
    """Users with `each` of the items, all as popular, and ratings that hang on nothing."""
    rng = np.random.default_rng(0)
    laps = -(-users * each // items)
    chosen = np.concatenate([rng.permutation(items) for _ in range(laps)])[: users * each]
    stars = rng.integers(1, 6, users * each).astype(np.float32)
    found = data.from_arrays("even", np.repeat(np.arange(users), each), chosen, ratings=stars)
    return data.pack(data.leave_one_out()(found), evaluation_negatives=0)


def shifted() -> data.Batches:
    """Each interaction and one negative that is known from it."""

    def draw(seed, own, q):
        n = own.length.astype(jnp.uint32)
        items = own.store.items.at[own.start + (q % n).astype(jnp.int32)].get(mode="clip")
        other = (items + SHIFT) % own.store.num_items
        return {"items": jnp.where(q < n, items, other), "labels": (q < n).astype(jnp.float32)}

    return replace(data.pointwise(1), draw=draw)


def heard(strategy, dataset, rounds: int = 1):
    """(messages of the first rounds, their truth)"""
    state = strategy.init(KEY, dataset.num_clients)
    everybody = range(dataset.num_clients)
    return leaks.overhear(strategy, state, dataset.store, KEY, everybody, rounds)


def fedmf(examples, uplink=None, model=None, **kwargs):
    model = model or models.fedmf(ITEMS, width=6)
    rates: dict = dict(user_learning_rate=2.0, item_learning_rate=2.0) | kwargs
    return strategies.fedmf(model, examples, uplink=uplink, batch_size=16, **rates)


@pytest.fixture(scope="module")
def small():
    return evenly(USERS, ITEMS, 8)


@pytest.mark.parametrize(
    ("uplink", "least"),
    [(None, 1.0), (compress.eden(4), 1.0), (compress.count_sketch(3, 8), 1.0)],
    ids=["none", "eden", "sketch"],
)  # fmt: skip
def test_ids_tell_positives_and_negatives_as_a_set(small, uplink, least):
    """Independent of the round: positives as packed, and each one's negative as defined here."""
    seen, truth = heard(fedmf(shifted(), uplink), small)
    items, start, length = (
        np.asarray(getattr(small.store, n)) for n in ("items", "start", "length")
    )
    for guess in leaks.touched(seen):
        own = items[start[guess.client] :][: length[guess.client]]
        both = np.union1d(own, (own + SHIFT) % ITEMS)
        np.testing.assert_array_equal(guess.candidates[guess.said], both)
        np.testing.assert_array_equal(truth.touched[0][guess.client], both)
    outcome = leaks.scored("touched", leaks.touched(seen), truth.touched[0], "touched")
    assert outcome.by["f1"].mean >= least and outcome.by["auc"].mean == 1.0
    assert outcome.random < 0.2 and outcome.everything < 0.2


def test_top_k_tells_of_fewer_rows_and_of_no_others(small):
    seen, truth = heard(fedmf(shifted(), compress.top_k(0.05)), small)
    outcome = leaks.scored("touched", leaks.touched(seen), truth.touched[0], "touched")
    assert outcome.by["precision"].mean == 1.0 and 0.05 < outcome.by["recall"].mean < 0.9


def test_messages_are_their_bytes(small):
    """As many as the round counts, and the rows that clients changed, to the bit."""
    strategy = fedmf(data.pointwise(2))
    state = strategy.init(KEY, USERS)
    (seen,), _ = leaks.overhear(strategy, state, small.store, KEY, range(USERS))
    cohort, key = Cohort(jnp.arange(USERS), small.store), keys.stream(KEY, "round")
    info = strategy.round(key, state, cohort)[1]
    assert [m.nbytes for m in seen.messages] == np.asarray(info.bytes_up).tolist()
    assert strategy.uploads is not None
    (table,) = rows.nodes(strategy.uploads(key, state, cohort))
    for k, message in enumerate(seen.messages):
        live = np.asarray(table.live[k])
        ids = np.arange(ITEMS) if table.ids is None else np.asarray(table.ids[k])
        np.testing.assert_array_equal(message.items, ids[live])
        np.testing.assert_array_equal(message.rows, np.asarray(table.values[k])[live])


@pytest.mark.parametrize("name", ["gossip_sgd", "cofedrec", "hetefedrec"])
def test_peers_own_models_and_several_tables_tell_as_much(small, name):
    """The rows that a client changed, whatever it sends them in."""
    made = {
        "gossip_sgd": lambda: strategies.gossip_sgd(
            models.fedmf(ITEMS, width=4), shifted(),
            exchange=strategies.gossip(strategies.ring()),
        ),
        "cofedrec": lambda: strategies.cofedrec(
            models.pfedrec(ITEMS, width=4), shifted(), categories=4
        ),
        "hetefedrec": lambda: strategies.hetefedrec(
            models.hetefedrec(ITEMS, widths=(2, 4)), shifted(), up_to=(6,)
        ),
    }  # fmt: skip
    seen, truth = heard(made[name](), small)
    outcome = leaks.scored("touched", leaks.touched(seen), truth.touched[0], "touched")
    assert outcome.by["f1"].mean == 1.0 and outcome.random < 0.3
    own = leaks.positives(small.store, range(USERS))
    for client, touched in truth.touched[0].items():
        both = np.union1d(own[client], (own[client] + SHIFT) % ITEMS)
        assert name == "cofedrec" or np.array_equal(touched, both)


def test_directions_tell_positives_from_negatives():
    """In a world where some items are popular, which tells the end of the positives."""
    rng = np.random.default_rng(1)
    weight = 1 / (1 + np.arange(200))
    chosen = [rng.choice(200, 10, False, weight / weight.sum()) for _ in range(60)]
    found = data.from_arrays("some", np.repeat(np.arange(60), 10), np.concatenate(chosen))
    dataset = data.pack(data.leave_one_out()(found), evaluation_negatives=0)
    model = models.fedmf(dataset.num_items, width=6)
    seen, _ = heard(fedmf(data.pointwise(4), model=model), dataset)
    own = leaks.positives(dataset.store, range(60))
    outcome = leaks.scored("directions", leaks.directions(seen), own, "positives")
    assert outcome.by["f1"].low > 0.85 > 0.5 > outcome.random
    plain = leaks.scored("popularity", leaks.popularity(seen), own, "positives")
    assert outcome.by["f1"].low > plain.by["f1"].high


def test_what_recurs_is_positive(small):
    seen, _ = heard(fedmf(data.pointwise(2)), small, rounds=3)
    own = leaks.positives(small.store, range(USERS))
    outcome = leaks.scored("recurring", leaks.recurring(seen, 2), own, "positives")
    assert outcome.by["recall"].mean == 1.0 and outcome.by["precision"].mean > 0.98


@pytest.fixture(scope="module")
def many():
    return evenly(500, 400, 10)


def within(guesses, seen, own) -> float:
    """Mean AUC of positives among the rows that were sent."""
    values = []
    for guess, message in zip(guesses, seen.messages, strict=True):
        sent = np.isin(guess.candidates, message.items)
        true = np.isin(guess.candidates[sent], own[guess.client])
        values.append(leaks.auc(guess.score[sent], true))
    return float(np.nanmean(values))


@pytest.mark.parametrize("popular", [0.0, 1.0])
def test_as_many_cover_rows_as_interactions_hide_them_for_twice_the_bytes(many, popular):
    """Of ratings, without negatives: F1 of 1 becomes 2/3, that of taking all rows, and among the
    rows AUC is .5 within .02."""
    model = models.fedmf(400, width=6, objective=models.squared_error())
    rates = dict(user_learning_rate=0.3, item_learning_rate=0.3)
    own = leaks.positives(many.store, range(500))
    found = {}
    for share in (0.0, 1.0):
        examples = data.covered(data.ratings(), share, popular)
        (seen,), _ = heard(fedmf(examples, model=model, **rates), many)
        found[share] = seen, leaks.scored("touched", leaks.touched([seen]), own, "positives")
    assert found[0.0][1].by["f1"].mean == 1.0
    seen, outcome = found[1.0]
    assert outcome.by["recall"].mean == 1.0 and 0.65 < outcome.by["f1"].mean < 0.69
    for guesses in (leaks.magnitudes([seen], 0), leaks.directions([seen])):
        assert abs(within(guesses, seen, own) - 0.5) < 0.02
    before, after = (np.mean([m.nbytes for m in found[s][0].messages]) for s in (0.0, 1.0))
    assert 1.7 < after / before < 2.0


def test_cover_rows_are_the_same_in_every_round(many):
    examples = data.covered(data.pointwise(0), 0.5)
    model = models.fedmf(400, width=4)
    seen, truth = heard(fedmf(examples, model=model), many, rounds=2)
    for first, second in zip(seen[0].messages, seen[1].messages, strict=True):
        np.testing.assert_array_equal(first.items, second.items)
    own = leaks.positives(many.store, range(500))
    for client, items in truth.touched[0].items():
        assert len(own[client]) < len(items) <= 1.5 * len(own[client])
        assert np.isin(own[client], items).all()


def test_what_cannot_be_attacked_is_told(small):
    model = models.fedmf(ITEMS, width=4)
    client = clients.local_training(model, data.pointwise(1), clients.sgd(0.1))
    strategy = strategies.power_sgd(client, model, rank=2)
    state = jax.eval_shape(lambda: strategy.init(KEY, USERS))
    with pytest.raises(ValueError, match=r"nobody reads messages of single clients .*fedavg"):
        leaks.overhear(strategy, state, small.store, KEY, [0])
    silent = leaks.Overheard(0, (), [], False, 9)
    for attack in (leaks.touched, leaks.popularity):
        with pytest.raises(ValueError, match=r"name no rows .* use magnitudes"):
            attack([silent])
    with pytest.raises(ValueError, match="two rounds or more"):
        leaks.recurring([leaks.Overheard(0, (), [], True, 9)])
    with pytest.raises(ValueError, match=r"covered\(share=-1\)"):
        data.covered(data.pointwise(1), -1)
    paired = data.covered(data.pairwise(), 1.0)
    with pytest.raises(ValueError, match="one item each"):
        jax.eval_shape(
            lambda: paired.draw(
                jnp.zeros(2, jnp.uint32), small.store.take(jnp.arange(1)), jnp.zeros(1, jnp.uint32)
            )
        )


def test_predictions_tell_some_of_the_items_and_no_shadow_fits_them(small):
    """PTF-FedRec: numbers, one an item that its client trained on; with no swaps a client that has
    learned its items well gives its positives the higher ones."""
    strategy = strategies.ptf_fedrec(
        models.fedmf(ITEMS, width=6), shifted(), epochs=40, sent=2, swap=0.0, beta=(1.0, 1.0),
        gamma=(1.0, 1.0),
    )  # fmt: skip
    (seen,), truth = heard(strategy, small)
    for message in seen.messages:
        assert message.rows.shape[1] == 1 and ((message.rows > 0) & (message.rows < 1)).all()
        assert set(message.items) <= set(truth.touched[0][message.client])
    ids = leaks.scored("touched", leaks.touched([seen]), truth.touched[0], "touched")
    assert ids.by["precision"].mean == 1.0
    along = leaks.scored("directions", leaks.directions([seen]), truth.positives, "positives")
    assert along.by["auc"].mean > 0.9
    with pytest.raises(ValueError, match="does not hold this model alone"):
        leaks.membership(strategy.model, [seen])
