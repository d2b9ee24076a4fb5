"""Laws of a whole round: chunks, order, padding, who is touched, one trace, and reproducibility."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compressors_registry import COMPRESSORS
from registry import AGGREGATORS, ALONE, BATCHES, EXAMPLES, LOCAL, MODELS
from rounds import FIRST, begins
from worlds import (
    KEY,
    USERS,
    clicks,
    close,
    compiled,
    federated,
    mean_loss,
    named,
    run,
    same,
)

from fedjax_rec import clients, keys, models, rows, strategies, wire
from fedjax_rec.data import batches
from fedjax_rec.rows import Table
from fedjax_rec.trees import Frozen
from fedjax_rec.types import Client, Cohort, Compressor, Packet, Upload

WORLDS = pytest.mark.parametrize("name", ["whole", "compact"])


def fedmf(data, **kwargs):
    return models.fedmf(data.num_items, data.members, width=8, **kwargs)


def counting() -> Compressor:
    """Sends the update as it is, and remembers how often, and of which key."""

    def encode(key, memory, update, now):
        bits = jax.random.bits(key, (), jnp.uint32)
        return {"sent": memory["sent"] + 1, "bits": bits}, Packet(update)

    return Compressor(
        lambda update: {"sent": jnp.int32(0), "bits": jnp.uint32(0)},
        encode,
        lambda packet, like, now: packet.body,
    )


@pytest.fixture(scope="module")
def rounds():
    """Of each world: its data, a compiled round (chunks of 4, two epochs, memory), the start."""
    made = {}
    for name in ("whole", "compact"):
        data = named(name)
        strategy = federated(data, fedmf(data), training={"epochs": 2}, uplink=counting())
        start = strategy.init(KEY, data.num_clients)
        made[name] = data, compiled(strategy.round), start
    return made


@pytest.mark.parametrize(("name", "chunk"), [("compact", 1), ("compact", USERS), ("whole", USERS)])
def test_chunks_change_nothing(rounds, name, chunk):
    data, step, start = rounds[name]
    other = federated(data, fedmf(data), chunk=chunk, training={"epochs": 2}, uplink=counting())
    everyone = Cohort(jnp.arange(USERS), data.store)
    a, info_a = step(KEY, start, everyone)
    b, info_b = compiled(other.round)(KEY, start, everyone)
    close((a, info_a), (b, info_b), atol=2e-6)
    same((info_a.bytes_up, info_a.bytes_down), (info_b.bytes_up, info_b.bytes_down))


def drawing(layout: str) -> tuple[Client, dict]:
    """A client that sends random numbers, and the server's model: rounds that compile fast."""
    items, slots = 30, 6
    shared = {
        "item": Table(jnp.ones((items, 3))),
        "bias": jnp.zeros(2),
        "base": Frozen(jnp.ones(4)),
    }

    def update(key, private, shared, data, now):
        if layout == "ids":
            local = rows.localize(shared["item"], jax.random.randint(key, (slots,), 0, items + 3))
        else:
            ids = jax.random.randint(key, (slots,), 0, items - 2)
            local = rows.mark(rows.whole(shared["item"]), ids, jnp.ones(slots))
        noise = jax.random.normal(key, local.values.shape) * local.live[:, None]
        item = rows.update_of(replace(local, values=local.values + noise), shared["item"])
        change = {"item": item, "bias": jax.random.normal(key, (2,)), "base": Frozen(None)}
        size = data.length.astype(jnp.float32)
        return private, Upload(change, size, {"loss": size}, {"steps": jnp.ceil(size / 4)})

    return Client(lambda key, client: {}, update), shared


