"""The trade-off: quality at the best round against the bytes of a client, one dot a setting.

Runs of one strategy whose names agree up to the first `=` (`colr,rank=8`, `colr,rank=16`) are one
family, a colour and a line: they are a setting at several levels. Others are a dot each.
"""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator
from matplotlib.transforms import Bbox

from fedjax_rec.report.figures import GRAY, PALETTE, dress, key_below
from fedjax_rec.report.fonts import make_legible
from fedjax_rec.report.reading import KIB_UP, Group, Run, caption, group, labels
from fedjax_rec.report.tables import title
from fedjax_rec.report.targets import Target

MARKERS = "os^DvP*Xh"
# What is written beside a marker is not written over a line.
BEHIND = {"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.7}
# (horizontal, vertical) alignment -> points from the marker
SIDES = {
    ("left", "center"): (10, 0), ("right", "center"): (-10, 0), ("center", "bottom"): (0, 9),
    ("center", "top"): (0, -9),
}  # fmt: skip
COLOURS = (*PALETTE, "#7F3C8D", "#8C8C3C")


def tradeoff(
    runs: Sequence[Run],
    metric: str | None = None,
    targets: Sequence[tuple[Group, Target]] = (),
) -> Figure:
    """A test metric at the round that validation chose against uplink KiB a client and round.

    Bars are the sample standard deviation over seeds.
    metric: by default HR@10, or the one that chose the first run's best round. targets: of some
    groups, drawn as rings at the bytes of their group.
    Raises ValueError where no run sent anything.
    """
    metric = metric or runs[0].names()[0]
    sending = [each for each in group(runs) if each.runs[0].bytes_per_client() > 0]
    families: dict[tuple, list[Group]] = {}
    called = [each.field("name") for each in sending]
    for each, name, label in zip(sending, called, labels(sending), strict=True):
        alone = name if called.count(name) == 1 else label
        families.setdefault(_family(each, alone), []).append(each)
    if not families:
        raise ValueError(f"tradeoff(metric={metric!r}): no run sent anything; give federated ones.")
    figure = Figure(figsize=(7.0, 4.2), layout="constrained")
    ax = figure.subplots()
    levels, marks = [], []
    for place, ((name, *_), members) in enumerate(families.items()):
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        points = sorted((_kib(each), *_mean(each, metric), each.field("name")) for each in members)
        x, y, deviation, names = (list(column) for column in zip(*points, strict=True))
        ax.errorbar(
            x, y, yerr=deviation, color=colour, marker=marker, markersize=6, linewidth=1.4,
            capsize=2, label=name,
        )  # fmt: skip
        for at, value, text in zip(x, y, names, strict=True):
            level = text.partition(",")[2].split(",")[0]  # rank=8
            if "=" in level:
                levels.append((level, (at, value), colour))
            marks.append((at, value))
    aims = [(_kib(each), aim.goals[metric].value) for each, aim in targets if metric in aim.goals]
    if aims:
        x, y = zip(*aims, strict=True)
        ax.plot(x, y, "o", color=GRAY, fillstyle="none", markersize=11, label="target")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    dress(ax, "uplink of a client in a round (KiB, log scale)", f"{title(metric)}, test")
    figure.suptitle(caption(group(runs)), fontsize=12)
    key_below(figure, ax.get_legend_handles_labels()[0])
    _write_levels(figure, ax, levels, marks)
    return figure


def _write_levels(figure: Figure, ax: Axes, levels: list, marks: list) -> None:
    """Each level beside its marker, on the first side of it where no marker lies."""
    make_legible(figure)
    figure.draw_without_rendering()  # markers have their places
    taken = [Bbox.from_bounds(x - 8, y - 8, 16, 16) for x, y in ax.transData.transform(marks)]
    for level, place, colour in levels:
        for side, offset in SIDES.items():
            text = ax.annotate(
                level, place, offset, textcoords="offset points", fontsize=8, color=colour,
                ha=side[0], va=side[1], bbox=BEHIND,
            )  # fmt: skip
            box = text.get_window_extent()
            within = ax.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1
            if within and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()
        else:  # nowhere is free
            ax.annotate(level, place, (10, 0), textcoords="offset points", fontsize=8, color=colour)


def _family(each: Group, label: str) -> tuple[str, ...]:
    """What a group shares with those that it is drawn with, its name in the key first."""
    name, comma, setting = each.field("name").partition(",")
    if not comma or "=" not in setting:
        return (label,)
    fields = (each.field(key) for key in ("data", "evaluation", "negatives", "strategy"))
    return (name, setting.partition("=")[0], *fields)


def _kib(each: Group) -> float:
    return float(each.best(KIB_UP).mean())


def _mean(each: Group, metric: str) -> tuple[float, float]:
    values = each.best(metric)
    return float(values.mean()), float(values.std(ddof=1)) if values.size > 1 else 0.0
