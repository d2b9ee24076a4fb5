"""Parts of a page in HTML: tables that `page.js` sorts and filters, prose, a drawing in a cell.

What takes `cells` takes HTML; all else is text, and is escaped here.
"""

from collections.abc import Sequence
from html import escape

import numpy as np


def table(anchor: str, columns: Sequence[str], rows: Sequence[str]) -> str:
    header = "".join(
        f'<th scope="col"><button type="button">{escape(column)}</button></th>'
        for column in columns
    )
    return "\n".join([
        f'<input type="search" data-for="{anchor}" placeholder="filter rows" '
        'aria-label="filter rows">',
        f'<div class="wide"><table id="{anchor}">', f"<thead><tr>{header}</tr></thead>", "<tbody>",
        *rows, "</tbody></table></div>",
    ])  # fmt: skip


def row(cells: Sequence[str], kind: str = "") -> str:
    """cells: HTML."""
    is_number = lambda cell: cell[:1].isdigit() or cell == "n/a"
    told = "".join(
        f'<td class="number">{cell}</td>' if is_number(cell) else f"<td>{cell}</td>"
        for cell in cells
    )
    return f'<tr class="{kind}">{told}</tr>' if kind else f"<tr>{told}</tr>"


def link(anchor: str, text: str) -> str:
    return f'<a href="#{anchor}">{escape(text)}</a>'


def prose(line: str) -> str:
    """Prose with `names` in it, as HTML."""
    parts = line.split("`")
    return "".join(
        f"<code>{escape(part)}</code>" if place % 2 else escape(part)
        for place, part in enumerate(parts)
    )


def bar(levels: Sequence[float], top: float) -> str:
    """A drawing of five quantiles on an axis from 0 to the largest of its metric."""
    if not top or not np.isfinite(levels).all():
        return ""
    low, left, middle, right, high = (100 * max(level, 0.0) / top for level in levels)
    part = lambda x, y, wide, tall, kind: (
        f'<rect class="{kind}" x="{x:.1f}" y="{y}" width="{wide:.1f}" height="{tall}"/>'
    )
    return (
        '<svg class="spread" viewBox="-1 0 102 10" preserveAspectRatio="none" aria-hidden="true">'
        + part(low, 4, high - low, 2, "far")
        + part(left, 2, right - left, 6, "near")
        + part(middle - 0.5, 1, 1, 8, "middle")
        + "</svg>"
    )
