"""The round of PFedRec in plain C, compiled here and now, as a measure of what a round must cost.

`pfedrec_round.c` is compiled by `cc` into a temporary folder, which is gone once it is loaded. It
does what the round of `bench.rounds` does, its evaluation included, on the same data, from the same
numbers; only its draws are its own. So what is compared is the cost of the same work, and the
losses say whether it was: `apart` is the largest relative difference of two curves.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from ..data.negatives import pairs_to_csr
from ..data.store import Dataset

SOURCE = Path(__file__).with_name("pfedrec_round.c")
FLAGS = ("-O3", "-march=native")
WIDTH = 32  # as in the source


def compiled(flags: Sequence[str] = FLAGS) -> ctypes.CDLL:
    """The library of `pfedrec_round.c`.

    Raises:
        RuntimeError: where there is no C compiler, or it fails.
    """
    if shutil.which("cc") is None:
        raise RuntimeError("there is no cc on the path; install a C compiler")
    with tempfile.TemporaryDirectory() as place:
        out = Path(place) / "pfedrec_round.so"
        command = ["cc", *flags, "-shared", "-fPIC", "-o", str(out), str(SOURCE), "-lm"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = " ".join(done.stderr.split())[:200]
            raise RuntimeError(f"cc failed to compile {SOURCE.name}: {said}")
        return ctypes.CDLL(str(out))


def c_rounds(
    library: ctypes.CDLL,
    dataset: Dataset,
    parameters: tuple[Mapping, Mapping],
    negatives: int,
    learning_rate: float,
    item_learning_rate: float,
) -> Callable[[], np.ndarray]:
    """One round a call, each from where the last one ended.

    Args:
        library: of `compiled`.
        dataset: one user a client, packed with `negatives="paper"`, so that what is never drawn for
            a user is all that it has, training, validation and test.
        parameters: (shared, private) of `models.pfedrec`, width 32, with which it begins.
        negatives: drawn beside each interaction.
        learning_rate: of the scorers; item_learning_rate: of the rows.

    Returns:
        () -> float64[5]: the mean loss by examples, HR@10 and NDCG@10 of the validation, and of the
        test.
    """
    store = dataset.store
    shared, private = parameters
    rows, weight, bias = (
        np.array(x, np.float32) for x in (shared["item"].values, private["weight"], private["bias"])
    )
    clients, num_items = store.num_clients, rows.shape[0]
    if rows.shape[1] != WIDTH or weight.size != clients * WIDTH:
        raise ValueError(
            f"c_rounds: rows {rows.shape} and {weight.size} weights; use width {WIDTH}"
        )
    items, start, length = (
        np.ascontiguousarray(x, np.int32) for x in (store.items, store.start, store.length)
    )
    parts = [dataset.validation, dataset.test]
    cases = np.full((len(parts), clients, 1 + parts[0].negatives.shape[1]), -1, np.int32)
    for mine, part in zip(cases, parts, strict=True):
        where = np.asarray(part.clients)
        mine[where, 0], mine[where, 1:] = np.asarray(part.targets)[:, 0], part.negatives
    users = np.repeat(np.arange(clients), length)
    own = np.concatenate([items[a : a + n] for a, n in zip(start, length, strict=True)])
    held = [(k, i) for mine in cases for k, i in enumerate(mine[:, 0]) if i >= 0]
    pairs = np.concatenate([np.stack([users, own], 1), np.array(held)])
    had = pairs_to_csr(pairs[:, 0], pairs[:, 1], clients, num_items)
    had = tuple(np.ascontiguousarray(x, np.int32) for x in had)
    out, seeds = np.zeros(1 + 2 * len(parts)), iter(range(1, 2**31))

    integer = ctypes.c_int
    given = lambda x: x.ctypes.data_as(ctypes.c_void_p)

    def call():
        failed = library.pfedrec_round(
            integer(clients), integer(num_items), integer(negatives), given(items), given(start),
            given(length), *map(given, had), integer(len(parts)), integer(cases.shape[2]),
            given(cases), ctypes.c_float(learning_rate), ctypes.c_float(item_learning_rate),
            ctypes.c_uint64(next(seeds) << 32), given(weight), given(bias), given(rows), given(out),
        )  # fmt: skip
        if failed:
            raise MemoryError("c_rounds: the C loop got no memory; free some, or use less data")
        return out.copy()

    return call


def apart(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """The largest relative difference of two loss curves of the same rounds."""
    a, b = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    if a.shape != b.shape or not (np.isfinite(a).all() and np.isfinite(b).all()):
        return float("inf")
    return float(np.abs(a / b - 1).max())