# PipAttack of the registry knows another catalogue than this world's.
@pytest.mark.parametrize("aggregator", [name for name in AGGREGATORS if "pip_attack" not in name])
@pytest.mark.parametrize("layout", ["whole", "ids"])
def test_chunks_change_nothing_for_any_aggregator(aggregator, layout):
    """With frozen leaves in the model, and one client that has nothing."""
    data = named("compact")
    client, shared = drawing(layout)
    a, b = (
        run(
            strategies.federated(
                client,
                begins(shared),
                aggregator=AGGREGATORS[aggregator](),
                clients_per_chunk=chunk,
            ),
            data,
        )
        for chunk in (5, USERS)
    )
    close(a, b, atol=2e-6)
    same(a[0].shared["base"], shared["base"])


# One of each kind of memory, layout and packet; the others, which differ in numbers only, are slow.
QUICK = {"identity()", "error_feedback(rows=8)", "ef21(top_k)", "eden(4)", "seeded_low_rank(2)",
         "power_sgd_one_shot(2)", "scheduled(scaled)"}  # fmt: skip


@pytest.mark.parametrize(
    "compressor",
    [pytest.param(c, marks=[] if c in QUICK else [pytest.mark.slow]) for c in COMPRESSORS],
)
def test_chunks_and_padding_change_nothing_for_any_compressor(compressor):
    data = named("compact")
    client, shared = drawing("ids")
    ids = jnp.arange(0, USERS, 2)
    padded = jnp.concatenate([jnp.full(3, USERS), ids[::-1]])
    (a, info_a), (b, info_b) = (
        run(
            strategies.federated(
                client,
                begins(shared),
                uplink=COMPRESSORS[compressor].make(),
                clients_per_chunk=chunk,
            ),
            data,
            cohort,
        )
        for chunk, cohort in ((1, ids), (5, padded))
    )
    close(a, b, atol=2e-6)
    same(info_a.bytes_up, info_b.bytes_up[3:][::-1])
    assert not np.asarray(info_b.bytes_up[:3]).any()


@WORLDS
def test_order_and_padding_change_nothing(rounds, name):
    """Half of the clients, first in order with padding behind, then shuffled among padding."""
    data, step, start = rounds[name]
    rng = np.random.default_rng(0)
    chosen = np.arange(1, USERS, 2)
    ids = np.full(USERS, USERS)
    ids[: len(chosen)] = chosen
    shuffled = rng.permutation(ids)
    a, info_a = step(KEY, start, Cohort(jnp.int32(ids), data.store))
    b, info_b = step(KEY, start, Cohort(jnp.int32(shuffled), data.store))
    close(a, b, atol=2e-6)
    same((a.private, a.memory), (b.private, b.memory))
    found = {int(i): k for k, i in enumerate(shuffled) if i < USERS}
    there = np.array([found[i] for i in chosen])
    for x, y in zip(jax.tree.leaves(info_a), jax.tree.leaves(info_b), strict=True):
        np.testing.assert_array_equal(np.asarray(x)[: len(chosen)], np.asarray(y)[there])
        assert not np.asarray(x)[len(chosen) :].any()
        assert not np.asarray(y)[shuffled == USERS].any()


def test_a_cohort_without_padding_equals_one_with_it(rounds):
    data, step, start = rounds["compact"]
    ids = jnp.arange(0, USERS, 3)
    padded = jnp.concatenate([ids, jnp.full(USERS - len(ids), USERS)])
    a, info_a = step(KEY, start, Cohort(ids, data.store))
    b, info_b = step(KEY, start, Cohort(padded, data.store))
    close(a, b, atol=2e-6)
    close(info_a, jax.tree.map(lambda x: x[: len(ids)], info_b))


@WORLDS
def test_others_are_not_touched(rounds, name):
    data, step, start = rounds[name]
    ids = np.full(USERS, USERS)
    ids[:7] = [3, 20, 5, 22, 0, 11, 8]
    after, info = step(KEY, start, Cohort(jnp.int32(ids), data.store))
    others = np.setdiff1d(np.arange(USERS), ids)
    for old, new in zip(
        jax.tree.leaves((start.private, start.memory)),
        jax.tree.leaves((after.private, after.memory)),
        strict=True,
    ):
        np.testing.assert_array_equal(np.asarray(old)[others], np.asarray(new)[others])
    changed = np.asarray(after.private["user"] != start.private["user"]).any((1, 2))
    # User 5 is in the cohort but has nothing to train on.
    assert sorted(np.flatnonzero(changed)) == [0, 3, 8, 11, 20, 22]
    assert np.asarray(info.weight)[2] == 0 and np.asarray(after.memory["sent"])[22] == 1


