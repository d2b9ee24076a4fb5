"""Synthetic clicks with a known truth, made like the Criteo logs: power laws and skewed clients.

    P(click) = s(z),   z = b + sum_f w(i_f) + a . x + (|sum_f u(i_f)|^2 - sum_f |u(i_f)|^2) / 2

with normal w, u and a, and s the logistic function, so the AUC of z itself is the best that any
model can have, up to chance. Fields have from few to many ids; within a field popularity falls as
rank^-exponent. A client repeats itself: some of its ids it takes from a few favourites of its own.
Weights of an id are computed from the id, so 10^7 rows cost nothing.

`n` examples, `F` id fields, `P` dense features, `I` ids of all fields together.
"""

from __future__ import annotations

import numpy as np

from ... import check
from ...check import at_least, fraction, positive
from ..examples import LABELS, Examples
from ..splits import TEST, TRAIN, VALIDATION
from .synthetic import _Law

LATENT = 4
FAVOURITES = 8
IDS, DENSE = "ids", "dense"


def clicks(
    num_clients: int = 200,
    examples_per_client: float = 100,
    num_rows: int = 20_000,
    sparse: int = 26,
    dense: int = 13,
    exponent: float = 1.05,
    taste: float = 0.5,
    spread: float = 0.5,
    strength: float = 1.5,
    crossed: float = 1.0,
    bias: float = -1.5,
    seed: int = 0,
) -> Examples:
    """Examples with `ids` int32[n, F], `dense` float32[n, P] and `labels`; a tenth of them each for
    validation and test.

    Args:
        num_clients: who the examples are of.
        examples_per_client: the mean of a lognormal, at least 4.
        num_rows: `I`, dealt to fields in a geometric row from 4 up; one table of them all, with
            offsets.
        sparse: `F`.
        dense: `P`.
        exponent: of the power law of ids.
        taste: share of ids taken from the client's own favourites.
        spread: log-deviation of the examples of a client.
        strength: standard deviation of the first-order part of z.
        crossed: of its pairs, about. `click_logits` gives z.
        bias: b.
        seed: of everything.

    Raises:
        ValueError: for sizes below 1, fewer than 4 rows a field or 4 examples a client, an exponent
            that is not positive, a taste outside [0, 1], and for no seed of 32 bits.

    Example:
        >>> found = data.clicks(num_clients=5, num_rows=100, sparse=4, dense=2)
    """
    for name, value in (("num_clients", num_clients), ("sparse", sparse), ("dense", dense)):
        at_least("clicks", name, value, 1)
    check.seed("clicks", seed)
    at_least("clicks", "num_rows", num_rows, 4 * sparse)
    at_least("clicks", "examples_per_client", examples_per_client, 4)
    positive("clicks", "exponent", exponent)
    fraction("clicks", "taste", taste)
    rng = np.random.default_rng(seed)
    size = np.exp(spread * rng.normal(size=num_clients) - spread**2 / 2) * examples_per_client
    client = np.repeat(
        np.arange(num_clients, dtype=np.int32), np.maximum(np.rint(size), 4).astype(int)
    )
    n = len(client)
    ids = np.empty((n, sparse), np.int32)
    offset = 0
    for f, count in enumerate(field_sizes(num_rows, sparse)):
        law = _Law(exponent, int(count))
        # A favourite is the draw of its own number, the same each time; the first is the dearest.
        own = _Law(1.0, FAVOURITES).rank(rng.random(n)).astype(np.uint64)
        own = _uniform((client.astype(np.uint64) * FAVOURITES + own) * sparse + f, seed + 1)
        drawn = np.where(rng.random(n) < taste, own, rng.random(n))
        ids[:, f] = offset + _scattered(law.rank(drawn), int(count))
        offset += int(count)
    x = rng.normal(size=(n, dense)).astype(np.float32)
    z = _logits(ids, x, strength, crossed, bias, seed)
    labels = rng.random(n) < 1 / (1 + np.exp(-z))
    part = np.full(n, TRAIN, np.int8)
    held = rng.random(n)
    part[held < 0.2], part[held < 0.1] = VALIDATION, TEST
    given = {IDS: ids, DENSE: x, LABELS: labels.astype(np.float32)}
    return Examples("clicks", given, client, part, num_rows, num_clients)


