"""How many clients go into a chunk, from XLA's account of the memory of a whole round.

    bytes(c) = fixed + c * each,    c = (budget - fixed) / each

of a round in chunks of c clients, and all else equal: the model, the state of all clients and what
the cohort sends are in `fixed`; local parameters, gradients and activations in `each`. Both come
from compiling the round for one client a chunk and for two, for the analysis of its buffers only.

This is done for models with a large part that all clients read, such as a language model, whose
activations dwarf what a client trains, and wherever a budget is set. Small models go by
`memory.clients_that_fit`, which costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import jax

from .. import rows, trees
from ..check import at_least
from ..types import PyTree
from .memory import CPU_CHUNK_CLIENTS, allowed_bytes, bytes_of, clients_that_fit, told_bytes

# Dense parts of the model, frozen ones included, from which it counts as large.
LARGE = 16 * 2**20
# Temporaries of a chunk beyond this are written to fresh memory again and again: the adapters of
# 64 MiniLM clients took 1.8 times as long in one chunk of 530 MiB as in chunks of 64 to 130.
CPU_WORKING_BYTES = 96 * 2**20


@dataclass(frozen=True)
class Chunk:
    """A choice. clients: in a chunk. fixed, each: bytes of the round, as above, or None where they
    were not asked for."""

    clients: int
    fixed: int | None = None
    each: int | None = None


_listening: ContextVar[list[Chunk] | None] = ContextVar("chunks chosen", default=None)


@contextmanager
def chunks_chosen() -> Iterator[list[Chunk]]:
    """The list of the choices made in what is traced within."""
    seen: list[Chunk] = []
    before = _listening.set(seen)
    try:
        yield seen
    finally:
        _listening.reset(before)


def chunk_size(asked: int | None, nbytes: int, cohort: int) -> int:
    """Clients of a chunk: as asked, or by `nbytes` of local parameters of a client."""
    return _note(Chunk(min(asked or clients_that_fit(nbytes, cohort), cohort)))


def checked(where: str, asked: int | str | None) -> None:
    """Raises ValueError where `clients_per_chunk` is neither a number of clients nor a budget."""
    if isinstance(asked, str):
        bytes_of(f"{where}: clients_per_chunk", asked)
    elif asked is not None:
        at_least(where, "clients_per_chunk", asked, 1)


def choosing(asked: int | str | None, round_of: Callable[[int], Callable]) -> Callable[..., int]:
    """choose(nbytes, key, State, Cohort) -> clients of a chunk.

    asked: the number, the bytes that a round may take, e.g. "2GiB", or None for what is allowed.
    round_of(c)(key, State, Cohort) -> (State, RoundInfo), in chunks of c clients; nbytes: of the
    local parameters of a client. The analysis is made once for inputs of the same shapes. Raises
    MemoryError where not even one client fits what was asked for.
    """
    known: dict = {}

    def choose(nbytes: int, key, state, cohort) -> int:
        size = cohort.ids.shape[0]
        if isinstance(asked, int):
            return chunk_size(asked, nbytes, size)
        told = bytes_of("clients_per_chunk", asked) if asked else told_bytes()
        large = base_bytes(state.shared) >= LARGE
        if size == 1 or (told is None and not large):
            return chunk_size(None, nbytes, size)
        outline = jax.tree.map(_outline, (key, state, cohort))
        leaves, structure = jax.tree.flatten(outline)
        shapes = structure, tuple((x.shape, x.dtype) for x in leaves)
        if shapes not in known:
            one, two = (peak_bytes(analysed(round_of(c), *outline)) for c in (1, 2))
            known[shapes] = one - max(two - one, 1), max(two - one, 1)
        fixed, each = known[shapes]
        if asked and fixed + each > told:
            raise MemoryError(
                f"clients_per_chunk={asked!r}: a round of one client at a time takes "
                f"{(fixed + each) / 2**20:.1f} MiB; allow it more."
            )
        fit = min(size, ((told or allowed_bytes()) - fixed) // each)
        if jax.default_backend() == "cpu":
            fast = CPU_WORKING_BYTES // each if large else clients_that_fit(nbytes, size)
            fit = min(fit, CPU_CHUNK_CLIENTS, fast)
        return _note(Chunk(max(1, fit), fixed, each))

    return choose


def base_bytes(shared: PyTree) -> int:
    """Bytes of what all clients read whole: everything in `shared` but tables of rows."""
    leaves = jax.tree.leaves(shared, is_leaf=rows.is_table)
    return trees.nbytes([x for x in leaves if not rows.is_table(x)])


def analysed(round: Callable, key, state, cohort) -> Any:
    """XLA's account of `round` for inputs of these shapes, with the state given up to it."""
    lowered = jax.jit(round, donate_argnums=1).lower(key, state, cohort)
    # Buffers are assigned before a CPU's machine code is made, which may then be any.
    plain: dict[str, str | bool] = {}
    if jax.default_backend() == "cpu":
        plain["xla_backend_optimization_level"] = "0"
    return lowered.compile(compiler_options=plain).memory_analysis()


def peak_bytes(stats: Any) -> int:
    """Bytes that a call holds at its peak, of `compiled.memory_analysis()`."""
    kept = stats.argument_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes
    return kept + stats.temp_size_in_bytes + stats.generated_code_size_in_bytes


def _outline(x) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(x.shape, x.dtype)


def _note(chunk: Chunk) -> int:
    seen = _listening.get()
    if seen is not None:
        seen.append(chunk)
    return chunk.clients