def test_an_empty_cohort_changes_nothing(rounds):
    data, step, start = rounds["compact"]
    nobody = jnp.full(USERS, USERS)
    after, info = step(KEY, start, Cohort(nobody, data.store))
    same((after.shared, after.private), (start.shared, start.private))
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(info))


@WORLDS
def test_the_same_key_gives_the_same_bits(rounds, name):
    data, step, start = rounds[name]
    everyone = Cohort(jnp.arange(USERS), data.store)
    a, b = (step(KEY, start, everyone) for _ in range(2))
    same(a, b)
    c, _ = step(jax.random.key(8), start, everyone)
    assert np.abs(np.asarray(c.shared["item"].values - a[0].shared["item"].values)).max() > 1e-4
    d, _ = step(KEY, a[0], everyone)
    assert int(d.round) == 2


def test_one_trace_for_rounds_of_the_same_shape():
    data = named("compact")
    client, shared = drawing("ids")
    strategy, traces = strategies.federated(client, begins(shared)), []

    @jax.jit
    def counted(key, state, cohort):
        traces.append(1)
        return strategy.round(key, state, cohort)

    state = strategy.init(KEY, data.num_clients)
    rng = np.random.default_rng(2)
    for _ in range(4):
        ids = jnp.int32(rng.choice(USERS + 1, 6, replace=False))
        state, _ = counted(KEY, state, Cohort(ids, data.store))
    assert len(traces) == 1


@WORLDS
def test_bytes_up_are_those_of_the_packet(rounds, name):
    """Recomputed on the host: what one client sends and gets, outside the vmap."""
    data, step, start = rounds[name]
    ids = np.full(USERS, USERS)
    chosen = [2, 5, 13]
    ids[:3] = chosen
    _, info = step(KEY, start, Cohort(jnp.int32(ids), data.store))
    client = clients.local_training(
        fedmf(data), batches.pointwise(4), clients.sgd(0.5), epochs=2, batch_size=16
    )
    update = compiled(client.update)
    for slot, id in enumerate(chosen):
        key = jax.random.split(client_key(0, id))[0]
        private = jax.tree.map(lambda x, id=id: x[id], start.private)
        _, upload = update(key, private, start.shared, one_client(data, id), FIRST)
        if id == 5:  # has no example, gets nothing and sends nothing
            assert int(info.bytes_up[slot]) == int(info.bytes_down[slot]) == 0
            continue
        # Up go the rows that it touched, with a list of their ids.
        item = upload.update["item"].delta()
        live = np.flatnonzero(item.live)
        ids = live if item.ids is None else np.asarray(item.ids)[live]
        up = rows.RowsUpdate(item.values[live], ids, np.ones(len(live), bool), None, item.size)
        assert len(wire.to_bytes(Packet({"item": up}))) == int(info.bytes_up[slot])
        # Down come the server's rows that the client touched: as many, with the same ids.
        down = replace(item, values=jnp.ones(item.values.shape), origin=None)
        assert len(wire.to_bytes(Packet({"item": down}))) == int(info.bytes_down[slot])


def client_key(round: int, id: int):
    """The key of one client in one round, as the key streams are named."""
    return keys.for_client(keys.stream(jax.random.fold_in(KEY, round), "clients"), jnp.int32(id))


def one_client(data, id: int):
    """The `ClientData` of one client, alone in its chunk."""
    taken = data.store.take(jnp.int32([id]))
    return replace(taken, id=taken.id[0], start=taken.start[0], length=taken.length[0])


