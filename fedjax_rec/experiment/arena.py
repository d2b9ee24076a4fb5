"""The arena: attacks against defences, each pair a run, and the table and heat map of all of them.

    section: Arena on MovieLens-100K          # of `page`; with its picture at `figure`
    page: docs/robustness.md
    figure: docs/robustness/arena_ml100k.png
    out: runs/arena/ml100k
    config: configs/robust/pieck_ml100k.yaml  # in which nobody attacks, and nobody defends
    set: {rounds: 100}
    shares: [0.05]                            # of the clients who lie
    seeds: [0]
    attacks:                                  # the first is nobody's
      none: {}
      alie: {strategy.aggregator.attack: {class_path: fedjax_rec.attacks.alie}}
    defences:                                 # the first is none
      mean: {}
      krum:
        strategy.aggregator.aggregator:
          {class_path: fedjax_rec.aggregate.krum, init_args: {f: "{f}"}}

An attack and a defence are what they override, by dotted keys, or a `choose` of the file's choices.
Where both set one list (of stages), the attack's comes last. In texts `{share}`, `{clients}` (how
many are honest), `{malicious}` (how many lie), and `{f}`, so many that at most one round in forty
has more, stand for their values; runs that mention none of them are the same under every share.

A file may play some of another, under other shares and seeds: `of: configs/arena/ml100k.yaml`, and
the names alone, `attacks: [none, alie]` and `defences: [mean]`; what it does not say is as there.

It is a sweep (`sweep.run_sweep`): runs that share programs compile once, what is finished is passed
over, and one that diverges or is refused is a row that says so.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scipy.stats import hypergeom

from ..check import nearest
from ..report.arena import Score, Scores, drawn, section
from ..report.figures import save
from ..report.reading import read_run
from ..report.sections import with_section
from ..report.tables import write_text
from ..storage import read_yaml
from . import config as configuration
from .choices import KEY, choose
from .config import ConfigError
from .grid import SEED, folder_of
from .overrides import lay_words
from .playing import FAILED
from .prepare import read_data
from .runs import PLACE, filled, refuse_unknown
from .sweep import run_sweep
from .swept import Ended
from .trials import Trial

KEYS = (
    "section",
    "page",
    "figure",
    "out",
    "config",
    "set",
    "shares",
    "seeds",
    "attacks",
    "defences",
)
KINDS = ("attacks", "defences")
OF_A_SHARE = ("share", "malicious", "f")  # what depends on it, in texts
# Of a run in whose rounds there turned out to be too few for what the rule is to stand.
STILL = (
    "refused",
    "the rule took nobody in any measured round; it needs more clients to stand so many",
)
SURE = 0.975  # of the rounds have no more than f who lie


@dataclass(frozen=True)
class Arena:
    """A file of an arena. config: a path, or a mapping of its keys. name: of the file. attacks,
    defences: what they override, by dotted keys. section, page, figure: None writes none."""

    name: str
    config: Any
    out: str
    attacks: Mapping[str, Mapping[str, Any]]
    defences: Mapping[str, Mapping[str, Any]]
    set: Mapping[str, Any]
    shares: tuple[float, ...] = (0.05,)
    seeds: tuple[int, ...] = (0,)
    section: str | None = None
    page: str | None = None
    figure: str | None = None

    def only(self, attacks: Sequence[str], defences: Sequence[str]) -> Arena:
        """These attacks and defences alone, beside the first of both; all for none. Raises
        ConfigError for a name that the file has not."""
        if not attacks and not defences:
            return self
        kept = {
            kind: _only(kind, names, getattr(self, kind))
            for kind, names in (("attacks", attacks), ("defences", defences))
        }
        words = [f"--{kind} {','.join(x)}" for kind, x in kept.items() if getattr(self, kind) != x]
        return replace(self, **kept, name=" ".join([self.name, *words]))


@dataclass(frozen=True)
class Bout:
    """One attack on one defence under one seed. malicious: how many lie. trial: its run; None where
    it is `refused`, in a line."""

    attack: str
    defence: str
    share: float
    malicious: int
    trial: Trial | None
    refused: str = ""


def read_arena(source: str | Path | Mapping[str, Any]) -> Arena:
    """Reads a file of an arena, or a mapping of its keys.

    Raises:
        ConfigError: in one line, what the file lacks or says that makes no sense.
    """
    if isinstance(source, Mapping):
        where, raw = "arena", dict(source)
    else:
        where = str(source)
        if not Path(source).is_file():
            raise ConfigError(f"{where}: there is no such file of an arena; see configs/arena.")
        raw = read_yaml(Path(source).read_text(encoding="utf-8"))
    if not isinstance(raw, dict):
        raise ConfigError(f"{where}: is no mapping; write config, attacks and defences.")
    if "of" in raw:
        return _part_of_another(raw, where)
    refuse_unknown(raw, KEYS, where)
    for key in ("config", "attacks", "defences"):
        if not raw.get(key):
            raise ConfigError(f"{where}: {key} is missing; add it.")
    for kind in KINDS:
        _check_pieces(raw[kind], kind, where)
    first = next(iter(raw["attacks"]))
    if raw["attacks"][first]:
        raise ConfigError(
            f"{where}: attacks: {first} comes first and attacks; others are held against nobody's, "
            "so begin with none: {}."
        )
    shares, seeds = _repeats(raw, where)
    if not isinstance(raw.get("set") or {}, dict):
        raise ConfigError(f"{where}: set={raw['set']} is no mapping; write set: {{rounds: 100}}.")
    pieces = {kind: {str(k): v or {} for k, v in raw[kind].items()} for kind in KINDS}
    stem = "arena" if isinstance(source, Mapping) else Path(source).stem
    return Arena(
        where, raw["config"], str(raw.get("out") or f"runs/arena/{stem}"), **pieces,
        set=raw.get("set") or {}, shares=shares, seeds=seeds,
        section=raw.get("section"), page=raw.get("page"), figure=raw.get("figure"),
    )  # fmt: skip


def _repeats(raw: dict, where: str) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """(shares, seeds), where the keys that all files have are right."""
    shares, seeds = raw.get("shares", [0.05]), raw.get("seeds", [0])
    number = lambda x: isinstance(x, int | float) and not isinstance(x, bool) and 0 < x < 1
    _check_list(shares, "shares", number, "[0.05], shares between 0 and 1", where)
    _check_list(seeds, "seeds", lambda x: type(x) is int, "[0, 1]", where)
    if bool(raw.get("section")) != bool(raw.get("page")):
        raise ConfigError(f"{where}: section and page stand together; give both or neither.")
    return tuple(shares), tuple(seeds)


def _part_of_another(raw: dict, where: str) -> Arena:
    """Some attacks and defences of the file `of`, in runs, a section and a picture of their own."""
    refuse_unknown(raw, ("of", *(key for key in KEYS if key not in ("config", "set"))), where)
    whole = read_arena(str(raw["of"]))
    names = {kind: raw[kind] if kind in raw else [*getattr(whole, kind)] for kind in KINDS}
    for kind, some in names.items():
        like = ", ".join(list(getattr(whole, kind))[:2])
        _check_list(some, kind, lambda x: isinstance(x, str), f"[{like}]", where)
    usual = {"shares": list(whole.shares), "seeds": list(whole.seeds)}
    shares, seeds = _repeats({**usual, **raw}, where)
    return replace(
        whole, **{kind: _named(kind, some, getattr(whole, kind)) for kind, some in names.items()},
        name=where, shares=shares, seeds=seeds,
        out=str(raw.get("out") or f"runs/arena/{Path(where).stem}"), section=raw.get("section"),
        page=raw.get("page"), figure=raw.get("figure"),
    )  # fmt: skip


def _check_pieces(pieces: Any, kind: str, where: str) -> None:
    if not isinstance(pieces, dict):
        raise ConfigError(f"{where}: {kind}={pieces} is no mapping; write {kind}: {{none: {{}}}}.")
    for name, changes in pieces.items():
        if not isinstance(changes, dict | None):
            raise ConfigError(
                f"{where}: {kind}: {name}={changes} is no mapping; write {name}: {{key: value}}."
            )


def _check_list(found: Any, key: str, good: Callable[[Any], bool], like: str, where: str) -> None:
    if not isinstance(found, list) or not found or not all(map(good, found)):
        raise ConfigError(f"{where}: {key}={found} is no such list; write {key}: {like}.")
    if len(set(found)) < len(found):
        raise ConfigError(f"{where}: {key}={found} has one twice; leave it out.")


def _named(kind: str, names: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `known`, in their order."""
    for name in names:
        if name not in known:
            near = nearest(name, known)
            raise ConfigError(
                f"--{kind} {name}: is none of the file{near}; use {', '.join(known)}."
            )
    return {name: known[name] for name in names}


