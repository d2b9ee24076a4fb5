"""The command `fedjax-rec unlearn`: its words, and what it prints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from ..simulate import configure
from .attack import between
from .loaded import load_run
from .unlearn import METHODS, TOLD, forget
from .words import parser_of


def command(words: Sequence[str]) -> int:
    """The exit status."""
    parser = parser_of(
        "unlearn",
        "Users are taken out of a finished run: by the run again without them, exactly, or by what "
        "clients kept of what they sent. Then it says what is left of them.",
    )
    parser.add_argument("run", help="the folder of a finished run")
    parser.add_argument("--users", nargs="+", required=True, metavar="ID", help="as in the data")
    parser.add_argument("--out", required=True, help="folder, with one for each method")
    parser.add_argument(
        "--methods", nargs="+", default=[], metavar="NAME",
        help=f"{' or '.join(METHODS)}; default both where clients kept logs, else the first",
    )  # fmt: skip
    parser.add_argument("--steps", type=int, help="batches of a client in a round of replay")
    parser.add_argument("--json", action="store_true", help="for scripts")
    known = parser.parse_args(words)
    done = load_run(known.run)
    configure(done.read_config.threads, devices=done.read_config.devices)
    told = forget(done, known.users, known.out, known.methods, known.steps, not known.json)
    if known.json:
        print(json.dumps(told, indent=2))
        return 0
    Console().print(shown(told))
    if told["rows"][0]["auc"] is None:
        print(
            "AUC needs users who never took part: run it with cohorts: {class_path: without, "
            "init_args: {cohorts: full, clients: [...]}}."
        )
    if "log_bytes" in told["rows"][0]:
        print(f"logs: {told['rows'][0]['log_bytes_per_client']:,.0f} bytes a client")
    print(f"{known.out}: {TOLD}, and a run for each method")
    return 0


def shown(told: Mapping[str, Any]) -> Table:
    """One row a model."""
    rows = told["rows"]
    metric = next(name for name in rows[0] if "@" in name or name in ("rmse", "mae"))
    title = f"{told['run']}, {len(told['users'])} users forgotten"
    table = Table(title=title, title_justify="left")
    for name in ("model", "rounds", "seconds", "MiB up", f"{metric} of who stays", "AUC"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for row in rows:
        table.add_row(
            row["model"], str(row["rounds"]), f"{row['seconds']:.1f}",
            f"{row['bytes_up'] / 2**20:.1f}", between(row[metric]),
            "" if row["auc"] is None else between(row["auc"]),
        )  # fmt: skip
    return table
