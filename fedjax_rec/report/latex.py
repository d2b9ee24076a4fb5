"""Tables for LaTeX."""

from collections.abc import Iterable, Sequence

SPECIAL = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    **{x: "\\" + x for x in "&%$#_{}"}, "±": r"$\pm$", "≥": r"$\geq$", "≤": r"$\leq$",
}  # fmt: skip


def tabular(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A LaTeX `tabular` with rules of booktabs."""
    lines = [" & ".join(map(_escaped, line)) + r" \\" for line in [header, *rows]]
    head, *body = lines
    columns = "l" + "r" * (len(header) - 1)
    rules = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule"]
    return "\n".join([*rules, *body, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _escaped(cell: str) -> str:
    return "".join(SPECIAL.get(letter, letter) for letter in str(cell))
