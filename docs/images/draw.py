"""Draws idea.svg and round.svg, the pictures of README.md and docs/design.md.

python docs/images/draw.py
"""

from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

HERE = Path(__file__).parent
INK, QUIET, PAPER = "#1f2933", "#7b8794", "#ffffff"
SERVER, CLIENT, WIRE, PRIVATE = "#d9e8fb", "#fde8cf", "#e3f4e1", "#f6d5dc"
ROWS = ["#4c78a8", "#f58518", "#54a24b", "#b279a2", "#e45756", "#72b7b2", "#eeca3b", "#9d755d"]

plt.rcParams |= {"font.family": "DejaVu Sans", "svg.fonttype": "path", "svg.hashsalt": "fedjax_rec"}


def canvas(width: float, height: float):
    figure, axes = plt.subplots(figsize=(width, height))
    figure.subplots_adjust(0, 0, 1, 1)
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return figure, axes


def box(axes, x, y, width, height, colour, edge=QUIET, style="-"):
    shape = FancyBboxPatch(
        (x, y), width, height, boxstyle="round,pad=0,rounding_size=0.08",
        facecolor=colour, edgecolor=edge, linewidth=1, linestyle=style,
    )  # fmt: skip
    axes.add_patch(shape)


def words(axes, x, y, text, size=9, colour=INK, weight="normal", align="center"):
    axes.text(x, y, text, fontsize=size, color=colour, weight=weight, ha=align, va="center")


def arrow(axes, start, end, colour=INK, bend=0.0):
    style = f"arc3,rad={bend}"
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=11,
            color=colour,
            linewidth=1.3,
            connectionstyle=style,
            shrinkA=1,
            shrinkB=1,
        )
    )


def table(axes, x, y, width, rows, height=0.2, marked=()):
    """Rows of a table from the top down; those in `marked` in their colours."""
    for place, row in enumerate(rows):
        colour = ROWS[row] if row in marked else "#ffffff"
        corner = (x, y - (place + 1) * height)
        axes.add_patch(Rectangle(corner, width, height, facecolor=colour, edgecolor=QUIET, lw=0.8))


def idea():
    figure, axes = canvas(9.6, 3.7)
    box(axes, 0.15, 0.5, 2.3, 2.75, SERVER)
    words(axes, 1.3, 3.02, "server", 10, weight="bold")
    table(axes, 0.65, 2.8, 1.3, range(8), 0.22, range(8))
    words(axes, 1.3, 0.78, "items  [I, D]", 8.5, QUIET)

    box(axes, 4.3, 0.22, 5.15, 3.28, PAPER, INK, "--")
    words(axes, 6.87, 3.3, "one vmapped, compiled call", 9.5, weight="bold")
    for i, touched in enumerate([(0, 3, 6), (1, 3), (2, 4, 5, 7)]):
        low = 2.22 - i * 0.93
        box(axes, 4.45, low, 4.85, 0.85, CLIENT)
        words(axes, 4.6, low + 0.62, f"client {i}", 8.5, weight="bold", align="left")
        words(axes, 4.6, low + 0.25, "touched rows", 8, QUIET, align="left")
        height = 0.15
        top = low + 0.425 + len(touched) * height / 2
        table(axes, 5.75, top, 0.85, touched, height, touched)
        axes.add_patch(
            Rectangle((7.0, low + 0.33), 0.85, 0.17, facecolor=PRIVATE, edgecolor=QUIET, lw=0.8)
        )
        words(axes, 7.98, low + 0.42, "private, stays", 8, QUIET, align="left")
    arrow(axes, (2.5, 2.35), (4.25, 2.35))
    words(axes, 3.38, 2.75, "the rows that\na client touches", 8)
    arrow(axes, (4.25, 1.35), (2.5, 1.35))
    words(axes, 3.38, 0.93, "their change,\ncompressed,\nin counted bytes", 8)
    return figure


def round_picture():
    figure, axes = canvas(10.4, 5.5)

    def part(x, y, width, title, text, colour, height=0.92):
        box(axes, x, y, width, height, colour)
        words(axes, x + width / 2, y + height - 0.22, title, 9, weight="bold")
        words(axes, x + width / 2, y + (height - 0.3) / 2, text, 7.6)

    part(0.2, 4.35, 2.2, "cohort", "ids of the clients,\nby the round's key", SERVER)
    part(2.9, 4.35, 2.2, "sort by size", "clients of like length\nshare a chunk", SERVER)
    part(5.6, 4.35, 2.2, "State", "shared  private  memory\nserver  round", SERVER)
    part(8.1, 4.35, 2.1, "Now", "round, shared,\nclient, cohort", SERVER)
    arrow(axes, (2.42, 4.81), (2.88, 4.81))

    box(axes, 0.2, 1.5, 10.0, 2.45, PAPER, INK, "--")
    words(axes, 0.38, 3.74, "scan over chunks of c clients", 9, weight="bold", align="left")
    box(axes, 0.4, 1.68, 7.25, 1.86, PAPER, QUIET, "--")
    words(axes, 0.55, 3.36, "vmap over the clients of a chunk", 8.5, QUIET, align="left")
    y, height = 1.95, 1.12
    part(0.55, y, 1.3, "localize", "touched rows\nof each table", CLIENT, height)
    part(2.2, y, 1.5, "Client.update", "batches by number;\nown private state", CLIENT, height)
    part(4.05, y, 1.5, "Stage.send", "clip, noise,\nmask, attack", WIRE, height)
    part(5.9, y, 1.6, "Compressor", "encode: a Packet,\nbytes counted;\ndecode", WIRE, height)
    part(
        8.1,
        y,
        1.95,
        "Aggregator.reduce",
        "one summary\na chunk: added,\nor stacked",
        SERVER,
        height,
    )
    for start, end in ((1.87, 2.18), (3.72, 4.03), (5.57, 5.88), (7.52, 8.08)):
        arrow(axes, (start, y + height / 2), (end, y + height / 2))
    arrow(axes, (4.0, 4.33), (4.0, 3.97))
    arrow(axes, (6.7, 4.33), (6.7, 3.97))
    arrow(axes, (9.15, 4.33), (9.15, 3.97))

    part(7.9, 0.25, 2.3, "Aggregator.finish", "update and verdicts", SERVER)
    part(5.3, 0.25, 2.2, "receive", "decode where linear,\nthen what stages left", WIRE)
    part(2.7, 0.25, 2.2, "Server.apply", "a step, or optax", SERVER)
    part(0.2, 0.25, 2.1, "State, RoundInfo", "metrics, weights,\nbytes up and down", SERVER)
    arrow(axes, (9.07, 1.93), (9.07, 1.19))
    for start, end in ((7.88, 7.52), (5.28, 4.92), (2.68, 2.32)):
        arrow(axes, (start, 0.71), (end, 0.71))
    return figure


for name, figure in (("idea", idea()), ("round", round_picture())):
    figure.savefig(HERE / f"{name}.svg", facecolor=PAPER, metadata={"Date": None})
    print(HERE / f"{name}.svg")
