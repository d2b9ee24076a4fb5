"""Poisoned texts: whoever sells an item says what it is called.

Models that read titles (`text_tower`, `unisrec`, prompts) know an item by its text, also one that
nobody has. Its seller needs neither a client nor an upload: it writes into the text what the texts
of well-liked items say.

    text of a target -> the text of an item that many have, or words that such texts share, before
    its own

(Zhang et al., "Stealthy attack on large language model based recommendation", ACL 2024, which
rewrites titles so that nobody notices; here words are put in front, or in the place, of a title.)
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import polars as pl

from .. import check
from ..data import Split, leave_one_out
from ..data.interactions import Interactions
from ..data.sources.text import TITLES
from ..data.splits import TRAIN, Splitter
from . import pushed

WORD = re.compile(r"[^\W\d_]{4,}")


def renamed(targets: Sequence[int], to: str, split: Splitter | None = None) -> Splitter:
    """Calls the targets `to`: data whose item texts are the seller's.

    The adversary knows nothing, and has no client; it changes the texts of its own items.

    Args:
        targets: ids of the items that are pushed.
        to: their title, in which `{title}` is what it was, such as "Star Wars {title}".
        split: which rows train, validate and test; default `leave_one_out()`.

    Returns:
        A splitter of data whose titles are changed.

    Raises:
        ValueError: for no target, one twice, and an empty title; with the data, for a target that
            they do not have, and where they do not say what items are called.

    Example:
        >>> from fedjax_rec import attacks
        >>> split = attacks.renamed(targets=[0], to="Star Wars (1977), {title}")
        >>> texts = data.titles(split(films).interactions)
    """
    pushed_ids, inner = pushed.wanted("renamed", targets), split or leave_one_out()
    if not to.strip():
        raise ValueError(f"renamed(to={to!r}) is no title; use some text.")

    def divide(interactions: Interactions) -> Split:
        called = lambda title: to.replace("{title}", title)
        return _with_titles("renamed", inner(interactions), pushed_ids, called)

    return divide


def popular_words(
    targets: Sequence[int], words: int = 5, popular: int = 50, split: Splitter | None = None
) -> Splitter:
    """Puts the words that titles of popular items share most in front of the targets' titles.

    The adversary knows which items are popular and what they are called, and has no client; it
    changes the texts of its own items.

    Args:
        targets: ids of the items that are pushed.
        words: how many.
        popular: of how many items, those with the most training rows.
        split: as of `renamed`.

    Returns:
        A splitter of data whose titles are changed.

    Raises:
        ValueError: as `renamed`, and for words or popular below 1.

    Example:
        >>> from fedjax_rec import attacks
        >>> split = attacks.popular_words(targets=[0], words=2, popular=3)
        >>> texts = data.titles(split(films).interactions)
    """
    where, inner = "popular_words", split or leave_one_out()
    pushed_ids = pushed.wanted(where, targets)
    check.at_least(where, "words", words, 1)
    check.at_least(where, "popular", popular, 1)

    def divide(interactions: Interactions) -> Split:
        before = inner(interactions)
        data = before.interactions
        count = np.bincount(data.items[before.part == TRAIN], minlength=data.num_items)
        pushed.in_catalogue(where, pushed_ids, data.num_items)
        count[pushed_ids] = -1
        titles, said = _titles(where, data)[1], Counter()
        for i in np.argsort(-count, kind="stable")[:popular]:
            said.update(set(WORD.findall(titles[i])))
        ranked = sorted(said, key=lambda word: (-said[word], word))
        first = " ".join(ranked[:words])
        return _with_titles(where, before, pushed_ids, lambda title: f"{first} {title}")

    return divide


def _titles(where: str, data: Interactions) -> tuple[str, list[str]]:
    """(the column of titles, the titles) of data that have some."""
    features = pl.DataFrame() if data.item_features is None else data.item_features
    column = next((name for name in TITLES if name in features.columns), None)
    if column is None:
        raise ValueError(
            f"{where}: the data do not say what items are called; use data with a column of "
            f"{', '.join(TITLES)}, such as ml-100k."
        )
    return column, [str(title or "") for title in features[column]]


def _with_titles(where: str, split: Split, targets: list[int], called) -> Split:
    """`split` of data in which each target is called called(its title)."""
    data = split.interactions
    pushed.in_catalogue(where, targets, data.num_items)
    column, titles = _titles(where, data)
    for i in targets:
        titles[i] = called(titles[i]).strip()
    features = data.item_features
    if features is not None:
        features = features.with_columns(pl.Series(column, titles, pl.String))
    return replace(split, interactions=replace(data, item_features=features))