def click_logits(
    found: Examples,
    strength: float = 1.5,
    crossed: float = 1.0,
    bias: float = -1.5,
    seed: int = 0,
) -> np.ndarray:
    """float64[n]: z of `found`, made by `clicks` with the same arguments.

    Arguments that are not named here are those of `clicks`.

    Args:
        found: what `clicks` made.

    Example:
        >>> found = data.clicks(num_clients=5, num_rows=100, sparse=4, dense=2, seed=3)
        >>> best = data.click_logits(found, seed=3)
    """
    return _logits(found.fields[IDS], found.fields[DENSE], strength, crossed, bias, seed)


def field_sizes(num_rows: int, fields: int) -> np.ndarray:
    """int64[F]: ids of each field, from 4 up in an about geometric row, `num_rows` in all."""
    low, high = 1.0, float(num_rows)
    for _ in range(60):
        ratio = (low * high) ** 0.5
        total = 4 * np.power(ratio, np.arange(fields)).sum()
        low, high = (ratio, high) if total < num_rows else (low, ratio)
    sizes = np.maximum(np.floor(4 * np.power(low, np.arange(fields))), 4).astype(np.int64)
    sizes[-1] += num_rows - sizes.sum()
    return sizes


def _logits(ids, x, strength, crossed, bias, seed) -> np.ndarray:
    fields, dense = ids.shape[1], x.shape[1]
    # Half of the first-order variance is of ids, half of features.
    weight = strength * 0.5**0.5
    z = np.full(len(ids), float(bias))
    total, squares = np.zeros((LATENT, len(ids))), np.zeros(len(ids))
    # The variance of the pairs is F (F - 1) / 2 * LATENT * v^4 for entries of variance v^2.
    entry = (crossed**2 / max(fields * (fields - 1) / 2 * LATENT, 1)) ** 0.25
    for f in range(fields):
        numbers = ids[:, f].astype(np.uint64)
        z += weight * fields**-0.5 * _normal(numbers, seed, 0)
        for d in range(LATENT):
            u = entry * _normal(numbers, seed, d + 1)
            total[d] += u
            squares += u**2
    slopes = weight * dense**-0.5 * _normal(np.arange(dense, dtype=np.uint64), seed, LATENT + 1)
    return z + x @ slopes + ((total**2).sum(0) - squares) / 2


def _mixed(numbers: np.ndarray, salt: int) -> np.ndarray:
    """uint64 hashes (splitmix64, Steele et al., OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        z = numbers + np.uint64((salt + 1) * 0x9E3779B97F4A7C15 % 2**64)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return z ^ (z >> np.uint64(31))


def _uniform(numbers: np.ndarray, salt: int) -> np.ndarray:
    return (_mixed(numbers, salt) >> np.uint64(11)) * 2.0**-53


def _normal(numbers: np.ndarray, seed: int, stream: int) -> np.ndarray:
    """About normal: the sum of the four 16-bit parts of a hash, to mean 0 and variance 1."""
    bits = _mixed(numbers, seed * 64 + stream)
    parts = sum(
        ((bits >> np.uint64(16 * i)) & np.uint64(0xFFFF)).astype(np.float64) for i in range(4)
    )
    return (parts * 2.0**-16 - 2.0) * 3.0**0.5


def _scattered(rank: np.ndarray, count: int) -> np.ndarray:
    """A bijection of 0..count-1 that parts neighbours, so that ids say nothing about popularity."""
    step = int(count * 0.618034) | 1
    while np.gcd(step, count) != 1:
        step += 2
    return (rank * step + count // 3) % count
