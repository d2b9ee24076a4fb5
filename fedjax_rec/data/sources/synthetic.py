"""Interactions with a known ground truth, from a thousand users to millions.

User and item vectors x_u, y_i in R^w are Gaussian with x_u . y_i of standard deviation `affinity`;
item popularity is a power law, p_i ~ rank^-popularity. User u picks n_u distinct items without
replacement with

    P(next = i) ~ p_i exp(x_u . y_i)                (Plackett-Luce),

drawn as the n_u largest of log p_i + x_u . y_i + Gumbel noise.

No users-by-items matrix is made: a user's candidates come half from the popularity law and half
uniformly, with their log proposal probability subtracted (sampling-importance-resampling, Rubin
1988; Gumbel-top-k, Kool et al. 2019). Where the candidates would be as many as the items, all items
are taken and the law is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fedjax_rec import check
from fedjax_rec.data.interactions import Interactions

CANDIDATES = 8  # per interaction of the user; more is closer to the exact law
_CELLS = 1 << 21  # candidates at work at once: some 100 MB


@dataclass(frozen=True)
class Truth:
    """logit(u, i) = log_popularity[i] + user_vectors[u] . item_vectors[i]: the law drawn from."""

    user_vectors: np.ndarray  # float32[num_users, width]
    item_vectors: np.ndarray  # float32[num_items, width]
    log_popularity: np.ndarray  # float32[num_items], exp sums to 1


class _Law(NamedTuple):
    """Popularity of rank r: the integral of x^-a over [r+1, r+2], as its sum inverts easily."""

    exponent: float
    size: int

    def area(self, x: np.ndarray | float) -> np.ndarray:
        """Integral of t^-a from 1 to x."""
        power = 1.0 - self.exponent
        return np.log(x) if abs(power) < 1e-9 else (np.power(x, power) - 1.0) / power

    def log_probability(self) -> np.ndarray:
        """float64[size]; written with expm1, as differences of areas vanish in a steep tail."""
        x, power = np.arange(1.0, self.size + 1.0), 1.0 - self.exponent
        step = np.log1p(1.0 / x)
        area = step if abs(power) < 1e-9 else np.expm1(power * step) / power
        return power * np.log(x) + np.log(area) - np.log(self.area(self.size + 1.0))

    def rank(self, uniform: np.ndarray) -> np.ndarray:
        """Rank of a uniform number in [0, 1): the inverse of the distribution function."""
        power, mass = 1.0 - self.exponent, uniform * self.area(self.size + 1.0)
        x = np.exp(mass) if abs(power) < 1e-9 else np.power(1.0 + power * mass, 1.0 / power)
        return np.clip(x.astype(np.int64) - 1, 0, self.size - 1)


def synthetic(
    num_users: int = 1000,
    num_items: int = 1000,
    width: int = 8,
    interactions_per_user: float = 20,
    spread: float = 0.0,
    popularity: float = 1.0,
    affinity: float = 2.0,
    seed: int = 0,
) -> Interactions:
    """Implicit interactions of users with a catalogue of which some items may never occur.

    A user has round(lognormal) interactions, clipped to 3..num_items // 2. Times are uniform in
    [0, 1) and say nothing about taste, so each part of a split follows the same law.
    `sources.synthetic.synthetic_truth` with the same arguments returns the vectors.

    Args:
        num_users: all of whom occur.
        num_items: of the catalogue.
        width: w.
        interactions_per_user: the mean, 3 to num_items // 2.
        spread: log-standard deviation of a user's interactions.
        popularity: the exponent of the power law of items; 0 for items that are alike.
        affinity: standard deviation of x_u . y_i; 0 for users without taste.
        seed: of everything.

    Raises:
        ValueError: for sizes below 1, a mean outside its bounds, a negative popularity or affinity,
            and for no seed of 32 bits.

    Example:
        >>> interactions = data.synthetic(num_users=50, num_items=40, interactions_per_user=8)
    """
    truth, ranks = _truth(num_users, num_items, width, popularity, affinity, seed)
    cap = num_items // 2
    if not 3 <= interactions_per_user <= cap:
        raise ValueError(
            f"synthetic(interactions_per_user={interactions_per_user}) with num_items={num_items}; "
            f"use 3 to num_items // 2 = {cap}."
        )
    rng = np.random.default_rng([seed, 1])
    sizes = interactions_per_user * np.exp(spread * rng.standard_normal(num_users) - spread**2 / 2)
    counts = np.clip(np.rint(sizes), 3, cap).astype(np.int64)
    start = np.concatenate([[0], np.cumsum(counts)])
    items, times = np.empty(start[-1], np.int32), np.empty(start[-1])
    # Users of like size share a block, so that little of it is padding.
    order = np.argsort(counts, kind="stable")
    done = 0
    while done < num_users:
        few = int(counts[order[done]])
        rows = max(1, _CELLS // min(num_items, CANDIDATES * few))
        block = order[done : done + rows]
        # Not much longer than the first: at most 1.25 times, or the last of the block would set its
        # memory.
        block = block[: np.searchsorted(counts[block], max(few + 1, 1.25 * few), side="right")]
        done += len(block)
        picked, when = _pick(rng, truth, ranks, popularity, block, counts[block])
        inside = np.arange(picked.shape[1]) < counts[block][:, None]
        slots = (start[block][:, None] + np.arange(picked.shape[1]))[inside]
        items[slots], times[slots] = picked[inside], when[inside]
    return Interactions(
        "synthetic",
        np.repeat(np.arange(num_users, dtype=np.int32), counts),
        items,
        times,
        None,
        np.arange(num_users).astype(np.str_),
        np.arange(num_items).astype(np.str_),
    )


def synthetic_truth(
    num_users: int = 1000,
    num_items: int = 1000,
    width: int = 8,
    popularity: float = 1.0,
    affinity: float = 2.0,
    seed: int = 0,
) -> Truth:
    """The vectors and popularity behind `synthetic` with the same arguments."""
    return _truth(num_users, num_items, width, popularity, affinity, seed)[0]


def _truth(
    num_users: int, num_items: int, width: int, popularity: float, affinity: float, seed: int
) -> tuple[Truth, np.ndarray]:
    """The truth and int32[num_items]: the item at each popularity rank."""
    for name, value in (("num_users", num_users), ("num_items", num_items), ("width", width)):
        if value < 1:
            raise ValueError(f"synthetic({name}={value}) is too small; use at least 1.")
    check.seed("synthetic", seed)
    if popularity < 0 or affinity < 0:
        raise ValueError(
            f"synthetic(popularity={popularity}, affinity={affinity}); use values >= 0."
        )
    rng = np.random.default_rng([seed, 0])
    scale = np.float32(
        np.sqrt(affinity) / width**0.25
    )  # the product of two has deviation `affinity`
    users = rng.standard_normal((num_users, width), np.float32) * scale
    items = rng.standard_normal((num_items, width), np.float32) * scale
    ranks = rng.permutation(num_items).astype(np.int32)  # ids say nothing about popularity
    log_popularity = np.empty(num_items, np.float32)
    log_popularity[ranks] = _Law(popularity, num_items).log_probability()
    return Truth(users, items, log_popularity), ranks


def _pick(
    rng: np.random.Generator,
    truth: Truth,
    ranks: np.ndarray,
    popularity: float,
    users: np.ndarray,
    counts: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """Items int32[b, n] and times float64[b, n] of a block of users, in time order; row r holds
    counts[r] of them.
    """
    num_items, most = len(ranks), int(counts.max())
    size = CANDIDATES * most
    if size < num_items:
        items, scores = _candidates(rng, truth, ranks, popularity, users, size)
        items, scores = _drop_repeats(items, scores)
    else:
        items, scores = _catalogue(rng, truth, users)
    best = (
        np.argpartition(-scores, most - 1, axis=1)[:, :most]
        if most < scores.shape[1]
        else np.argsort(-scores)
    )
    chosen_scores = np.take_along_axis(scores, best, 1)
    chosen = np.take_along_axis(items, best, 1) if items.ndim == 2 else items[best]
    # Rows with fewer than `most` keep their own best; the rest goes behind the end of time.
    place = np.argsort(np.argsort(-chosen_scores, axis=1), axis=1)
    when = np.where(place < counts[:, None], rng.random(chosen.shape), np.inf)
    order = np.argsort(when, axis=1)
    return np.take_along_axis(chosen, order, 1), np.take_along_axis(when, order, 1)


def _catalogue(
    rng: np.random.Generator, truth: Truth, users: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    logits = truth.user_vectors[users] @ truth.item_vectors.T + truth.log_popularity
    return np.arange(len(truth.item_vectors), dtype=np.int32), logits + _gumbel(rng, logits.shape)


def _candidates(
    rng: np.random.Generator,
    truth: Truth,
    ranks: np.ndarray,
    popularity: float,
    users: np.ndarray,
    size: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Items int32[b, size], with repeats, from q = (p + uniform) / 2, and scores log(p / q) + x . y
    + Gumbel.
    """
    num_items, half = len(ranks), size // 2
    uniform = rng.random((len(users), size))
    rank = np.empty(uniform.shape, np.int64)
    rank[:, :half] = _Law(popularity, num_items).rank(uniform[:, :half])
    # Stratified: one rank from each of size - half equal ranges, so that this half alone has no
    # repeats.
    rank[:, half:] = (uniform[:, half:] + np.arange(size - half)) * (num_items / (size - half))
    items = ranks[rank]
    log_p = truth.log_popularity[items]
    log_q = np.log(0.5 * np.exp(log_p) + np.float32(0.5 / num_items))
    logits = np.einsum(
        "bw,bcw->bc", truth.user_vectors[users], truth.item_vectors[items], optimize=True
    )
    return items, logits + log_p - log_q + _gumbel(rng, items.shape)


def _drop_repeats(items: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Each row sorted by item, with score -inf at all but the best occurrence of an item."""
    # One sort of 64-bit words, item above score; a float's bits order like integers once negatives
    # are flipped.
    bits = (-scores).astype(np.float32).view(np.int32).astype(np.int64)
    ordered = np.where(bits < 0, -(bits & 0x7FFFFFFF), bits) + (1 << 31)
    words = (items.astype(np.int64) << 33) | ordered
    words.sort(axis=1)
    items = (words >> 33).astype(np.int32)
    ordered = (words & ((1 << 33) - 1)) - (1 << 31)
    bits = np.where(ordered < 0, -ordered | 0x80000000, ordered).astype(np.uint32)
    scores = -bits.view(np.float32)
    scores[:, 1:][items[:, 1:] == items[:, :-1]] = -np.inf
    return items, scores


def _gumbel(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    return -np.log(rng.standard_exponential(shape, np.float32) + np.float32(1e-30))
