"""What a process holds against what was foreseen, and what devices hold of a base, at toy sizes."""

import jax
import pytest

from fedjax_rec import models, simulate, trees
from fedjax_rec.bench import base_pieces
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
