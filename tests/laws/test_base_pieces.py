"""A frozen base that several devices hold together gives the numbers of one device.

Four devices: of two each has half of the base, twice, or of four each has a quarter. Cohorts of 11
of 23 clients are drawn, whose lengths differ, so that devices would turn unlike.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_llama
from adapted import adapted
from compiling import fast
from flax import nnx
from jax.sharding import NamedSharding, PartitionSpec
from strategies_registry import STRATEGIES, fedmf
from test_devices import as_numpy
from worlds import KEY, named

from fedjax_rec import clients, data, models, pieces, simulate, strategies, trees
from fedjax_rec.models.transformers.products import times, times_rows
from fedjax_rec.rounds.waiting import refuse_alone

COHORTS = simulate.uniform(11)


@pytest.fixture(autouse=True)
def small_arrays_too(monkeypatch):
    monkeypatch.setattr(pieces, "SMALL", 64)


def ended(strategy, packed, devices: int, base_devices: int, measure=None, base_by: str = "layers"):
    """The last `Progress` of two rounds."""
    parts = simulate.Parts(strategy, COHORTS, measure)
    mesh = simulate.clients_mesh(devices, base_devices=base_devices, base_by=base_by)
    calls = simulate.program(lambda _: parts, mesh).of(KEY)
    with fast():
        (*_, end) = simulate.simulate(
            strategy, packed.store, 2, KEY, COHORTS, measure, every=2, calls=calls
        )
    return end


def same_numbers(one, many):
    assert jax.tree.structure(one.state) == jax.tree.structure(many.state)
    for x, y in zip(jax.tree.leaves(one.state), jax.tree.leaves(many.state), strict=True):
        x, y = (np.asarray(as_numpy(a), np.float64) for a in (x, y))
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-5)
    for name in one.metrics.keys() - {"seconds"}:
        np.testing.assert_allclose(
            many.metrics[name], one.metrics[name], rtol=1e-4, atol=1e-6, err_msg=name
        )


def share_of_base(state, base_devices: int) -> list[str]:
    """Names of the frozen arrays of which a device has so small a part."""
    out = []
    for name, x in trees.named(state.shared).items():
        if x.addressable_shards[0].data.size * base_devices == x.size and x.ndim > 1:
            out.append(name)
    return out


def decoder(tied: bool = True):
    return models.llama(nnx.Rngs(0), models.LlamaSize(401, 16, 24, 2, 2, 1, 8, tied=tied))


PROMPTS = tiny_llama.as_prompts(data.pointwise(4))
MODELS = {
    "yes_no": (lambda: models.yes_no(decoder(), (0, 1), rank=4), PROMPTS),
    "yes_no of an untied head": (
        lambda: models.yes_no(decoder(tied=False), (0, 1), rank=4), PROMPTS,
    ),
    "yes_no_above": (
        lambda: models.yes_no_above(decoder(), (0, 1), tiny_llama.prompts(400), 1, rank=4),
        PROMPTS,
    ),
    "text layers": (lambda: adapted(400), data.pointwise(4)),
    "int8": (
        lambda: adapted(400, base=lambda m: models.quantised(m, "int8", tile=3)),
        data.pointwise(4),
    ),
    "bfloat16, dora": (
        lambda: adapted(400, adapt=models.dora, base=models.in_dtype), data.pointwise(4),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_models_are_those_on_one_device(name):
    make, examples = MODELS[name]
    packed = named("compact")
    strategy = strategies.fedavg(make(), examples, optimizer=clients.sgd(0.3), batch_size=16)
    many = ended(strategy, packed, 4, 2)
    same_numbers(ended(strategy, packed, 1, 1), many)
    assert sum("kernel" in x for x in share_of_base(many.state, 2)) >= 2


@pytest.mark.parametrize("rule", ["fedsa_lora", "flora", "hetlora", "scaffold"])
def test_rules_of_adapters(rule):
    """With halves of the base on two devices; `flora` writes into it."""
    packed, model = named("compact"), adapted(400)
    more = {"ranks": [1] * 12 + [2] * 11} if rule == "hetlora" else {}
    strategy = getattr(strategies, rule)(model, data.pointwise(4), **more)
    same_numbers(ended(strategy, packed, 1, 1), ended(strategy, packed, 2, 2))


def test_four_have_a_quarter_each_and_measure_the_same():
    packed = named("compact")
    strategy = strategies.fedavg(MODELS["yes_no"][0](), PROMPTS)
    many = ended(strategy, packed, 4, 4)
    same_numbers(ended(strategy, packed, 1, 1), many)
    there = share_of_base(many.state, 4)
    kernels = ("query", "key", "value", "output", "gate", "up", "down")
    assert all(any(f"'{k}'" in x and "kernel" in x for x in there) for k in kernels)
    assert any("'tokens'" in x for x in there)


def test_a_device_has_its_part_at_its_peak():
    """Of 24 layers: arguments and temporaries fall with the devices, to a layer and a part."""
    size = models.LlamaSize(512, 64, 192, 24, 4, 2, 16)
    model = models.yes_no(models.llama(nnx.Rngs(0), size), (0, 1), rank=2)
    strategy = strategies.fedavg(model, PROMPTS, clients_per_chunk=1, batch_size=2, steps=1)
    packed = named("compact")
    like = jax.eval_shape(lambda: strategy.init(KEY, packed.num_clients))
    found = []
    for count in (1, 2, 4):
        mesh = simulate.clients_mesh(4, base_devices=count)
        calls = simulate.program(lambda _: simulate.Parts(strategy, COHORTS), mesh).of(KEY)
        compiled = calls.compiled(like, packed.store, 1, 1)
        found.append((simulate.forecast(compiled, like), compiled.memory()))
    base = trees.nbytes(trees.frozen(like.shared))
    layer = base / 24
    (whole, of_whole), *parts = found
    assert whole.base == base
    for count, (foreseen, memory) in zip((2, 4), parts, strict=True):
        less = of_whole.argument_size_in_bytes - memory.argument_size_in_bytes
        assert less == pytest.approx(base * (1 - 1 / count), rel=0.02)
        assert foreseen.base == pytest.approx(base / count, rel=0.02)
        assert memory.temp_size_in_bytes < of_whole.temp_size_in_bytes + 2 * layer
        assert foreseen.peak < whole.peak - base * (1 - 1 / count) + 2 * layer


def test_pieces_are_read_as_the_whole():
    """Rows by ids that differ by device, products and their gradients, under a `vmap`."""
    mesh = simulate.clients_mesh(4, base_devices=4)
    draw = np.random.default_rng(0)
    table, kernel = draw.normal(size=(10, 8)), draw.normal(size=(8, 6))
    table, kernel = (x.astype(np.float32) for x in (table, kernel))
    ids = draw.integers(0, 10, (4, 3, 5)).astype(np.int32)

    def here(table, kernel, ids):
        table, kernel = pieces.Piece(table, -1), nnx.Param(pieces.Piece(kernel, -2))
        assert table.shape == (10, 8) and kernel.get_value().shape == (8, 6)

        def one(ids):
            x = table[ids]
            loss = lambda x: (times(x, kernel) ** 2).sum() + times_rows(x, table).sum()
            return x, jax.grad(loss)(x), times(x, kernel, jnp.array([4, 1])), times_rows(x, table)

        return jax.tree.map(lambda x: x[None], jax.vmap(one)(ids[0]))

    columns, ins, split = PartitionSpec(None, "base"), PartitionSpec("base"), PartitionSpec("base")
    run = jax.shard_map(here, mesh=mesh, in_specs=(columns, ins, split), out_specs=split,
                        check_vma=False)  # fmt: skip
    rows, slope, some, said = jax.jit(run)(table, kernel, ids)
    x = table[ids]
    np.testing.assert_array_equal(rows, x)
    by_hand = 2 * x @ kernel @ kernel.T + table.sum(0)
    np.testing.assert_allclose(slope, by_hand, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(some, (x @ kernel)[..., [4, 1]], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(said, x @ table.T, rtol=1e-5, atol=1e-5)


def test_weights_are_read_to_where_they_lie():
    mesh = simulate.clients_mesh(2, base_devices=2)
    assert mesh is not None
    whole = models.load_decoder(tiny_llama.folder())
    with pieces.bases_on(mesh):
        parted = models.load_decoder(tiny_llama.folder())
    for x, y in zip(*(jax.tree.leaves(nnx.state(m)) for m in (whole, parted)), strict=True):
        np.testing.assert_array_equal(x, y)
    kernel, tokens = parted.layers.up.kernel[...], parted.tokens[...]
    assert kernel.sharding == NamedSharding(mesh, PartitionSpec(None, "base", None))
    assert {s.data.shape for s in kernel.addressable_shards} == {(2, 8, 24)}
    assert {s.data.shape for s in tokens.addressable_shards} == {(500, 8)}
    # And a run reads those very arrays.
    model = models.yes_no(parted, (0, 1), rank=4)
    strategy, packed = strategies.fedavg(model, PROMPTS), named("compact")
    calls = simulate.program(lambda _: simulate.Parts(strategy, COHORTS), mesh).of(KEY)
    begun = trees.named(calls.start(packed.store).shared)
    (name,) = [x for x in begun if "'up'" in x]
    there = [s.data.unsafe_buffer_pointer() for s in begun[name].addressable_shards]
    assert there == [s.data.unsafe_buffer_pointer() for s in kernel.addressable_shards]


def by_own_length(model, examples):
    """Clients that read the base as often as they have examples themselves."""
    client = clients.local_training(model, examples, clients.sgd(0.1))

    def update(key, private, shared, data, now):
        batch = {"items": jnp.zeros(2, jnp.int32), "labels": jnp.zeros(2), "mask": jnp.ones(2)}
        more = jax.lax.fori_loop(
            0, data.length, lambda i, x: x + model.loss(shared, private, batch, key), 0.0
        )
        private, upload = client.update(key, private, shared, data, now)
        return private, dataclasses.replace(upload, metrics={**upload.metrics, "more": more})

    return strategies.federated(dataclasses.replace(client, update=update), model)


@pytest.mark.parametrize(
    "strategy, line",
    [
        (lambda: strategies.fedmf(fedmf(400), data.pointwise(4)),
         r"base_devices=2: the model has no frozen array named kernel, tokens"),
        (lambda: strategies.fedavg(
            adapted(400, base=lambda m: models.quantised(m, "nf4", tile=3)), data.pointwise(4)),
         r"base_devices=2: the base is of uint4, .*use int8 or bfloat16, or base_devices=1"),
        (lambda: STRATEGIES["gossip_sgd()"].make(adapted(400), data.pointwise(4)),
         "has each device hold the whole base, which here lies in pieces on 2 devices"),
        (lambda: by_own_length(adapted(400), data.pointwise(4)), "would wait for each other"),
    ],
    ids=["no base", "nf4", "gossip", "own length"],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(strategy, line):
    packed, made = named("compact"), strategy()
    like = jax.eval_shape(lambda: made.init(KEY, packed.num_clients))
    mesh = simulate.clients_mesh(2, base_devices=2)
    calls = simulate.program(lambda _: simulate.Parts(made, COHORTS), mesh).of(KEY)
    with pytest.raises(ValueError, match=line) as error:
        calls.compiled(like, packed.store, 1, 1)
    assert "\n" not in str(error.value).split("\n---")[0]
    assert "base_devices=1" in str(error.value)


def test_meshes_of_a_base():
    with pytest.raises(ValueError, match=r"base_devices=3 does not divide devices=4, .*devices=6"):
        simulate.clients_mesh(4, base_devices=3)
    with pytest.raises(ValueError, match="base_devices=0"):
        simulate.clients_mesh(4, base_devices=0)
    with pytest.raises(ValueError, match=r"row_devices=2 and base_devices=2: .*and not both"):
        simulate.clients_mesh(4, 2, 2)
    mesh = simulate.clients_mesh(4, base_devices=2)
    assert mesh is not None and dict(mesh.shape) == {"clients": 2, "base": 2}


@pytest.mark.parametrize(
    "of, waits",
    [
        (lambda x: jax.lax.fori_loop(0, x, lambda i, y: y + collect(y), 1.0), True),
        (lambda x: jax.lax.fori_loop(0, pieces.alike(x), lambda i, y: y + collect(y), 1.0), False),
        (lambda x: jax.lax.fori_loop(0, x, lambda i, y: y + 1, 1.0) + collect(1.0), False),
        (lambda x: jax.lax.cond(x > 1, collect, lambda y: y, 1.0), True),
        (lambda x: jax.lax.cond(pieces.alike(x) > 1, collect, lambda y: y, 1.0), False),
        (lambda x: jax.lax.scan(lambda y, _: (y + collect(y), y), 1.0 * x, None, 3)[0], False),
        # Even at first, and then as long as what a device has of its own.
        (lambda x: jax.lax.while_loop(lambda c: c[0] < 9, lambda c: (c[0] + c[1], c[1] + x,
         collect(c[2])), (0, 1, 1.0))[2], True),
    ],
)  # fmt: skip
def test_who_would_wait(of, waits):
    def look(x):
        if not waits:
            refuse_alone(of, x[0])
            return x
        with pytest.raises(ValueError, match="would wait for each other"):
            refuse_alone(of, x[0])
        return x

    mesh = simulate.clients_mesh(2, base_devices=2)
    spec = PartitionSpec("base")
    jax.eval_shape(
        jax.shard_map(look, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False),
        jnp.arange(2),
    )


def collect(y):
    return jax.lax.all_gather(jnp.asarray(y), pieces.AXIS).sum()
