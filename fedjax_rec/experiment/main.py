"""The command line `fedjax-rec`.

    fedjax-rec run CONFIG [--key value ...] --out DIR     one experiment
    fedjax-rec sweep CONFIG --sweep.KEY VALUES --out DIR  many runs at once, and their table
    fedjax-rec runs FILE [--only NAME] [--seeds 0]        the runs of a file, and their section
    fedjax-rec attack CONFIG|RUN [--attacks NAME ...]     what its messages give away
    fedjax-rec attack --ledger FILE                       the same of many, and their section
    fedjax-rec bench [NAME ...] [--json FILE]             speed and memory on this machine
    fedjax-rec bench device --out DIR [--tiny]            what an accelerator does, in eight minutes
    fedjax-rec data get NAME | list                       fetch, check and describe data or weights
    fedjax-rec report DIR [DIR ...]                       tables and figures from finished runs

Bad input ends with one line on standard error and exit status 2; `--debug` shows the traceback.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command in `arguments` (default `sys.argv`); returns the exit status."""
    with _one_line():
        return _main(arguments)


@contextmanager
def _one_line() -> Iterator[None]:
    """What Python can only print, since nobody is there to catch it, without tracebacks.

    Ctrl-C in the middle of a callback, as while libraries are imported, would be dropped: it comes
    once more. Threads of tensorstore that outlive a write which failed find its event loop closed.
    """
    before, waiting = sys.unraisablehook, []

    def heard(told) -> None:
        if told.exc_type is KeyboardInterrupt:
            again = threading.Timer(0.02, signal.raise_signal, [signal.SIGINT])
            again.daemon = True
            again.start()
            waiting.append(again)
        elif str(told.exc_value) != "Event loop is closed":
            before(told)

    sys.unraisablehook = heard
    try:
        yield
    finally:
        for again in waiting:
            again.cancel()
        if before is not sys.__unraisablehook__:  # a host's; else the process ends here
            sys.unraisablehook = before


