"""How often each instruction of a program ran, as a trace of the profiler has it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from jax.profiler import ProfileData


def traced_runs(folder: Path, module: str, times: int) -> dict[str, float]:
    """Runs of each instruction, by its name in the optimized module, in one run of the program.

    Args:
        folder: Where `jax.profiler.trace` wrote.
        module: The name of the program, such as "jit_round".
        times: How often the program ran under the trace.

    Returns:
        Name -> runs; empty where the device tells of no instructions.
    """
    counts: Counter = Counter()
    for path in sorted(folder.rglob("*.xplane.pb")):
        for plane in ProfileData.from_file(str(path)).planes:
            for line in plane.lines:
                ops: dict[str, str | None] = {}  # what events of a name are, of one line
                for event in line.events:
                    if (name := event.name) not in ops:
                        ops[name] = _op(name, dict(event.stats), module)
                    counts[ops[name]] += 1
    return {name: seen / times for name, seen in counts.items() if name is not None}


def _op(name: str, said: dict, module: str) -> str | None:
    """The instruction of which an event tells; None of another program, and of an end."""
    of_program = said.get("hlo_module") == module and not name.startswith("end: ")
    return said.get("hlo_op", name) if of_program else None
