"""What compressing costs: 1,024 clients of 2^17 coordinates in one jitted call.

Encode and decode of every client, vmapped over chunks of 8 as in a round, on one thread. Time as
the ratio to copying the same bytes once; memory as the call's temporary bytes, the result included,
over those of the stacked updates; bytes as what would be sent over those of float32. A copy makes
half a gigabyte of new pages in each call, and so does what is decoded. Beside them FedJAX's own
compressors on as much normal data, in its own environment, see `fedjax_compressors`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from .. import compress, simulate, trees, wire
from ..types import Compressor, Now
from .peers.environments import FEDJAX, output, own_jax, place, prepare
from .row import Row
from .timing import Timing, repeat

CLIENTS, COORDINATES, CHUNK, TIMES = 1024, 2**17, 8, 3
FEDJAX_CLIENTS = 256
SCRIPT = Path(__file__).with_name("fedjax_compressors.py")

# name -> (factory, goal for the time, the compressor of FedJAX that does the same)
COMPRESSORS: dict[str, tuple[Callable[[], Compressor], int, str]] = {
    "cast(bfloat16)": (lambda: compress.cast(), 25, ""),
    "cast(float8_e4m3fn)": (lambda: compress.cast("float8_e4m3fn"), 25, ""),
    "stochastic_uniform(16)": (
        lambda: compress.stochastic_uniform(16), 25, "uniform_stochastic_quantizer",
    ),
    "qsgd(7)": (lambda: compress.qsgd(7), 25, ""),
    "terngrad()": (lambda: compress.terngrad(), 25, ""),
    "natural()": (lambda: compress.natural(), 25, ""),
    "scaled_sign()": (lambda: compress.scaled_sign(), 25, ""),
    "rotate(1)": (lambda: compress.rotate(1), 25, ""),
    "rotate(2)": (lambda: compress.rotate(2), 25, ""),
    "chain(rotate(1), stochastic_uniform(16))": (
        lambda: compress.chain(compress.rotate(1), compress.stochastic_uniform(16)), 25,
        "rotated_uniform_stochastic_quantizer",
    ),
    "drive()": (lambda: compress.drive(), 25, ""),
    "drive(times=1)": (lambda: compress.drive(1), 25, "structured_drive_quantizer"),
    "eden(1)": (lambda: compress.eden(1), 25, ""),
    "eden(4)": (lambda: compress.eden(4), 25, ""),
    "random_k(0.1)": (lambda: compress.random_k(0.1), 25, ""),
    "random_mask(0.1)": (lambda: compress.random_mask(0.1), 25, ""),
    "top_k(0.01)": (lambda: compress.top_k(0.01), 60, ""),
    "top_k(0.1)": (lambda: compress.top_k(0.1), 60, ""),
    "sparse_ternary(0.01)": (lambda: compress.sparse_ternary(0.01), 60, ""),
    "threshold(2.5)": (lambda: compress.threshold(2.5), 60, ""),
    "truncated_svd(4)": (lambda: compress.truncated_svd(4), 60, ""),
    "power_sgd_one_shot(4)": (lambda: compress.power_sgd_one_shot(4), 60, ""),
    "seeded_low_rank(4)": (lambda: compress.seeded_low_rank(4), 60, ""),
    "count_sketch(5, 4096)": (lambda: compress.count_sketch(5, 4096), 60, ""),
    "error_feedback(top_k(0.01))": (
        lambda: compress.error_feedback(compress.top_k(0.01)), 60, "",
    ),
}  # fmt: skip


def compress_all() -> Iterator[Row]:
    simulate.configure(1, cache=None)
    data = jax.random.normal(jax.random.key(0), (CLIENTS, 2048, COORDINATES // 2048))
    stacked = data.size * 4
    copy = jax.jit(lambda x: -x)
    base = repeat(lambda: copy(data), 5).cpu
    nanoseconds = base / data.size * 1e9
    yield Row("compress", "copying, ns a coordinate", nanoseconds, "ns", "")
    mine = {}
    for name, (make, goal, rival) in COMPRESSORS.items():
        timing, temporary, share = measured(make(), data)
        if rival:
            mine[rival] = name, timing.cpu, averaged(make(), data).cpu
        yield Row("compress", f"{name}: time over copying", timing.cpu / base, "x", f"<= {goal}")
        yield Row("compress", f"{name}: temporaries over updates", temporary / stacked, "x", "<= 3")
        yield Row("compress", f"{name}: bytes over float32", share, "x", "")
    yield from versus_fedjax(mine)


def measured(
    compressor: Compressor, data: jax.Array, chunk: int = CHUNK
) -> tuple[Timing, float, float]:
    """(seconds of encode and decode of all clients, `chunk` at a time, temporary bytes, bytes sent
    over float32's)."""
    keys = jax.random.split(jax.random.key(1), data.shape[0])
    one = _one(compressor, data)

    def both(keys, data):
        back, kept, sent = jax.lax.map(one, (keys, data), batch_size=chunk)
        return back, kept, sent.sum(dtype=jnp.float32)

    compiled: Any = jax.jit(both).lower(keys, data).compile()
    analysis = compiled.memory_analysis()
    temporary = analysis.temp_size_in_bytes + analysis.output_size_in_bytes
    sent = 0.0

    def call():
        nonlocal sent
        *_, total = compiled(keys, data)
        sent = float(total)

    return repeat(call, TIMES), temporary, sent / (data.size * 4)


def averaged(compressor: Compressor, data: jax.Array) -> Timing:
    """Seconds of encode and decode of all clients, of which only the mean is kept."""
    keys = jax.random.split(jax.random.key(1), data.shape[0])
    one = _one(compressor, data)

    def chunk(total, inputs):
        back, _, sent = jax.vmap(lambda *client: one(client))(*inputs)
        return (total[0] + trees.weighted_sum(jnp.ones(CHUNK), back), total[1] + sent.sum()), None

    def mean(keys, data):
        chunks = keys.reshape(-1, CHUNK), data.reshape(-1, CHUNK, *data.shape[1:])
        (total, sent), _ = jax.lax.scan(chunk, (jnp.zeros(data.shape[1:]), jnp.uint32(0)), chunks)
        return total / data.shape[0], sent

    compiled: Any = jax.jit(mean).lower(keys, data).compile()
    return repeat(lambda: compiled(keys, data), TIMES)


def _one(compressor: Compressor, data: jax.Array) -> Callable:
    """(key, x) -> what arrives of x, the memory, and the bytes of one client."""
    memory, now = compressor.init(data[0]), Now(jnp.int32(0), ())

    def one(inputs):
        key, x = inputs
        kept, packet = compressor.encode(key, memory, x, now)
        return compressor.decode(packet, x, now), kept, wire.nbytes(packet)

    return one


def versus_fedjax(mine: dict[str, tuple[str, float, float]]) -> Iterator[Row]:
    """FedJAX's CPU time over ours, for the compressors that both have, on one thread.

    `apply` is what its users call, a Python loop over clients that averages as it goes: ours
    averages too. The quickest form is the same function of one client in one jitted `vmap` or
    `lax.map`, which FedJAX does not offer, and keeps what is decoded of every client: ours too.
    It packs no bits and we count them; neither side makes bytes. FedJAX gets fewer clients, in
    which its loop is linear, and the ratio is of times a coordinate.
    """
    methods = by_fedjax(FEDJAX_CLIENTS, COORDINATES, TIMES)["methods"]
    for rival, (name, kept, mean) in mine.items():
        share = CLIENTS / FEDJAX_CLIENTS
        forms = {form: f["cpu_seconds"] * share for form, f in methods[rival]["forms"].items()}
        what = f"{name}: CPU time of FedJAX's {rival} over ours"
        yield Row("compress", f"{what}, `apply`", forms.pop("apply") / mean, "x", ">= 5")
        yield Row("compress", f"{what}, its quickest form", min(forms.values()) / kept, "x", "")


def by_fedjax(clients: int, coordinates: int, repeats: int, seed: int = 0) -> dict:
    """Seconds of FedJAX's compressors, decoding included, on N(0, 1) float32 [clients,
    coordinates], drawn by numpy.random.default_rng(seed), in the environment of FedJAX.

    Args:
        clients: vectors, C.
        coordinates: d of each; rotations pad it to a power of two.
        repeats: calls to take the median of, after one that compiles.
        seed: of the data and of the compressors' keys.

    Returns:
        clients, coordinates, repeats, jax, fedjax, device, and `methods`: of each of FedJAX's
        `uniform_stochastic_quantizer`, `rotated_uniform_stochastic_quantizer` (16 levels each) and
        `structured_drive_quantizer` the bits it claims a client, squared_error (mean of
        |C(x) - x|^2 / |x|^2) and `forms`: "apply", "vmap" and "map" (see
        `fedjax_compressors.py`), each with first_seconds, cpu_seconds, wall_seconds,
        cpu_nanoseconds and wall_nanoseconds (a coordinate), the latter two forms with
        temporary_bytes.

    Raises:
        RuntimeError: it cannot be installed, or the run failed or took more than an hour.
    """
    python = prepare(place("fedjax"), [FEDJAX, own_jax()])
    command = [str(python), str(SCRIPT), "--clients", str(clients), "--seed", str(seed)]
    command += ["--coordinates", str(coordinates), "--repeats", str(repeats)]
    answer = output(command, "by_fedjax()", "remove its environment, or leave FedJAX out.", 3600.0)
    return json.loads(answer.splitlines()[-1])
