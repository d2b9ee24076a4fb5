"""Pictures of finished runs: learning curves, spread over users, quality against uplink bytes.

Runs that differ only in their seed share one colour: their mean as a line, their range as a band.
Of many, the best `MOST` are drawn, and it is said; validation is drawn beside the test of a few.
Colours are those of Okabe and Ito (2008), told apart by colour-blind readers too. Figures are
plain `matplotlib.figure.Figure`s: no display and no global state of pyplot is needed.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator, PercentFormatter

from fedjax_rec.evaluate import by_activity, lower_is_better, mean_and_interval
from fedjax_rec.report.fonts import legible, make_legible
from fedjax_rec.report.reading import (
    Group,
    Run,
    caption,
    group,
    labels,
    read_run,
)
from fedjax_rec.report.tables import MIB, title
from fedjax_rec.storage import whole

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MOST, FEW = 8, 4  # groups of a figure, and those whose validation is drawn too
Dash = Literal["-"] | tuple[float, tuple[float, ...]]
# The palette once more with the next dash.
DASHES: tuple[Dash, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)))
GRAY = "#555555"
Curve = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # x, mean, low, high, each [R]


def learning_curve(runs: Sequence[Run]) -> Figure:
    """Quality (test bold, and of a few groups validation thin) and training loss against the round.

    A dot marks the round chosen by validation, with the test value that the tables report; of
    several seeds their means.
    """
    groups, told = _drawn(group(runs))
    metrics = tuple(dict.fromkeys(name for run in runs for name in run.names()))
    shown = [m for m in (*metrics, "loss") if any(_curve(g, "round", m)[0].size for g in groups)]
    figure, axes, colours = _sheet(groups, shown)
    for ax, metric in zip(axes, shown, strict=True):
        for each, (colour, dash) in zip(groups, colours, strict=True):
            if len(groups) <= FEW:
                x, *thin = _curve(each, "round", f"validation_{metric}")
                ax.plot(x, thin[0], color=colour, linestyle=dash, linewidth=1.0, alpha=0.7)
            _draw(ax, _curve(each, "round", metric), colour, dash, len(groups))
            if metric != "loss":
                _mark(ax, each, "round", metric, colour)
        dress(ax, "round", _name(metric))
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    test = Line2D([], [], color=GRAY, linewidth=2.2, label="test")
    validation = Line2D([], [], color=GRAY, linewidth=1.0, alpha=0.7, label="validation")
    both = [test, validation] if len(groups) <= FEW else []
    _legend(figure, groups, colours, [*both, *_keys(groups)], told)
    return figure


def quality_against_bytes(runs: Sequence[Run], metric: str | None = None) -> Figure:
    """A test metric against the bytes that all clients have sent so far, on a log axis.

    Args:
        runs: runs on the same data under the same evaluation.
        metric: a test metric; by default HR@10, or the one that chose the first run's best round.

    Raises:
        ValueError: no run measured the metric after bytes were sent.
    """
    metric = metric or runs[0].names()[0]
    measured = [(each, _curve(each, "bytes_up", metric)) for each in group(runs)]
    kept, told = _drawn([each for each, curve in measured if (curve[0] > 0).any()], metric)
    measured = [(each, curve) for each, curve in measured if each in kept]
    sending = [(each, curve) for each, curve in measured if (curve[0] > 0).any()]
    groups, curves = [each for each, _ in sending], [curve for _, curve in sending]
    if not groups:
        raise ValueError(f"quality_against_bytes(metric={metric!r}) was measured by no run.")
    figure, [ax], colours = _sheet(groups, [metric], width=7.0)
    for each, curve, (colour, dash) in zip(groups, curves, colours, strict=True):
        sent = curve[0] > 0  # a log axis has no place for the state before training
        x, mean, low, high = (values[sent] for values in curve)
        _draw(ax, (x / MIB, mean, low, high), colour, dash, len(groups))
        _mark(ax, each, "bytes_up", metric, colour)
    ax.set_xscale("log")
    dress(ax, "uplink of all clients, cumulative (MiB, log scale)", f"{_name(metric)}, test")
    low, high = ax.get_xlim()
    decades = math.log10(high / low)
    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if decades < 3 else (1.0,)))
    ax.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    )
    ax.xaxis.set_minor_locator(NullLocator())
    _legend(figure, groups, colours, _keys(groups), told)
    return figure


def user_distribution(run: Run) -> Figure:
    """How the test metrics of the best round spread over users.

    Left, a histogram of NDCG@10 (or the first metric that is not 0 or 1 throughout); right, the
    mean of HR@10 in quarters of users by activity, with 95% normal intervals.

    Raises:
        ValueError: the run wrote no `per_user.npz`, or no user has held-out items.
    """
    if run.per_user is None:
        raise ValueError(f"{run.folder} has no per_user.npz; evaluate per user and run it again.")
    values = _measured(run)
    names = list(values)
    if not names:
        raise ValueError(f"{run.folder}: no user has a value of any metric; nothing to draw.")
    graded = [m for m in names if not np.isin(values[m][~np.isnan(values[m])], (0.0, 1.0)).all()]
    spread = "ndcg@10" if "ndcg@10" in graded else next(iter(graded), None)
    hits = next((m for m in names if m == "hr@10"), next(iter(names)))
    figure = Figure(
        figsize=(10.0 if spread else 5.0, 4.2), layout=ConstrainedLayoutEngine(wspace=0.06)
    )
    axes = figure.subplots(1, 2 if spread else 1, squeeze=False)[0]
    if spread:
        _histogram(axes[0], values[spread], spread)
    _quarters(axes[-1], values[hits], run.per_user.activity, hits)
    figure.suptitle(caption(group([run])), fontsize=12)
    return figure


def draw_all(of: Run | Path | str) -> list[Path]:
    """Draw a run's pictures into the `figures/` of its folder; per_user.png only with
    `per_user.npz`."""
    run = of if isinstance(of, Run) else read_run(of)
    folder = run.folder / "figures"
    drawn = {"learning_curve": learning_curve([run])}
    if run.per_user is not None and _measured(run):
        drawn["per_user"] = user_distribution(run)
    if (run.column("bytes_up") > 0).any():
        drawn["quality_bytes"] = quality_against_bytes([run])
    return [save(figure, folder / f"{name}.png") for name, figure in drawn.items()]


def _measured(run: Run) -> dict[str, np.ndarray]:
    """float64[U] by metric that some user has a finite value of; NaN where one has not."""
    assert run.per_user is not None
    columns = run.per_user.values.T.astype(np.float64)
    columns = [np.where(np.isfinite(column), column, np.nan) for column in columns]
    named = zip(run.per_user.metrics, columns, strict=True)
    return {name: column for name, column in named if not np.isnan(column).all()}


def save(figure: Figure, path: Path) -> Path:
    """Write a whole PNG of 150 dpi or nothing, in fonts that have its signs."""
    make_legible(figure)
    with whole(path) as beside:
        # Without the software tag equal pictures are equal files.
        figure.savefig(beside, dpi=150, format="png", metadata={"Software": None})
    return path


def _curve(each: Group, across: str, metric: str) -> Curve:
    """Mean, lowest and highest over seeds at the rounds that all seeds measured."""
    rounds, measured = [], []
    for run in each.runs:
        known = ~np.isnan(run.column(metric))
        rounds.append(run.column("round")[known])
        x = np.cumsum(run.column(across)) if across == "bytes_up" else run.column(across)
        measured.append((x[known], run.column(metric)[known]))
    common = rounds[0]
    for other in rounds[1:]:
        common = np.intersect1d(common, other)
    kept = [np.isin(own, common) for own in rounds]
    x = np.mean([pair[0][keep] for pair, keep in zip(measured, kept, strict=True)], axis=0)
    y = np.array([pair[1][keep] for pair, keep in zip(measured, kept, strict=True)])
    return x, y.mean(axis=0), y.min(axis=0), y.max(axis=0)


def _drawn(groups: Sequence[Group], metric: str | None = None) -> tuple[list[Group], str]:
    """(the groups that a figure has room for, in their order; what is said of the others)."""
    if len(groups) <= MOST:
        return list(groups), ""
    metric = metric or groups[0].runs[0].names()[0]
    sign = -1.0 if lower_is_better(metric) else 1.0
    merit = lambda each: np.nan_to_num(sign * each.best(metric).mean(), nan=-1e9)
    best = sorted(groups, key=merit, reverse=True)
    kept = {id(each) for each in best[:MOST]}
    told = f"the best {MOST} of {len(groups)} by {title(metric)}"
    return [each for each in groups if id(each) in kept], told


def _draw(ax: Axes, curve: Curve, colour: str, dash: Dash, groups: int) -> None:
    x, mean, low, high = curve
    alone = "o" if x.size == 1 else None  # a line of one point would not be seen
    width = 2.2 if groups <= FEW else 1.6
    ax.plot(x, mean, color=colour, linestyle=dash, linewidth=width, marker=alone, markersize=4)
    if (high > low).any():
        ax.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)


def _mark(ax: Axes, each: Group, across: str, metric: str, colour: str) -> None:
    """A dot at the best validation round, of several seeds at the means of theirs."""
    found = []
    for run in each.runs:
        place = [record["round"] for record in run.records].index(run.summary["best"]["round"])
        x = run.column(across)
        at = x[: place + 1].sum() / MIB if across == "bytes_up" else x[place]
        found.append((at, run.column(metric)[place]))
    at, y = np.mean(found, axis=0)
    if at > 0 or across == "round":
        ax.plot(at, y, "o", color=colour, markersize=7, markeredgecolor="white", zorder=4)


def _histogram(ax: Axes, values: np.ndarray, metric: str) -> None:
    known = values[~np.isnan(values)]
    ranking = known.min() >= 0 and known.max() <= 1
    edges = np.histogram_bin_edges(known, 20, (0, 1) if ranking else None).tolist()
    ax.hist(
        known, edges, weights=np.full(known.size, 100 / known.size), color=PALETTE[0], rwidth=0.9
    )
    for value, style, label in (
        (known.mean(), "-", "mean"),
        (np.median(known), (0, (2, 1.5)), "median"),
    ):
        ax.axvline(value, color=PALETTE[1], linestyle=style, label=f"{label} {value:.3f}")
    ax.yaxis.set_major_formatter(PercentFormatter(decimals=0))
    dress(ax, f"{_name(metric)} of a user, test", "share of users")
    ax.set_title(f"{known.size:,} users", fontsize=11, color=GRAY)
    _key_below(ax)


def _quarters(ax: Axes, values: np.ndarray, activity: np.ndarray, metric: str) -> None:
    count = min(4, int((~np.isnan(values)).sum()))
    means = by_activity(values, activity, max(count, 1))
    squares = by_activity(values**2, activity, max(count, 1))  # the same groups: their variance
    for place, (name, found) in enumerate(means.items()):
        users = found["users"]
        variance = max(squares[name]["mean"] - found["mean"] ** 2, 0.0) * users / max(users - 1, 1)
        half = 1.96 * math.sqrt(variance / users)
        ax.errorbar(place, found["mean"], half, fmt="o", color=PALETTE[0], capsize=5, markersize=8)
    overall = mean_and_interval(values)["mean"]
    ax.axhline(overall, color=PALETTE[1], linewidth=1.2, label=f"all users {overall:.3f}")
    ranges = [f"{g['low']:,.0f} to {g['high']:,.0f}" for g in means.values()]
    ax.set_xticks(range(len(ranges)), ranges)
    ax.set_xlim(-0.5, len(ranges) - 0.5)
    dress(ax, "training interactions of the user", f"mean {_name(metric)}, test")
    ax.grid(axis="x", visible=False)
    ax.set_title("quarters of users by activity, 95% intervals", fontsize=11, color=GRAY)
    _key_below(ax)


def _sheet(
    groups: Sequence[Group], panels: Sequence[str], width: float = 4.0
) -> tuple[Figure, list[Axes], list[tuple[str, Dash]]]:
    size = (max(width * len(panels), 6.0), 4.0)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(wspace=0.06))
    axes = list(figure.subplots(1, len(panels), squeeze=False)[0])
    own: list[tuple[str, Dash]] = [(PALETTE[n % 7], DASHES[n // 7 % 3]) for n in range(len(groups))]
    return figure, axes, own


def _legend(
    figure: Figure,
    groups: Sequence[Group],
    colours: Sequence[tuple[str, Dash]],
    styles: list,
    told: str = "",
) -> None:
    """Below the axes, never over them: what the styles mean, then one entry per group. told: of
    what is not drawn."""
    names = labels(groups)
    lines = [
        Line2D([], [], color=colour, linestyle=dash, linewidth=2.2, label=name)
        for name, (colour, dash) in zip(names, colours, strict=True)
    ]
    if len(groups) == 1:
        lines = []
    figure.suptitle("\n".join(filter(None, [caption(groups), told])), fontsize=12)
    key_below(figure, [*lines, *styles])


def key_below(figure: Figure, entries: list) -> None:
    """The legend of a figure, below its axes, in as many columns as fit."""
    for entry in entries:
        entry.set_label(legible(str(entry.get_label())))
    longest = max(len(str(line.get_label())) for line in entries)
    columns = min(len(entries), max(1, int(figure.get_figwidth() * 12 / (longest + 6))))
    figure.set_figheight(3.7 + 0.22 * math.ceil(len(entries) / columns))  # the axes keep theirs
    figure.legend(
        handles=entries, loc="outside lower center", ncols=columns, frameon=False,
        fontsize=10,
    )  # fmt: skip


def _name(metric: str) -> str:
    if metric == "loss":
        return "training loss"
    return title(metric) + (" (lower is better)" if lower_is_better(metric) else "")


def _keys(groups: Sequence[Group]) -> list:
    """What the dot, and of several seeds the band, mean."""
    dot = Line2D(
        [], [], color=GRAY, marker="o", linestyle="", markeredgecolor="white", markersize=7,
        label="best validation round",
    )  # fmt: skip
    if all(len(each.runs) == 1 for each in groups):
        return [dot]
    dot.set_label("best validation round, mean of seeds")
    return [Patch(color=GRAY, alpha=0.18, linewidth=0, label="lowest to highest seed"), dot]


def _key_below(ax: Axes) -> None:
    place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16)}
    ax.legend(**place, ncols=2, frameon=False, fontsize=10)


def dress(ax: Axes, across: str, up: str) -> None:
    ax.set_xlabel(across, fontsize=11)
    ax.set_ylabel(up, fontsize=11)
    ax.tick_params(labelsize=10)
    ax.grid(color="#DDDDDD", linewidth=0.7)
    ax.set_axisbelow(True)
    ax.spines[["top", "right"]].set_visible(False)
