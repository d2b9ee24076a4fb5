"""The interactions behind yes/no prompts, without words: user, item, and whether it was liked.

    train  =  all, but what prompts are held out to choose by and to test on, what comes later than
              anything that prompts learn from, and, where it is asked for, that itself

A factorization of these pairs has what prompts do not say, the taste of others, and has seen no
answer that prompts are asked for. Vectors that know the answers to the prompts that a model learns
from, and none of the tests', are believed more than they deserve: leaving these out as well
(`shots`) makes both alike.

`n` interactions, `U` users, `I` items, `N` clients.
"""

from __future__ import annotations

import numpy as np

from ... import check
from ...check import at_least
from ..examples import Examples
from ..interactions import Interactions
from ..partition import by_hash, by_user, members_of
from ..splits import TRAIN, Split
from .asked import Asking, in_parts, last_of_users, shots_of
from .sources import load


def liked_pairs(
    source: str | Interactions = "ml-100k",
    asking: Asking | None = None,
    above: float = 3.0,
    clients: int | None = None,
    shots: int | None = None,
    groups: int = 4,
    seed: int = 0,
) -> Examples:
    """(user, item, liked) of all that comes before what `yes_no_prompts` hold out.

    Args:
        source: what `load` takes, or interactions with ratings, and times where `asking` reads
            them.
        asking: that of the prompts; default `last_of_users()`.
        above: the rating that is no like yet.
        clients: N, groups that users fall into by a hash; None where each user is a client.
        shots: prompts that each of `groups` groups learns from, which are left out; None leaves
            none out.
        groups: `clients` of the prompts.
        seed: of the prompts' shots.

    Returns:
        `Examples` with the fields `items` int32[n], rows of a table of `I`, `user` int32[n], 0 to
        U - 1, and `labels`. With `clients` also `users` int32[n], the number of a user in its
        client. The validation and test parts are those of the prompts.

    Raises:
        ValueError: for data without ratings, and as `yes_no_prompts`.

    Example:
        >>> pairs = data.liked_pairs(films)
        >>> strategy = strategies.fedmf(models.fedmf(films.num_items), data.examples())
    """
    for name, value in {"clients": clients, "shots": shots, "groups": groups}.items():
        if value is not None:
            at_least("liked_pairs", name, value, 1)
    check.seed("liked_pairs", seed)
    found = load(source) if isinstance(source, str) else source
    if found.ratings is None:
        raise ValueError(f"liked_pairs(source={found.name!r}) needs ratings; use ml-100k or ml-1m.")
    asked = (asking or last_of_users())(found)
    split = Split(found, np.full(len(found), TRAIN))
    train = np.ones(len(found), bool)
    if found.times is not None and len(asked.train):
        train = found.times <= found.times[asked.train].max()
    pair = found.users.astype(np.int64) * found.num_items + found.items
    train &= ~np.isin(pair, pair[np.concatenate([asked.validation, asked.test])])
    if shots is not None:
        group = by_hash(groups)(split).client_of_user[found.users[asked.train]]
        train[shots_of(asked.train, group, shots, seed)] = False
    rows, part = in_parts(np.flatnonzero(train), asked)
    held = (by_user() if clients is None else by_hash(clients))(split)
    fields = {
        "items": found.items[rows].astype(np.int32),
        "user": found.users[rows].astype(np.int32),
        "labels": (found.ratings[rows] > above).astype(np.float32),
    }
    if clients is not None:
        fields["users"] = members_of(held)[0][found.users[rows]]
    return Examples(
        name=f"{found.name} likes",
        fields=fields,
        client=held.client_of_user[found.users[rows]],
        part=part,
        num_rows=found.num_items,
        num_clients=held.num_clients,
    )
