"""The trade-off: quality at the best round against the bytes of a client, one dot a setting.

Runs of one strategy whose names agree up to the first `=` (`colr,rank=8`, `colr,rank=16`) are one
family, a colour and a line: they are a setting at several levels. Others are a dot each.
"""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from fedjax_rec.report.figures import GRAY, PALETTE
from fedjax_rec.report.reading import KIB_UP, Group, Run, caption, group, labels
from fedjax_rec.report.tables import title
from fedjax_rec.report.targets import Target

MARKERS = "os^DvP*Xh"
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
    for place, ((name, *_), members) in enumerate(families.items()):
        colour, marker = COLOURS[place % len(COLOURS)], MARKERS[place % len(MARKERS)]
        points = sorted((_kib(each), *_mean(each, metric), each.field("name")) for each in members)
        x, y, deviation, names = (list(column) for column in zip(*points, strict=True))
        ax.errorbar(
            x, y, yerr=deviation, color=colour, marker=marker, markersize=6, linewidth=1.4,
            capsize=2, label=name,
        )  # fmt: skip
        for at, value, text in zip(x, y, names, strict=True):
            setting = text.partition(",")[2].rpartition("=")[0].split(",")[0]
            level = text.partition(",")[2].split(",")[0].partition("=")[2]
            if setting and level:
                ax.annotate(
                    level, (at, value), (0, -11), textcoords="offset points", fontsize=7,
                    color=colour, ha="center",
                )  # fmt: skip
    aims = [(_kib(each), aim.goals[metric].value) for each, aim in targets if metric in aim.goals]
    if aims:
        x, y = zip(*aims, strict=True)
        ax.plot(x, y, "o", color=GRAY, fillstyle="none", markersize=11, label="target")
    ax.set_xscale("log")
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel("uplink of a client in a round (KiB, log scale)")
    ax.set_ylabel(f"{title(metric)}, test")
    ax.set_title(caption(group(runs)), fontsize=9, color=GRAY)
    ax.grid(alpha=0.3)
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(fontsize=8, frameon=False, loc="lower right", ncols=2 if len(families) > 5 else 1)
    return figure


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
