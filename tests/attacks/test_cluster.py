"""ClusterAttack: K-means, norms and the number of clusters against NumPy; and that it attacks."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_crowd import summed, trained
from test_forged import ITEMS, LIES, NOW, SHARED, flat, uploads
from test_optimal import SIDES

from fedjax_rec import aggregate, attacks
from fedjax_rec.attacks.cluster import DECAY, _watched, means
from fedjax_rec.rows import Table

pytestmark = pytest.mark.usefixtures("compiled_fast")
WIDTH = 3


def lloyd(items, middles):
    """(middles, label) of K-means from these middles, in float64."""
    while True:
        label = ((items[:, None] - middles[None]) ** 2).sum(-1).argmin(1)
        after = np.array(
            [items[label == k].mean(0) if (label == k).any() else m for k, m in enumerate(middles)]
        )
        if np.sqrt(((after - middles) ** 2).sum()) < 1e-4:
            return after, label
        middles = after


@pytest.mark.parametrize("count", [1, 3, 5])
def test_middles_are_those_of_lloyd(count):
    items = np.random.default_rng(count).normal(size=(40, 4)).astype(np.float32)
    key = jax.random.key(2)
    middles, label = jax.jit(means, static_argnums=(3, 4))(key, items, count, 5, 100)
    first = np.asarray(jax.random.choice(key, 40, (5,), replace=False))[:count]
    wanted, of = lloyd(items.astype(float), items[first].astype(float))
    np.testing.assert_allclose(middles[:count], wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(label, of)


def test_the_number_of_clusters_follows_the_loss():
    """Losses that grow, fall, and do neither, against the released rule in a loop."""
    draw = np.random.default_rng(0)
    losses = np.concatenate([np.arange(1, 30), np.arange(30, 1, -2), draw.random(20)])
    attack = attacks.cluster_attack(clusters=2, most=12, least=1, patience=4)
    state = attack.init({**SHARED, "item": Table(jnp.zeros((20, WIDTH)))})
    look = jax.jit(lambda state, loss: _watched(state, loss, 4, 12, 1))
    k, grew, average, last, t = 2, 0, 0.0, None, 0
    for loss in losses:
        state, t = look(state, jnp.float32(loss)), t + 1
        average = DECAY * average + (1 - DECAY) * loss
        debiased = average / (1 - DECAY**t)
        if last is not None:
            grew += 1 if debiased > last else -1
        last = debiased
        if abs(grew) >= 4:
            k = (
                min(round(k + (12 - k) ** 0.5), 12)
                if grew > 0
                else max(round(k - (k - 1) ** 0.5), 1)
            )
            grew, average, last, t = 0, 0.0, None, 0
        assert int(state["clusters"]) == k and int(state["grew"]) == grew
    assert k != 2


@pytest.mark.parametrize("layout", ["whole", "ids"])
@pytest.mark.parametrize("rows", [None, 6])
def test_rows_go_to_their_middle_at_lengths_of_a_user(rows, layout):
    attack, came = attacks.cluster_attack(clusters=2, most=4, rows=rows), uploads(layout)
    items = np.random.default_rng(1).normal(size=(ITEMS, WIDTH))
    now = replace(NOW, shared={**SHARED, "item": Table(jnp.float32(items))})
    state, key = attack.init(now.shared), jax.random.key(5)
    forge = jax.jit(lambda update: attack.forge(key, state, update, SIDES, now))
    learned, update = forge(came.update)
    (before, _), (after, named) = flat(came), flat(replace(came, update=update))
    np.testing.assert_array_equal(after[~LIES], before[~LIES])
    np.testing.assert_array_equal(after[:, ITEMS * WIDTH :], before[:, ITEMS * WIDTH :])
    first = np.asarray(jax.random.choice(jax.random.split(key, 3)[0], ITEMS, (4,), replace=False))
    middles, label = lloyd(items, items[first[:2]])
    way = middles[label] - items
    np.testing.assert_allclose((1 - DECAY) * (way**2).sum() / 2, learned["average"], rtol=1e-4)
    norms = np.linalg.norm(before[LIES][:, : ITEMS * WIDTH].reshape(-1, WIDTH), axis=1)
    low, high = norms.mean(), norms.mean() + 3 * norms.std(ddof=1)
    lengths = []
    for row, live in zip(after[LIES], named[LIES], strict=True):
        sent = row[: ITEMS * WIDTH].reshape(ITEMS, WIDTH)
        there = live[: ITEMS * WIDTH].reshape(ITEMS, WIDTH)[:, 0]
        assert there.sum() == (rows or ITEMS)
        for i in np.flatnonzero(there):
            cosine = sent[i] @ way[i] / np.linalg.norm(sent[i]) / np.linalg.norm(way[i])
            assert cosine > 0.999
            lengths.append(np.linalg.norm(sent[i]))
    assert low * 0.999 <= min(lengths) and max(lengths) <= high * 1.001
    assert np.std(lengths) > 0.1 * (high - low)  # and each has a length of its own


def test_items_that_are_drawn_together_are_not_told_apart():
    """Clusters are tighter, of what items differ by, and users are served worse."""
    push = attacks.cluster_attack(clusters=3, most=3, strength=10.0)
    found = trained(attacks.attacked(aggregate.total(), push, attacks.named(range(40, 60))))

    def within(items):
        middles, label = means(jax.random.key(0), items, 3, 3, 100)
        return np.var(items - np.asarray(middles)[label]) / np.var(items - items.mean(0))

    assert within(found.items) < 0.7 * within(summed().items)
    assert found.hits < summed().hits - 0.1


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: attacks.cluster_attack(clusters=0), "use clusters >= 1"),
        (lambda: attacks.cluster_attack(clusters=60), "use most >= 60"),
        (lambda: attacks.cluster_attack(strength=0.0), "use strength > 0"),
        (lambda: attacks.cluster_attack(rows=0), "use rows >= 1"),
        (lambda: attacks.cluster_attack(most=21).init(SHARED), "use most <= 20"),
        (lambda: attacks.cluster_attack().init({"w": jnp.zeros(3)}), "has 0 tables"),
    ],
)
def test_wrong_arguments_are_one_line(make, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        make()
    assert "\n" not in str(error.value)
