"""What a process holds against what was foreseen, and what devices hold of a base, at toy sizes."""

import jax
import pytest

from fedjax_rec import models, simulate, trees
from fedjax_rec.bench import base_pieces, base_trips
from fedjax_rec.bench.decoders import Asked
from fedjax_rec.bench.fresh import in_fresh_process


def test_a_process_holds_what_was_foreseen():
    """A table of 38 MiB, in a process of its own."""
    small = "memory.Small(items=600_000)"
    name = "FedMF of 600,000 rows"
    try:
        found = in_fresh_process("memory", f"played({name!r}, {small})")
    except RuntimeError as error:
        pytest.skip(str(error))
    table = 4 * 16 * 600_000
    assert table < found["once"] < 1.01 * table + 2**20
    assert found["live"] <= 1.05 * found["once"]
    assert found["real"] == pytest.approx(found["foreseen"], rel=0.15)


def test_what_travels_is_counted_in_the_program():
    """By heads and by layers, to what adapters, masks and ids of tokens bring beside it."""
    size, tokens, found = models.LlamaSize(256, 256, 768, 3, 4, 2, 64), 256, {}
    for by, told in base_trips.foreseen(size, tokens, 2).items():
        found[by] = base_pieces.account(size, 2, 2, "float32", by)["brought"]
        assert told < found[by] < 1.15 * told
    kernels = 256 * (2 * 256 + 2 * 128 + 3 * 768)
    assert base_trips.weights(size) == kernels
    assert base_trips.even(size) == 2 * kernels // (11 * 256)
    # 512 tokens of both, where as much would travel for 557 of layers without an end.
    assert found["layers"] > found["heads"]


def test_trips_in_loops_count_each_time():
    mesh = simulate.clients_mesh(2, base_devices=2, base_by="heads")
    split = jax.sharding.PartitionSpec("heads")

    def go(x):
        turn = lambda c, _: (c + jax.lax.all_gather(c, "heads", tiled=True).sum(), None)
        x = jax.lax.scan(turn, x, None, 5)[0]
        return jax.lax.psum_scatter(x[:2], "heads", tiled=True)

    run = jax.shard_map(go, mesh=mesh, in_specs=split, out_specs=split, check_vma=False)
    text = jax.jit(run).lower(jax.numpy.zeros(20)).compile().as_text()
    # Five times half of 20 numbers, and one number for one of two.
    assert base_trips.brought(text, 2) == 4 * (5 * 10 + 1)


def test_what_devices_hold_is_counted():
    size = models.LlamaSize(256, 32, 64, 4, 2, 1, 16)
    world = Asked(size, clients=4, remat=True)
    base = world.base_bytes()
    one, four = (base_pieces.account(size, 4, count, "float32") for count in (1, 4))
    assert one["base"] == base and one["largest"] == 0
    norms = 4 * (2 * 4 + 1) * 32 + 2 * 4 * 4  # scales of norms and of adapters are on every device
    assert four["base"] == (base - norms) // 4 + norms
    assert four["largest"] == 4 * 256 * 32  # the table, which is larger than a layer's kernel
    shared = jax.eval_shape(world.model().init, jax.random.key(0))[0]
    assert one["trained"] == four["trained"] == trees.nbytes(trees.trainable(shared))
    assert four["peak"] < one["peak"] and simulate.clients_mesh(4) is not None
