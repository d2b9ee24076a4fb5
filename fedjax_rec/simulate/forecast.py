"""What a run will hold in memory, before its first round: from XLA's account of the compiled call.

    peak = arguments + outputs - what outputs take over from arguments + temporaries

It is the call that the run begins with, so looking at it costs no second compilation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from .. import trees
from ..rounds.memory import allowed_bytes, device_bytes, sharing, size
from ..rounds.plan import Chunk, peak_bytes
from ..types import State
from .program import Compiled


@dataclass(frozen=True)
class Forecast:
    """Bytes. base: frozen parts of the model; model: the rest of it; state: of all clients and the
    server; data: everything else that is read; work: temporaries and outputs; peak: all of them.
    chunk: the clients trained at once. allowed: what the run may take, of `device`. All of it of
    each of `devices`; those of a CPU have each its part of the host's memory.
    """

    base: int
    model: int
    state: int
    data: int
    work: int
    peak: int
    chunk: Chunk
    allowed: int
    device: int
    devices: int = 1

    @property
    def each(self) -> int:
        """Temporaries of one more client in a chunk; where they were not analysed, at most."""
        return self.work // self.chunk.clients if self.chunk.each is None else self.chunk.each

    def line(self) -> str:
        """All of it in one line."""
        clients = "1 client" if self.chunk.clients == 1 else f"{self.chunk.clients} clients"
        most = "at most " if self.chunk.each is None else ""
        base = f" on a base of {size(self.base)}" if self.base else ""
        each = f", on each of {self.devices} devices" if self.devices > 1 else ""
        return (
            f"memory: model {size(self.model)}{base}, state {size(self.state)}, data "
            f"{size(self.data)}, temporary {size(self.work)} ({clients} at a time, {most}"
            f"{size(self.each)} each); peak {size(self.peak)} of {size(self.allowed)} allowed, "
            f"device {size(self.device)}{each}"
        )

    def refuse(self) -> None:
        """Raises MemoryError where the peak is more than what the run may take: by how much, and
        what helps."""
        over = self.peak - self.allowed
        if over > 0:
            raise MemoryError(
                f"the run would take {size(self.peak)} at its peak, {size(over)} more than the "
                f"{size(self.allowed)} it may: {self._largest()}; {self._remedy(over)}."
            )

    def _largest(self) -> str:
        names = {"base": self.base, "model": self.model, "state": self.state, "data": self.data,
                 "temporary": self.work}  # fmt: skip
        ordered = sorted(names.items(), key=lambda item: -item[1])
        return ", ".join(f"{name} {size(x)}" for name, x in ordered if x >= 0.02 * self.peak)

    def _remedy(self, over: int) -> str:
        chunk, fewer = self.chunk, -(-over // max(self.each, 1))
        trained = None if chunk.fixed is None else chunk.fixed + chunk.clients * self.each
        if trained is not None and trained <= self.allowed:
            return "the evaluation takes it, use a smaller evaluation.users_per_chunk"
        if fewer < chunk.clients:
            return f"use clients_per_chunk={chunk.clients - fewer}"
        first = "clients_per_chunk=1 and " if chunk.clients > 1 else ""
        remedies = {
            self.base: "a quantised or bfloat16 base",
            self.model: "a smaller width, or tables of fewer rows",
            self.state: "less memory per client (fewer clients, clients grouped by data.by_hash, "
            "or an uplink that remembers fewer rows)",
            self.data: "less data",
            self.work: f"{first}a smaller batch_size, remat=true in the model, or a smaller cohort",
        }
        return f"use {remedies[max(remedies)]}"


def forecast(compiled: Compiled, state: State) -> Forecast:
    """What a call takes, of what, and what may be taken.

    Args:
        compiled: for `state`, as `Calls.compiled` gives it.
        state: a State or its outline.

    Returns:
        A `Forecast`, in bytes.

    Example:
        >>> made = lambda _: simulate.Parts(strategies.fedavg(model, data.pointwise(1)))
        >>> calls = simulate.program(made).of(key)
        >>> state = calls.start(dataset.store)
        >>> simulate.forecast(calls.compiled(state, dataset.store, 1, 1), state).base
        0
    """
    stats = compiled.memory()
    shared = state.shared
    others, devices = compiled.elsewhere, compiled.devices
    base = trees.nbytes(trees.frozen(shared)) - others[2]
    whole = trees.nbytes(shared) - others[0] - others[2]
    kept = trees.nbytes(replace(state, private=(), memory=(), shared=())) - others[1]
    kept += -(-trees.nbytes((state.private, state.memory)) // devices)
    data = max(0, stats.argument_size_in_bytes - whole - kept)
    peak = peak_bytes(stats)
    work = peak - stats.argument_size_in_bytes
    allowed, device = (x() // sharing(devices) for x in (allowed_bytes, device_bytes))
    model, chunk = whole - base, compiled.chunk
    return Forecast(base, model, kept, data, work, peak, chunk, allowed, device, devices)
