"""Users grouped by vectors of a model that was trained before: alike ones share a client.

    client(u) = argmin_c |p_u - m_c|,     m_c = mean of p_u over the users of c        (K-means)

FELLRec (Zhao et al., NAACL 2025 findings, arXiv 2402.09959) makes its few clients so, of a matrix
factorization. **Whoever groups sees every user's vector**, as it does not in federated
factorization.

`U` users, `D` width, `K` clients.
"""

from __future__ import annotations

import numpy as np

from .. import check, weights
from .partition import Partition, Partitioner, _check_clients, _check_enough, _filled
from .splits import Split

TURNS = 100


def by_vectors(
    vectors: str, num_clients: int, name: str = "private/user", seed: int = 0
) -> Partitioner:
    """Users in clusters of their vectors, by K-means from a start drawn by k-means++ (Arthur &
    Vassilvitskii, 2007).

    A client that got no user takes one from the largest.

    Args:
        vectors: a folder that `fedjax-rec export` wrote of a run on the same data whose clients are
            one user each, or a file of safetensors.
        num_clients: K, at most the users there are.
        name: of the vectors in the file, [U, D] or as clients keep them, [U, 1, D].
        seed: of the start.

    Raises:
        ValueError: for no client, with more clients than users, for no seed of 32 bits; and when
            users are grouped, for a file without such vectors, or of other users.
        FileNotFoundError: when users are grouped, where there is no such file.

    Example:
        >>> partitioner = data.by_vectors("runs/liked_mf", num_clients=4)
    """
    _check_clients("by_vectors", num_clients)
    check.seed("by_vectors", seed)

    def partition(split: Split) -> Partition:
        _check_enough("by_vectors", num_clients, split.interactions)
        users = _read(vectors, name)
        if len(users) != split.interactions.num_users:
            raise ValueError(
                f"by_vectors(vectors={vectors!r}) has vectors of {len(users)} users and the data "
                f"have {split.interactions.num_users}; train them on the same data."
            )
        return _filled(clusters(users, num_clients, seed), num_clients)

    return partition


def clusters(x: np.ndarray, count: int, seed: int) -> np.ndarray:
    """int[U]: the cluster of each row of x [U, D], of `count`; of a tie the first."""
    rng, x = np.random.default_rng(seed), np.asarray(x, np.float64)
    means = x[rng.integers(len(x))][None]
    while len(means) < count:
        far = _squares(x, means).min(1)
        total = far.sum()
        shares = far / total if total > 0 else np.full(len(x), 1 / len(x))
        means = np.concatenate([means, x[rng.choice(len(x), p=shares)][None]])
    chosen = _squares(x, means).argmin(1)
    for _ in range(TURNS):
        for c in range(count):
            if (chosen == c).any():
                means[c] = x[chosen == c].mean(0)
        after = _squares(x, means).argmin(1)
        if (after == chosen).all():
            break
        chosen = after
    return chosen


def _squares(x: np.ndarray, means: np.ndarray) -> np.ndarray:
    """float64[U, K]."""
    return ((x[:, None] - means) ** 2).sum(-1)


def _read(vectors: str, name: str) -> np.ndarray:
    where = f"by_vectors(vectors={vectors!r})"
    (found,) = weights.exported(where, vectors, [name], "give name=")
    x = np.asarray(found, np.float32)
    if x.ndim == 3 and x.shape[1] == 1:
        x = x[:, 0]
    if x.ndim != 2 or not np.isfinite(x).all():
        raise ValueError(
            f"{where}: {name} is {list(x.shape)}; give a finite vector a user, [U, D]."
        )
    return x
