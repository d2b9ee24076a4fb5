"""How many clients go into a chunk, from XLA's account of the memory of a whole round.

    bytes(c) = fixed + c * each,    c = (budget - fixed) / each

of a round in chunks of c clients, and all else equal: the model, the state of all clients and what
the cohort sends are in `fixed`; local parameters, gradients and activations in `each`. Both come
from compiling the round for one client a chunk and for two, for the analysis of its buffers only.

It is chosen before the round is traced, so that a whole run can be a traced function. The analysis
is done for models with a large part that all clients read, such as a language model, whose
activations dwarf what a client trains, and wherever a budget is set. Small models go by
`memory.clients_that_fit`, which costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax

from .. import rows, trees
from ..check import at_least
from ..types import PyTree, Strategy
from .memory import CPU_CHUNK_CLIENTS, allowed_bytes, budget_bytes, bytes_of, sharing

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

    def without(self, over: int) -> Chunk:
        """With as many clients fewer as take `over` bytes, or one; itself where nothing is over or
        it is not known what a client takes."""
        fewer = -(-over // self.each) if self.each and over > 0 else 0
        return replace(self, clients=max(1, self.clients - fewer))


def checked(where: str, asked: int | str | None) -> None:
    """Raises ValueError where `clients_per_chunk` is neither a number of clients nor a budget."""
    if isinstance(asked, str):
        bytes_of(f"{where}: clients_per_chunk", asked)
    elif asked is not None:
        at_least(where, "clients_per_chunk", asked, 1)


def plan(strategy: Strategy, key, state, cohort, devices: int = 1, elsewhere: int = 0) -> Chunk:
    """How many clients of a cohort train at once, before anything of the round is traced.

    Arguments are those of `Strategy.round`, or their outlines. What the strategy was asked for
    (`clients_per_chunk`) or else what a run may take (`memory_budget`) decides; where neither is
    set and the model is small, the strategy's own rule of thumb. Of `devices` that share a memory
    each has its part of it, and of the state all but the bytes `elsewhere`, which others hold.
    Raises MemoryError where not even one client fits what was asked for.
    """
    key, state, cohort = jax.tree.map(_outline, (key, state, cohort))
    size, asked = cohort.ids.shape[0], strategy.clients_per_chunk
    if strategy.chunk is None:
        return Chunk(size)
    thumb = strategy.chunk(key, state, cohort)
    told = bytes_of("clients_per_chunk", asked) if isinstance(asked, str) else budget_bytes()
    told = told and told // sharing(devices)
    large = base_bytes(state.shared) >= LARGE
    if isinstance(asked, int) or size == 1 or (told is None and not large):
        return Chunk(thumb)
    of_chunks = lambda c: analysed(partial(strategy.round, chunk=c), key, state, cohort)
    one, two = (peak_bytes(of_chunks(c)) for c in (1, 2))
    fixed, each = max(one - max(two - one, 1) - elsewhere, 0), max(two - one, 1)
    if isinstance(asked, str) and told is not None and fixed + each > told:
        raise MemoryError(
            f"clients_per_chunk={asked!r}: a round of one client at a time takes "
            f"{(fixed + each) / 2**20:.1f} MiB; allow it more."
        )
    fit = min(size, ((told or allowed_bytes() // sharing(devices)) - fixed) // each)
    if jax.default_backend() == "cpu":
        fit = min(fit, CPU_CHUNK_CLIENTS, CPU_WORKING_BYTES // each if large else thumb)
    return Chunk(max(1, fit), fixed, each)


def base_bytes(shared: PyTree) -> int:
    """Bytes of what all clients read whole: everything in `shared` but tables of rows."""
    return trees.nbytes([x for x in rows.nodes(shared) if not rows.is_table(x)])


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