def _only(kind: str, names: Sequence[str], known: Mapping[str, Any]) -> dict[str, Any]:
    some, first = _named(kind, names, known), next(iter(known))
    return {n: x for n, x in known.items() if not names or n in some or n == first}


def bouts(arena: Arena, overrides: Sequence[str] = ()) -> list[Bout]:
    """All pairs, each with its configuration read, those of the first seed first.

    overrides: words of the command line, for all runs.

    Raises:
        ConfigError: the configuration cannot be read, or an attack or a defence cannot in any pair.
    """
    raw = configuration.raw_of(arena.config)
    plain = _read(arena, raw, {}, {}, arena.seeds[0], overrides)
    honest = read_data(plain).dataset.num_clients
    found, kept = [], {}
    for seed, share in itertools.product(arena.seeds, arena.shares):
        malicious = int(share * honest)
        size = min(plain.cohorts.size(honest), honest)
        most = int(hypergeom.ppf(SURE, honest + malicious, malicious, size))
        known = {"share": share, "clients": honest, "malicious": malicious, "f": most, "seed": seed}
        for attack, defence in itertools.product(arena.attacks, arena.defences):
            pieces = arena.attacks[attack], arena.defences[defence]
            name = f"{attack},{defence}"
            if _mentions((*pieces, arena.set), OF_A_SHARE):
                name += f",share={share:g}"
            try:
                if (name, seed) not in kept:
                    mine, theirs = (filled(piece, known, name) for piece in pieces)
                    read = _read(arena, raw, mine, theirs, seed, overrides, known)
                    out = Path(arena.out) / folder_of(name, seed)
                    point = {"attack": attack, "defence": defence, "share": share, SEED: seed}
                    kept[name, seed] = Trial(point, replace(read, name=name), out)
                trial, refused = kept[name, seed], ""
            except ConfigError as error:
                trial, refused = None, str(error)
            found.append(Bout(attack, defence, share, malicious, trial, refused))
    for kind in ("attack", "defence"):
        for name in getattr(arena, f"{kind}s"):
            of_it = [bout for bout in found if getattr(bout, kind) == name]
            if all(bout.trial is None for bout in of_it):
                raise ConfigError(f"{arena.name}: {kind} {name}: {of_it[0].refused}")
    return found