def _main(arguments: Sequence[str] | None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    words = [w for w in words if w != "--debug"]
    commands = {
        "run": _run, "sweep": _sweep, "runs": _runs, "attack": _attack, "bench": _bench,
        "data": _data, "report": _report,
    }  # fmt: skip
    if not words or words[0] in ("-h", "--help"):
        print((__doc__ or "").strip())
        return 0 if words else 2
    if words[0] == "--version":
        from .. import __version__

        print(f"fedjax-rec {__version__}")
        return 0
    if words[0] not in commands:
        from ..check import nearest

        print(
            f"fedjax-rec: {words[0]} is no command{nearest(words[0], commands)}; "
            f"use {', '.join(commands)}.",
            file=sys.stderr,
        )
        return 2
    try:
        return commands[words[0]](words[1:])
    except KeyboardInterrupt:
        print("fedjax-rec: stopped; the last checkpoint is kept.", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            raise
        return _explain(error)


def _explain(error: Exception) -> int:
    """One line on standard error; 130 for a stop, 1 for what went wrong in a run, else 2."""
    from ..simulate import CallbackError, Diverged
    from .failures import FORESEEN, line_of
    from .run import Stopped

    known = (*FORESEEN, Stopped, Diverged, CallbackError)
    print(f"fedjax-rec: {line_of(error, '--debug shows where', known)}", file=sys.stderr)
    if isinstance(error, Stopped):
        return 130
    return 1 if isinstance(error, Diverged | CallbackError) or not isinstance(error, known) else 2


def _parser(name: str, about: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"fedjax-rec {name}",
        description=about,
        epilog="--debug shows tracebacks.",
        allow_abbrev=False,  # `--o` may be meant for a key of the configuration
    )

    def error(message: str):
        raise ValueError(f"{message}; see fedjax-rec {name} --help.")

    parser.error = error
    return parser


def _run(words: Sequence[str]) -> int:
    parser = _parser("run", "One experiment. --key value overrides any key of the configuration.")
    parser.add_argument("config", help="a YAML file, e.g. configs/quickstart.yaml")
    parser.add_argument("--out", help="run folder; default runs/<name of the configuration>")
    parser.add_argument("--overwrite", default="false", choices=("true", "false"))
    parser.add_argument("--quiet", action="store_true", help="no progress bar and no table")
    known, overrides = parser.parse_known_args(words)

    from pathlib import Path

    from ..report.reading import read_run
    from ..report.tables import table
    from ..simulate import configure
    from . import config as configuration
    from .run import run

    config = configuration.read(known.config, overrides)
    configure(config.threads, devices=config.devices)
    out = Path(known.out or Path("runs") / config.name)
    run(config, out, known.overwrite == "true", not known.quiet)
    if not known.quiet:
        from rich.console import Console

        Console().print(table([read_run(out)]))
        print(f"{out}: config.yaml, metrics.jsonl, summary.json, figures/")
    return 0


def _sweep(words: Sequence[str]) -> int:
    parser = _parser(
        "sweep",
        "Many runs of one configuration, and their table. --sweep.KEY '[0.1, 1]' is an axis; "
        "--search optuna --search.trials 64 tries some points and not all; --key value overrides "
        "the configuration of all runs.",
    )
    parser.add_argument("config", help="a YAML file, which may have axes under `sweep:`")
    parser.add_argument("--out", required=True, help="folder of the sweep, with one for each run")
    parser.add_argument("--workers", type=int, help="runs at a time; default one a core")
    parser.add_argument("--processes", type=int, default=1, help="that take runs which share a "
                        "program; default 1, whose threads take all")  # fmt: skip
    parser.add_argument("--quiet", action="store_true", help="no line a run and no table")
    known, rest = parser.parse_known_args(words)

    from ..check import at_least
    from ..simulate import configure
    from . import config as configuration
    from .overrides import lay_words, pairs
    from .sweep import planned, run_sweep, threads_of_sweep
    from .swept import settings_table

    if known.workers is not None:
        at_least("sweep", "--workers", known.workers, 1)
    at_least("sweep", "--processes", known.processes, 1)
    given = list(pairs(rest))
    axes = {k.removeprefix("sweep."): v for k, v in given if k.startswith("sweep.")}
    searched = {k: v for k, v in given if k.partition(".")[0] == "search"}
    others = [(k, v) for k, v in given if k not in searched and not k.startswith("sweep.")]
    overrides = [f"--{k}={v}" for k, v in others]
    raw = lay_words(configuration.raw_of(known.config), searched)
    plan = planned(raw, axes, known.out, overrides, configuration.stem(known.config))
    configure(threads_of_sweep(plan.threads, known.workers))
    done = 0

    def told(ended) -> None:
        nonlocal done
        done += 1
        if not known.quiet:
            line = f"{ended.status}{': ' + ended.error if ended.error else ''}"
            print(f"[{done}/{plan.total}] {ended.out}: {line}", file=sys.stderr, flush=True)

    ended = run_sweep(plan, known.out, known.workers, told, known.processes)
    if not known.quiet:
        from rich.console import Console

        Console().print(settings_table(ended))
        print(f"{known.out}: sweep.csv, sweep.parquet, and a folder for each of {len(ended)} runs")
    how = [one.status for one in ended]
    return 1 if "failed" in how or "finished" not in how else 0


def _runs(words: Sequence[str]) -> int:
    parser = _parser("runs", "The runs of a file in order, then the section of the page they make.")
    parser.add_argument("file", help="a YAML file, e.g. configs/runs/published.yaml")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="runs of these names")
    parser.add_argument("--seeds", nargs="+", default=[], type=int, help="runs of these seeds")
    parser.add_argument("--dry-run", action="store_true", help="print the commands alone")
    known = parser.parse_args(words)

    from .runs import read_runs
    from .series import run_series

    plan = read_runs(known.file)
    chosen = plan.only(known.only, known.seeds)
    if known.dry_run:
        for run in chosen:
            print(run.command())
        return 0
    return run_series(plan, chosen)


def _attack(words: Sequence[str]) -> int:
    parser = _parser(
        "attack",
        "What the messages of clients give away. A configuration is trained first, with --key "
        "value overrides; of a run folder the last state is taken.",
    )
    parser.add_argument("source", nargs="?", help="a YAML file, or the folder of a finished run")
    parser.add_argument("--attacks", nargs="+", default=[], metavar="NAME", help="default all")
    parser.add_argument("--observe", type=int, default=2, help="rounds listened to; default 2")
    parser.add_argument("--clients", type=int, default=256, help="how many; default 256")
    parser.add_argument("--out", help="write what was found to this file, as JSON")
    parser.add_argument("--ledger", help="a YAML file of runs to attack, and of a page's section")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="of the ledger")
    known, overrides = parser.parse_known_args(words)
    # An override with a space in it looks like one more name.
    overrides += [w for w in known.attacks if w.startswith("--")]
    names = [w for w in known.attacks if not w.startswith("--")]
    if (known.source is None) == (known.ledger is None):
        raise ValueError("attack takes a configuration, a run folder, or --ledger FILE; give one.")

    from pathlib import Path

    from rich.console import Console

    from ..simulate import configure
    from .attack import attack, shown
    from .ledger import run_ledger, saved

    configure(1)
    if known.ledger is not None:
        for path in run_ledger(known.ledger, known.only):
            print(path)
        return 0
    told = attack(known.source, overrides, names, known.observe, known.clients)
    if known.out:
        saved(told, Path(known.out))
    table, lines = shown(told)
    Console().print(table)
    for line in lines:
        print(line)
    return 0


def _bench(words: Sequence[str]) -> int:
    return importlib.import_module("fedjax_rec.bench.main").main(words)


def _data(words: Sequence[str]) -> int:
    parser = _parser("data", "Data sets and pretrained weights: which there are, and fetching one.")
    parser.add_argument("action", choices=("list", "get"))
    parser.add_argument("name", nargs="?", help="for get: a name of the list, or a folder")
    known = parser.parse_args(words)

    from rich.console import Console

    from .datasets import catalogue, described

    if known.action == "list":
        Console().print(catalogue())
        return 0
    if not known.name:
        raise ValueError("data get needs a name; see `fedjax-rec data list`.")
    Console().print(described(known.name))
    return 0


def _report(words: Sequence[str]) -> int:
    parser = _parser("report", "Tables and figures from finished runs.")
    parser.add_argument("folders", nargs="+", help="run folders, or folders that hold some")
    parser.add_argument("--out", default="runs/report", help="folder for report.md and figures")
    parser.add_argument("--results", help="write docs/results.md-like page FILE instead")
    parser.add_argument("--section", help="with --results: write this section of the page alone")
    parser.add_argument("--targets", help="YAML with goals, for --results")
    known = parser.parse_args(words)

    from pathlib import Path

    from rich.console import Console

    from ..report.reading import find_runs, unfinished
    from ..report.results import results
    from ..report.tables import tables, write_report

    for path in unfinished(known.folders):
        print(f"fedjax-rec: {path} is unfinished and is left out.", file=sys.stderr)

    if known.results:
        targets = Path(known.targets) if known.targets else None
        written = results(known.folders, targets, Path(known.results), known.section)
    else:
        Console().print(tables(find_runs(known.folders)))
        written = write_report(known.folders, Path(known.out))
    for path in written:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
