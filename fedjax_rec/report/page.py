"""One page of finished runs for a browser: it holds all that it shows, and asks no network.

Tables are those of `tables.py` with the lines of reference above them, and sort and filter; figures
are those of `figures.py` as SVG. Without JavaScript the page reads the same.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fedjax_rec.report import markup
from fedjax_rec.report.reading import RANKING, Group, Run, find_runs, group, number
from fedjax_rec.report.references import is_reference, lines_of, share, share_of_line
from fedjax_rec.report.results import REFERENCES, SHARE, cells_of_line
from fedjax_rec.report.served import ABOUT, served
from fedjax_rec.report.settings import compared, names
from fedjax_rec.report.tables import (
    by_metric,
    columns_and_rows,
    left_out,
    pictures_of,
    provenance,
    repeats,
    sets_of,
    shown_metrics,
    title,
    write_text,
)

LOCK = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
QUANTILES = ("p10", "p25", "p50", "p75", "p90")
USERS = (
    "How each test metric spreads over users at the best validation round, means over the seeds; "
    "p10 is what a tenth of the users stay below. The thin bar goes from p10 to p90, the thick one "
    "from p25 to p75, the stroke is the median."
)
SHARED = ("data", "model / strategy", "negatives", "evaluation", "rounds", "seeds")
CAPTIONS = {
    "learning_curve": "Learning curves; bands go from the lowest to the highest seed.",
    "quality_bytes": "Quality against the bytes that all clients have sent.",
    "tradeoff": "Quality against the bytes of a client in a round.",
}


def write_page(folders: Iterable[Path | str], out: Path | str, sort: str | None = None) -> Path:
    """Write the page of all finished runs under the folders to the file `out`, whole or not at all.

    Args:
        folders: finished runs are searched at and under them.
        out: the HTML file.
        sort: a metric, by which rows stand, the best first.

    Returns:
        `out`.

    Raises:
        ValueError: `out` is a folder or lies in a file, or there is no finished run.
    """
    folders, out = list(folders), Path(out)
    if out.is_dir():
        raise ValueError(f"--html {str(out)!r} is a folder; name a file, e.g. {out / 'page.html'}.")
    above = next(path for path in out.parents if path.exists())
    if not above.is_dir():
        raise ValueError(f"--html {str(out)!r}: {str(above)!r} is a file; name a folder there.")
    return write_text(out, page(folders, sort))


def page(folders: Iterable[Path | str], sort: str | None = None) -> str:
    """The text of the page."""
    folders = list(folders)
    found = by_metric(group(find_runs(folders)), sort)
    rows = [each for each in found if not is_reference(each, found)]
    beside = {id(line.group) for line in lines_of(found, rows)}
    # A reference of no row is a row itself.
    rows = [each for each in found if id(each) not in beside]
    sets = sets_of(rows)
    called = [", ".join(about) for about in sets]
    links = [f'<li><a href="#set{n}">{escape(name)}</a></li>' for n, name in enumerate(called, 1)]
    said = [*provenance(found), *left_out(folders), *repeats(found).splitlines()]
    parts = [
        "<h1>Runs</h1>",
        *(f'<p class="said">{markup.prose(line)}</p>' for line in said if line),
        *(["<nav><ul>", *links, "</ul></nav>"] if len(sets) > 1 else []),
        *(
            _section(n, name, members, found)
            for n, (name, members) in enumerate(zip(called, sets.values(), strict=True), 1)
        ),
    ]
    here = Path(__file__)
    style, script = (here.with_name(f"page.{end}").read_text("utf-8") for end in ("css", "js"))
    return "\n".join([
        '<!doctype html>', '<html lang="en">', '<head>', '<meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{LOCK}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        "<title>Runs of fedjax_rec</title>", '<link rel="icon" href="data:,">',
        f"<style>\n{style}</style>", "</head>", "<body>", *parts,
        f"<script>\n{script}</script>", "</body>", "</html>",
    ])  # fmt: skip


def _section(place: int, name: str, members: Sequence[Group], found: Sequence[Group]) -> str:
    """What is told of runs on the same data under the same evaluation."""
    own = {id(each) for each in members}
    lines = [line for line in lines_of(found, members) if id(line.group) not in own]
    references = list({id(line.group): line.group for line in lines}.values())
    columns, cells = columns_and_rows(members)
    shown = shown_metrics(members, RANKING)
    apart = len(columns) - len(cells_of_line(lines[0], shown)) if lines else 0
    above = []
    for line in lines:
        first, *rest = cells_of_line(line, shown)
        above.append([first, *[""] * apart, *rest, share_of_line(line, lines)])
    if lines:
        columns = [*columns, SHARE]
        cells = [[*row, share(each, found)] for row, each in zip(cells, members, strict=True)]
    ids = {id(each): f"set{place}-{n}" for n, each in enumerate([*references, *members], 1)}
    columns, cells, alike = _apart(columns, [*above, *cells])
    groups = [*(line.group for line in lines), *members]
    rows = [
        markup.row(
            [markup.link(ids[id(each)], first), *map(escape, rest)],
            "line" if n < len(lines) else "",
        )
        for n, (each, (first, *rest)) in enumerate(zip(groups, cells, strict=True))
    ]
    parts = [f'<section id="set{place}">', f"<h2>{escape(name)}</h2>"]
    parts += [f'<p class="said">{markup.prose(REFERENCES)}</p>'] if lines else []
    parts += [f'<p class="said">Of all rows: {escape(alike)}.</p>'] if alike else []
    parts.append(markup.table(f"runs{place}", columns, rows))
    parts += _figures(f"{name} ({place})", members)
    users = _users(members)
    if users:
        parts += ["<h3>Users</h3>", f'<p class="said">{escape(USERS)}</p>']
        header = ["run", "metric", "users", "mean", *QUANTILES, "worst tenth", "spread"]
        parts.append(markup.table(f"users{place}", header, users))
    titles, told = served(members)
    if told:
        parts += ["<h3>Who is served</h3>", f'<p class="said">{escape(ABOUT)}</p>']
        lines = [markup.row([escape(cell) for cell in line]) for line in told]
        parts.append(markup.table(f"served{place}", titles, lines))
    parts.append("<h3>Settings and commands</h3>")
    told = {**compared(references, "reference"), **compared(members, "row")}
    called = {**names(references), **names(members)}
    for each, setting in zip([*references, *members], told.values(), strict=True):
        parts.append(_setting(ids[id(each)], called[id(each)], each, setting, told))
    return "\n".join([*parts, "</section>"])


def _apart(
    columns: Sequence[str], rows: Sequence[Sequence[str]]
) -> tuple[list[str], list[list[str]], str]:
    """(columns, rows, what all rows share): a column of what a run is that says the same in every
    row would take the room of its numbers on a phone."""
    same = {
        place
        for place, column in enumerate(columns)
        if column in SHARED and len(rows) > 1 and len({row[place] for row in rows}) == 1
    }
    kept = lambda cells: [cell for place, cell in enumerate(cells) if place not in same]
    alike = ", ".join(f"{columns[place]} {rows[0][place]}" for place in sorted(same))
    return kept(columns), [kept(row) for row in rows], alike


def _figures(name: str, members: Sequence[Group]) -> list[str]:
    from fedjax_rec.report.svg import svg  # matplotlib is slow

    return [
        f"<figure>{svg(draw(), escape(f'{CAPTIONS[kind]} {name}'))}"
        f"<figcaption class=said>{escape(CAPTIONS[kind])}</figcaption></figure>"
        for kind, draw in pictures_of(members).items()
    ]


def _users(members: Sequence[Group]) -> list[str]:
    """Rows of quantiles over users, of the runs whose summaries have them."""
    called, found = names(members), []
    for each in members:
        kept = [run.summary.get("distribution") or {} for run in each.runs]
        for metric in kept[0]:
            if all(metric in one for one in kept):
                keys = ("users", "mean", *QUANTILES, "worst_decile")
                mean = {k: np.mean([number(one[metric].get(k)) for one in kept]) for k in keys}
                found.append((called[id(each)], metric, mean))
    tops: dict[str, float] = {}
    for _, metric, mean in found:
        tops[metric] = max(tops.get(metric, 0.0), float(np.nan_to_num(mean["p90"])))
    return [
        markup.row([
            escape(name), escape(title(metric)), f"{mean['users']:,.0f}",
            *(f"{mean[key]:.4f}" if np.isfinite(mean[key]) else "n/a"
              for key in ("mean", *QUANTILES, "worst_decile")),
            markup.bar([float(mean[key]) for key in QUANTILES], tops[metric]),
        ])
        for name, metric, mean in found
    ]  # fmt: skip


def _setting(
    anchor: str, name: str, each: Group, setting: dict[str, Any], told: dict[str, dict[str, Any]]
) -> str:
    """A fold: what is set otherwise than in the first row on the same data, the configuration of
    the first seed, and the command of each seed."""
    if "but" in setting:
        like = escape(told[setting["as"]]["run"])
        but = [f"{key} = {_yaml(value)}" for key, value in setting["but"].items()]
        differs = f'<p class="same">As {like}, but for:</p><pre>{escape(chr(10).join(but))}</pre>'
        if not but:
            differs = f'<p class="same">As {like}.</p>'
    else:
        differs = '<p class="same">Others are told by what they have otherwise than this one.</p>'
    whole = yaml.safe_dump(each.runs[0].config, sort_keys=False, allow_unicode=True)
    commands = [
        f'<div class="command"><code>{escape(command(run))}</code>'
        '<button type="button">copy</button></div>'
        for run in each.runs
    ]
    return "\n".join([
        f'<details id="{anchor}"><summary>{escape(name)}</summary>', differs,
        f"<details><summary>config.yaml of seed {each.runs[0].summary['seed']}</summary>",
        f"<pre>{escape(whole)}</pre></details>", *commands, "</details>",
    ])  # fmt: skip


def command(run: Run) -> str:
    """What plays a run once more, into a folder beside its own."""
    config, again = run.folder / "config.yaml", run.folder.with_name(f"{run.folder.name}-again")
    return shlex.join(["fedjax-rec", "run", str(config), "--out", str(again)])


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000)
    return text.removesuffix("\n").removesuffix("\n...")
