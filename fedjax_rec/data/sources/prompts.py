"""Prompts of federated few-shot recommendation: what a user liked and disliked, a title, yes or no.

    Liked: A; B; C          the last items before the target, by rating above `above`
    Disliked: D
    Would the user like E? Answer:                        label 1 where E was rated above `above`

(TALLRec, Bao et al., RecSys 2023, whose data are the last 10,000 ratings of MovieLens-100K, the
first 8 in 10 of them to learn from, then 1 to choose by and 1 to test on, in the order of time;
`shots` of those to learn from are drawn, there in all, here for each client.) Texts become tokens
once, on the host, and end where the answer would begin. Titles are short: without year and genres,
"Godfather, The" as "The Godfather".

`n` prompts, `T` most tokens of one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ... import check, weights
from ...check import at_least
from ..examples import Examples
from ..interactions import Interactions, offsets
from ..partition import by_hash
from ..splits import TEST, TRAIN, VALIDATION, Split
from .sources import load
from .text import titles

BRACKETS = re.compile(r"\s*\([^)]*\)")
ARTICLE = re.compile(r"^(.*), (The|A|An|La|Le|Les|Il|El|Das|Der|Die)$")
# Liked, disliked, target -> prompt. Each is a list of titles.
Words = Callable[[list[str], list[str], str], str]


def liked_and_disliked(liked: list[str], disliked: list[str], target: str) -> str:
    """The words of the prompts; a line that would be empty is left out."""
    lines = [f"Liked: {'; '.join(liked)}"] if liked else []
    lines += [f"Disliked: {'; '.join(disliked)}"] if disliked else []
    return "\n".join([*lines, f"Would the user like {target}? Answer:"])


def short_title(line: str) -> str:
    """ "The Godfather" for "Godfather, The (1972)"."""
    plain = BRACKETS.sub("", line).strip() or line
    return ARTICLE.sub(r"\2 \1", plain)


def yes_no_prompts(
    source: str | Interactions = "ml-100k",
    tokenizer: str | Path = "smollm2",
    shots: int = 64,
    clients: int = 4,
    history: int = 10,
    length: int = 96,
    latest: int = 10_000,
    held_out: int = 400,
    above: float = 3.0,
    seed: int = 0,
    words: Words = liked_and_disliked,
) -> Examples:
    """Prompts, each with a yes or a no: would the user like this, given what he liked and disliked?

    Args:
        source: what `load` takes, or interactions with ratings and titles.
        tokenizer: of these known weights, or of a folder.
        shots: prompts that each client learns from, drawn by `seed`.
        clients: groups that users fall into by a hash.
        history: most items that a prompt names; the oldest are left out until it has at most
            `length` tokens.
        length: T, most tokens of a prompt.
        latest: interactions that prompts may ask about.
        held_out: most of them for validation and for the test, the same ones for every seed.
        above: the rating that is no yes yet.
        seed: of the shots.
        words: words(liked, disliked, title) -> the text of a prompt.

    Returns:
        `Examples` with the fields `tokens` int32[n, T], padded behind with 0, `length` int32[n],
        their tokens, `prompt` int32[n], 0 to n - 1, and `labels`.

    Raises:
        ValueError: for data without ratings or titles, and for a client with fewer than `shots`
            interactions to learn from.

    Example:
        >>> found = data.yes_no_prompts(films, decoder_folder, shots=2, clients=2, length=64)
    """
    counts = {"shots": shots, "clients": clients, "held_out": held_out, "history": history}
    for name, value in counts.items():
        at_least("yes_no_prompts", name, value, 1)
    check.seed("yes_no_prompts", seed)
    found = load(source) if isinstance(source, str) else source
    lines, ratings = titles(found, genres=False), found.ratings
    if ratings is None or lines is None:
        raise ValueError(
            f"yes_no_prompts(source={found.name!r}) needs ratings and titles; use ml-100k or ml-1m."
        )
    made_by = by_hash(clients)(Split(found, np.zeros(len(found), np.int8)))
    of_user = made_by.client_of_user
    rows, part = asked(found, of_user, latest, shots, held_out, seed)
    said, start = [short_title(line) for line in lines], offsets(found)

    def text(row: int, named: int) -> str:
        before = range(max(start[found.users[row]], row - named), row)
        liked = [said[found.items[i]] for i in before if ratings[i] > above]
        disliked = [said[found.items[i]] for i in before if ratings[i] <= above]
        return words(liked, disliked, said[found.items[row]])

    tokens, sizes = encoded(tokenizer, text, rows, history, length)
    return Examples(
        name=f"{found.name} prompts",
        fields={
            "tokens": tokens,
            "length": sizes,
            "prompt": np.arange(len(rows), dtype=np.int32),
            "labels": (ratings[rows] > above).astype(np.float32),
        },
        client=of_user[found.users[rows]],
        part=part,
        num_clients=clients,
    )


def asked(
    found: Interactions, of_user: np.ndarray, latest: int, shots: int, held_out: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """(rows int[n] of `found` that prompts ask about, their parts int8[n]); first ones of a user,
    which have no history, are left out. of_user: the client of each user."""
    rows = np.argsort(found.times, kind="stable")[-latest:]
    rows = rows[rows > offsets(found)[found.users[rows]]]
    cuts = [int(0.8 * len(rows)), int(0.9 * len(rows))]
    train, validation, test = np.split(rows, cuts)
    fixed = np.random.default_rng(0)
    held = [fixed.permutation(x)[:held_out] for x in (validation, test)]
    draw, chosen = np.random.default_rng(seed), []
    for client in range(of_user.max() + 1):
        mine = train[of_user[found.users[train]] == client]
        if len(mine) < shots:
            raise ValueError(
                f"yes_no_prompts(shots={shots}): client {client} has {len(mine)} interactions to "
                "learn from; use fewer shots or clients, or more of the latest interactions."
            )
        chosen.append(draw.permutation(mine)[:shots])
    parts = {TRAIN: np.concatenate(chosen), VALIDATION: held[0], TEST: held[1]}
    part = np.concatenate([np.full(len(x), p, np.int8) for p, x in parts.items()])
    return np.concatenate(list(parts.values())), part


def encoded(
    tokenizer: str | Path,
    text: Callable[[int, int], str],
    rows: np.ndarray,
    history: int,
    most: int,
) -> tuple[np.ndarray, np.ndarray]:
    """(tokens int32[n, T], their number int32[n]) of text(row, items named), naming at most
    `history` items and so few that at most `most` tokens are used."""
    made = weights.tokenizer(weights.find(tokenizer))
    named = np.full(len(rows), history)
    ids: list[list[int]] = [[]] * len(rows)
    left = np.arange(len(rows))
    while len(left):
        texts = [text(int(rows[i]), int(named[i])) for i in left]
        for i, one in zip(left, weights.begun(made, texts), strict=True):
            ids[i] = one
        left = left[[len(ids[i]) > most for i in left]]
        if len(left) and not named[left].all():
            longest = max(len(ids[i]) for i in left)
            raise ValueError(
                f"yes_no_prompts(length={most}) has no room for a prompt that names no item; use "
                f"length >= {longest}."
            )
        named[left] -= 1
    sizes = np.array([len(x) for x in ids], np.int32)
    tokens = np.zeros((len(rows), sizes.max()), np.int32)
    for row, x in zip(tokens, ids, strict=True):
        row[: len(x)] = x
    return tokens, sizes
