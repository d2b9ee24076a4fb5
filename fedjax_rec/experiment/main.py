"""The command line `fedjax-rec`.

    fedjax-rec init [FILE]                                a first configuration, with comments
    fedjax-rec list KIND                                  strategies, models, compressors, data, ...
    fedjax-rec explain KEY                                what a key means, its default, its source
    fedjax-rec run CONFIG [--key value ...] --out DIR     one experiment
    fedjax-rec recommend RUN --user ID [-k 10]            what a finished run ranks highest
    fedjax-rec similar RUN --item ID [-k 10]              the items nearest to one
    fedjax-rec export RUN --out DIR                       its scores and its weights, as files
    fedjax-rec sweep CONFIG --sweep.KEY VALUES --out DIR  many runs at once, and their table
    fedjax-rec runs FILE [--only NAME] [--seeds 0]        the runs of a file, and their section
    fedjax-rec arena FILE                                 attacks against defences, and their map
    fedjax-rec attack CONFIG|RUN [--attacks NAME ...]     what its messages give away
    fedjax-rec attack --ledger FILE                       the same of many, and their section
    fedjax-rec unlearn RUN --users ID [ID ...] --out DIR  users taken out, and what is left of them
    fedjax-rec rerank FILE                                lists of runs fused, and ranked anew
    fedjax-rec bench [NAME ...] [--json FILE]             speed and memory on this machine
    fedjax-rec bench device --out DIR [--tiny]            what an accelerator does, in eight minutes
    fedjax-rec bench peers [PEER ...] [--markdown FILE]   other libraries beside this one
    fedjax-rec data get NAME | list                       fetch, check and describe data or weights
    fedjax-rec data about NAME                            its size, source, terms and citation
    fedjax-rec data check PATH [--user NAME ...]          what a file holds, and what is wrong
    fedjax-rec report DIR [DIR ...]                       tables and figures from finished runs
    fedjax-rec report DIR [DIR ...] --html FILE           and one page of them for a browser
    fedjax-rec lists RUN [-k 10]                          coverage, novelty, calibration of lists
    fedjax-rec reliability RUN [--bins 15]                probabilities against what happened
    fedjax-rec compare DIR DIR [...] [--metrics ndcg@10]  paired tests over users
    fedjax-rec watch DIR [...]                            runs as they go, until Ctrl-C
    fedjax-rec completion bash|zsh|fish                   words for the shell's completion key
    fedjax-rec help [COMMAND]                             this, or what a command takes

CONFIG is a file, or the name of one that is shipped (quickstart). `--json` is for scripts. Exit
status: 0 done; 1 a run diverged, or an unforeseen error; 2 bad input; 130 stopped, with the state
saved. All but 0 come with one line on standard error; `--debug` shows the traceback.
"""

from __future__ import annotations

import importlib
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial

from .words import HELP, Words, one_name, parser_of, split

ASKED = (
    "init", "list", "explain", "recommend", "similar", "export", "lists", "reliability",
    "compare", "watch",
)  # fmt: skip  # see `asked`
ELSEWHERE = ("arena", "attack", "unlearn", "rerank")  # each in a file of its own


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
        "run": _run, "sweep": _sweep, "runs": _runs,
        **{name: partial(_elsewhere, name) for name in ELSEWHERE},
        "bench": _bench, "data": _data, "report": _report,
        **{name: partial(_ask, name) for name in ASKED},
    }  # fmt: skip
    commands["completion"] = partial(_completion, commands)
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    if not words or words[0] in HELP:
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


def _run(words: Sequence[str]) -> int:
    given = split("run", _help_alone(words), ("out", "help"), ("overwrite", "quiet", "json"))
    if "help" in given.options:
        return _help_of_run(given)
    source, options = one_name("run", "config, a YAML file", given), given.options
    quiet = bool(options.get("quiet") or options.get("json"))

    from pathlib import Path

    from ..report.reading import read_run
    from ..report.tables import table
    from ..simulate import configure, is_first, join
    from . import config as configuration
    from .run import run

    config = configuration.read(source, given.overrides)
    configure(config.threads, devices=join(config.devices))
    out = Path("runs") / config.name if "out" not in options else str(options["out"])
    summary = run(config, out, bool(options.get("overwrite")), not quiet)
    if options.get("json") and is_first():
        _print_json({**summary, "folder": str(out)})
    elif not quiet and is_first():
        from rich.console import Console

        Console().print(table([read_run(out)]))
        print(f"{out}: config.yaml, metrics.jsonl, summary.json, figures/")
    return 0


