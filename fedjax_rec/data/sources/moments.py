"""Times as files write them: numbers of some unit, or dates of many forms, to float64.

Numbers stay in the unit of the source. Dates become seconds since 1970 in UTC; one with an offset
is brought to UTC, one without is taken for UTC. Which unit numbers are of is judged by their
median, to know what cannot be: a time before 1970, or after 2100.
"""

from __future__ import annotations

import numpy as np
import polars as pl

# The first that reads all of a sample is taken; pairs that read the same text in two ways are in
# AMBIGUOUS.
_CLOCKS = (" %H:%M:%S%.f", "T%H:%M:%S%.f", " %H:%M", "T%H:%M", ", %H:%M:%S", " %I:%M:%S %p",
           " %I:%M %p", "")  # fmt: skip
_DAYS = ("%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d", "%Y%m%d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y",
         "%d-%m-%Y", "%m-%d-%Y", "%m %d, %Y", "%B %d, %Y", "%b %d, %Y", "%d %b %Y", "%d-%b-%Y",
         "%d %B %Y")  # fmt: skip
_ZONED = (
    "%Y-%m-%dT%H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f%#z", "%Y-%m-%d %H:%M:%S%.f %#z",
    "%a %b %d %H:%M:%S %z %Y", "%a, %d %b %Y %H:%M:%S %z",
)  # fmt: skip
_AMBIGUOUS = {"%d/%m/%Y": "%m/%d/%Y", "%d-%m-%Y": "%m-%d-%Y"}
UNITS = (("seconds", 1e11, 1.0), ("milliseconds", 1e14, 1e3), ("microseconds", 1e17, 1e6),
         ("nanoseconds", np.inf, 1e9))  # fmt: skip
END = 4_102_444_800  # 2100 in seconds


def unit_of(times: np.ndarray) -> tuple[str, float]:
    """The unit of `times` and how many of it are a second, by the median of some; ("numbers", 0.0)
    where they are too small for moments since 1973, such as positions."""
    some = times[:: max(1, len(times) // 10_000)]
    finite = some[np.isfinite(some)]
    middle = float(np.median(finite)) if len(finite) else 0.0
    if middle < 1e8:
        return "numbers", 0.0
    return next((name, scale) for name, below, scale in UNITS if middle < below)


def absurd(times: np.ndarray) -> np.ndarray:
    """bool[n]: before 1970 (below 0), or after 2100 in the unit that most are of."""
    _, scale = unit_of(times)
    return (times < 0) | ((times > END * scale) if scale else np.zeros(len(times), bool))


def seconds_of(text: str, what: str) -> float:
    """The moment that a date such as 2004-01-31 or a number says. Raises ValueError."""
    found, _ = parsed(pl.Series([text]), None, what)
    if found.null_count():
        raise ValueError(f"{what}={text!r} is no date; write 2004-01-31, or a number of the data.")
    return float(found[0])


def parsed(values: pl.Series, form: str | None, what: str) -> tuple[pl.Series, str]:
    """Float64 with null where a value is no time, and what it was read as: "" for numbers, else
    the form of dates.

    Args:
        values: numbers, dates, or text of either.
        form: as in `strptime`, e.g. "%d/%m/%Y"; None to judge by the values.
        what: the column, for messages.

    Raises:
        ValueError: for dates that could be of two forms, such as 03/04/2010 alone.
    """
    if values.dtype in (pl.Date, pl.Datetime):
        moments = values.cast(pl.Datetime("us"))
        return _seconds(moments), "dates"
    if values.dtype.is_numeric() and form is None:
        return values.cast(pl.Float64).fill_nan(None), ""
    if values.dtype == pl.Duration:
        return values.dt.total_microseconds().cast(pl.Float64) / 1e6, "seconds"
    text = values.cast(pl.String).str.strip_chars(" ")
    if form is not None:
        return _dates(text, form), form
    numbers = text.cast(pl.Float64, strict=False)
    if numbers.null_count() - text.null_count() <= len(text) // 2:
        return numbers.fill_nan(None), ""
    text = text.str.strip_chars()
    sample = text.drop_nulls().head(200)
    best, most = "", 0
    for one in (*_ZONED, *(day + clock for day in _DAYS for clock in _CLOCKS)):
        count = len(sample) - _dates(sample, one).null_count()
        if count > most:
            best, most = one, count
        if most == len(sample):
            break
    if 2 * most <= len(sample):
        return pl.Series([None] * len(text), dtype=pl.Float64), ""
    for day, other in _AMBIGUOUS.items():
        if best.startswith(day):
            turned = other + best.removeprefix(day)
            mine, theirs = _dates(text, best), _dates(text, turned)
            if theirs.null_count() < mine.null_count():
                return theirs, turned
            if theirs.null_count() == mine.null_count() and not mine.equals(theirs):
                raise ValueError(
                    f"{what} '{text[0]}' may be {best} or {turned}; say which, time_format="
                    f"'{best}'."
                )
    return _dates(text, best), best


def _dates(text: pl.Series, form: str) -> pl.Series:
    zoned = "%z" in form or "%#z" in form
    kind = pl.Datetime("us", "UTC") if zoned else pl.Datetime("us")
    if not any(x in form for x in ("%H", "%I")):
        return _seconds(text.str.to_date(form, strict=False).cast(pl.Datetime("us")))
    return _seconds(text.str.strptime(kind, form, strict=False))


def _seconds(moments: pl.Series) -> pl.Series:
    return moments.dt.timestamp("us").cast(pl.Float64) / 1e6
