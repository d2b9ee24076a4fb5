"""What robust rules cost: a round of id lists, and 1,024 dense vectors beside ByzFL.

Lists: 256 clients with 200 of 1,682 rows of 32 numbers each, drawn by a popularity that falls as
1 / rank, among as many slots again of padding: a round on MovieLens-100K. Dense: N(0, 1) vectors of
10^5 numbers. CPU seconds of a call after the first. ByzFL 0.0.11 (Gonzalez et al., 2025,
arXiv:2505.24802) runs in an environment of its own, on one thread, on NumPy arrays and on Torch
tensors, of which the quicker counts; we on the process's threads. Where it would take minutes both
sides get smaller vectors, which the row says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from .. import aggregate, simulate
from ..rows import RowsUpdate, Table
from ..types import Aggregator, Now, Upload
from .peers.environments import output, place, prepare
from .row import Row
from .timing import Timing, repeat

BYZFL = ("byzfl==0.0.11",)
WORKLOAD = Path(__file__).with_name("byzfl_workload.py")
CLIENTS, COORDINATES, SHARE, TIMES = 1024, 100_000, 0.05, 3
SLOW = {"CAF": 64, "MDA": 16}

# ByzFL's rule -> ours, of f liars.
SAME: dict[str, Callable[[int], Aggregator]] = {
    "Average": lambda f: aggregate.uniform(),
    "Median": lambda f: aggregate.median(),
    "TrMean": lambda f: aggregate.trimmed_mean(f),
    "Meamed": lambda f: aggregate.meamed(f),
    "GeometricMedian": lambda f: aggregate.geometric_median(0.1, 3),
    "Krum": lambda f: aggregate.krum(f),
    "MultiKrum": lambda f: aggregate.multi_krum(f),
    "CenteredClipping": lambda f: aggregate.centered_clip(100.0),
    "Clipping, Average": lambda f: aggregate.norm_bound(100.0),
    "Bucketing, TrMean": lambda f: aggregate.mixed(
        aggregate.bucketing(2), aggregate.trimmed_mean(f)
    ),
    "NNM, TrMean": lambda f: aggregate.mixed(aggregate.nnm(f), aggregate.trimmed_mean(f)),
    "CAF": lambda f: aggregate.caf(f),
    "MDA": lambda f: aggregate.mda(f),
}
ON_LISTS: dict[str, Callable[[], Aggregator]] = {
    "row_norm_bound(0.5)": lambda: aggregate.row_norm_bound(0.5),
    "quorum(4)": lambda: aggregate.quorum(4),
    "hics(0.5)": lambda: aggregate.hics(0.5),
    "median(25)": lambda: aggregate.median(25),
    "trimmed_mean(12)": lambda: aggregate.trimmed_mean(12),
    "meamed(12)": lambda: aggregate.meamed(12),
    "geometric_median()": lambda: aggregate.geometric_median(),
    "multi_krum(12)": lambda: aggregate.multi_krum(12),
    "dnc(12)": lambda: aggregate.dnc(12),
    "foolsgold()": lambda: aggregate.foolsgold(),
    "union(f=12)": lambda: aggregate.union(f=12),
}


def robust() -> Iterator[Row]:
    simulate.configure(1, cache=None)
    for name, make in ON_LISTS.items():
        yield Row("robust", f"{name}: a round of 256 lists", timed(make(), *lists()).cpu, "s", "")
    try:
        python = prepare(place("byzfl"), BYZFL)
    except RuntimeError:
        python = None  # our own half of the table stands
    for name in SAME:
        clients = SLOW.get(name, CLIENTS)
        f = 2 if name == "MDA" else max(1, int(SHARE * clients))
        ours = timed(SAME[name](f), *vectors(clients)).cpu
        what = f"{name}, {clients} x {COORDINATES:,}"
        yield Row("robust", f"{what}: ours", ours, "s", "")
        if python is not None:
            forms = theirs(python, name, clients, f)
            form = min(forms, key=lambda form: forms[form]["cpu_seconds"])
            took = forms[form]["cpu_seconds"]
            yield Row("robust", f"{what}: ByzFL, {form}", took, "s", "")
            yield Row("robust", f"{what}: CPU time of ByzFL over ours", took / ours, "x", ">= 5")


def timed(rule: Aggregator, upload: Upload, shared) -> Timing:
    """Of one aggregation after another, compiled."""
    now = Now(jnp.int32(0), shared, jnp.arange(upload.weight.shape[0], dtype=jnp.int32))

    @jax.jit
    def made(upload, state):
        state, update, _ = rule.finish(
            jax.random.key(0), state, rule.reduce(state, upload, now), now
        )
        return state, update

    state = rule.init(shared)
    return repeat(lambda: made(upload, state), TIMES)


def vectors(clients: int, coordinates: int = COORDINATES) -> tuple[Upload, dict]:
    """The vectors of `byzfl_workload.py`."""
    draw = np.random.default_rng(0)
    x = draw.standard_normal((clients, coordinates), dtype=np.float32)
    shared = {"w": jnp.zeros(coordinates)}
    return Upload({"w": jnp.asarray(x)}, jnp.ones(clients), {}), shared


def lists(
    clients: int = 256, items: int = 1682, touched: int = 200, width: int = 32
) -> tuple[Upload, dict]:
    """Uploads of rows with ids."""
    draw = np.random.default_rng(0)
    popularity = 1 / np.arange(1, items + 1)
    wanted = np.log(popularity) + draw.gumbel(size=(clients, items))
    ids = np.sort(np.argsort(-wanted, 1)[:, :touched], 1)
    ids = np.concatenate([ids, np.full((clients, touched), items)], 1).astype(np.int32)
    live = ids < items
    values = draw.standard_normal((clients, 2 * touched, width), dtype=np.float32)
    values = values * live[..., None]
    table = RowsUpdate(jnp.asarray(values), jnp.asarray(ids), jnp.asarray(live), None, items)
    return Upload({"item": table}, jnp.ones(clients), {}), {
        "item": Table(jnp.zeros((items, width)))
    }


def theirs(python: Path, name: str, clients: int, f: int) -> dict:
    """{form: {cpu_seconds, wall_seconds}} of ByzFL's rule on `vectors`."""
    command = [str(python), str(WORKLOAD), "--clients", str(clients), "--f", str(f)]
    command += ["--coordinates", str(COORDINATES), "--repeats", str(TIMES), name]
    answer = output(command, f"theirs({name!r})", "make the environment anew.", 3600.0)
    return json.loads(answer.splitlines()[-1])[name]
