"""`python -m fedjax_rec.bench.device_worker NAME ...`: plays parts in order and says what it sees.

It says each thing as one line of JSON on standard output: `machine`, then of each part its rows as
they come, and `end`. A part that raises says `failed`, with why, and ends the process: an
accelerator that has faulted once fails whatever comes after, so another process takes the rest.
Whatever else is printed goes to standard error.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence

import jax

from .. import simulate
from .machine import machine


def main(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="device_worker")
    parser.add_argument("names", nargs="+")
    parser.add_argument("--parts", default="fedjax_rec.bench.device_parts")
    parser.add_argument("--tiny", action="store_true")
    known = parser.parse_args(words)
    said = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(**what) -> None:
        said.write(json.dumps(what) + "\n")
        said.flush()

    with tempfile.TemporaryDirectory() as cache:
        # At toy size parts share programs; else each is compiled, and its time is told.
        simulate.configure(1, cache=cache if known.tiny else None)
        if known.tiny:
            jax.config.update("jax_disable_most_optimizations", True)
        say(machine=machine())
        parts = importlib.import_module(known.parts).PARTS
        for name in known.names:
            try:
                for row in parts[name](known.tiny):
                    say(row=row._asdict())
            except Exception as error:
                say(failed=f"{type(error).__name__}: {' '.join(str(error).split())}"[:500])
                return 1
            say(end=name)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
