"""Who touched what, when: the host record of a data set and the filters that make it ready for a
split.

An `Interactions` holds n rows (user, item, time, rating) in numpy, users and items as dense ids 0,
1, ..., sorted by (user, time, original order). The order of the dense ids follows the original ids
(as numbers where every id is one, else as text), so it does not depend on the order of the rows.
Everything here is pure: filters return a new record and never write into the old one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from .ids import dense_ids, names_like


@dataclass(frozen=True, repr=False)
class Interactions:
    """n interactions of users with items, sorted by (user, time, original order)."""

    name: str
    users: np.ndarray  # int32[n] in 0..num_users-1
    items: np.ndarray  # int32[n] in 0..num_items-1
    # float64[n], or int64[n] where those would lose order, in the unit of the source (seconds for
    # the official MovieLens files)
    times: np.ndarray
    ratings: np.ndarray | None  # float32[n]; None when implicit
    user_names: np.ndarray  # str[num_users]: original ids, position = dense id
    item_names: np.ndarray  # str[num_items]
    user_features: pl.DataFrame | None = (
        None  # row u describes user u; null where the source is silent
    )
    item_features: pl.DataFrame | None = None
    parts: np.ndarray | None = None  # int8[n] of a split that came with the data, see `as_given`

    def __repr__(self) -> str:
        return (
            f"Interactions({self.name!r}: {self.num_users} users, {self.num_items} items, "
            f"{len(self)} interactions)"
        )

    @property
    def num_users(self) -> int:
        """Users in the catalogue of users."""
        return len(self.user_names)

    @property
    def num_items(self) -> int:
        """Items in the catalogue."""
        return len(self.item_names)

    def __len__(self) -> int:
        """Interactions, n."""
        return len(self.users)


def from_arrays(
    name: str,
    users: Any,
    items: Any,
    *,
    times: Any = None,
    ratings: Any = None,
    user_features: Any = None,
    item_features: Any = None,
    parts: Any = None,
) -> Interactions:
    """Interactions from columns of equal length n, in any order and with any ids.

    Users and items without interactions are left out, those without features get nulls; `describe`
    says how many have some. What follows `items` is given by name, since files have ratings before
    times and text books times before ratings.

    Args:
        name: what tables and errors call the data.
        users: [n], integers or text, see `data.ids`.
        items: [n], likewise.
        times: [n], numbers or datetime64; None says that the rows come in time order.
        ratings: [n], numbers; None for implicit feedback.
        user_features: a frame of polars or pandas, or a dict of columns, with the original ids in a
            column `user_id`.
        item_features: likewise, with a column `item_id`.
        parts: [n], of a split that came with the data: 0 trains, 1 validates, 2 tests, 3 is known
            and not used; for `as_given`.

    Raises:
        ValueError: on unequal lengths, other parts, missing ids, times or ratings, no rows, an id
            described twice, or features that describe none of the ids.

    Example:
        >>> found = data.from_arrays("mine", ["ann", "ann", "bob"], [7, 9, 7], times=[1, 2, 1])
    """
    if len(users) == 0:
        raise ValueError(f"'{name}' has no interactions; give at least one.")
    times = np.arange(len(users)) if times is None else times
    columns = {"users": users, "items": items, "times": times}
    columns |= {} if ratings is None else {"ratings": ratings}
    columns |= {} if parts is None else {"parts": parts}
    lengths = {key: len(column) for key, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"'{name}' has columns of unequal length {lengths}; give one value a row.")
    user_ids, user_names = dense_ids(users, f"'{name}' users")
    item_ids, item_names = dense_ids(items, f"'{name}' items")
    times = _moments(times, f"'{name}' times")
    if ratings is not None:
        ratings = _finite(ratings, np.float32, f"'{name}' ratings")
    if parts is not None:
        parts = np.asarray(parts).astype(np.int8)
        if not np.isin(parts, np.arange(4, dtype=np.int8)).all():
            row = int(np.argmin(np.isin(parts, np.arange(4, dtype=np.int8))))
            raise ValueError(f"'{name}' parts[{row}] = {parts[row]} is no part; use 0, 1, 2 or 3.")
    step = np.diff(user_ids)
    if not np.all((step > 0) | ((step == 0) & (np.diff(times) >= 0))):
        # Ties keep the original order; four times as fast as np.lexsort.
        keys = pl.DataFrame({"user": user_ids, "time": times})
        order = keys.select(pl.arg_sort_by("user", "time", maintain_order=True)).to_series()
        order = order.to_numpy()
        user_ids, item_ids, times = user_ids[order], item_ids[order], times[order]
        ratings = None if ratings is None else ratings[order]
        parts = None if parts is None else parts[order]
    return Interactions(
        name,
        user_ids,
        item_ids,
        times,
        ratings,
        user_names,
        item_names,
        _align(_frame(user_features, "user_features"), "user_id", user_names),
        _align(_frame(item_features, "item_features"), "item_id", item_names),
        parts,
    )


def offsets(interactions: Interactions) -> np.ndarray:
    """int64[num_users + 1]: the rows of user u are offsets[u] to offsets[u + 1] (CSR)."""
    counts = np.bincount(interactions.users, minlength=interactions.num_users)
    return np.concatenate([[0], np.cumsum(counts)])


def with_features(interactions: Interactions, users: Any, items: Any) -> Interactions:
    """`interactions` with other features of users or items, None to keep those there are; frames as
    `from_arrays` takes them."""
    found = interactions
    if users is not None:
        held = _align(_frame(users, "user_features"), "user_id", found.user_names)
        found = replace(found, user_features=held)
    if items is not None:
        held = _align(_frame(items, "item_features"), "item_id", found.item_names)
        found = replace(found, item_features=held)
    return found


def select(interactions: Interactions, keep: np.ndarray) -> Interactions:
    """The rows where the mask bool[n] holds; ids renumbered over what is left, features kept."""
    if not keep.any():
        raise ValueError(f"no interaction of '{interactions.name}' is left; filter less.")
    seen_users = _occurring(interactions.users[keep], interactions.num_users)
    seen_items = _occurring(interactions.items[keep], interactions.num_items)
    users = (np.cumsum(seen_users, dtype=np.int32) - 1)[interactions.users[keep]]
    items = (np.cumsum(seen_items, dtype=np.int32) - 1)[interactions.items[keep]]
    return Interactions(
        interactions.name,
        users,
        items,
        interactions.times[keep],
        None if interactions.ratings is None else interactions.ratings[keep],
        interactions.user_names[seen_users],
        interactions.item_names[seen_items],
        _rows_of(interactions.user_features, seen_users),
        _rows_of(interactions.item_features, seen_items),
        None if interactions.parts is None else interactions.parts[keep],
    )


def k_core(interactions: Interactions, users: int = 5, items: int = 5) -> Interactions:
    """The largest part in which each user has >= `users` and each item >= `items` interactions.

    Users and items below their bound are dropped in turn until nothing changes (Seidman 1983, on
    the bipartite graph); the fixed point does not depend on the order. Repeated pairs count as
    often as they occur.

    Args:
        interactions: what is filtered.
        users: least interactions of a user, 0 for any.
        items: least interactions of an item, 0 for any.

    Raises:
        ValueError: for bounds below 0, and when nothing is left.

    Example:
        >>> dense = data.k_core(interactions, users=3, items=2)
    """
    if users < 0 or items < 0:
        raise ValueError(f"k_core(users={users}, items={items}) takes counts; use values >= 0.")
    rows = np.arange(len(interactions))
    while True:
        of_user = np.bincount(interactions.users[rows], minlength=interactions.num_users)
        of_item = np.bincount(interactions.items[rows], minlength=interactions.num_items)
        keep = (of_user >= users)[interactions.users[rows]] & (of_item >= items)[
            interactions.items[rows]
        ]
        if keep.all():
            break
        rows = rows[keep]
    if len(rows) == 0:
        raise ValueError(
            f"k_core(users={users}, items={items}) leaves nothing of '{interactions.name}'; use "
            "smaller bounds."
        )
    mask = np.zeros(len(interactions), bool)
    mask[rows] = True
    return select(interactions, mask)


def implicit(interactions: Interactions, above: float = 0.0) -> Interactions:
    """Implicit feedback: rows rated > `above` become 1 (ratings None), the rest is dropped.

    Data without ratings passes. Of a repeated (user, item) pair only the earliest row stays:
    implicit feedback is a set, and a second row of the same pair could put a training item into the
    test part.

    Args:
        interactions: what is filtered.
        above: the rating that does not count yet.

    Raises:
        ValueError: where no rating is above.

    Example:
        >>> liked = data.implicit(interactions, above=3.0)
    """
    keep = np.ones(len(interactions), bool)
    if interactions.ratings is not None:
        keep = interactions.ratings > above
        if not keep.any():
            raise ValueError(
                f"implicit(above={above}) leaves nothing of '{interactions.name}', whose "
                "highest rating is "
                f"{interactions.ratings.max():g}; use a smaller bound."
            )
    rows = np.flatnonzero(keep)
    keep = np.zeros(len(interactions), bool)
    keep[rows[_first_of_pairs(interactions, rows)]] = True
    return replace(interactions if keep.all() else select(interactions, keep), ratings=None)


def latest_of_pairs(interactions: Interactions) -> Interactions:
    """Of a repeated (user, item) pair the latest row alone: a rating that was changed counts as it
    is now, and no pair is both in the training and in the test part.

    Args:
        interactions: what is filtered.

    Example:
        >>> final = data.latest_of_pairs(interactions)
    """
    rows = np.arange(len(interactions))[::-1]
    keep = np.zeros(len(interactions), bool)
    keep[rows[_first_of_pairs(interactions, rows)]] = True
    return interactions if keep.all() else select(interactions, keep)


def _first_of_pairs(interactions: Interactions, rows: np.ndarray) -> np.ndarray:
    """Places in `rows` of the first row of each pair."""
    users, items = interactions.users[rows].astype(np.int64), interactions.items[rows]
    return np.unique(users * interactions.num_items + items, return_index=True)[1]


def describe(interactions: Interactions) -> dict[str, Any]:
    """Sizes, density (distinct rows / users * items), interactions a user, time range, kind of
    ratings, features.

    Args:
        interactions: what is described.

    Returns:
        Plain numbers and texts by name, ready for JSON.

    Example:
        >>> told = data.describe(interactions)
    """
    counts = np.bincount(interactions.users, minlength=interactions.num_users)
    n, cells = len(interactions), interactions.num_users * interactions.num_items
    kind = "implicit"
    if interactions.ratings is not None:
        values = np.unique(interactions.ratings)
        kind = f"explicit, {values[0]:g} to {values[-1]:g} ({len(values)} values)"
    features = (interactions.user_features, interactions.item_features)
    return {
        "name": interactions.name,
        "users": interactions.num_users,
        "items": interactions.num_items,
        "interactions": n,
        "density": n / cells,
        "per_user_min": int(counts.min()),
        "per_user_median": float(np.median(counts)),
        "per_user_max": int(counts.max()),
        "time_first": float(interactions.times.min()),
        "time_last": float(interactions.times.max()),
        "ratings": kind,
        "user_features": [] if features[0] is None else features[0].columns,
        "item_features": [] if features[1] is None else features[1].columns,
        "users_described": _described(features[0]),
        "items_described": _described(features[1]),
    }


def _described(features: pl.DataFrame | None) -> int:
    """Rows of which something is known."""
    if features is None or not features.columns:
        return 0
    return int(features.select(pl.any_horizontal(pl.all().is_not_null()).sum()).item())


def _moments(values: Any, what: str) -> np.ndarray:
    """float64[n], or int64[n] of integers that float64 cannot tell apart, as nanoseconds are."""
    array = np.asarray(values)
    if array.dtype.kind == "M":
        if np.isnat(array).any():
            raise ValueError(f"{what}[{np.isnat(array).argmax()}] is missing; fix or drop the row.")
        array = array.astype(np.int64)
    if array.dtype.kind in "iu" and (array.min() < -(2**53) or array.max() > 2**53):
        if array.max() >= 2**63:
            raise ValueError(f"{what} reach {array.max()}; use a coarser unit.")
        return array.astype(np.int64)
    try:
        return _finite(array, np.float64, what)
    except (TypeError, ValueError) as error:
        if "is not a finite number" in str(error):
            raise
        raise ValueError(
            f"{what}[0] = '{array[0]}' is no number; give seconds, or numpy.datetime64."
        ) from None


def _finite(values: Any, dtype: type, what: str) -> np.ndarray:
    array = np.asarray(values, dtype)
    if not np.isfinite(array).all():
        row = int(np.argmin(np.isfinite(array)))
        raise ValueError(
            f"{what}[{row}] = {array[row]} is not a finite number; fix or drop the row."
        )
    return array


def _occurring(ids: np.ndarray, size: int) -> np.ndarray:
    seen = np.zeros(size, bool)
    seen[ids] = True
    return seen


def _rows_of(features: pl.DataFrame | None, keep: np.ndarray) -> pl.DataFrame | None:
    return None if features is None else features.filter(pl.Series(keep))


def _frame(features: Any, name: str) -> pl.DataFrame | None:
    """`features` as a frame of polars, from one or a dict of columns."""
    if features is None or isinstance(features, pl.DataFrame):
        return features
    columns = features.keys() if isinstance(features, Mapping) else getattr(features, "columns", ())
    if not len(columns):
        raise ValueError(
            f"{name}={type(features).__name__} is no frame of features; give one of polars or "
            "pandas, or a dict of columns."
        )
    held = {str(name): [_known(x) for x in features[name]] for name in columns}
    return pl.DataFrame(held, strict=False)


def _known(x: Any) -> Any:
    """`x`, or None for NaN and the NA of pandas, which is neither itself nor another."""
    return None if type(x).__name__ == "NAType" or (isinstance(x, float) and x != x) else x


def _align(features: pl.DataFrame | None, key: str, names: np.ndarray) -> pl.DataFrame | None:
    """Features in the order of `names`, the id column dropped."""
    if features is None:
        return None
    if key not in features.columns:
        raise ValueError(
            f"features have no column '{key}' but {features.columns}; name the id column '{key}'."
        )
    features = features.with_columns(names_like(features[key], names).alias(key))
    twice = features[key].filter(features[key].is_duplicated())
    if len(twice):
        raise ValueError(f"features describe {key} '{twice[0]}' twice; keep one row for each id.")
    if len(features) and not features[key].is_in(names.tolist()).any():
        raise ValueError(
            f"features describe {key} '{features[key][0]}' and others, but none of the "
            f"{len(names)} that interact, such as '{names[0]}'; write ids alike in both."
        )
    order = pl.DataFrame({key: names.tolist()}, schema={key: pl.String})
    return order.join(features, on=key, how="left", maintain_order="left").drop(key)
