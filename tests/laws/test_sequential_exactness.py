"""What sequential models train federated is what they would train in the open."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from rounds import FIRST
from worlds import KEY, close, compiled, named, run

from fedjax_rec import clients, keys, models, rows, strategies
from fedjax_rec.clients.batches import turns_of
from fedjax_rec.data import sequences


@pytest.mark.parametrize("name", ["sasrec", pytest.param("bert4rec", marks=pytest.mark.slow)])
def test_a_client_uploads_the_rows_that_its_example_names(name):
    """One local step of a user on touched rows is the gradient of the whole table."""
    data = named("compact")
    kind, passes = sequences(4, 3), clients.Passes(batch_size=1)
    make = getattr(models, name)
    model = make(data.num_items, width=4, length=4, layers=1, dropout=0.2)
    shared, private = model.init(KEY)
    taken = data.store.take(jnp.int32([4]))
    mine = replace(taken, id=taken.id[0], start=taken.start[0], length=taken.length[0])
    client = clients.local_training(model, kind, clients.sgd(1.0), batch_size=1)

    @compiled
    def both():
        update = client.update(KEY, private, shared, mine, FIRST)[1].update
        turns = turns_of(kind, passes, KEY, mine)
        batch = turns.draw(0)
        slope = jax.grad(lambda s: model.loss(s, private, batch, turns.key("loss 0", 0)))(shared)
        return update, batch, slope

    update, batch, slope = both()
    rows_of = update.pop("item")
    fields = shared["item"].fields
    named_ids = np.unique(np.concatenate([np.asarray(batch[f]).reshape(-1) for f in fields]))
    live = np.asarray(rows_of.live)
    assert rows_of.ids.size < data.num_items and sorted(rows_of.ids[live]) == list(named_ids)
    table = slope.pop("item").values
    np.testing.assert_allclose(rows.to_dense(rows_of), -table, rtol=1e-3, atol=1e-6)
    jax.tree.map(
        lambda u, g: np.testing.assert_allclose(u, -g, rtol=1e-3, atol=1e-6), update, slope
    )


@pytest.mark.slow
def test_one_client_that_holds_all_is_plain_minibatch_adam():
    """Two rounds of `fedavg_keeping`, against a loop of optax over the same batches."""
    data = named("one")
    model = models.sasrec(data.num_items, data.members, 4, 4, 1, dropout=0.1)
    kind, passes, adam = sequences(4, 3), clients.Passes(batch_size=8), optax.adam(0.01)
    strategy = strategies.fedavg_keeping(model, kind, optimizer=adam, batch_size=8)
    state, info = run(strategy, data, rounds=2)
    shared = model.init(keys.stream(KEY, "shared"))[0]
    moments, taken = adam.init(shared), data.store.take(jnp.int32([0]))
    mine = replace(taken, id=taken.id[0], start=taken.start[0], length=taken.length[0])

    @compiled
    def step(number, turn, shared, moments):
        of_clients = keys.stream(jax.random.fold_in(KEY, number), "clients")
        key, _ = jax.random.split(keys.for_client(of_clients, jnp.int32(0)))
        turns = turns_of(kind, passes, key, mine)
        loss_key, batch = turns.key("loss 0", turn), turns.draw(turn)
        slope = jax.grad(lambda s: model.loss(s, (), batch, loss_key))(shared)
        change, moments = adam.update(slope, moments)
        return optax.apply_updates(shared, change), moments

    batches = int(info.metrics["steps"][0])
    assert batches == 3 and int(info.weight[0]) == 20  # users with a sequence
    for number in range(2):
        for turn in range(batches):
            shared, moments = step(number, turn, shared, moments)
    # A bias of all keys alike changes no attention: its gradient is rounding, which Adam scales up.
    for tree in (state.shared, shared):
        tree["layers"]["key"].pop("bias")
    close(state.shared, shared, rtol=1e-3, atol=1e-4)
