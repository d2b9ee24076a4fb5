"""The page of results: every group of seeds held against its targets.

Written by `fedjax-rec report FOLDERS --results FILE [--section TITLE] [--targets FILE]`. Settings
of the rows go beside the page, see `settings.py`: those of the section "Update strategies" of
`docs/results.md` to `docs/results/update_strategies.yaml`. Of runs that have a goal for the bytes
of a client, quality against bytes is drawn too.
Runs beside one that is called `fedavg` are compared in rounds, see `convergence.py`. Runs of the
strategy `central`, and of one client that holds all, become lines of reference above the others,
see `references.py`.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fedjax_rec.report import intervals
from fedjax_rec.report.convergence import convergence, has_reference
from fedjax_rec.report.reading import FIELDS, KIB_UP, RANKING, Group, find_runs, group
from fedjax_rec.report.references import (
    Line,
    is_fitted,
    is_reference,
    lines_of,
    share,
    share_of_line,
)
from fedjax_rec.report.sections import slug, with_section
from fedjax_rec.report.settings import names, settings
from fedjax_rec.report.tables import (
    grid,
    header,
    left_out,
    provenance,
    repeats,
    row,
    sets_of,
    shown_metrics,
    sizes,
    spread,
    title,
    write_text,
)
from fedjax_rec.report.targets import Target, read_targets

SHARE = "share"
REFERENCES = (
    "The first rows are lines of reference, trained in one place on the same split and measured "
    "under the same protocol: central fits, and models by one client that holds all users. The "
    "column `share` is HR@10 over that of the central fit that is best on validation, and over "
    "that of the row's own model trained so."
)

SETTINGS = (
    "{} holds the configuration of each row: whole, or what differs from the first row on the same "
    "data."
)


def results(
    folders: Iterable[Path | str],
    targets: Path | str | None,
    out: Path | str,
    section: str | None = None,
) -> list[Path]:
    """Write the table of results against targets to the file `out`, and each row's settings beside
    it.

    Args:
        folders: finished runs are searched at and under them.
        targets: YAML file, see `targets.py`; None leaves out the columns of targets.
        out: the markdown file; its figures go to `images/` beside it, and settings to a folder of
            its own name. A target without a run is listed as not run.
        section: the title of the only part of the page that is written; None writes all of it.

    Returns:
        The files written: `out`, the settings, the figures.

    Raises:
        ValueError: a target is malformed, or two match the same runs.
    """
    folders = list(folders)
    out, found = Path(out), group(find_runs(folders))
    groups = [each for each in found if not is_reference(each, found)] or found
    lines = lines_of(found, groups) if groups is not found else []
    compared = any(is_reference(each, found) for each in found)
    wanted = [] if targets is None else read_targets(targets)
    trained = [each for each in found if not is_fitted(each)] or found
    mine = {id(each): _target(each, wanted, targets) for each in trained}
    goals = (metric for target in wanted for metric in target.goals if metric != KIB_UP)
    shown = tuple(dict.fromkeys([*shown_metrics(groups, RANKING), *goals]))
    held = ["target", "source", "verdict"] if wanted else []
    columns = [*header(shown), *([SHARE] if compared else []), *held]
    verdicts = lambda each: _verdicts(each, mine[id(each)]) if wanted else []
    rows, called = [], names(groups)
    for line in lines:
        told = [""] * len(held) if is_fitted(line.group) else verdicts(line.group)
        rows.append([*cells_of_line(line, shown), share_of_line(line, lines), *told])
    for each in groups:
        compare = [share(each, found)] if compared else []
        rows.append([*row(each, shown, called[id(each)]), *compare, *verdicts(each)])
    for target in wanted:
        if target not in mine.values():
            match = {**dict.fromkeys(FIELDS, ""), **target.match}
            model = " / ".join(filter(None, (match["model"], match["strategy"])))
            known = [match["name"], match["data"], model, match["negatives"], match["evaluation"]]
            blank = [""] * (len(columns) - len(known) - len(held))
            rows.append([*known, *blank, _goals(target), target.source, "not run"])
    text = [*provenance(found), *left_out(folders), *([REFERENCES, ""] if lines else [])]
    text += [grid(columns, rows) + repeats(found), *_notes(trained, mine)]
    text += intervals.tables(groups, [called[id(each)] for each in groups])
    drawn, below = [], "###" if section else "##"
    for (data, evaluation), members in sets_of(groups).items():
        # Under other negatives other quality is reached: no axis for both. Without a goal for bytes
        # the runs were not made to be held against them.
        alike = len({each.field("negatives") for each in members}) == 1
        theirs = [target for each in members if (target := mine[id(each)])]
        if sizes(members) > 2 and alike and any(KIB_UP in target.goals for target in theirs):
            from fedjax_rec.report import figures, tradeoff  # matplotlib is slow

            place = "_".join(["tradeoff", data, *([slug(section)] if section else [])])
            path = out.parent / "images" / f"{place}.png"
            aims = [(each, target) for each in members if (target := mine[id(each)])]
            runs = [run for each in members for run in each.runs]
            drawn.append(figures.save(tradeoff.tradeoff(runs, targets=aims), path))
            text += [f"Quality against bytes on {data}, {evaluation}; rings are targets:", ""]
            text += [f"![quality against bytes]({path.relative_to(out.parent).as_posix()})", ""]
    for (data, evaluation), members in sets_of(groups).items():
        if has_reference(members):
            text += [f"{below} Rounds to target: {data}, {evaluation}", ""]
            text += convergence(members, lines_of(found, members), found)
    fitted = {id(line.group): line.group for line in lines}
    beside = out.parent / out.stem / f"{slug(section) if section else 'settings'}.yaml"
    place = beside.relative_to(out.parent).as_posix()
    text += [f"{below} Settings", "", SETTINGS.format(f"[{place}]({place})"), ""]
    told = settings(section or "Results", groups, fitted.values(), above=len(lines))
    if section:
        page = with_section(out, section, text)
    else:
        page = "\n".join(["# Results", "", *text])
    return [write_text(out, page), write_text(beside, told), *drawn]


def _notes(groups: Sequence[Group], mine: Mapping[int, Target | None]) -> list[str]:
    """What targets say of their rows, each once."""
    text = {}
    for each in groups:
        target = mine[id(each)]
        if target is not None and target.note:
            text.setdefault(target.note, []).append(f"`{each.field('name')}`")
    return [line for note, names in text.items() for line in (f"{', '.join(names)}: {note}", "")]


def cells_of_line(line: Line, shown: Sequence[str]) -> list[str]:
    """The cells of a reference; central fits depend on no policy of negatives."""
    known = dict(zip(header(shown), row(line.group, shown), strict=True))
    known |= {title(metric): spread(line.best(metric)) for metric in shown}
    known |= {"negatives": ""} if is_fitted(line.group) else {}
    return list((known | {"evaluation": line.protocol}).values())


def _goals(target: Target) -> str:
    return "<br>".join(f"{title(metric)} {goal.text}" for metric, goal in target.goals.items())


def _target(each: Group, wanted: Sequence[Target], path: Path | str | None) -> Target | None:
    """The one target of a group, or None."""
    mine = [place for place, target in enumerate(wanted, start=1) if target.fits(each)]
    if len(mine) > 1:
        raise ValueError(
            f"{path}: targets {mine[0]} and {mine[1]} both match {each.runs[0].folder}; "
            "narrow `match`."
        )
    return wanted[mine[0] - 1] if mine else None


def _verdicts(each: Group, target: Target | None) -> list[str]:
    """The cells target, source and verdict of one group."""
    if target is None:
        return ["none", "", ""]
    verdicts = [f"{title(m)} {g.verdict(each.best(m))}" for m, g in target.goals.items()]
    return [_goals(target), target.source, "<br>".join(verdicts)]
