"""How the candidates of sampled evaluation are drawn: uniformly, or by popularity.

    P(i_1, ..., i_n) = prod_t w(i_t) / sum of w over the items not drawn before

of the items outside a user's history, without repeats (Plackett 1975; Luce 1959). `uniform_draws`
has w = 1.
`popularity_draws` has w(i) = phi_i^alpha, phi_i the training interactions of i and 0^alpha = 0: the
`popXX` of RecBole (Zhao et al., CIKM 2021) and of BERT4Rec (Sun et al., CIKM 2019) at alpha 1, the
power of word2vec (Mikolov et al., NeurIPS 2013) at .75. Drawn by the Gumbel-top-k trick: the n
largest of log w(i) + g_i with g_i ~ Gumbel(0, 1) are such a sample (Kool et al., ICML 2019).

Candidates of validation and test are drawn at once, without repeats among them, and shuffled, so
both parts have the same law; it is a little flatter than that of one part drawn alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from .. import check
from ..made import part
from .negatives import called, pairs_to_csr, sample_distinct

_BLOCK = 2**21  # weights held at once


@dataclass(frozen=True)
class Histories:
    """Pairs (users[j], items[j]) that are no candidates, int[n]; popularity: int[I], training
    interactions of each item; names: what messages call users."""

    users: np.ndarray
    items: np.ndarray
    num_users: int
    popularity: np.ndarray
    names: np.ndarray | None = None


@part
class EvaluationDraws:
    """How candidates are drawn.

    sample(histories, size, seed, parts) -> int32[U, parts * size]: distinct items of each user
    outside its history, any columns of which have the same law. label: what tables call them.
    """

    label: str
    sample: Callable[[Histories, int, int, int], np.ndarray]


def uniform_draws() -> EvaluationDraws:
    """Candidates of sampled evaluation that are uniform over the items outside a user's history.

    Returns:
        A part for `pack(evaluation_draws=)`; tables say `sampled-99`.

    Example:
        >>> dataset = data.pack(split, None, "train", 5, evaluation_draws=data.uniform_draws())
    """

    def sample(histories: Histories, size: int, seed: int, parts: int) -> np.ndarray:
        return sample_distinct(
            histories.users, histories.items, histories.num_users, len(histories.popularity),
            size, seed, parts, histories.names,
        )  # fmt: skip

    return EvaluationDraws("sampled", sample)


def popularity_draws(alpha: float = 1.0) -> EvaluationDraws:
    """Candidates of sampled evaluation that are drawn in proportion to popularity^alpha, without
    repeats.

    Args:
        alpha: 0 is uniform over the items that have training interactions, 1 their number, .75 as
            word2vec. Items without any are never drawn.

    Returns:
        A part for `pack(evaluation_draws=)`; tables say `popularity-99`, with the power where it is
        not 1. It draws U * I numbers once, on the host.

    Raises:
        ValueError: for alpha that is negative or no number; when it draws, where a user has too few
            items with training interactions outside its history.

    Example:
        >>> draws = data.popularity_draws(alpha=0.75)
        >>> dataset = data.pack(split, None, "train", 5, evaluation_draws=draws)
    """
    check.static("popularity_draws", "alpha", alpha)
    if not 0 <= alpha < np.inf:
        raise ValueError(f"popularity_draws(alpha={alpha}) is no power; use a number alpha >= 0.")

    def sample(histories: Histories, size: int, seed: int, parts: int) -> np.ndarray:
        known = np.flatnonzero(histories.popularity)
        weight = alpha * np.log(histories.popularity[known])
        place = np.cumsum(histories.popularity > 0) - 1
        kept = histories.popularity[histories.items] > 0
        pairs = histories.users[kept], place[histories.items[kept]]
        excluded, start, length = pairs_to_csr(*pairs, histories.num_users, max(len(known), 1))
        _check_enough(histories, len(known) - length, size, parts)
        rng, total = np.random.default_rng(seed), parts * size
        chosen = np.empty((histories.num_users, total), np.int64)
        block = max(1, _BLOCK // max(len(known), 1))
        for low in range(0, histories.num_users, block):
            high = min(low + block, histories.num_users)
            # A Gumbel is -log E of an exponential, so the smallest of these are wanted.
            keys = np.log(rng.standard_exponential((high - low, len(known)))) - weight
            rows = np.repeat(np.arange(high - low), length[low:high])
            keys[rows, excluded[start[low] : start[high - 1] + length[high - 1]]] = np.inf
            if total < len(known):
                chosen[low:high] = np.argpartition(keys, total, axis=1)[:, :total]
            else:
                chosen[low:high] = np.arange(total)
        return known[rng.permuted(chosen, axis=1)].astype(np.int32)

    return EvaluationDraws("popularity" if alpha == 1 else f"popularity^{alpha:g}", sample)


def _check_enough(histories: Histories, left: np.ndarray, size: int, parts: int) -> None:
    """Raises ValueError for the first user with fewer than `parts * size` candidates."""
    if len(left) and left.min() < parts * size:
        user = int(left.argmin())
        raise ValueError(
            f"evaluation_negatives={size} takes {parts * size} items, and user "
            f"{called(user, histories.names)} has only {left[user]} items with training "
            "interactions outside its history; ask for fewer, or use uniform_draws."
        )
