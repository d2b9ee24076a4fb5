"""What is measured after a round: the served model against NumPy, own models where both agree."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from crowd import KEY, factorization, packed

from fedjax_rec import clients, evaluate, models, simulate, strategies
from fedjax_rec.data import sequences
from fedjax_rec.types import Cohort


def parts(data):
    return {"validation": data.validation, "test": data.test}


def rounds(strategy, data, measure, ids=None):
    """The values after one round of the clients `ids`, all by default, and the state."""
    ids = jnp.arange(data.num_clients) if ids is None else jnp.int32(ids)

    def run(state, store):
        after, info = strategy.round(KEY, state, Cohort(ids, store))
        return measure.values(after, info, ids)[0], after

    values, after = jax.jit(run)(strategy.init(KEY, data.num_clients), data.store)
    return jax.tree.map(np.asarray, values), after


@pytest.mark.parametrize("candidates", ["full", "sampled"])
def test_aggregated_is_the_model_of_the_server_in_numpy(candidates):
    data = packed()
    strategy = factorization(data)
    metrics = evaluate.metrics(["hr@2", "mrr"])
    protocol = (
        evaluate.full_catalogue(metrics, data.num_items)
        if candidates == "full"
        else evaluate.sampled(metrics)
    )
    measure = simulate.aggregated(strategy.model, protocol, parts(data), users_per_chunk=4)
    values, after = rounds(strategy, data, measure)
    scores = np.asarray(after.private["user"])[:, 0] @ np.asarray(after.shared["item"].values).T
    train = [
        np.asarray(data.store.items)[s : s + n]
        for s, n in zip(data.store.start.tolist(), data.store.length.tolist(), strict=True)
    ]
    for name, cases in parts(data).items():
        for u in range(data.num_users):
            target = int(cases.targets[u][0])
            others = set(range(data.num_items)) - set(train[u].tolist())
            if name == "test":
                others.discard(int(data.validation.targets[u][0]))
            if candidates == "sampled":
                others = set(np.asarray(cases.negatives[u]).tolist())
                assert not others & {target, *train[u].tolist()}
            others.discard(target)
            rank = 1 + sum(scores[u, i] >= scores[u, target] for i in others)
            np.testing.assert_allclose(values[name][u], [rank <= 2, 1 / rank], rtol=1e-6)


def test_own_models_are_the_aggregated_one_where_nobody_learns():
    """A step of 1e-30 moves no float: what a client has after training is what it got."""
    data = packed(users=8)
    metrics = evaluate.metrics(["hr@3", "ndcg@3", "mrr", "auc"])
    protocol = evaluate.full_catalogue(metrics, data.num_items)
    probe = evaluate.probe_clients(protocol, parts(data))
    strategy = factorization(data, probe, rate=1e-30, clients_per_chunk=3)
    own, _ = rounds(strategy, data, simulate.personal(protocol, parts(data)))
    served, _ = rounds(strategy, data, simulate.aggregated(strategy.model, protocol, parts(data)))
    for name in own:
        np.testing.assert_allclose(own[name], served[name], rtol=1e-6)


def test_own_models_that_score_from_histories_are_measured():
    """As above, of a model that reads what each user has seen."""
    data = packed(users=6, history=4)
    protocol = evaluate.full_catalogue(evaluate.metrics(["mrr", "auc"]), data.num_items)
    probe = evaluate.probe_clients(protocol, parts(data))
    model = models.sasrec(data.num_items, width=4, length=4, layers=1, dropout=0.0)
    client = clients.local_training(
        model, sequences(4, 3), clients.sgd(1e-30), batch_size=4, probe=probe
    )
    strategy = strategies.federated(client, model, clients_per_chunk=3)
    own, _ = rounds(strategy, data, simulate.personal(protocol, parts(data)))
    served, _ = rounds(strategy, data, simulate.aggregated(strategy.model, protocol, parts(data)))
    for name in own:
        np.testing.assert_allclose(own[name], served[name], rtol=1e-6)
        assert len(np.unique(own[name][:, 0])) > 2


def test_a_lone_client_is_the_server():
    """After a round of one client the server's model is that client's own."""
    data = packed(users=6)
    protocol = evaluate.full_catalogue(evaluate.metrics(["mrr", "auc"]), data.num_items)
    probe = evaluate.probe_clients(protocol, {"test": data.test})
    strategy = factorization(data, probe)
    own = simulate.personal(protocol, {"test": data.test})
    served = simulate.aggregated(strategy.model, protocol, {"test": data.test})
    both_of = {"own": own, "served": served}
    both = simulate.Measure(
        lambda *args: ({n: m.values(*args)[0]["test"] for n, m in both_of.items()}, {}),
        protocol,
        {},
    )
    values, _ = rounds(strategy, data, both, ids=[3])
    np.testing.assert_allclose(values["own"][3], values["served"][3], rtol=1e-6)
    assert np.isnan(np.delete(values["own"], 3, 0)).all()


def test_own_models_of_clients_out_of_the_cohort_are_nan():
    data = packed(users=8)
    protocol = evaluate.sampled(evaluate.metrics(["mrr"]))
    probe = evaluate.probe_clients(protocol, parts(data))
    strategy = factorization(data, probe)
    values, _ = rounds(strategy, data, simulate.personal(protocol, parts(data)), ids=[6, 8, 1, 8])
    for one in values.values():
        assert np.flatnonzero(~np.isnan(one[:, 0])).tolist() == [1, 6]


def test_ratings_have_one_rmse_over_all_users():
    data = packed(implicit=False)
    protocol = evaluate.rating_error()
    strategy = factorization(data)
    measure = simulate.aggregated(strategy.model, protocol, {"test": data.test})
    values, after = rounds(strategy, data, measure)
    scores = np.asarray(after.private["user"])[:, 0] @ np.asarray(after.shared["item"].values).T
    targets = np.asarray(data.test.targets)[:, 0]
    errors = scores[np.arange(data.num_users), targets] - np.asarray(data.test.ratings)[:, 0]
    summary = protocol.summarise(values["test"], np.ones(data.num_users))
    want = [np.sqrt(np.mean(errors**2)), np.mean(abs(errors))]
    np.testing.assert_allclose(summary, want, rtol=1e-5)