def _help_alone(words: Sequence[str]) -> list[str]:
    """`--help` as an option with a value, since it takes none and may stand anywhere."""
    return ["--help=true" if word in HELP else word for word in words]


def _help_of_run(given: Words) -> int:
    """The options of `run`, and the arguments of the parts that are named beside `--help`."""
    print(
        "usage: fedjax-rec run CONFIG [--key value ...] [--out DIR] [--overwrite] [--quiet] "
        "[--json]\n\n"
        "CONFIG is a YAML file, or the name of one that is shipped (fedjax-rec list configs).\n"
        "  --key value   overrides any key of the configuration: fedjax-rec explain KEY\n"
        "  --out DIR     run folder; default runs/<name of the configuration>\n"
        "  --overwrite   replace another run there\n"
        "  --quiet       no progress and no table\n"
        "  --json        the summary on standard output, and nothing else\n"
        "  --debug       tracebacks\n"
        "With --model NAME, --strategy NAME and so on, --help lists the arguments of that part."
    )
    from .explain import explain
    from .overrides import pairs

    for key, _ in pairs(given.overrides):
        if key in ("model", "strategy", "examples", "cohorts", "data.split", "data.clients"):
            told = explain(key, given.overrides)
            print(f"\n{key}: {told.text}\n{told.source}")
            _print_arguments(key, told.arguments)
    return 0


def _print_arguments(key: str, rows: Sequence[dict]) -> None:
    for row in rows:
        print(f"  --{key}.{row['name']}  (default {row['default']})  {row['help']}".rstrip())


def _print_json(value) -> None:
    import json

    from .folder import _json

    print(json.dumps(json.loads(_json(value)), indent=2))


def _sweep(words: Sequence[str]) -> int:
    valued = ("out", "workers", "processes", "cluster", "help")
    given = split("sweep", _help_alone(words), valued, ("quiet", "json"))
    if "help" in given.options:
        print(
            "usage: fedjax-rec sweep CONFIG --out DIR [--sweep.KEY VALUES ...] [--key value ...]\n"
            "\nMany runs of one configuration, and their table. --sweep.KEY '[0.1, 1]' is an axis;"
            "\n--search optuna --search.trials 64 tries some points and not all; --key value "
            "overrides\nthe configuration of all runs.\n"
            "  --out DIR        folder of the sweep, with one for each run\n"
            "  --workers N      runs at a time; default one a core\n"
            "  --processes N    that take runs which share a program; default 1, whose threads "
            "take all\n"
            "  --cluster NAME   slurm, ray, or local, to try what slurm does: runs as its jobs;\n"
            "                   --cluster.KEY value for what it takes (docs/clusters.md)\n"
            "  --quiet          no line a run and no table\n"
            "  --json           the table on standard output, one object a run"
        )
        return 0
    source, options = one_name("sweep", "config, a YAML file", given), given.options
    quiet = bool(options.get("quiet") or options.get("json"))
    if "out" not in options:
        raise ValueError("sweep: required: --out; see fedjax-rec sweep --help.")

    from pathlib import Path

    from ..check import at_least
    from ..simulate import configure
    from . import config as configuration
    from .overrides import lay_words, pairs
    from .sweep import planned, run_sweep, threads_of_sweep
    from .swept import settings_table, table

    out = str(options["out"])
    workers = _whole(options, "workers", None)
    processes = _whole(options, "processes", 1)
    if workers is not None:
        at_least("sweep", "--workers", workers, 1)
    at_least("sweep", "--processes", processes, 1)
    rest = list(pairs(given.overrides))
    axes = {k.removeprefix("sweep."): v for k, v in rest if k.startswith("sweep.")}
    searched = {k: v for k, v in rest if k.partition(".")[0] == "search"}
    asked = {k.removeprefix("cluster."): v for k, v in rest if k.startswith("cluster.")}
    taken = ("sweep.", "cluster.")
    others = [(k, v) for k, v in rest if k not in searched and not k.startswith(taken)]
    overrides = [f"--{k}={v}" for k, v in others]
    raw = lay_words(configuration.raw_of(source), searched)
    plan = planned(raw, axes, out, overrides, configuration.stem(source))
    configure(threads_of_sweep(plan.threads, workers))
    done = 0

    def told(ended) -> None:
        nonlocal done
        done += 1
        if not quiet:
            line = f"{ended.status}{': ' + ended.error if ended.error else ''}"
            print(f"[{done}/{plan.total}] {ended.out}: {line}", file=sys.stderr, flush=True)

    jobs = None
    if asked and "cluster" not in options:
        raise ValueError(
            f"sweep: --cluster.{next(iter(asked))} needs --cluster slurm, ray or local."
        )
    if "cluster" in options:
        from ..storage import read_yaml
        from .clusters import jobs_of

        words_of = {key: read_yaml(str(value)) for key, value in asked.items()}
        jobs = jobs_of(str(options["cluster"]), Path(out), words_of)
    ended = run_sweep(plan, out, workers, told, processes or 1, jobs)
    if options.get("json"):
        _print_json({"runs": table(ended).to_dicts()})
    elif not quiet:
        from rich.console import Console

        Console().print(settings_table(ended))
        print(f"{out}: sweep.csv, sweep.parquet, and a folder for each of {len(ended)} runs")
    how = [one.status for one in ended]
    return 1 if "failed" in how or "finished" not in how else 0


