"""One script of a peer, run in its environment, and what it answers."""

from __future__ import annotations

import ast
import io
import json
import math
import os
import statistics
import sys
import tempfile
import tokenize
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...simulate.device import cores
from .environments import output, own_jax, place, prepare
from .workloads import Workload

HERE = Path(__file__).parent
PATIENCE = 1800.0  # seconds
OWN_JAX = "jax"  # that of this process, with its version


@dataclass(frozen=True)
class Script:
    """What is run. name: also of its environment, unless `shares` names that of another; files:
    what its user writes, the script first; packages: None to run beside this library; threads: how
    many it may have, each of which is tried, "" for its own choice."""

    name: str
    title: str
    files: tuple[str, ...]
    packages: tuple[str, ...] | None = None
    without: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    shares: str = ""
    threads: tuple[str, ...] = ("", "1")
    rounds: dict[str, int] = field(default_factory=dict)

    def python(self) -> Path:
        """Its interpreter; makes the environment. Raises RuntimeError where it cannot."""
        if self.packages is None:
            return Path(sys.executable)
        packages = [own_jax() if name == OWN_JAX else name for name in self.packages]
        return prepare(place(self.shares or self.name), packages, self.without)

    def lines(self) -> int:
        """Of code that its user writes."""
        return sum(lines_of_code((HERE / name).read_text(encoding="utf-8")) for name in self.files)


@dataclass(frozen=True)
class Answer:
    """Seconds of each round, the first of which is not counted, and the loss over all samples after
    the last round or after each. threads: that it was given, "" for its own choice."""

    version: str
    walls: tuple[float, ...]
    cpus: tuple[float, ...]
    losses: tuple[float, ...]
    peak_bytes: int
    threads: str = ""

    @property
    def cpu(self) -> float:
        return statistics.median(self.cpus[1:])

    @property
    def wall(self) -> float:
        return statistics.median(self.walls[1:])

    @property
    def rounds(self) -> int:
        return len(self.walls)


def play(script: Script, work: Workload, rounds: int, timeout: float = PATIENCE) -> Answer:
    """The answer that took least CPU time, of those with each number of threads.

    Raises:
        RuntimeError: where its environment cannot be made, or it fails or takes too long.
    """
    python = script.python()
    tried = script.threads if cores() > 1 else script.threads[:1]
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch, "work.npz")
        work.save(file)
        command = [str(python), str(HERE / script.files[0]), "--npz", str(file)]
        command += ["--rounds", str(rounds), *script.flags]
        remedy = "leave it out, or remove its environment, which is then made anew."
        found = [
            read(
                output(command, script.title, remedy, timeout, _environment(script, scratch, n)),
                script.title, rounds, n,
            )
            for n in tried
        ]  # fmt: skip
    return min(found, key=lambda answer: answer.cpu)


def read(text: str, title: str, rounds: int, threads: str = "") -> Answer:
    """The last line of what a script prints. Raises RuntimeError where it is no answer."""
    last = (text.strip().splitlines() or [""])[-1]
    try:
        found = json.loads(last)
        walls, cpus, losses = (tuple(map(float, found[n])) for n in ("walls", "cpus", "losses"))
        answer = Answer(
            str(found["version"]), walls, cpus, losses, int(found["peak_bytes"]), threads
        )
    except (ValueError, KeyError, TypeError):
        raise RuntimeError(f"{title} gave no answer but {last[:80]!r}; see its script.") from None
    if not (answer.rounds == len(cpus) == rounds) or len(losses) not in (1, rounds):
        raise RuntimeError(
            f"{title} answered for {answer.rounds} rounds of {rounds}; see its script."
        )
    if not all(math.isfinite(x) and x >= 0 for x in walls + cpus):
        raise RuntimeError(f"{title} answered seconds that are none; see its script.")
    return answer


def answer_of(record: Mapping) -> Answer:
    """An `Answer` from its fields, as JSON has them."""
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in record.items()}
    return Answer(**fields)


def lines_of_code(source: str) -> int:
    """Lines with code: none that are blank, comments or docstrings, and no function or class that
    says `# clock` where it begins, which only measures."""
    kinds = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type not in (*kinds, tokenize.ENDMARKER):
            lines |= set(range(token.start[0], token.end[0] + 1))
    text, named = source.splitlines(), (ast.FunctionDef, ast.ClassDef)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, named) and "# clock" in text[node.lineno - 1]:
            lines -= _of(node)
        if isinstance(node, (ast.Module, *named)) and ast.get_docstring(node):
            lines -= _of(node.body[0])
    return len(lines)


def _of(node: ast.stmt) -> set[int]:
    return set(range(node.lineno, (node.end_lineno or node.lineno) + 1))


def _environment(script: Script, scratch: str, threads: str) -> dict[str, str]:
    """Of this process, without what is this library's alone; what a peer leaves behind lies in
    `scratch`."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "NPROC")}
    if script.packages is None:
        paths = [str(HERE.parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
        kept["PYTHONPATH"] = os.pathsep.join(paths)
    kept |= {"FLWR_HOME": scratch}
    if len(scratch) < 40:  # names of sockets have an end
        kept["RAY_TMPDIR"] = scratch
    if threads:
        kept |= dict.fromkeys(("NPROC", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), threads)
    return kept
