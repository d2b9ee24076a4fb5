"""A round under the profiler, and its FLOPs and bytes beside the time it takes.

    roofline:  a round takes at least  max(FLOPs / product rate, bytes / copy bandwidth)

(Williams, Waterman and Patterson, "Roofline: an insightful visual performance model for multicore
architectures", CACM 52(4), 2009.) FLOPs and bytes are of `hlo_cost`, the ceilings are measured in
the same process, and the time is that of rounds which nobody traces. Bytes are counted as if
nothing were in a cache: a round that works within the cache can exceed the bandwidth of a copy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from .. import data, simulate
from ..check import nearest
from ..types import Strategy
from .ceilings import copy_bandwidth, product_rate
from .cohort import fedmf_of
from .hlo_cost import Cost, cost_of
from .rounds import Ours, packed_of
from .row import Row
from .tables import fedmf_on
from .timing import repeat
from .traced_runs import traced_runs
from .whole_round import whole_round

BENCH = "profile"
CLOCK = {"CPU": "cpu", "wall": "wall"}  # fields of Timing
PROGRAM = "jit_round"
TIMED, TRACED = 5, 2  # rounds
FAR = 0.1  # a share of both ceilings below which neither binds


def _pfedrec(source: str) -> tuple[Strategy, data.Store]:
    packed = packed_of(source)
    return Ours(packed, 1).strategy, packed.store


PROFILED: dict[str, Callable[[], tuple[Strategy, data.Store]]] = {
    "rounds-100k": partial(_pfedrec, "ml-100k"),
    "rounds-1m": partial(_pfedrec, "ml-1m"),
    "tables": partial(fedmf_on, 256, 10**4, 64),
    "cohort": fedmf_of,
}


class Ceilings(NamedTuple):
    """FLOPs and bytes a second that the device reaches at best."""

    flops: float
    bytes: float


def under_profiler(names: Sequence[str], folder: str) -> dict[str, Callable[[], Iterator[Row]]]:
    """Name -> rows of its round under the profiler, whose traces lie in `folder`/name.

    Raises ValueError for a bench of which there is no round, and a folder that is none.
    """
    for name in names:
        if name not in PROFILED:
            raise ValueError(
                f"bench {name} --profile: no bench of a round is called so{nearest(name, PROFILED)}"
                f"; use {', '.join(PROFILED)}."
            )
    path = Path(folder)
    if not folder or any(one.exists() and not one.is_dir() for one in (path, *path.parents)):
        raise ValueError(f"bench --profile {folder!r}: is no folder; name one for the traces.")
    best = functools.cache(ceilings)
    return {
        name: lambda name=name: profiled(name, PROFILED[name](), Path(folder) / name, best())
        for name in names
    }


def ceilings(megabytes: int = 512, n: int = 2048) -> Ceilings:
    """megabytes: of the copy; n: of the product of two float32 matrices [n, n]."""
    simulate.configure(1, cache=None)
    clock = attrgetter(CLOCK[_seconds()])
    return Ceilings(product_rate(n, jnp.float32, clock), copy_bandwidth(megabytes, clock))


def _seconds() -> str:
    """Which seconds count: on a CPU, of which a bench takes one core, what others run there
    stretches the wall's."""
    return "CPU" if jax.default_backend() == "cpu" else "wall"


def profiled(
    name: str, made: tuple[Strategy, data.Store], folder: Path, best: Ceilings
) -> Iterator[Row]:
    """Traces rounds into a folder and says what they cost.

    Args:
        name: Of the bench.
        made: Its strategy and data.
        folder: Of this trace, for Perfetto and TensorBoard.
        best: What the device reaches.

    Yields:
        Rows: time, FLOPs, bytes, their rates and shares of the ceilings, and which of them binds.
    """
    simulate.configure(1, cache=None)
    call, compiled = whole_round(*made)
    which = _seconds()
    seconds = attrgetter(CLOCK[which])(repeat(call, TIMED))
    traced(call, folder)
    cost = cost_of(compiled, traced_runs(folder, PROGRAM, TRACED))
    row = partial(Row, BENCH)
    yield row(f"{name}: {which} ms a round", seconds * 1e3, "ms", "")
    yield from rows(name, cost, seconds, best)
    once = compiled.cost_analysis()
    counted = cost.flops / once["flops"] if once.get("flops") else None
    yield row(f"{name}: FLOPs over those with each loop counted once", counted, "x", "")


def traced(call: Callable[[], object], folder: Path) -> None:
    """Runs rounds under the profiler, each a step of the trace."""
    options = jax.profiler.ProfileOptions()
    options.python_tracer_level = 0  # calls of Python would bury what the device does
    with jax.profiler.trace(str(folder), create_perfetto_trace=True, profiler_options=options):
        for i in range(TRACED):
            with jax.profiler.StepTraceAnnotation("round", step_num=i):
                jax.block_until_ready(call())


def rows(name: str, cost: Cost, seconds: float, best: Ceilings) -> Iterator[Row]:
    """What a round of so many seconds comes to under the ceilings."""
    row = partial(Row, BENCH)
    many = f"{n} loops are" if (n := len(cost.unknown)) > 1 else "1 loop is"
    bound = f"at least: {many} counted once" if cost.unknown else ""
    yield row(f"{name}: GFLOP a round", cost.flops / 1e9, "GFLOP", bound)
    yield row(f"{name}: GB read and written a round", cost.bytes / 1e9, "GB", bound)
    yield row(f"{name}: achieved GFLOP/s", cost.flops / seconds / 1e9, "GFLOP/s", "")
    yield row(f"{name}: achieved GB/s", cost.bytes / seconds / 1e9, "GB/s", "")
    flops, moved = cost.flops / seconds / best.flops, cost.bytes / seconds / best.bytes
    product, copy = f"{best.flops / 1e9:.3g} GFLOP/s", f"{best.bytes / 1e9:.3g} GB/s"
    yield row(f"{name}: share of the {product} of a product", 100 * flops, "%", "")
    yield row(f"{name}: share of the {copy} of a copy", 100 * moved, "%", binds(flops, moved))


def binds(flops: float, moved: float) -> str:
    """Which ceiling binds, by the shares of both."""
    if max(flops, moved) < FAR:
        return "neither binds: dependent steps, dispatch and latency do"
    if flops > moved:
        return "bound by arithmetic"
    return "bound by memory" + (": more than a copy, from the cache" if moved > 1 else "")
