"""`fedjax-rec completion bash|zsh|fish`: a script by which the shell completes commands, their
options, keys of configurations, and the names of what ships.

    source <(fedjax-rec completion bash)     fedjax-rec completion fish | source

All words are in the script, so that a press of a key starts no Python.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout, suppress

from ..check import one_of
from .explain import keys
from .listing import kinds, listed

SHELLS = ("bash", "zsh", "fish")
# What names of a kind are given to. Where a part is nested, its key ends so.
KEYS = {
    "strategies": "strategy", "models": "model", "examples": "examples", "cohorts": "cohorts",
    "compressors": "strategy.uplink", "aggregators": "strategy.aggregator",
    "servers": "strategy.server", "clocks": "strategy.clock", "splits": "data.split",
    "clients": "data.clients", "data": "data.source", "metrics": "evaluation.metrics",
    "clips": "privacy.clip",
}  # fmt: skip
CONFIGURED = ("run", "sweep")


def script(shell: str, commands: Mapping[str, Callable[[Sequence[str]], int]], benches) -> str:
    """The script for `shell`. commands: name -> what it does with the words after it. benches:
    names of what `bench` measures.

    Raises ValueError for another shell.
    """
    one_of("completion", "shell", shell, SHELLS)
    words = _words(commands, benches)
    return _fish(words) if shell == "fish" else _bash(words, shell == "zsh")


def _words(commands: Mapping, benches) -> dict[str, dict[str, list]]:
    """first: what follows each command. options: of each command, with dashes. values: of options,
    without dashes. "" is before any command."""
    names = {kind: [row["name"] for row in listed(kind)] for kind in kinds()}
    options = {name: _options(command) for name, command in commands.items()}
    for name in CONFIGURED:
        options[name] = sorted({*options[name], *(f"--{key}" for key in keys())})
    first = {
        "": [*commands, "help"], "help": list(commands), "list": kinds(), "explain": keys(),
        "bench": [*benches, "device", "peers"], "data": ["get", "list", "about", "check"],
        "get": names["data"], "about": names["data"], "completion": list(SHELLS),
        **dict.fromkeys(CONFIGURED, names["configs"]),
    }  # fmt: skip
    values = {KEYS[kind]: found for kind, found in names.items() if kind in KEYS}
    return {"first": first, "options": options, "values": values}


def _options(command: Callable[[Sequence[str]], int]) -> list[str]:
    """Those that its help names."""
    told = io.StringIO()
    with redirect_stdout(told), suppress(SystemExit):
        command(["--help"])
    found = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]*(?![\w.])", told.getvalue()))
    return sorted(found - {"--key"})


def _bash(words: dict[str, dict[str, list]], zsh: bool) -> str:
    def cases(of: dict[str, list], prefix: str = "") -> list[str]:
        return [f'    {prefix}{name or "_"}) found="{" ".join(of[name])}" ;;' for name in of]

    lines = [
        "# Words of fedjax-rec; written by `fedjax-rec completion`.",
        *(["autoload -U +X compinit && compinit", "autoload -U +X bashcompinit && bashcompinit"]
          if zsh else []),
        "_fedjax_rec() {",
        '  local cur="${COMP_WORDS[COMP_CWORD]}" prev="${COMP_WORDS[COMP_CWORD-1]}"',
        '  local command="${COMP_WORDS[1]}" place=_ found=""',
        "  (( COMP_CWORD > 1 )) && place=$prev",
        "  case $prev in",
        *cases(words["values"], "--"),
        "  esac",
        '  if [[ -z $found && $cur != -* && ( $place == _ || $COMP_CWORD -eq 2 || $command == data '
        "|| $command == bench ) ]]; then",
        '    [[ $command == bench ]] && (( COMP_CWORD > 1 )) && place=bench',
        "    case $place in",
        *("  " + line for line in cases(words["first"])),
        "    esac",
        '  elif [[ -z $found && $cur == -* ]]; then',
        "    case $command in",
        *("  " + line for line in cases(words["options"])),
        "    esac",
        "  fi",
        '  COMPREPLY=($(compgen -W "$found" -- "$cur"))',
        "}",
        "complete -o default -F _fedjax_rec fedjax-rec",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _fish(words: dict[str, dict[str, list]]) -> str:
    lines = ["# Words of fedjax-rec; written by `fedjax-rec completion`."]
    add = lambda when, rest: lines.append(f"complete -c fedjax-rec -n '{when}' {rest}")
    quoted = lambda found: f"-a '{' '.join(found)}'"
    for name, found in words["first"].items():
        when = f"__fish_seen_subcommand_from {name}" if name else "__fish_use_subcommand"
        add(when, quoted(found))
    for name, found in words["options"].items():
        for option in found:
            key = option.removeprefix("--")
            values = words["values"].get(key) if name in CONFIGURED else None
            more = f" -x {quoted(values)}" if values else ""
            add(f"__fish_seen_subcommand_from {name}", f"-l {key}{more}")
    return "\n".join(lines) + "\n"
