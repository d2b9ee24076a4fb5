"""Rounds over a base whose linear layers stay where they lie are those of one device.

As in `test_base_pieces`, of which what is compared is taken."""

import jax
import numpy as np
import pytest
import tiny_llama
from flax import nnx
from test_base_pieces import COHORTS, PROMPTS, ended, same_numbers, share_of_base
from test_devices import as_numpy
from worlds import KEY, named

from fedjax_rec import clients, models, pieces, simulate, strategies, trees

EACH = "*query|*key|*value|*output|*gate|*up|*down"


def decoder(tied: bool = True, key_heads: int = 2):
    size = models.LlamaSize(401, 16, 24, 2, 4, key_heads, 8, tied=tied)
    return models.llama(nnx.Rngs(0), size)


MODELS = {
    "yes_no": lambda: models.yes_no(decoder(), (0, 1), EACH, rank=4),
    "yes_no of an untied head": lambda: models.yes_no(decoder(False), (0, 1), rank=4),
    "yes_no_above": lambda: models.yes_no_above(
        decoder(), (0, 1), tiny_llama.prompts(400), 1, rank=4
    ),
    "int8": lambda: models.yes_no(
        models.quantised(models.freeze(decoder()), "int8", tile=4), (0, 1), rank=4
    ),
}


def ended_by_heads(strategy, packed, devices: int, base_devices: int):
    return ended(strategy, packed, devices, base_devices, base_by="heads")


@pytest.mark.parametrize("name", MODELS)
def test_models_are_those_on_one_device(name):
    packed = named("compact")
    strategy = strategies.fedavg(MODELS[name](), PROMPTS, optimizer=clients.sgd(0.3), batch_size=16)
    many = ended_by_heads(strategy, packed, 4, 2)
    same_numbers(ended(strategy, packed, 1, 1), many)
    there = share_of_base(many.state, 2)
    kernels = ("query", "key", "value", "output", "gate", "up", "down")
    assert all(any(f"'{k}'" in x and "kernel" in x for x in there) for k in kernels)


@pytest.mark.parametrize("rule", ["fedsa_lora", "flora", "hetlora", "scaffold"])
def test_rules_of_adapters(rule):
    """`flora` writes into the base, where it lies."""
    packed, model = named("compact"), models.yes_no(decoder(), (0, 1), EACH, rank=2)
    more = {"ranks": [1] * 12 + [2] * 11} if rule == "hetlora" else {}
    strategy = getattr(strategies, rule)(model, PROMPTS, **more)
    same_numbers(ended(strategy, packed, 1, 1), ended_by_heads(strategy, packed, 2, 2))


def test_a_device_has_heads_and_rows():
    """Device k has the columns of its heads, and the rows that take them in."""
    packed = named("compact")
    strategy = strategies.fedavg(MODELS["yes_no"](), PROMPTS, steps=1, batch_size=2)
    mesh = simulate.clients_mesh(2, base_devices=2, base_by="heads")
    assert mesh is not None and dict(mesh.shape) == {"clients": 1, "heads": 2}
    calls = simulate.program(lambda _: simulate.Parts(strategy, COHORTS), mesh).of(KEY)
    begun = trees.named(calls.start(packed.store).shared)
    cut = {"query": (2, 16, 16), "key": (2, 16, 8), "output": (2, 16, 16), "down": (2, 12, 16)}
    for layer, shape in cut.items():
        (name,) = [x for x in begun if f"'{layer}'" in x and "kernel" in x]
        whole = np.asarray(begun[name])
        shards = sorted(begun[name].addressable_shards, key=lambda s: s.device.id)
        for k, shard in enumerate(shards):
            axis = 1 if layer in ("output", "down") else 2
            np.testing.assert_array_equal(shard.data, np.split(whole, 2, axis)[k])
            assert shard.data.shape == shape


def test_weights_are_read_to_where_they_lie(tmp_path):
    place = str(tiny_llama.write(tmp_path, decoder()))
    mesh = simulate.clients_mesh(2, base_devices=2, base_by="heads")
    with pieces.bases_on(mesh):
        parted = models.load_decoder(place)
    whole = models.load_decoder(place)
    for x, y in zip(*(jax.tree.leaves(nnx.state(m)) for m in (whole, parted)), strict=True):
        np.testing.assert_array_equal(as_numpy(x), as_numpy(y))
    shapes = lambda x: {s.data.shape for s in x.addressable_shards}
    assert shapes(parted.layers.up.kernel[...]) == {(2, 16, 12)}
    assert shapes(parted.layers.down.kernel[...]) == {(2, 12, 16)}


@pytest.mark.parametrize(
    "model, line",
    [
        (lambda: models.yes_no(decoder(key_heads=1), (0, 1), rank=2),
         r"base_devices=2 by heads does not divide the 1 key heads .*; use base_devices=1, or bas"),
        (lambda: models.yes_no(models.quantised(models.freeze(decoder()), "nf4", tile=4), (0, 1)),
         r"base_devices=2: the base is of uint4, .*use int8 or bfloat16, or base_devices=1"),
    ],
    ids=["one key head", "nf4"],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(model, line):
    packed, made = named("compact"), strategies.fedavg(model(), PROMPTS)
    like = jax.eval_shape(lambda: made.init(KEY, packed.num_clients))
    mesh = simulate.clients_mesh(2, base_devices=2, base_by="heads")
    calls = simulate.program(lambda _: simulate.Parts(made, COHORTS), mesh).of(KEY)
    with pytest.raises(ValueError, match=line) as error:
        calls.compiled(like, packed.store, 1, 1)
    assert "\n" not in str(error.value).split("\n---")[0]


def test_another_way_is_refused():
    line = r"clients_mesh\(base_by='columns'\) is unknown; use one of 'layers', 'heads'"
    with pytest.raises(ValueError, match=line):
        simulate.clients_mesh(4, base_devices=2, base_by="columns")