SLOW = {"gmf()", "mlp()", "fedmf(bce)"}  # NeuMF holds two of them, other tests train the third
# SASRec stands for them; tests/models/test_sequential.py trains each.
SLOW |= {"text_tower()", "text_and_rows()", "text_encoder(private B)"}
SLOW |= {"text_encoder(modernbert)", "text_encoder(t5)"}
SLOW |= {
    "yes_no(2 layers)",
    "yes_no_above(1 layer)",
    "tallrec()",
    "calibrated()",
    "collm()",
    "next_title()",
}
SLOW |= {
    "fedkd()",
    "frozen_at(lora, A)",
    "private_at(lora, B)",
    "with_core(lora)",
    "started(fedmf)",
}  # the others stand for them
SLOW |= {"sasrec(full_softmax)", "bert4rec(gbce)", "gru4rec()", "hstu()", "unisrec()"}
SLOW |= {"text_sasrec()", "text_rows(fedmf)", "hybrid_sasrec()", "hybrid(fedmf, gmf)"}
SLOW |= {"hstu_from_texts()", "sasrec_from_texts()", "tiger()", "tiger_decoder()"}
SLOW |= {"transferred_sasrec()", "transferred(fedmf)"}
# Others learn at rate 1.
RATES = {"fedmf(squared_error)": 0.2, "fedpergnn()": 3.0, "unisrec()": 0.2, "fedmf(summed)": 0.05}
RATES |= {"text_sasrec()": 0.2, "hybrid_sasrec()": 0.2, "tiger()": 0.2}
RATES |= {"tiger_decoder()": 0.2}
SLOW |= {"dlrm(rows_each)", "dcn(hashed)"}  # of click models one is enough


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=[pytest.mark.slow] if k in SLOW else []) for k in MODELS],
)
def test_every_model_learns_across_silos_and_steps(kind):
    """Five clients of several users, three batches each a round: the loss falls."""
    # One of them on touched rows, which take longer to compile.
    data = named("compact silos" if kind == "fedmf(bpr)" else "silos")
    make, kind_of_batch = MODELS[kind]
    if kind_of_batch in ALONE:
        data = named("whole")
    if kind_of_batch in EXAMPLES:
        data, examples = clicks(), EXAMPLES[kind_of_batch]()
    else:
        examples = BATCHES[kind_of_batch][0]()
    strategy = federated(
        data,
        make(data.num_items, data.members),
        clients.sgd(RATES.get(kind, 1.0)),
        examples,
        training={"steps": 3, "batch_size": 64},
    )
    step = compiled(strategy.round)
    state = strategy.init(KEY, data.num_clients)
    losses = []
    for _ in range(20):
        state, info = step(KEY, state, Cohort(jnp.arange(data.num_clients), data.store))
        losses.append(mean_loss(info))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((state.shared, state.private)))
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.003


# `alternating` takes turns between arrays, of which FedMF has one; RoLoRA's laws train with it.
@pytest.mark.parametrize("optimizer", [name for name in LOCAL if "alternating" not in name])
def test_every_local_optimizer_learns(optimizer):
    """A single client whose server takes all of its change."""
    data = named("whole")
    model = fedmf(data)
    client = clients.local_training(
        model, batches.pointwise(4), LOCAL[optimizer](), epochs=3, batch_size=16
    )
    update = compiled(client.update)
    shared, private = model.init(KEY)
    mine, losses = one_client(data, 16), []
    for t in range(12):
        private, upload = update(jax.random.fold_in(KEY, t), private, shared, mine, FIRST)
        change = rows.to_dense(upload.update["item"].delta())
        shared = {"item": replace(shared["item"], values=shared["item"].values + change)}
        losses.append(float(upload.metrics["loss"]))
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.02


def test_a_cohort_may_be_smaller_than_a_chunk_of_the_default_size():
    data = named("compact")
    client, shared = drawing("ids")
    _, info = run(strategies.federated(client, begins(shared)), data, [4])
    assert info.weight.tolist() == [int(data.store.length[4])]
