"""The page and the picture of what was compared."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, NullLocator

from ...report.figures import GRAY, PALETTE, dress, key_below
from .compared import MIB, OURS, Compared, Line
from .workloads import Workload

ABOUT = """\
The same federated averaging by other libraries, each in an environment of its own, and by this one:
all clients in every round, one local epoch of SGD, no evaluation. All begin with the same
parameters on the same samples; after as many rounds the loss over all samples must agree with ours
to 1%, or there is no ratio. Seconds are medians of the rounds after the first, which compiles and
starts. CPU time is compared, since wall time is also that of whatever else the machine does. Ours
is on one thread and played before, between and after the others, of which the median counts; peers
have their own choice of threads and one, where there are several cores, and the better CPU time
counts. Lines are those of code that a user writes for both workloads, in `fedjax_rec/bench/peers/`.
Memory is the most that the process had; of Flower, that of all its processes at the ends of
rounds."""


def page(
    found: Sequence[Compared],
    left_out: Sequence[str],
    machine: Mapping[str, str],
    command: str,
    picture: str,
) -> str:
    """Markdown. picture: its path from the page; "" for none."""
    lines = ["# Peers, side by side", "", f"Written by `{command}`, never by hand.", "", ABOUT, ""]
    lines += [f"- {key}: {value}" for key, value in machine.items()]
    if picture:
        lines += ["", f"![CPU time of each peer over ours, on both workloads]({picture})"]
    for one in found:
        lines += ["", f"## {one.work.title.capitalize()}", "", _told(one.work), ""]
        lines += _table(one)
        spent = ", ".join(f"{answer.cpu:.3g}" for answer in one.ours)
        lines += ["", f"{OURS.title} in its turns: {spent} CPU seconds a round."]
        lines += [f"\n- {line.title}: {line.why}" for line in one.lines if line.why]
    if left_out:
        lines += ["", "Left out on this machine:", "", *(f"- {x}" for x in left_out)]
    return "\n".join(lines) + "\n"


def _told(work: Workload) -> str:
    return (
        f"{work.about}: {work.clients:,} clients, {len(work.y):,} "
        f"samples, {work.steps:,} local steps of {work.batch} in a round, rate {work.rate:g}."
    )


def _table(one: Compared) -> list[str]:
    lines = [
        "| who | CPU s a round | wall s a round | peak MiB | lines | loss | after rounds | "
        "CPU time over ours | goal |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    first = one.ours[0]
    peak = statistics.median(answer.peak_bytes for answer in one.ours) / MIB
    lines.append(
        f"| {OURS.title} {first.version} | {one.cpu:.3g} | {one.wall:.3g} | {peak:,.0f} | "
        f"{OURS.lines()} | {first.losses[-1]:.4f} | {first.rounds} | 1 | |"
    )
    for line in one.lines:
        lines.append(_row(one, line))
    return lines


def _row(one: Compared, line: Line) -> str:
    ratio = one.ratio(line)
    goal = f">= {line.goal}" if line.goal else ""
    if line.goal and ratio is not None:
        goal += ", reached" if ratio >= line.goal else ", missed"
    if line.answer is None:
        return f"| {line.title} | | | | {line.script.lines()} | | | not measured | {goal} |"
    answer, shown = line.answer, "refused" if ratio is None else times(ratio)
    return (
        f"| {line.title} | {answer.cpu:.3g} | {answer.wall:.3g} | {answer.peak_bytes / MIB:,.0f} | "
        f"{line.script.lines()} | {answer.losses[-1]:.4f} | {answer.rounds} | {shown} | {goal} |"
    )


def times(ratio: float) -> str:
    """To three digits."""
    return f"{ratio:,.0f}" if ratio >= 1000 else f"{ratio:.3g}"


def figure(found: Sequence[Compared]) -> Figure:
    """CPU time of each peer over ours, a panel a workload, with a mark at each goal."""
    drawn = Figure(figsize=(5.6 * len(found), 4.0), layout="constrained")
    for ax, one in zip(drawn.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        lines = [line for line in reversed(one.lines) if one.ratio(line) is not None]
        ratios = [one.ratio(line) or 1.0 for line in lines]
        ax.barh(range(len(lines)), [r - 1 for r in ratios], left=1.0, color=PALETTE[0], height=0.62)
        for n, line in enumerate(lines):
            if line.goal:
                ax.plot([line.goal] * 2, [n - 0.4, n + 0.4], color=PALETTE[1], linewidth=2.4)
        named = [f"{line.title}, {times(r)}x" for line, r in zip(lines, ratios, strict=True)]
        ax.set_yticks(range(len(lines)), named)
        ax.axvline(1.0, color=GRAY, linewidth=1.0)
        ax.set_xscale("log")
        ends = [1.0, *ratios, *(line.goal for line in lines if line.goal)]
        ax.set_xlim(min(ends) * 0.9, max(ends) * 1.5)
        dress(ax, "CPU time over ours (log)", "")
        ax.grid(axis="y", visible=False)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_title(f"{one.work.title}, {one.work.clients:,} clients")
    goal = Line2D([], [], color=PALETTE[1], linewidth=2.4, label="goal")
    key_below(drawn, [Patch(color=PALETTE[0], label="peer over ours"), goal])
    return drawn
