"""Prompts of federated recommendation: what a user liked and disliked, a title, yes or no.

    A: Yes                  the last items before the target, in time, by rating above `above`
    B: No
    E:                      label 1 where E was rated above `above`

(TALLRec, Bao et al., RecSys 2023, whose words are `liked_and_disliked`; `shots` of the interactions
to learn from are drawn, there in all, here for each client.) Texts become tokens once, on the host,
and end where the answer would begin. Titles are short: without year and genres, "Godfather, The" as
"The Godfather".

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
from ..partition import Partitioner, by_hash
from ..splits import Split
from .asked import Asking, counted, in_parts, last_of_users, shots_of
from .codes import Codes
from .sources import load
from .text import titles

BRACKETS = re.compile(r"\s*\([^)]*\)")
ARTICLE = re.compile(r"^(.*), (The|A|An|La|Le|Les|Il|El|Das|Der|Die)$")
# Where the vectors of the user and of the item stand in a text: characters that no title has.
USER, ITEM = "\ue000", "\ue001"
# The titles before, oldest first, each with whether it was liked, and the target -> prompt: its
# text, or the messages of a conversation.
Words = Callable[[list[tuple[str, bool]], str], str | weights.Messages]


def prompt_template(
    item: str = "{title}: {answer}",
    ask: str = "{title}:",
    between: str = "\n",
    opening: str = "",
    answers: tuple[str, str] = ("Yes", "No"),
) -> Words:
    """Prompts that go on as they began: each item before with its answer, in time, and the target
    without one.

    Args:
        item: of one before, with `{title}` and `{answer}`.
        ask: of the target, with `{title}`; it ends where the answer would begin. `{user}` and
            `{item}` are where the vectors of the user and of the target stand, one token each, for
            models that are given them (`models.collm`); what is before them is the same without.
            With `yes_no_prompts(codes=)` they are text, the codes of both.
        between: two of them.
        opening: before all; ends as it is to end.
        answers: of an item that was liked and of one that was not.

    Returns:
        words(past, target) -> the text of a prompt; past is (title, liked) of each, oldest first.

    Raises:
        ValueError: for an `item` or `ask` without its places, and for one of `{user}` and `{item}`
            without the other.

    Example:
        >>> data.prompt_template()([("Heat", True), ("Casper", False)], "Fargo")
        'Heat: Yes\\nCasper: No\\nFargo:'
    """
    for name, text, places in (("item", item, ("title", "answer")), ("ask", ask, ("title",))):
        for place in places:
            if f"{{{place}}}" not in text:
                raise ValueError(
                    f"prompt_template({name}={text!r}) has no {{{place}}}; say where it is."
                )
    if ("{user}" in ask) != ("{item}" in ask):
        there, lacks = ("user", "item") if "{user}" in ask else ("item", "user")
        raise ValueError(
            f"prompt_template(ask={ask!r}) has {{{there}}} and no {{{lacks}}}; give a place to "
            "both vectors, or to none."
        )

    def words(past: list[tuple[str, bool]], target: str) -> str:
        said = [item.format(title=title, answer=answers[not liked]) for title, liked in past]
        asked = ask.format(title=target, user=USER, item=ITEM)
        return opening + between.join([*said, asked])

    return words


def liked_and_disliked() -> Words:
    """The words of TALLRec; a line that would be empty is left out.

    Returns:
        words(past, target) -> the text of a prompt, as those of `prompt_template`.

    Example:
        >>> words = data.liked_and_disliked()
        >>> print(words([("Heat", True), ("Casper", False)], "Fargo"))
        Liked: Heat
        Disliked: Casper
        Would the user like Fargo? Answer:
    """

    def words(past: list[tuple[str, bool]], target: str) -> str:
        lines = []
        for name, side in (("Liked", True), ("Disliked", False)):
            if said := [title for title, liked in past if liked == side]:
                lines.append(f"{name}: {'; '.join(said)}")
        return "\n".join([*lines, f"Would the user like {target}? Answer:"])

    return words


def as_chat(words: Words | None = None, system: str | None = None) -> Words:
    """What a user asks a model that was tuned to talk, in the words of its own chat template.

    Prompts then end where the assistant would answer, so that `answers` of the model are those that
    begin a turn: ("Yes", "No") in place of (" Yes", " No").

    Args:
        words: the content of the user's turn; default `prompt_template()`.
        system: the system's turn before it; None for none.

    Returns:
        words(past, target) -> the messages of a conversation, for `yes_no_prompts`.

    Raises:
        TypeError: by what is returned, for `words` that make messages themselves.

    Example:
        >>> words = data.as_chat(system="Answer Yes or No.")
        >>> [one["role"] for one in words([("Heat", True)], "Fargo")]
        ['system', 'user']
    """
    said = words or prompt_template()

    def chat(past: list[tuple[str, bool]], target: str) -> weights.Messages:
        content = said(past, target)
        if not isinstance(content, str):
            raise TypeError("as_chat(words=...) makes messages itself; give words that make texts.")
        first = [] if system is None else [{"role": "system", "content": system}]
        return [*first, {"role": "user", "content": content}]

    return chat


def short_title(line: str) -> str:
    """ "The Godfather" for "Godfather, The (1972)"."""
    plain = BRACKETS.sub("", line).strip() or line
    return ARTICLE.sub(r"\2 \1", plain)


def yes_no_prompts(
    source: str | Interactions = "ml-100k",
    tokenizer: str | Path = "smollm2",
    shots: int | None = 64,
    clients: int = 4,
    history: int = 10,
    length: int = 128,
    asking: Asking | None = None,
    above: float = 3.0,
    seed: int = 0,
    words: Words | None = None,
    grouping: Partitioner | None = None,
    codes: Codes | None = None,
) -> Examples:
    """Prompts, each with a yes or a no: would the user like this, given what he liked and disliked?

    Args:
        source: what `load` takes, or interactions with ratings and titles.
        tokenizer: of these known weights, or of a folder.
        shots: prompts that each client learns from, drawn by `seed`; None for all there are.
        clients: groups that users fall into by a hash.
        history: most items that a prompt names; the oldest are left out until it has at most
            `length` tokens.
        length: T, most tokens of a prompt.
        asking: about which interactions; default `last_of_users()`.
        above: the rating that is no yes yet.
        seed: of the shots.
        words: words(past, title) -> the text of a prompt, or the messages of a conversation, as
            those of `as_chat`; default `prompt_template()`.
        grouping: of users into clients, as many as `clients` says; default `by_hash(clients)`, else
            for instance `by_vectors`.
        codes: what stands for `{user}` and `{item}` of the words, as `text_codes`; None leaves
            these places to vectors.

    Returns:
        `Examples` with the fields `tokens` int32[n, T], padded behind with 0, `length` int32[n],
        their tokens, `prompt` int32[n], 0 to n - 1, `user` and `item` int32[n], who is asked about
        what, `dense` float32[n, 3], what counting says of each (`asked.FEATURES`: the share of
        liked items among those that the prompt may name, the mean of the item, the mean of the
        user), and `labels`. Where `words` give vectors a place, there is `soft` int32[n, 2] as
        well: where the user's and the item's stand, among the tokens of the prompt and these two.

    Raises:
        ValueError: for data without ratings or titles, for a client with fewer than `shots`
            interactions to learn from, for a grouping into another number of clients, for words
            that place a vector twice, or at the end, and for codes of other users or items, or
            without a place.

    Example:
        >>> found = data.yes_no_prompts(films, decoder_folder, shots=2, clients=2, length=64)
    """
    for name, value in {"shots": shots, "clients": clients, "history": history}.items():
        if value is not None:
            at_least("yes_no_prompts", name, value, 1)
    check.seed("yes_no_prompts", seed)
    found = load(source) if isinstance(source, str) else source
    lines, ratings = titles(found, genres=False), found.ratings
    if ratings is None or lines is None:
        raise ValueError(
            f"yes_no_prompts(source={found.name!r}) needs ratings and titles; use ml-100k or ml-1m."
        )
    groups = (grouping or by_hash(clients))(Split(found, np.zeros(len(found), np.int8)))
    if groups.num_clients != clients:
        raise ValueError(
            f"yes_no_prompts(clients={clients}) and grouping makes {groups.num_clients}; say the "
            "same number in both."
        )
    of_user = groups.client_of_user
    asked = (asking or last_of_users())(found)
    train = shots_of(asked.train, of_user[found.users[asked.train]], shots, seed)
    rows, part = in_parts(train, asked)
    said, start = [short_title(line) for line in lines], offsets(found)
    worded = words or prompt_template()
    told = None if codes is None else _codes_of(codes, found)

    def text(row: int, named: int) -> str | weights.Messages:
        user, item, end = found.users[row], found.items[row], asked.until[row]
        before = range(max(start[user], end - named), end)
        past = [(said[found.items[i]], bool(ratings[i] > above)) for i in before]
        made = worded(past, said[item])
        return made if told is None else _with_codes(made, told[0][user], told[1][item])

    tokens, sizes, soft = encoded(tokenizer, text, rows, history, length)
    likes = (ratings > above).astype(np.float32)
    return Examples(
        name=f"{found.name} prompts",
        fields={
            "tokens": tokens,
            "length": sizes,
            "prompt": np.arange(len(rows), dtype=np.int32),
            "user": found.users[rows].astype(np.int32),
            "item": found.items[rows].astype(np.int32),
            "dense": counted(found, likes, asked, rows, history),
            "labels": likes[rows],
            **({} if soft is None else {"soft": soft}),
        },
        client=of_user[found.users[rows]],
        part=part,
        num_rows=found.num_items,
        num_clients=clients,
    )


def _codes_of(codes: Codes, found: Interactions) -> tuple[list[str], list[str]]:
    """The codes, of the users and items of `found`. Raises ValueError where they are of others."""
    users, items = codes()
    if (len(users), len(items)) != (found.num_users, found.num_items):
        raise ValueError(
            f"yes_no_prompts(codes=...) has codes of {len(users)} users and {len(items)} items and "
            f"the data have {found.num_users} and {found.num_items}; train them on the same data."
        )
    return users, items


def _with_codes(made: str | weights.Messages, user: str, item: str) -> str | weights.Messages:
    """A prompt with codes in the places of vectors. Raises ValueError where it has none."""
    if not isinstance(made, str):
        texts = [one["content"] for one in made]
        if any(USER in text for text in texts):
            return [
                {**one, "content": text.replace(USER, user).replace(ITEM, item)}
                for one, text in zip(made, texts, strict=True)
            ]
    elif USER in made:
        return made.replace(USER, user).replace(ITEM, item)
    raise ValueError(
        "yes_no_prompts(codes=...): the words have no place for them; name it, as "
        "data.prompt_template(ask='{user} {item} {title}:') does."
    )


def encoded(
    tokenizer: str | Path,
    text: Callable[[int, int], str | weights.Messages],
    rows: np.ndarray,
    history: int,
    most: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """(tokens int32[n, T], their number int32[n], places of vectors int32[n, 2] or None) of
    text(row, items named), naming at most `history` items and so few that at most `most` tokens are
    used."""
    folder = weights.find(tokenizer)
    made = weights.tokenizer(folder)
    named = np.full(len(rows), history)
    ids: list[list[int]] = [[]] * len(rows)
    soft: list[tuple[int, int] | None] = [None] * len(rows)
    left = np.arange(len(rows))
    while len(left):
        texts = [text(int(rows[i]), int(named[i])) for i in left]
        for i, (one, places) in zip(left, tokens_of(folder, made, texts), strict=True):
            ids[i], soft[i] = one, places
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
    placed = [one for one in soft if one is not None]
    return tokens, sizes, np.array(placed, np.int32) if len(placed) == len(rows) else None


def tokens_of(
    folder: Path, made, texts: list[str | weights.Messages]
) -> list[tuple[list[int], tuple[int, int] | None]]:
    """(tokens, places of the user's and the item's vector, None without) of prompts: of texts with
    what the tokenizer puts before one, of conversations with what their template does."""
    plain = [text for text in texts if isinstance(text, str)]
    opened = bool(plain)
    if not plain:
        chat = weights.chat_template(folder)
        plain = [chat(text) for text in texts if not isinstance(text, str)]
    # What stands before, between and behind the vectors is cut into tokens by itself.
    parts = [re.split(f"([{USER}{ITEM}])", text) for text in plain]
    first = (weights.begun if opened else weights.within)(made, [part[0] for part in parts])
    behind = iter(weights.within(made, [text for part in parts for text in part[2::2]]))
    out = []
    for part, ids in zip(parts, first, strict=True):
        at: dict[str, list[int]] = {USER: [], ITEM: []}
        for number, mark in enumerate(part[1::2]):
            at[mark].append(len(ids) + number)
            ids = ids + next(behind)
        out.append((ids, _places(at, part[-1]) if len(part) > 1 else None))
    return out


def _places(at: dict[str, list[int]], last: str) -> tuple[int, int]:
    """(of the user's vector, of the item's). Raises ValueError unless each has one place, and text
    behind it, which is where the answer is read."""
    counts = len(at[USER]), len(at[ITEM])
    if counts != (1, 1):
        raise ValueError(
            f"yes_no_prompts(words=...) places the user's vector {counts[0]} times and the item's "
            f"{counts[1]} times in a prompt; name {{user}} and {{item}} once each."
        )
    if not last:
        raise ValueError(
            "yes_no_prompts(words=...) has a vector at the end of a prompt, where the answer is "
            "read; put text behind it, as ask='{user}{item}{title}:' does."
        )
    return at[USER][0], at[ITEM][0]
