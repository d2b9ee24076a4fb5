"""What `fedjax-rec bench device` measures, part by part: functions tiny -> rows, wall time alone.

Each part says with what it compares: a copy or a matrix product measured in the same process, one
run, or a loop over the clients. Weights are random (they cost what pretrained ones do), and data
are of MovieLens' shape where MovieLens is not there. `tiny` plays the same at toy size.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from .. import data, models, simulate, strategies
from ..data.sources.sources import SOURCES, find
from ..data.store import Dataset
from ..models.transformers.bert import BertSizes
from .adapters import MINILM, World, loop, one_call, seconds
from .ceilings import copy_bandwidth, product_rate
from .cohort import cohort
from .compress import COMPRESSORS, measured
from .rounds import Ours, packed_of
from .row import Row
from .timing import repeat
from .whole_round import whole_round

# SmolLM2-135M.
SMALL_LM = models.LlamaSize(49_152, 576, 1_536, 30, 9, 3, 64)
# Sizes of a copy on a device whose memory they do not fill, and past its cache.
MEGABYTES = 4_096
TINY_COMPRESSORS = ("cast(bfloat16)", "qsgd(7)", "top_k(0.1)")
# Batched decompositions are slow on a GPU: last, so that the others are measured before.
SLOW = ("truncated_svd(4)", "power_sgd_one_shot(4)")
RUNS = 32


def ceilings(tiny: bool) -> Iterator[Row]:
    """What the device reaches at best, as later parts are compared with it."""
    megabytes, n = (16, 256) if tiny else (MEGABYTES, 8_192)
    row = partial(Row, "ceilings")
    yield row(f"a pass over {megabytes:,} MiB", copy_bandwidth(megabytes) / 1e9, "GB/s", "")
    yield row(f"bfloat16 product of {n:,} x {n:,}", product_rate(n) / 1e12, "TFLOP/s", "")


def movielens(name: str, tiny: bool) -> Iterator[Row]:
    """Rounds of PFedRec with evaluation, as `bench rounds`."""
    packed, what = _packed(name, tiny)
    call = Ours(packed, 4 if tiny else 16)
    losses = []
    timing = repeat(lambda: losses.append(call()["loss"]), 2 if tiny else 12)
    row = partial(Row, name)
    yield row(f"PFedRec {what}, ms a round", timing.wall * 1e3, "ms", "")
    yield row(f"PFedRec {what}, first round, compilation included", timing.first, "s", "")
    yield row(f"PFedRec {what}, loss over the first round's", losses[-1] / losses[0], "x", "< 1")


def _packed(name: str, tiny: bool) -> tuple[Dataset, str]:
    """(the data, what they are called)."""
    if not tiny and find(name) is not None:
        return packed_of(name), name
    source = SOURCES[name]
    users, items, each = source.users, source.items, source.interactions / source.users
    if tiny:
        users, items, each = 40, 500, 20
    made = data.synthetic(users, items, interactions_per_user=each, spread=1.0)
    packed = data.pack(data.leave_one_out()(made), negatives="paper")
    return packed, f"{users:,} x {items:,} drawn as {name}"


def large_cohort(number: int, tiny: bool) -> Iterator[Row]:
    """A round of so many clients, and the share of the memory bandwidth that its rows reach."""
    number, each, megabytes, times = (64, 5, 16, 2) if tiny else (number, 100, MEGABYTES, 5)
    yield from cohort(number, each, megabytes, times)


def runs_at_once(tiny: bool) -> Iterator[Row]:
    """32 runs of FedMF (eight rates, four seeds) in one `vmap`, over one of them."""
    many, rounds = (4, 2) if tiny else (RUNS, 20)
    packed, what = _packed("ml-100k", tiny)
    model, examples = models.fedmf(packed.num_items), data.pointwise(4)
    made = lambda rate: simulate.Parts(
        strategies.fedmf(model, examples, user_learning_rate=20.0, item_learning_rate=rate)
    )
    run = simulate.whole_run(made, packed.store, rounds, every=rounds, inputs=10.0)
    rates = jnp.repeat(jnp.linspace(10.0, 120.0, max(1, many // 4)), 4)[:many]
    keys = jax.random.split(jax.random.key(0), many)
    alone, together = jax.jit(run), jax.jit(jax.vmap(run, (0, 0, None)))
    one = repeat(lambda: alone(keys[0], rates[0], packed.store)[1]["loss"], 3).wall
    all_of_them = repeat(lambda: together(keys, rates, packed.store)[1]["loss"], 3).wall
    what = f"FedMF {what}, {rounds} rounds"
    row = partial(Row, "sweep")
    yield row(f"{what}, one run: wall", one * 1e3, "ms", "")
    yield row(f"{what}, {many} runs in one call: wall", all_of_them * 1e3, "ms", "")
    yield row(f"{what}, {many} runs over one", all_of_them / one, "x", f"< {many}")


def adapters_of(number: int, tiny: bool) -> Iterator[Row]:
    """Clients with adapters on an encoder of MiniLM's size, in one call and in a loop."""
    sizes, name = MINILM, "MiniLM"
    if tiny:
        sizes, name = BertSizes(vocabulary=50, width=16, layers=1, heads=2, hidden=16), "toy"
        number = 4
    world = World(sizes, clients=number)
    state = world.strategy().init(jax.random.key(0), number)
    calls: dict[str, Callable] = {"loop": loop(world, state), "call": one_call(world, state)}
    seen = seconds(calls, 1 if tiny else 3)
    of_loop, of_call = ([wall for _, wall in seen[name]] for name in ("loop", "call"))
    what = f"{number} {name} clients, {world.batch} x {world.tokens} tokens"
    ratio = statistics.median(a / b for a, b in zip(of_loop, of_call, strict=True))
    row = partial(Row, "adapters")
    yield row(f"{what}, one call: wall", statistics.median(of_call) * 1e3, "ms", "")
    yield row(f"{what}, a loop: wall", statistics.median(of_loop) * 1e3, "ms", "")
    yield row(f"{what}: wall of the loop over one call's", ratio, "x", ">= 20")


