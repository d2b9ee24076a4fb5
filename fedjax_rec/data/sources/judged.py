"""What of a table is an interaction, and what is wrong with each row that is none.

judged(table, asked) -> Judged, whose `values` are users, items, ratings, times and parts, and
whose `complaints` say of each kind which rows and why.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl

from ..ids import MISSING
from ..interactions import Interactions, from_arrays
from ..splits import TEST, TRAIN, UNUSED, VALIDATION
from .columns import ROLES, taken
from .frames import Table
from .moments import absurd, parsed, unit_of
from .rows_of_lists import PART, item_list, unrolled

PARTS = {
    "train": TRAIN, "training": TRAIN, "0": TRAIN, "valid": VALIDATION, "validation": VALIDATION,
    "val": VALIDATION, "dev": VALIDATION, "1": VALIDATION, "test": TEST, "testing": TEST,
    "2": TEST, "unused": UNUSED, "3": UNUSED,
}  # fmt: skip


@dataclass(frozen=True)
class Judged:
    """table: without its rows. values: `user` and `item` as they are, `rating` and `time` as
    Float64, `split` as Int8, null where wrong. columns: role -> column. guessed: roles. form: what
    times are written as, or their unit. complaints: (what of, bool[n], what a row says) of each
    kind that occurs."""

    table: Table
    values: pl.DataFrame
    columns: Mapping[str, str]
    guessed: list[str]
    form: str
    complaints: list[tuple[str, np.ndarray, Callable[[int], str]]] = field(default_factory=list)

    @property
    def bad(self) -> np.ndarray:
        """bool[n]: rows that are no interaction."""
        found = np.zeros(self.values.height, bool)
        for _, rows, _ in self.complaints:
            found |= rows
        return found

    def first(self) -> str | None:
        """The first bad row in one line, with its place; None where there is none."""
        firsts = [(int(rows.argmax()), say) for _, rows, say in self.complaints]
        if not firsts:
            return None
        row, say = min(firsts, key=lambda one: one[0])
        return f"{self.table.where(row)}: {say(row)}"

    def told(self) -> str:
        """Which columns were taken for what."""
        pairs = [
            f"{role}={self.columns[role]}" for role in (*ROLES, "split") if role in self.columns
        ]
        if self.form and "time" in self.columns:
            at = next(i for i, pair in enumerate(pairs) if pair.startswith("time="))
            pairs[at] += f" ({self.form})"
        rest = [c for c in self.table.frame.columns if c not in self.columns.values()]
        rest = [c for c in rest if c != PART]
        shown = ", ".join(rest[:6]) + (f" and {len(rest) - 6} more" if len(rest) > 6 else "")
        ignored = f"; not read: {shown}" if rest else ""
        header = "" if self.table.headed else "no header, by their places: "
        return f"{header}{', '.join(pairs)}{ignored}"

    def interactions(self, features: tuple[Any, Any] = (None, None)) -> Interactions:
        """The rows that are interactions. Raises ValueError where none is."""
        bad = self.bad
        values = self.values.filter(pl.Series(~bad)) if bad.any() else self.values
        if not values.height:
            first = self.first()
            raise ValueError(
                f"{self.table.name} has no interactions; give at least one."
                if first is None
                else f"{first} No row of {self.table.name} is an interaction."
            )
        take = lambda name: values[name].to_numpy() if name in values.columns else None
        return from_arrays(
            self.table.name, values["user"], values["item"], times=take("time"),
            ratings=take("rating"), user_features=features[0], item_features=features[1],
            parts=take("split"),
        )  # fmt: skip


def judged(
    table: Table,
    asked: Mapping[str, Any],
    form: str | None = None,
    parts: np.ndarray | None = None,
) -> Judged:
    """What the rows of a table say.

    Args:
        table: of one row an interaction, or of one a sequence.
        asked: role -> column, see `columns.taken`.
        form: of dates, as in strptime.
        parts: which part of a split each row is of, where files say it.
    """
    what = table.source
    columns, guessed = _columns(table, asked, what)
    if PART in table.frame.columns:
        parts = None if parts is None else table.frame[PART].to_numpy()
    frame, kept, complaints = table.frame, {}, []
    for role, column in columns.items():
        kind = frame[column].dtype
        if kind.is_nested() or kind in (pl.Object, pl.Time):
            raise ValueError(
                f"{what}: column '{column}', taken for {role}, holds {kind}; give a number or a "
                f"text in each row, or name another, {role}=NAME."
            )
    for role in ("user", "item"):
        values = kept[role] = frame[columns[role]]
        gone = values.is_null() | (values.is_nan() if values.dtype.is_float() else False)
        if values.dtype == pl.String:
            gone |= values.is_in(MISSING).fill_null(False)
        _complain(
            complaints, role, gone,
            lambda row, role=role, v=values: f"{_cell(role, columns, v, row)} is no id"
            "; fix or remove the line, or drop all such with drop=True.",
        )  # fmt: skip
    if "rating" in columns:
        source = frame[columns["rating"]]
        values = source.cast(pl.Float64, strict=False)
        if source.dtype == pl.String and values.null_count():
            values = source.str.strip_chars().cast(pl.Float64, strict=False)
        kept["rating"] = values
        _complain(
            complaints, "rating", ~values.is_finite().fill_null(False),
            lambda row, v=source: f"{_cell('rating', columns, v, row)} is no number; fix or remove "
            "the line, or drop all such with drop=True.",
        )  # fmt: skip
    read_as = ""
    if "time" in columns:
        source = frame[columns["time"]]
        values, read_as = parsed(source, form, f"{what}: {columns['time']}")
        kept["time"], wrong = values, ~values.is_finite().fill_null(False)
        kind = "date " + read_as if read_as not in ("", "dates") else "number or date"
        _complain(
            complaints, "time", wrong,
            lambda row, v=source: f"{_cell('time', columns, v, row)} is no {kind}; fix or remove "
            "the line, or say the form of all, time_format='%d.%m.%Y'.",
        )  # fmt: skip
        numbers = values.to_numpy()
        odd = absurd(numbers) & ~wrong.to_numpy()
        read_as = read_as or unit_of(numbers)[0]
        _complain(
            complaints, "time", pl.Series(odd),
            lambda row, v=source: f"{_cell('time', columns, v, row)} is before 1970 or after "
            f"2100 (most are {read_as}); fix or remove the line, or drop all such with drop=True.",
        )  # fmt: skip
    if "split" in columns:
        source = frame[columns["split"]].cast(pl.String)
        plain = source.str.strip_chars().str.to_lowercase()
        values = plain.replace_strict(PARTS, default=None, return_dtype=pl.Int8)
        kept["split"] = values
        _complain(
            complaints, "split", values.is_null(),
            lambda row, v=source: f"{_cell('split', columns, v, row)} is no part; write train, "
            "valid, test or unused.",
        )  # fmt: skip
    elif parts is not None:
        kept["split"] = pl.Series(parts)
    values = pl.DataFrame([series.alias(role) for role, series in kept.items()])
    table = replace(table, frame=frame.clear())  # its texts are more memory than all that is kept
    return Judged(table, values, columns, guessed, read_as, complaints)


def whole(found: Judged, drop: bool, say: Callable[[str], Any] | None, place: str) -> None:
    """Raises ValueError for the first row of `place` that is no interaction; with `drop` says how
    many there are."""
    first = found.first()
    if first is not None and not drop:
        raise ValueError(first)
    if first is not None and say is not None:
        count = int(found.bad.sum())
        say(f"{place}: {count:,} of {len(found.bad):,} rows dropped; the first: {first}")


def rolled_out(table: Table, asked: Mapping[str, Any], parts: np.ndarray | None = None) -> Table:
    """`table` with one row an interaction, where it has one a sequence; parts: see `unrolled`."""
    lists = item_list(table, asked.get("item"))
    if lists is None:
        return table
    rest = [c for c in table.frame.columns if c != lists]
    named = {"user": asked.get("user"), "item": "item"}
    user = taken([*rest, "item"], named, table.source)[0]["user"]
    target = next((c for c in ("item_id", "item", lists.removesuffix("_list")) if c in rest), None)
    return unrolled(table, user, lists, target, parts)


def _columns(table: Table, asked: Mapping[str, Any], what: str):
    if PART in table.frame.columns:  # which were named by `unrolled`
        return {c: c for c in table.frame.columns if c in ROLES}, []
    return taken([c for c in table.frame.columns], asked, what)


def _complain(complaints: list, role: str, rows: pl.Series, say: Callable[[int], str]) -> None:
    if rows.any():
        complaints.append((role, rows.to_numpy(), say))


def _cell(role: str, columns: Mapping[str, str], values: pl.Series, row: int) -> str:
    shown = "(empty)" if values[row] is None else f"'{values[row]}'"
    name = columns[role]
    return f"{role} {shown}" if name == role else f"{role} {shown} (column {name})"