def _read(
    arena: Arena,
    raw: Mapping[str, Any],
    attack: Mapping[str, Any],
    defence: Mapping[str, Any],
    seed: int,
    overrides: Sequence[str],
    known: Mapping[str, Any] | None = None,
) -> configuration.Config:
    """The configuration of a pair."""
    both = attack.keys() & defence.keys()
    for key in both:
        if not isinstance(attack[key], list) or not isinstance(defence[key], list):
            raise ConfigError(f"{key} is set by the attack and by the defence; which is meant?")
    joined = {key: [*defence[key], *attack[key]] for key in both}
    fixed = filled(arena.set, known or {SEED: seed}, arena.name)
    changes = {**fixed, **attack, **defence, **joined}
    choice = {KEY: changes.pop(KEY)} if KEY in changes else {}
    chosen, _, _ = choose(raw, choice)
    return configuration.read(lay_words(chosen, changes), [*overrides, f"--seed={seed}"])


def _mentions(pieces: Iterable[Any], names: Sequence[str]) -> bool:
    return bool(set(re.findall(PLACE, json.dumps(list(pieces)))) & set(names))


def fight(
    arena: Arena,
    fights: Sequence[Bout],
    workers: int | None = None,
    processes: int = 1,
    told: Callable[[Ended], None] = lambda ended: None,
) -> Scores:
    """Plays what is left of the runs of these bouts, and gives what all came to.

    Args:
        arena: the file.
        fights: its `bouts`.
        workers, processes, told: of `run_sweep`.

    Raises:
        ValueError: a folder holds another run, or another process plays there.
        Stopped: Ctrl-C was pressed; the same call goes on from there.
    """
    trials = list({str(b.trial.out): b.trial for b in fights if b.trial is not None}.values())
    ended = {one.out: one for one in run_sweep(trials, arena.out, workers, told, processes)}
    scores = []
    for share, attack, defence in itertools.product(arena.shares, arena.attacks, arena.defences):
        mine = [b for b in fights if (b.share, b.attack, b.defence) == (share, attack, defence)]
        done = [b.trial.out for b in mine if b.trial and ended[b.trial.out].status == "finished"]
        ends = [end for b in mine if (end := _end(b, ended)) is not None]
        runs = list(map(read_run, done))
        still = [run for run in runs if (run.column("rejected_by_rule") == 1).all()]
        ends += [STILL] * len(still)
        moved = tuple(run for run in runs if run not in still)
        scores.append(Score(attack, defence, share, mine[0].malicious, moved, tuple(ends)))
    return Scores(tuple(scores), tuple(arena.attacks), tuple(arena.defences), arena.shares)


def _end(bout: Bout, ended: Mapping[Path, Ended]) -> tuple[str, str] | None:
    """(word, line) of a bout that did not finish."""
    if bout.trial is None:
        return "refused", bout.refused
    one = ended[bout.trial.out]
    if one.status == "finished":
        return None
    # What parts say against each other is foreseen; the rest has its place in a file.
    foreseen = one.status == "failed" and FAILED not in one.error
    return "refused" if foreseen else one.status, one.error


def write_arena(arena: Arena, found: Scores, page: bool = True) -> list[Path]:
    """Writes `arena.csv`, `arena.md` and `arena.png` to the folder of the arena, and where `page`
    the section and the figure that it names; gives the files."""
    out = Path(arena.out)
    table = write_text(out / "arena.csv", found.table().write_csv())
    figure = drawn(found)
    files = [table, save(figure, out / "arena.png")]
    lines = section(found, arena.name, "arena.png")
    files.append(write_text(out / "arena.md", "\n".join(["# Arena", "", *lines])))
    if page and arena.section and arena.page:
        place = Path(arena.page)
        picture = Path(arena.figure or place.with_suffix("") / "arena.png")
        picture.parent.mkdir(parents=True, exist_ok=True)
        files.append(save(figure, picture))
        lines = section(found, arena.name, picture.relative_to(place.parent).as_posix())
        files.append(write_text(place, with_section(place, arena.section, lines)))
    return files
