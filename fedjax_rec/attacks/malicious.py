"""Who is malicious: a set of clients that does not change in a run.

Parts of this room ask for it by the ids of clients. Malicious clients are some of those that there
are (`drawn`, `named`), who then are measured like all others, or accounts that were added
(`from_id`, after `shilling`), who have nothing held out and are measured by nobody.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from .. import check
from ..made import part


@part
class Malicious:
    """Who lies.

    lies(ids) -> bool of the shape of ids: whether those clients are malicious; nobody is whose id
        is padding.
    nobody: whether it is known that none is.
    """

    lies: Callable[[jax.Array], jax.Array]
    nobody: bool = False


def drawn(num_clients: int, share: float, seed: int = 0) -> Malicious:
    """A share of the clients, drawn once.

    Args:
        num_clients: `N`, the clients that there are.
        share: of them, rounded to whole clients; 0 for nobody.
        seed: of the draw.

    Raises:
        ValueError: for a share outside 0 <= share < 1, one that is above 0 and makes no client, and
            for no seed of 32 bits.

    Example:
        >>> from fedjax_rec import attacks
        >>> int(attacks.drawn(num_clients=30, share=0.1).lies(jnp.arange(30)).sum())
        3
    """
    check.at_least("drawn", "num_clients", num_clients, 1)
    check.static("drawn", "share", share)
    check.seed("drawn", seed)
    if not 0 <= share < 1:
        raise ValueError(f"drawn(share={share}) is no share of clients; use 0 <= share < 1.")
    count = round(share * num_clients)
    if share and not count:
        raise ValueError(
            f"drawn(share={share}) of {num_clients} clients makes no malicious client; use share "
            f">= {1 / num_clients:.2g}, or 0."
        )
    return _of(np.random.default_rng(seed).choice(num_clients, count, replace=False))


def named(ids: Sequence[int]) -> Malicious:
    """These clients.

    Args:
        ids: of the clients, from 0.

    Raises:
        ValueError: for no client, and for an id below 0.

    Example:
        >>> from fedjax_rec import attacks
        >>> attacks.named([1, 4]).lies(jnp.arange(6)).tolist()
        [False, True, False, False, True, False]
    """
    chosen = np.asarray(list(ids), np.int64)
    if not chosen.size or chosen.min() < 0:
        raise ValueError(f"named(ids={list(ids)}) names no clients; use one or more ids >= 0.")
    return _of(chosen)


def from_id(first: int) -> Malicious:
    """All clients from an id on, such as those that `shilling` adds after the real ones.

    Args:
        first: the first of them, which is how many honest clients there are.

    Raises:
        ValueError: for first below 1, which leaves nobody honest.

    Example:
        >>> from fedjax_rec import attacks
        >>> attacks.from_id(2).lies(jnp.arange(4)).tolist()
        [False, False, True, True]
    """
    check.at_least("from_id", "first", first, 1)
    return Malicious(lambda ids: ids >= first)


def _of(ids: np.ndarray) -> Malicious:
    mask = np.zeros(int(ids.max(initial=0)) + 1, bool)
    mask[ids] = True
    lies = lambda ids: jnp.asarray(mask).at[ids].get(mode="fill", fill_value=False)
    return Malicious(lies, nobody=not mask.any())