def _whole(options: dict, name: str, default: int | None) -> int | None:
    value = options.get(name, default)
    try:
        return None if value is None else int(value)
    except ValueError:
        raise ValueError(f"sweep: --{name}={value} is no whole number.") from None


def _runs(words: Sequence[str]) -> int:
    parser = parser_of("runs", "The runs of a file in order, then the section of the page.")
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


def _ask(name: str, words: Sequence[str]) -> int:
    return importlib.import_module(".asked", __package__).COMMANDS[name](words)


def _elsewhere(name: str, words: Sequence[str]) -> int:
    return importlib.import_module(f".{name}_command", __package__).command(words)


def _bench(words: Sequence[str]) -> int:
    return importlib.import_module("fedjax_rec.bench.main").main(words)


def _data(words: Sequence[str]) -> int:
    return importlib.import_module(".data_command", __package__).command(words)


def _completion(commands: Mapping, words: Sequence[str]) -> int:
    about = "A script by which a shell completes words: source <(fedjax-rec completion bash)."
    parser = parser_of("completion", about)
    parser.add_argument("shell", help="bash, zsh or fish")
    shell = parser.parse_args(words).shell
    benches = importlib.import_module("fedjax_rec.bench.main").BENCHES
    of_shell = importlib.import_module(".completion", __package__).script
    print(of_shell(shell, commands, benches), end="")
    return 0


def _report(words: Sequence[str]) -> int:
    parser = parser_of("report", "Tables and figures from finished runs.")
    parser.add_argument("folders", nargs="+", help="run folders, or folders that hold some")
    parser.add_argument("--out", default="runs/report", help="folder for report.md and figures")
    parser.add_argument("--sort", metavar="METRIC", help="rows by it, the best first, e.g. hr@10")
    parser.add_argument("--json", action="store_true", help="the numbers on standard output")
    parser.add_argument("--html", metavar="FILE", help="also one page for a browser, all within it")
    parser.add_argument("--results", help="write docs/results.md-like page FILE instead")
    parser.add_argument("--section", help="with --results: write this section of the page alone")
    parser.add_argument("--targets", help="YAML with goals, for --results")
    known = parser.parse_args(words)

    from pathlib import Path

    from rich.console import Console

    from ..report.page import write_page
    from ..report.reading import find_runs, said_of_unfinished
    from ..report.results import results
    from ..report.tables import tables, write_report

    for line in said_of_unfinished(known.folders):
        print(f"fedjax-rec: {line}", file=sys.stderr)

    pages = [write_page(known.folders, Path(known.html), known.sort)] if known.html else []
    if known.results:
        targets = Path(known.targets) if known.targets else None
        written = results(known.folders, targets, Path(known.results), known.section)
    else:
        found = find_runs(known.folders)
        page = None if known.json else tables(found, known.sort)
        written = write_report(known.folders, Path(known.out), known.sort)
        if known.json:
            told = [{**run.summary, "folder": str(run.folder)} for run in found]
            _print_json({"runs": told, "files": list(map(str, [*written, *pages]))})
            return 0
        Console().print(page)
    for path in [*written, *pages]:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
