"""Which column of a table says who, what, how much and when, by the names that are usual.

A name is compared in lower case without what is no letter or digit, so `user_id`, `userId` and
`User-ID` are one. Names are tried in the
order below, so of `user_id` and `user_name` the id is taken.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from ...check import nearest

USUAL = {
    "user": (
        "userid", "uid", "user", "users", "reviewerid", "customerid", "visitorid", "memberid",
        "accountid", "clientid", "playerid", "personid", "u", "username", "reviewer", "customer",
        "sessionid", "session",
    ),
    "item": (
        "itemid", "iid", "item", "items", "movieid", "asin", "parentasin", "productid", "bookid",
        "isbn", "businessid", "artistid", "songid", "trackid", "gameid", "appid", "newsid",
        "articleid", "videoid", "venueid", "locationid", "poiid", "animeid", "recipeid", "postid",
        "movie", "product", "book", "business", "artist", "song", "track", "game", "news",
        "article", "video", "venue", "location", "i",
    ),
    "rating": (
        "rating", "ratings", "stars", "star", "score", "overall", "bookrating", "reviewrating",
        "starrating", "grade", "vote", "preference", "r",
    ),
    "time": (
        "timestamp", "time", "unixreviewtime", "unixtime", "ts", "datetime", "date", "createdat",
        "reviewtime", "eventtime", "timestamps", "watchedat", "submitdate", "t",
    ),
}  # fmt: skip
ROLES = tuple(USUAL)


def taken(
    columns: Sequence[str], asked: Mapping[str, Any], where: str
) -> tuple[dict[str, str], list[str]]:
    """Role -> column, of those there are, and the roles that were guessed.

    Args:
        columns: of the table, in order.
        asked: role -> a name, a position from 0, "" for none, or None to guess. Roles are those of
            `USUAL` and `split`, which is never guessed.
        where: the file, for messages.

    Raises:
        ValueError: for a column that is not there, one that has two roles, and no user or item.
    """
    found: dict[str, str] = {}
    for role, wanted in asked.items():
        if wanted is not None and wanted != "":
            found[role] = _asked(columns, wanted, role, where)
    guessed = []
    plain = {_plain(c): c for c in reversed(columns) if c not in found.values()}
    for role, usual in USUAL.items():
        if role in found or asked.get(role) == "":
            continue
        name = next((plain[u] for u in usual if u in plain), None)
        if name is not None:
            found[role] = name
            guessed.append(role)
    for role in ("user", "item"):
        if role not in found:
            raise ValueError(
                f"{where} has no column that is called as {role}s usually are, but "
                f"{', '.join(map(str, columns)) or 'none at all'}; say which it is, {role}=NAME."
            )
    columns_twice = [c for c in found.values() if list(found.values()).count(c) > 1]
    if columns_twice:
        roles = [role for role, c in found.items() if c == columns_twice[0]]
        raise ValueError(
            f"{where}: column '{columns_twice[0]}' is taken for {' and '.join(roles)}; name "
            "another for one of them."
        )
    return found, guessed


def by_position(width: int, late: bool, where: str) -> list[str]:
    """Names of the columns of a table without a header: user, item, rating, time.

    late: whether a third column of three is a time and no rating.
    """
    names = ["user", "item", "time" if late and width == 3 else "rating", "time"]
    if width < 2:
        raise ValueError(
            f"{where} has one column; give one with users and items, or its separator, separator=."
        )
    return [*names[:width], *(f"column {i}" for i in range(4, width))]


def is_usual(name: str) -> bool:
    """Whether a column may be called `name` by somebody who names columns."""
    return any(_plain(name) in usual for usual in USUAL.values())


def _asked(columns: Sequence[str], wanted: Any, role: str, where: str) -> str:
    if wanted in columns:
        return wanted
    if isinstance(wanted, int) or (isinstance(wanted, str) and wanted.isdigit()):
        if 0 <= int(wanted) < len(columns):
            return columns[int(wanted)]
        raise ValueError(
            f"{where} has {len(columns)} columns, and {role}={wanted} is beyond; the first is 0."
        )
    raise ValueError(
        f"{where} has no column {role}={wanted!r}{nearest(str(wanted), map(str, columns))}; "
        f"it has {', '.join(map(str, columns))}."
    )


def _plain(name: Any) -> str:
    return re.sub(r"[^a-z0-9]", "", str(name).lower())
