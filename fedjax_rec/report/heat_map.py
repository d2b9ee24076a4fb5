"""Heat maps: a number of each pair as a colour, and written in its cell.

Colours go from white to one dark hue, so that they are in the same order in grey, on paper and to
colour-blind readers; the ground is white in a dark page, too. A pair without a number is hatched
and says why, in a word.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle

CELL = (0.72, 0.36)  # inches of a cell, across and up
BESIDE = 6  # columns up to which panels stand side by side


@dataclass(frozen=True)
class Panel:
    """One map. values: float[R, C], NaN for none, of which `words` [R][C] then say why. colours: a
    map of matplotlib that begins white. top: the number of the darkest; what is above is as dark,
    and what is below 0 white."""

    title: str
    values: np.ndarray
    words: Sequence[Sequence[str]]
    colours: str = "Blues"
    top: float = 1.0


def heat_map(
    panels: Sequence[Panel], rows: Sequence[str], columns: Sequence[str], across: str, up: str
) -> Figure:
    """The figure of some panels with the same rows and columns.

    Args:
        panels: one map each, side by side where columns are few, else one below the other.
        rows: R names.
        columns: C names.
        across: what the columns are.
        up: what the rows are.
    """
    width = CELL[0] * len(columns) + 0.09 * max(map(len, rows)) + 1.5
    height = CELL[1] * len(rows) + 0.065 * max(map(len, columns)) + 1.0
    beside = len(panels) if len(columns) <= BESIDE else 1
    lines = -(-len(panels) // beside)
    figure = Figure(
        figsize=(max(width, 4.5) * beside, height * lines), layout=ConstrainedLayoutEngine()
    )
    axes = figure.subplots(lines, beside, squeeze=False).ravel()
    for ax in axes[len(panels) :]:
        ax.set_visible(False)
    for ax, panel in zip(axes, panels, strict=False):
        _drawn(figure, ax, panel)
        ax.set_xticks(range(len(columns)), columns, rotation=35, ha="right", fontsize=9)
        ax.set_yticks(range(len(rows)), rows, fontsize=9)
        ax.set_xlabel(across, fontsize=10)
        ax.set_ylabel(up, fontsize=10)
    return figure


def _drawn(figure: Figure, ax: Axes, panel: Panel) -> None:
    colours, scale = colormaps[panel.colours], Normalize(0.0, panel.top, clip=True)
    image = ax.imshow(np.ma.masked_invalid(panel.values), cmap=colours, norm=scale, aspect="auto")
    for i, j in np.ndindex(*panel.values.shape):
        value = float(panel.values[i, j])
        if np.isnan(value):
            corner = (j - 0.5, i - 0.5)
            ax.add_patch(Rectangle(corner, 1, 1, fill=False, hatch="///", edgecolor="#BBBBBB"))
            said, ink = str(panel.words[i][j]), "black"
        else:
            red, green, blue, _ = colours(float(scale(value)))
            light = 0.2126 * red + 0.7152 * green + 0.0722 * blue
            said, ink = f"{value:.3f}".replace("-", "\u2212"), "black" if light > 0.5 else "white"
        ax.text(j, i, said, ha="center", va="center", color=ink, fontsize=8.5)
    ax.set_xticks(np.arange(panel.values.shape[1] + 1) - 0.5, minor=True)
    ax.set_yticks(np.arange(panel.values.shape[0] + 1) - 0.5, minor=True)
    ax.grid(which="minor", color="white", linewidth=1.5)
    ax.tick_params(which="both", length=0)
    ax.spines[:].set_visible(False)
    ax.set_title(panel.title, fontsize=11)
    bar = figure.colorbar(image, ax=ax, fraction=0.04, pad=0.02)
    bar.outline.set_visible(False)  # type: ignore[union-attr]
    bar.ax.tick_params(labelsize=8, length=2)