def language_model(tiny: bool) -> Iterator[Row]:
    """64 clients with adapters on a decoder of SmolLM2-135M's size, in bfloat16 and float32, one
    step on four prompts each. The base is frozen, so that a token costs four operations a weight:
    two forward, two for the gradient of what goes in."""
    size, number, tokens = (SMALL_LM, 64, 64)
    if tiny:
        size, number, tokens = models.LlamaSize(60, 16, 24, 1, 2, 1, 8), 4, 8
    batch, each = 4, 8
    draw = np.random.default_rng(0)
    total = number * each
    fields = {
        "tokens": draw.integers(0, size.vocabulary, (total, tokens)),
        "length": np.full(total, tokens),
        "prompt": np.arange(total),
        "labels": draw.integers(0, 2, total).astype(bool),
    }
    owners, part = np.repeat(np.arange(number), each), np.zeros(total, np.int64)
    store = data.pack_examples(data.Examples("prompts", fields, owners, part)).store
    row = partial(Row, "language")
    walls = {}
    for dtype in ("bfloat16",) if tiny else ("bfloat16", "float32"):
        decoder = _decoder(size, dtype)
        weights = sum(x.size for x in jax.tree.leaves(nnx.state(decoder.layers)))
        strategy = strategies.fedavg(
            models.yes_no(decoder, (3, 4)), data.examples(), optimizer=optax.adam(1e-3), steps=1,
            batch_size=batch,
        )  # fmt: skip
        call, _ = whole_round(strategy, store)
        wall = walls[dtype] = repeat(call, 2 if tiny else 5).wall
        done = number * batch * tokens
        what = f"{number} clients of a decoder of {weights / 1e6:.3g} M weights, {dtype}"
        yield row(f"{what}: ms a round of {done:,} tokens", wall * 1e3, "ms", "")
        yield row(f"{what}: rate", 4 * weights * done / wall / 1e12, "TFLOP/s", "")
    if not tiny:
        yield row("float32 over bfloat16: wall", walls["float32"] / walls["bfloat16"], "x", "> 1")


def _decoder(size, dtype: str):
    """A decoder of random weights, in `dtype`."""
    structure, state = nnx.split(models.llama(nnx.Rngs(0), size))
    return nnx.merge(structure, jax.tree.map(lambda x: x.astype(dtype), state))


def compressors(tiny: bool) -> Iterator[Row]:
    """Encode and decode of 1,024 clients, 128 at a time, over a copy of their updates."""
    number, shape, chunk = (16, (8, 64), 8) if tiny else (1_024, (2_048, 64), 128)
    updates = jax.random.normal(jax.random.key(0), (number, *shape))
    copy = jax.jit(lambda x: -x)
    base = repeat(lambda: copy(updates), 9).wall
    row = partial(Row, "compress")
    yield row(f"a copy of {updates.nbytes / 2**20:,.3g} MiB", base * 1e3, "ms", "")
    names = TINY_COMPRESSORS if tiny else sorted(COMPRESSORS, key=lambda name: name in SLOW)
    for name in names:
        make, goal, _ = COMPRESSORS[name]
        timing, _, _ = measured(make(), updates, chunk)
        yield row(f"{name}: time over copying", timing.wall / base, "x", f"<= {goal}")


# Every part by its name; the seconds that it may take stand in `device`.
PARTS: dict[str, Callable[[bool], Iterator[Row]]] = {
    "ceilings": ceilings,
    "ml-100k": partial(movielens, "ml-100k"),
    "ml-1m": partial(movielens, "ml-1m"),
    "cohort-10240": partial(large_cohort, 10_240),
    "cohort-65536": partial(large_cohort, 65_536),
    "sweep": runs_at_once,
    "adapters-64": partial(adapters_of, 64),
    "adapters-256": partial(adapters_of, 256),
    "language": language_model,
    "compress": compressors,
}
