"""A run that begins where another ended: what both have is taken to the bit, the rest begins anew,
and state that a strategy derives from the model follows."""

import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from fedjax_rec import clients, data, models, simulate, strategies, trees

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
import tiny_bert

KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def packed():
    found = data.synthetic(num_users=12, num_items=20, interactions_per_user=6, seed=0)
    return data.pack(data.leave_one_out()(found), evaluation_negatives=0)


def federation(packed, start=None, maker=models.fedmf, recipe=strategies.fedavg):
    model = maker(packed.num_items, width=4)
    model = models.started(model, start.shared) if start else model
    strategy = recipe(model, data.pointwise(2), optimizer=clients.sgd(0.5))
    return strategies.started(strategy, start.private) if start else strategy


@pytest.fixture(scope="module")
def trained(packed, tmp_path_factory):
    """(folder of a run, its last state)."""
    strategy = federation(packed)
    *_, last = simulate.simulate(strategy, packed.store, 3, KEY)
    run = tmp_path_factory.mktemp("run")
    checkpoints = simulate.Checkpoints(run / "checkpoints", "whatever")
    checkpoints.save(3, last.state)
    checkpoints.close()
    return run, jax.device_get(last.state)


def test_a_run_begins_with_what_another_learned(packed, trained):
    run, last = trained
    other = jax.random.key(9)
    state = federation(packed, simulate.parameters(run)).init(other, packed.num_clients)
    for part in ("shared", "private"):
        found, wanted = (trees.named(getattr(x, part)) for x in (state, last))
        assert found.keys() == wanted.keys()
        for name, value in wanted.items():
            np.testing.assert_array_equal(found[name], value, err_msg=name)
    assert int(state.round) == 0


def test_what_it_begins_with_outlives_the_run(packed, trained):
    values = jax.tree.map(jax.numpy.asarray, simulate.parameters(trained[0]))
    strategy = federation(packed, values)
    losses = []
    for _ in range(2):
        (progress,) = simulate.simulate(strategy, packed.store, 1, KEY)
        losses.append(progress.metrics["loss"])
    assert losses[0] == losses[1]


def test_what_the_other_run_lacks_begins_anew(packed, trained):
    run, last = trained
    found = simulate.parameters(run)
    start = found._replace(private={})
    state = federation(packed, start).init(KEY, packed.num_clients)
    fresh = federation(packed).init(KEY, packed.num_clients)
    for name, value in trees.named(fresh.private).items():
        np.testing.assert_array_equal(trees.named(state.private)[name], value)
    for name, value in trees.named(last.shared).items():
        np.testing.assert_array_equal(trees.named(state.shared)[name], value)


def test_what_a_strategy_keeps_of_the_model_follows(packed, trained):
    run, last = trained
    swapping = federation(packed, simulate.parameters(run), recipe=strategies.model_swapping)
    state = swapping.init(KEY, packed.num_clients)
    table = trees.named(last.shared)
    copies = [x for x in jax.tree.leaves(state) if x.shape[1:] == (packed.num_items, 4)]
    assert copies, "each client has a model"
    for copy in copies:
        np.testing.assert_array_equal(copy[3], next(iter(table.values())))


def test_other_shapes_and_strangers_are_refused(packed, trained):
    found = simulate.parameters(trained[0])
    wide = models.fedmf(packed.num_items, width=5)
    with pytest.raises(ValueError, match=r"is \[20, 5\] and its value to start from \[20, 4\]"):
        models.started(wide, found.shared)
    with pytest.raises(ValueError, match=r"started\(values\) has .* and the model"):
        models.started(wide, {"['nowhere']": np.zeros(3)})
    fewer = federation(packed, found)
    with pytest.raises(ValueError, match="the same sizes, users, items and texts"):
        fewer.init(KEY, packed.num_clients - 1)


def test_a_folder_without_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match="no run with a checkpoint"):
        simulate.parameters(tmp_path / "nothing")


def test_an_encoder_starts_from_the_head_that_was_trained_on_its_frozen_texts(packed):
    texts = dict(
        titles=tiny_bert.titles(packed.num_items), weights=tiny_bert.folder(), components=5, width=4
    )
    tower = models.text_tower(packed.num_items, length=6, **texts)
    encoder = models.text_encoder(packed.num_items, length=6, rank=2, **texts)
    drawn = jax.tree.map(lambda x: x + 0.1, tower.init(KEY)[0]["project"])
    shared = {**tower.init(KEY)[0], "project": drawn}
    begun = models.started(encoder, trees.named(shared)).init(jax.random.key(7))[0]
    user = tower.init(KEY)[1]
    score = lambda model, shared: model.score(shared, user, slice(None))
    np.testing.assert_allclose(score(encoder, begun), score(tower, shared), rtol=1e-4, atol=1e-5)


def with_adapter(packed):
    class Scores(nnx.Module):
        def __init__(self, rngs):
            self.query = models.layers.linear(rngs, 6, 6)
            self.codes = models.Frozen(jax.random.normal(rngs.params(), (packed.num_items, 6)))
            models.lora(models.freeze(self), rngs, targets="query", rank=2, alpha=4.0)
            self.user = models.Private(0.1 * jax.random.normal(rngs.params(), (6,)))

        def loss(self, batch, key):
            scores = self.query(self.codes[...][batch["items"]]) @ self.user[...]
            return models.bce()(scores, batch)

        def score(self, items, user):
            return self.query(self.codes[items]) @ self.user[...]

    return models.from_nnx(Scores)


@pytest.mark.parametrize("rule", ["ffa_lora", "flora", "scaffold"])
def test_what_is_frozen_merged_or_nested_there_is_taken_too(packed, rule):
    model, examples = with_adapter(packed), data.pointwise(2)
    first = getattr(strategies, rule)(model, examples, optimizer=clients.sgd(0.5))
    *_, last = simulate.simulate(first, packed.store, 2, KEY)
    there = last.state.shared
    there = there.get("model", there)
    begun = models.started(model, trees.named(last.state.shared))
    second = strategies.fedit(begun, examples, optimizer=clients.sgd(0.5))
    second = strategies.started(second, trees.named(last.state.private))
    state = second.init(jax.random.key(8), packed.num_clients)
    bare = lambda x: getattr(x, "value", x)
    for name in ("kernel", "lora_a", "lora_b"):
        found, wanted = (bare(x["query"][name]) for x in (state.shared, there))
        np.testing.assert_array_equal(found, wanted, err_msg=name)
    private = last.state.private
    np.testing.assert_array_equal(state.private["user"], private.get("model", private)["user"])


def test_the_core_of_fed_sb_is_refused(packed):
    model = with_adapter(packed)
    strategy = strategies.fed_sb(model, data.pointwise(2))
    shared = strategy.init(KEY, packed.num_clients).shared
    with pytest.raises(ValueError, match="use a run of another rule"):
        models.started(model, trees.named(shared))
