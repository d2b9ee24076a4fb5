"""What a client of a decoder takes, against sums that are done by hand and XLA's own counts."""

import jax
import numpy as np
import pytest

from fedjax_rec import trees
from fedjax_rec.bench.adapters import account, trained_bytes
from fedjax_rec.bench.decoders import RANK, SIZES, Asked, seconds
from fedjax_rec.models.transformers.families.llama import LlamaSize

pytestmark = pytest.mark.usefixtures("compiled_fast")

SMALL = LlamaSize(50, 64, 128, layers=2, heads=4, key_heads=2, head_width=16)


def test_bytes_are_those_of_the_weights():
    world = Asked(SMALL)
    of_layer = 64 * (64 + 32 + 32) + 64 * 64 + 3 * 64 * 128 + 2 * 64
    weights, scales = 2 * of_layer + 50 * 64 + 64, 2 * 2  # a number of each layer's two adapters
    assert world.base_bytes() == 4 * (weights + scales)
    assert Asked(SMALL, bits="bfloat16").base_bytes() == 2 * weights + 4 * scales
    query, value = RANK * (64 + 64), RANK * (64 + 32)
    assert trained_bytes(world.model()) == 4 * 2 * (query + value)


def test_published_widths_are_of_the_size_that_their_name_says():
    for name, size in SIZES.items():
        count = Asked(size).base_bytes() / 4
        unit = 1e6 if name.endswith("M") else 1e9
        said = float(name.rsplit("-", 1)[1].rstrip("MB"))
        assert abs(count / unit - said) < 0.25 * said, (name, count)


def test_work_is_what_xla_counts():
    """Of two layers: one in a loop of length one, whose body XLA counts once too, and the last."""
    size = LlamaSize(50, 256, 768, layers=2, heads=4, key_heads=2, head_width=64)
    world = Asked(size, clients=1, prompts=4, tokens=64)
    model, key = world.model(), jax.random.key(0)
    shared, private = model.init(key)
    batch = world.found().fields | {"mask": np.ones(4, np.float32)}

    def loss(trained):
        return model.loss(trees.with_frozen(trained, shared), private, batch, key)

    found = jax.jit(jax.grad(loss)).lower(trees.trainable(shared)).compile().cost_analysis()
    assert 0.8 < found["flops"] / world.operations() < 1.25


def test_a_client_more_costs_what_a_client_holds():
    small, large = (account(Asked(SMALL, tokens=tokens)) for tokens in (16, 64))
    assert 0 < small.each < large.each
    assert large.base == Asked(SMALL).base_bytes()


def test_a_step_is_timed():
    assert 0 < seconds(Asked(SMALL, tokens=8), times=1) < 5
