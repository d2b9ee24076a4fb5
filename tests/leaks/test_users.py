"""Whose interactions they are, and who it is: shadow fits and regressions on made messages."""

import jax
import numpy as np
import pytest

from fedjax_rec import leaks, models

pytestmark = pytest.mark.usefixtures("compiled_fast")
ITEMS, WIDTH, CLIENTS, EACH = 200, 4, 32, 120


@pytest.fixture(scope="module")
def made():
    """(model, messages, positives, groups): users are of two groups, who like the items of theirs;
    the public table knows it, and a row moves by (y - s(p . q)) p."""
    rng = np.random.default_rng(0)
    model = models.fedmf(ITEMS, width=WIDTH)
    shared = model.init(jax.random.key(0))[0]
    half = np.arange(ITEMS) % 2
    table = rng.normal(0, 0.4, (ITEMS, WIDTH))
    table[:, 0] += 1.5 * (2 * half - 1)
    shared = jax.tree.map(lambda x: np.asarray(table, np.float32), shared)
    messages, own, group = [], {}, {}
    for k in range(CLIENTS):
        group[k] = bool(k % 2)
        p = rng.normal(0, 0.3, WIDTH)
        p[0] += 1.5 if group[k] else -1.5
        items = np.sort(rng.permutation(ITEMS)[:EACH])
        liked = (half[items] == group[k]) & (rng.random(EACH) < 0.4)
        own[k] = items[liked]
        moved = (liked - 1 / (1 + np.exp(-table[items] @ p)))[:, None] * p
        messages.append(leaks.Message(k, items, moved.astype(np.float32), 100))
    return model, leaks.Overheard(0, shared, messages, True, ITEMS), own, group


def test_shadow_fits_find_interactions(made):
    model, seen, own, _ = made
    guesses = leaks.membership(model, [seen], ratio=0.2, shadows=8)
    found = leaks.scored("membership", guesses, own, "positives")
    assert found.by["auc"].low > 0.7 > 0.5 and found.by["f1"].low > found.random + 0.1


def test_shadow_fits_of_noise_find_nothing(made):
    model, seen, own, _ = made
    rng = np.random.default_rng(1)
    noise = [
        leaks.Message(m.client, m.items, rng.normal(size=m.rows.shape).astype(np.float32), 100)
        for m in seen.messages
    ]
    blind = leaks.Overheard(0, seen.shared, noise, True, ITEMS)
    found = leaks.scored("membership", leaks.membership(model, [blind]), own, "positives")
    # Labels that fit the public model are likelier, whatever was sent.
    assert found.by["auc"].low < 0.55


def test_attributes_are_told_from_messages_and_not_from_coins(made):
    _, seen, _, group = made
    features = leaks.sent_features([seen])
    assert len(features[0]) == 2 * WIDTH
    assert leaks.attribute("group", features, group).auc.mean > 0.95
    rng = np.random.default_rng(2)
    features = {k: rng.normal(size=8) for k in range(400)}
    coins = {k: bool(rng.random() < 0.4) for k in range(400)}
    told = leaks.attribute("coin", features, coins)
    assert told.auc.low < 0.5 < told.auc.high and 0.3 < told.share < 0.5


def test_the_ridge_is_that_of_the_normal_equations():
    from fedjax_rec.leaks.attributes import RIDGES, _ridge

    rng = np.random.default_rng(3)
    x, other = rng.normal(size=(50, 6)), rng.normal(size=(5, 6))
    y = rng.random(50) < 0.5
    z = (x - x.mean(0)) / x.std(0)
    errors, answers = [], []
    for ridge in RIDGES:
        fit = lambda a, b, ridge=ridge: np.linalg.solve(a.T @ a + ridge * np.eye(6), a.T @ b)
        hat = z @ np.linalg.solve(z.T @ z + ridge * np.eye(6), z.T) + 1 / 50
        centred = y - y.mean()
        fitted = z @ fit(z, centred)
        errors.append((((centred - fitted) / (1 - np.diag(hat))) ** 2).mean())
        answers.append(y.mean() + (other - x.mean(0)) / x.std(0) @ fit(z, centred))
    np.testing.assert_allclose(_ridge(x, y, other), answers[int(np.argmin(errors))], atol=1e-9)


def test_what_cannot_be_told_is_refused(made):
    _, seen, _, _ = made
    with pytest.raises(ValueError, match="does not hold this model alone"):
        leaks.membership(models.fedmf(ITEMS, width=WIDTH + 1), [seen])
    with pytest.raises(ValueError, match="3 users have it"):
        leaks.attribute("few", {k: np.ones(2) for k in range(30)}, {k: k < 3 for k in range(30)})
    with pytest.raises(ValueError, match="clients keep 0 numbers"):
        leaks.kept_features({}, [0])
