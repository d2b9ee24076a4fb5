"""A frozen base in pieces over several devices: whether a decoder of 8B fits two of 80 GB, and what
devices hold of a smaller one, with the numbers of one device.

Memory is XLA's account of a round that is compiled and does not run (`simulate.forecast`), so no
weight of the 8B is made: clients train LoRA of rank 8 at query and value of all layers on one
prompt of 256 tokens, one at a time, with rematerialisation, as in `decoders`. The account is that
of a CPU, which multiplies numbers of 16 bits in 32, and so makes each layer it has collected once
more; a base in bfloat16 is counted with that. Numbers are compared on a small decoder whose clients
are played by one device and by eight that are one CPU.

The largest array that is collected is a head or a table of tokens, where all logits are asked for;
of two answers it is the largest layer. By heads a linear layer stays where it lies; what comes to a
device in a step either way is in `base_trips`.

K devices hold the base together.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import jax
import numpy as np

from .. import pieces, simulate, trees
from ..models.transformers.families.llama import LlamaSize
from .base_trips import brought, even, foreseen
from .decoders import SIZES, TOKENS, Asked
from .fresh import in_fresh_process
from .row import Row

EIGHT, MIDDLE, FEW = "Llama-3.1-8B", "SmolLM2-135M", LlamaSize(512, 64, 192, 6, 4, 2, 16)
DEVICE = 80e9  # bytes
COUNTS = (1, 2, 8)


def base_pieces() -> Iterator[Row]:
    row = partial(Row, "base-pieces")
    large = lambda *told: in_fresh_process("base_pieces", f"of_a_device{(EIGHT, 2, *told)!r}")
    either = {by: large("float32", by) for by in ("layers", "heads")}
    for bits, found in (("float32", either["layers"]), ("bfloat16", large("bfloat16"))):
        what = f"{EIGHT}, base in {bits} over 2 devices, each of them"
        for name in ("base", "largest", "trained", "temporary", "peak"):
            goal = f"<= {DEVICE / 1e9:.0f} GB" if name == "peak" else ""
            yield row(f"{what}: {CALLED[name]}", found[name] / 1e9, "GB", goal)
    what = f"{EIGHT}, base in float32 over 2 devices, {TOKENS} tokens each"
    for by, told in foreseen(SIZES[EIGHT], TOKENS, 2).items():
        yield row(f"{what}: a step by {by} brings each", either[by]["brought"] / 1e9, "GB", "")
        yield row(f"{what}: a step by {by} brings each, by arithmetic", told / 1e9, "GB", "")
    peak, goal = either["heads"]["peak"] / 1e9, f"<= {DEVICE / 1e9:.0f} GB"
    yield row(f"{what}: peak by heads", peak, "GB", goal)
    for name, size in SIZES.items():
        least = "tokens of all devices in a batch, up to which by heads less travels"
        yield row(f"{name}: {least}", even(size), "", "")
    for count in COUNTS:
        found = in_fresh_process("base_pieces", f"of_a_device({MIDDLE!r}, {count}, 'float32')")
        what = f"{MIDDLE}, base over {count} of 8 devices, each of them"
        for name in ("base", "peak"):
            yield row(f"{what}: {CALLED[name]}", found[name] / 2**20, "MiB", "")
    for by, count in (("layers", 8), ("heads", 2)):
        found = in_fresh_process("base_pieces", f"furthest(8, {count}, {by!r})")
        what = f"adapters after 2 rounds on 8 devices, base over {count} by {by}"
        least = f"{what}: largest difference to one device, of the largest change"
        yield row(least, found, "", "<= 1e-05")


CALLED = {
    "base": "its piece of the base",
    "largest": "the largest array that it may collect",
    "trained": "the adapters",
    "temporary": "all that comes and goes, with what it collects",
    "peak": "peak",
}


def of_a_device(name: str, count: int, bits: str, by: str = "layers") -> dict[str, float]:
    """Bytes of each of `count` devices, of the decoder `name`; of eight devices where it is not
    the large one."""
    devices = count if name == EIGHT else COUNTS[-1]
    return account(SIZES[name], devices, count, bits, by)


def account(
    size: LlamaSize, devices: int, count: int, bits: str, by: str = "layers"
) -> dict[str, float]:
    """Bytes of each of the devices, of which `count` hold the base together, and those that come to
    it in a step."""
    simulate.configure(1, cache=None, devices=devices)
    bits_of = None if bits == "float32" else bits
    world = Asked(size, clients=devices, remat=True, bits=bits_of)
    strategy, store = world.strategy(1), world.cohort().data
    like = jax.eval_shape(lambda: strategy.init(jax.random.key(0), world.clients))
    mesh = simulate.clients_mesh(devices, base_devices=count, base_by=by)
    calls = simulate.program(lambda _: simulate.Parts(strategy), mesh).of(jax.random.key(0))
    compiled = calls.compiled(like, store, 1, 1)
    found = simulate.forecast(compiled, like)
    cuts = zip(pieces.leaves(like.shared), pieces.cuts(like.shared, mesh), strict=True)
    # A stack is collected layer by layer, a table or a head whole.
    each = [trees.nbytes(x) // (x.shape[0] if x.ndim > 2 else 1) for x, a in cuts if a is not None]
    return {
        "base": found.base, "largest": max(each, default=0), "trained": found.model,
        "temporary": found.work, "peak": found.peak,
        "brought": 0 if count == 1 else brought(compiled.text(), count),
    }  # fmt: skip


def furthest(devices: int, most: int, by: str) -> float:
    """How far adapters are from those of one device after two rounds, of what these changed, where
    `most` devices hold the base together."""
    simulate.configure(1, cache=None, devices=devices)
    world = Asked(FEW, clients=devices, prompts=2, tokens=12)
    strategy, store, key = world.strategy(1), world.cohort().data, jax.random.key(0)
    after = []
    for count in (1, most):
        over = 1 if count == 1 else devices
        mesh = simulate.clients_mesh(over, base_devices=count, base_by=by)
        calls = simulate.program(lambda _: simulate.Parts(strategy), mesh).of(key)
        (*_, end) = simulate.simulate(strategy, store, 2, key, every=2, calls=calls)
        after.append(_trained(end.running))
    before = _trained(strategy.init(key, store.num_clients))
    change = max(np.abs(x - y).max() for x, y in zip(before, after[0], strict=True))
    return float(max(np.abs(x - y).max() for x, y in zip(*after, strict=True)) / change)


def _trained(state) -> list[np.ndarray]:
    return [np.array(x) for x in jax.tree.leaves(trees.trainable(state.shared))]
