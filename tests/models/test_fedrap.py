"""FedRAP's model and recipe: scores and losses by NumPy, two rounds as a loop over clients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rounds import now

from fedjax_rec import data
from fedjax_rec.models.factorization.fedrap import fedrap
from fedjax_rec.strategies.fedrap import annealed_sgd
from fedjax_rec.strategies.fedrap import fedrap as recipe
from fedjax_rec.types import Cohort

KEY, USERS, WIDTH = jax.random.key(3), 9, 3
ONE = {
    "items": jnp.int32([3, 7, 3, 19, 0]),
    "labels": jnp.float32([1, 0, 0, 1, 1]),
    "mask": jnp.float32([1, 1, 1, 1, 0]),
}
SEVERAL = {**ONE, "users": jnp.int32([0, 2, 1, 1, 2])}


def fast(f):
    """`f` compiled without costly optimisations: it compiles for longer than it runs."""
    return jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})


def logistic(z):
    return 1 / (1 + np.exp(-z))


@pytest.mark.parametrize("batch", [ONE, SEVERAL], ids=["one", "several"])
def test_scores_and_losses_are_those_of_the_paper(batch):
    members = 3 if "users" in batch else 1
    weights = [(0, 0), (0.3, 0), (0, 0.2), (0.3, 0.2)]
    forms = [fedrap(20, members, WIDTH, *pair) for pair in weights]

    @fast
    def seen(key):
        shared, private = forms[0].init(key)
        private = {**private, "weight": jax.random.normal(key, (members, WIDTH))}
        losses = [model.loss(shared, private, batch, key) for model in forms]
        scores = [forms[0].score(shared, private, slice(None), u) for u in range(members)]
        return shared, private, losses, scores

    shared, private, losses, scores = jax.device_get(seen(KEY))
    c, d = shared["item"].values, private["own"].values
    w, b = private["weight"], private["bias"]
    for user in range(members):
        np.testing.assert_allclose(scores[user], (c + d) @ w[user] + b[user], rtol=1e-4, atol=1e-5)
    for (independence, sparsity), loss in zip(weights, losses, strict=True):
        total = 0.0
        for i in range(4):  # the fifth is padding
            user, item = int(batch.get("users", np.zeros(5, int))[i]), int(batch["items"][i])
            p = logistic(w[user] @ (c[item] + d[item]) + b[user])
            total -= np.log(p if batch["labels"][i] else 1 - p)
            total -= independence * ((d[item] - c[item]) ** 2).mean()
            total += sparsity * np.abs(c[item]).mean()
        np.testing.assert_allclose(loss, total / 4, rtol=1e-5)


def test_all_clients_start_alike():
    model = fedrap(20, 2, WIDTH)
    a, b = jax.device_get(
        fast(lambda key: [model.init(key, KEY)[1] for key in jax.random.split(key)])(KEY)
    )
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(x, y)
    assert np.abs(a["weight"]).max() <= WIDTH**-0.5 and np.ptp(a["weight"]) > 0


def packed(items):
    found = data.synthetic(num_users=USERS, num_items=items, interactions_per_user=6)
    return data.pack(data.leave_one_out()(found), evaluation_negatives=0)


def positives(ds, k):
    """The items of client k, of which all examples are made here."""
    one = ds.store.take(jnp.int32([k]))
    return np.asarray(ds.store.items)[int(one.start[0]) : int(one.start[0] + one.length[0])]


@pytest.mark.parametrize("items", [12, 300], ids=["whole", "compact"])
def test_rounds_are_a_loop_over_clients(items):
    """One batch of positives an epoch: gradients by hand, steps that shrink by batch and round."""
    ds = packed(items)
    lam, mu, rates = 0.2, 0.1, {"w": 0.3, "tables": 2.0}
    model = fedrap(items, 1, WIDTH, lam, mu)
    strategy = recipe(
        model, data.pointwise(0), learning_rate=rates["w"], item_learning_rate=rates["tables"],
        batch_decay=0.8, round_decay=0.5, epochs=3, batch_size=32, clients_per_chunk=4,
    )  # fmt: skip
    state = fast(lambda key: strategy.init(key, USERS))(KEY)
    c = np.asarray(state.shared["item"].values, float)
    d = np.asarray(state.private["own"].values, float)
    w, b = (np.asarray(state.private[n], float)[:, 0] for n in ("weight", "bias"))
    here = [0, 2, 3, 7]
    step = fast(strategy.round)
    start = state.private
    for t in range(2):
        state, _ = step(KEY, state, Cohort(jnp.int32([7, 2, USERS, 0, 3]), ds.store))
        uploads = []
        for k in here:
            ids, mine = positives(ds, k), c.copy()
            for e in range(3):
                factor = 0.8**e * 0.5**t
                pull = (logistic((mine[ids] + d[k][ids]) @ w[k] + b[k]) - 1) / len(ids)
                rows = pull[:, None] * w[k]
                apart = 2 * lam * (d[k][ids] - mine[ids]) / (WIDTH * len(ids))
                grad_d, grad_c = rows - apart, rows + apart
                grad_c = grad_c + mu * np.sign(mine[ids]) / (WIDTH * len(ids))
                grad_w, grad_b = pull @ (mine[ids] + d[k][ids]), pull.sum()
                np.add.at(d[k], ids, -factor * rates["tables"] * grad_d)
                np.add.at(mine, ids, -factor * rates["tables"] * grad_c)
                w[k] -= factor * rates["w"] * grad_w
                b[k] -= factor * rates["w"] * grad_b
            uploads.append(mine - c)
        c = c + np.mean(uploads, 0)
    state, start = jax.device_get((state, start))
    np.testing.assert_allclose(state.shared["item"].values, c, atol=2e-5)
    np.testing.assert_allclose(state.private["own"].values[here], d[here], atol=2e-5)
    np.testing.assert_allclose(state.private["weight"][:, 0], w, atol=2e-5)
    np.testing.assert_allclose(state.private["bias"][:, 0], b, atol=2e-5)
    others = np.setdiff1d(np.arange(USERS), here)
    for x, y in zip(jax.tree.leaves(start), jax.tree.leaves(state.private), strict=True):
        np.testing.assert_array_equal(np.asarray(x)[others], np.asarray(y)[others])
    moved = (np.asarray(state.private["own"].values) != np.asarray(start["own"].values)).any(-1)
    for k in here:  # no row but the client's own
        assert set(np.flatnonzero(moved[k])) == set(positives(ds, k))


def test_batches_of_padding_do_not_anneal():
    local = annealed_sgd(1.0, 0.5, 0.25)
    params, gradients = {"x": jnp.zeros(())}, {"x": -jnp.ones(())}
    state, seen = local.init(params, now(2)), []
    for active in (True, False, True):
        state, params = local.apply(state, params, gradients, jnp.asarray(active), now(2))
        seen.append(float(params["x"]))
    np.testing.assert_allclose(seen, [0.0625, 0.0625, 0.0625 + 0.03125])


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"fedrap\(width=0\)"):
        fedrap(5, width=0)
    with pytest.raises(ValueError, match=r"fedrap\(independence=-1\)"):
        fedrap(5, independence=-1)
    with pytest.raises(ValueError, match=r"fedrap\(sparsity=-0.1\)"):
        fedrap(5, sparsity=-0.1)
    with pytest.raises(ValueError, match=r"annealed_sgd\(batch_decay=1.5\)"):
        annealed_sgd(0.1, 1.5, 0.9)
    with pytest.raises(ValueError, match=r"annealed_sgd\(round_decay=0\)"):
        annealed_sgd(0.1, 0.9, 0)
