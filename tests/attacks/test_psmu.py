"""PSMU: what made up users send, against slopes in NumPy; and that their item is shown."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_crowd import TARGET, summed, trained
from test_forged import ITEMS, LIARS, NOW, SHARED, uploads
from test_optimal import SIDES

from fedjax_rec import aggregate, attacks
from fedjax_rec.attacks.psmu import fitted
from fedjax_rec.rows import Table

pytestmark = pytest.mark.usefixtures("compiled_fast")
TARGETS, FILLER, AGAINST, WIDTH = [5, 2], 4, 3, 3


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_a_made_up_user_is_fitted_by_descent():
    has, has_not = np.random.default_rng(0).normal(size=(2, FILLER, WIDTH))
    loss = lambda p: np.mean(np.log1p(np.exp(-has @ p))) + np.mean(np.log1p(np.exp(has_not @ p)))
    user = np.zeros(WIDTH)
    for _ in range(7):
        along = np.eye(WIDTH) * 1e-6
        user -= 0.5 * np.array([(loss(user + d) - loss(user - d)) / 2e-6 for d in along])
    np.testing.assert_allclose(fitted(has, has_not, 7, 0.5), user, rtol=1e-4)


@pytest.mark.parametrize("layout", ["whole", "ids"])
def test_targets_go_past_what_made_up_users_like(layout):
    attack, came = attacks.psmu(TARGETS, 2.0, FILLER, AGAINST, steps=9), uploads(layout)
    items = np.random.default_rng(1).normal(size=(ITEMS, WIDTH))
    now = replace(NOW, shared={**SHARED, "item": Table(jnp.float32(items))})

    @jax.jit
    def forge(key, update):
        return attack.forge(key, (), update, SIDES, now)[1]

    update = forge(jax.random.key(5), came.update)
    again = forge(jax.random.key(6), came.update)
    users = {}
    for k in LIARS:
        item, live = update["item"], np.asarray(update["item"].live[k])
        ids = np.arange(ITEMS)[live] if item.ids is None else np.asarray(item.ids[k])[live]
        sent = dict(zip(ids.tolist(), np.asarray(item.values[k])[live], strict=True))
        assert set(TARGETS) <= set(sent) and len(sent) == len(TARGETS) + AGAINST
        assert not np.asarray(update["kernel"][k]).any()
        # All of it lies along the user, whose length and side follow from what is sent.
        along = sent[TARGETS[0]] / np.linalg.norm(sent[TARGETS[0]])
        against = [i for i in sent if i not in TARGETS]

        def loss(table, user, against=against):
            margins = (table[TARGETS] @ user)[:, None] - table[against] @ user
            return np.log1p(np.exp(-margins)).sum() / AGAINST

        lengths = np.linspace(0.01, 6, 600)
        pull = [sigmoid(-(items[TARGETS[0]] - items[against]) @ along * c).mean() for c in lengths]
        length = lengths[np.abs(2.0 * np.array(pull) * lengths - np.linalg.norm(sent[5])).argmin()]
        user = users[k] = along * length
        for i, said in sent.items():
            slope = []
            for d in np.eye(WIDTH) * 1e-5:
                up, down = items.copy(), items.copy()
                up[i], down[i] = up[i] + d, down[i] - d
                slope.append((loss(up, user) - loss(down, user)) / 2e-5)
            np.testing.assert_allclose(said, -2.0 * np.array(slope), rtol=0.06, atol=0.02)
        # What it likes best: at least as many of the others as may be its own are below.
        scores = items @ user
        least = scores[against].min()
        free = [i for i in range(ITEMS) if i not in sent]
        assert (scores[free] > least + 1e-3).sum() <= FILLER
    assert not np.allclose(users[LIARS[0]], users[LIARS[1]], atol=0.05)  # each is another user
    honest = [k for k in range(12) if k not in LIARS]
    for old, new in zip(jax.tree.leaves(came.update), jax.tree.leaves(update), strict=True):
        np.testing.assert_array_equal(np.asarray(old)[honest], np.asarray(new)[honest])
    different = jnp.abs(again["item"].values - update["item"].values)[jnp.array(LIARS)]
    assert different.max() > 0  # those that it does not have are drawn in each round


def test_an_item_that_nobody_was_shown_is_shown():
    push = attacks.psmu([TARGET], rate=0.3, filler=8, alternatives=4)
    split = attacks.random_profiles([TARGET], share=0.2, filler=6)
    rule = attacks.attacked(aggregate.total(), push, attacks.from_id(60))
    found = trained(rule, split)
    assert summed().shown == 0.0 and found.shown > 0.4


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: attacks.psmu([]), "names no items"),
        (lambda: attacks.psmu([1], rate=0.0), "use rate > 0"),
        (lambda: attacks.psmu([1], filler=0), "use filler >= 1"),
        (lambda: attacks.psmu([1], alternatives=0), "use alternatives >= 1"),
        (lambda: attacks.psmu([20], filler=2).init(SHARED), "there is no item 20"),
        (lambda: attacks.psmu([1], filler=8, alternatives=4).init(SHARED), "use filler <= 7"),
    ],
)
def test_wrong_arguments_are_one_line(make, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        make()
    assert "\n" not in str(error.value)
