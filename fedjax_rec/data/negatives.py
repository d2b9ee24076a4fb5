"""Negatives that never hit what a policy excludes, drawn without rejection inside jit.

A user's excluded items e_0 < e_1 < ... leave `n` allowed ones. The r-th allowed item is
r + #{i : e_i - i <= r}, so one uniform r in [0, n) and one rank query give an exactly uniform
negative. Two layouts answer the query with the same result: `Complement` lists the allowed items
(one gather, I * 2 bytes a user), `Search` bisects the excluded ones (O(log) gathers, no more
memory than the interactions), or counts them where a good part of the catalogue is asked for at
once; `exclusion` takes the first where it fits a budget.

Policies (Zhang et al., PFedRec; see docs/results.md for what each does to a published number):

- `paper`: all interactions of the user, held-out ones too. Leaks the test item: it alone is
  never trained as a negative. Kept to reproduce published tables.
- `train`: the user's training interactions only. The default.
- `symmetric`: training and held-out interactions and the sampled evaluation negatives.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from ..keys import below
from ..rows import static
from ..types import Array, record

POLICIES = ("paper", "train", "symmetric")


@record
class Complement:
    """items: uint16 or int32[sum n_u], the allowed items user by user; start, count: int32[U]."""

    items: Array
    start: Array
    count: Array

    def pick(self, user: jax.Array, bits: jax.Array) -> jax.Array:
        """int32[B]: uniform allowed items of `user` (int32[] or [B]) from uint32 bits [B]."""
        return self.at(user, below(bits, self.count[user]))

    def at(self, user: jax.Array, r: jax.Array) -> jax.Array:
        """int32[B]: the allowed items number r of `user`, ascending; r: int32[B] below count."""
        return self.items.at[self.start[user] + r].get(mode="clip").astype(jnp.int32)


@record
class Search:
    """gaps: int32[nnz], e_i - i user by user; start, length, count (allowed items): int32[U].
    steps: halvings that find the place of any; num_items: I."""

    gaps: Array
    start: Array
    length: Array
    count: Array
    steps: int = static(default=32)
    num_items: int = static(default=2**31 - 1)

    def pick(self, user: jax.Array, bits: jax.Array) -> jax.Array:
        """As `Complement.pick`, to the bit."""
        return self.at(user, below(bits, self.count[user]))

    def at(self, user: jax.Array, r: jax.Array) -> jax.Array:
        """As `Complement.at`."""
        if jnp.ndim(user) == 0 and r.size * self.steps > 2 * self.num_items:
            return self._counted(user, r)
        start = self.start[user]
        low = jnp.zeros_like(r)
        high = jnp.broadcast_to(self.length[user], r.shape)
        for _ in range(self.steps):
            middle = (low + high) // 2
            gap = self.gaps.at[start + middle].get(mode="clip")
            right = (low < high) & (gap <= r)
            low, high = jnp.where(right, middle + 1, low), jnp.where(right, high, middle)
        return r + low

    def _counted(self, user, r):
        """`at` by #{j : gap_j <= r} for all r at once, a scatter and a sum over the catalogue."""
        j = jnp.arange(2**self.steps - 1)  # as many as any user has, or more
        gaps = self.gaps.at[self.start[user] + j].get(mode="clip")
        gaps = jnp.where(j < self.length[user], gaps, self.num_items)
        there = jnp.zeros(self.num_items, jnp.int32).at[gaps].add(1, mode="drop")
        return r + jnp.cumsum(there)[r]


@record
class Among:
    """Only items of a part of the catalogue are drawn. items: int32[P], ascending; draws: the same
    over their places 0 .. P - 1."""

    items: Array
    draws: Draws

    def pick(self, user: jax.Array, bits: jax.Array) -> jax.Array:
        """As `Complement.pick`, to the bit."""
        return self.items[self.draws.pick(user, bits)]

    def at(self, user: jax.Array, r: jax.Array) -> jax.Array:
        """As `Complement.at`."""
        return self.items[self.draws.at(user, r)]

    @property
    def count(self) -> Array:
        return self.draws.count


Draws = Complement | Search | Among


def pairs_to_csr(users: np.ndarray, items: np.ndarray, num_users: int, num_items: int):
    """(items, start, length): the distinct items of each user, ascending."""
    # Sorted once: NumPy's `unique` hashes first, which takes several times as long.
    codes = np.sort(users.astype(np.int64) * num_items + items)
    codes = codes[np.append(True, codes[1:] != codes[:-1])[: len(codes)]]
    length = np.bincount(codes // num_items, minlength=num_users).astype(np.int32)
    start = np.concatenate([[0], np.cumsum(length)[:-1]]).astype(np.int32)
    return (codes % num_items).astype(np.int32), start, length


def exclusion(
    users: np.ndarray,
    items: np.ndarray,
    num_users: int,
    num_items: int,
    budget: int = 2**28,
    absent: np.ndarray | None = None,
    names: np.ndarray | None = None,
) -> Draws:
    """The draw that never returns any of the pairs (users[j], items[j]), nor, for anybody, an item
    where `absent` bool[I] holds.

    budget: bytes that `Complement` may take; beyond it, `Search`. names: what messages call users.
    Raises ValueError where a user has nothing left to draw.
    """
    if absent is not None:
        present = np.flatnonzero(~absent)
        place, kept = np.cumsum(~absent) - 1, ~absent[items]
        pairs = users[kept], place[items[kept]]
        draws = exclusion(*pairs, num_users, len(present), budget, names=names)
        return Among(jnp.asarray(present, jnp.int32), draws)
    excluded, start, length = pairs_to_csr(users, items, num_users, num_items)
    count = (num_items - length).astype(np.int32)
    if num_users and count.min() <= 0:
        user = int(count.argmin())
        raise ValueError(
            f"negatives: user {called(user, names)} excludes all {num_items} items, so no negative "
            "is left; "
            "drop such users or use a policy that excludes less."
        )
    itemsize = 2 if num_items <= 2**16 else 4
    if count.astype(np.int64).sum() * itemsize <= budget:
        return _complement(excluded, start, length, count, num_items, itemsize)
    position = np.arange(len(excluded)) - np.repeat(start, length)
    return Search(
        jnp.asarray((excluded - position).astype(np.int32)),
        jnp.asarray(start),
        jnp.asarray(length),
        jnp.asarray(count),
        steps=int(length.max(initial=0)).bit_length(),
        num_items=num_items,
    )


def called(user: int, names: np.ndarray | None) -> str:
    """A user as the data call it; its number where nobody says."""
    return str(user) if names is None else f"'{names[user]}'"


def _complement(excluded, start, length, count, num_items, itemsize) -> Complement:
    dtype = np.uint16 if itemsize == 2 else np.int32
    out = np.empty(int(count.sum(dtype=np.int64)), dtype)
    begin = np.concatenate([[0], np.cumsum(count, dtype=np.int64)])
    block = max(1, 2**24 // num_items)
    for low in range(0, len(count), block):
        high = min(low + block, len(count))
        allowed = np.ones((high - low, num_items), bool)
        rows = np.repeat(np.arange(high - low), length[low:high])
        span = slice(start[low], start[high - 1] + length[high - 1])
        allowed[rows, excluded[span]] = False
        out[begin[low] : begin[high]] = np.nonzero(allowed)[1]
    return Complement(
        jnp.asarray(out), jnp.asarray(begin[:-1].astype(np.int32)), jnp.asarray(count)
    )


def sample_distinct(
    users: np.ndarray,
    items: np.ndarray,
    num_users: int,
    num_items: int,
    size: int,
    seed: int,
    parts: int = 1,
    names: np.ndarray | None = None,
) -> np.ndarray:
    """int32[U, parts * size]: uniform distinct items of each user outside its pairs, on the host.

    Floyd's sampling, vectorised over users. It makes a uniform set in an order that is not (the
    last allowed items can only come late), so each row is shuffled: any columns of it are a
    uniform sample. Raises ValueError where a user has too few items left.
    """
    asked, size = size, parts * size
    excluded, start, length = pairs_to_csr(users, items, num_users, num_items)
    left = num_items - length
    if num_users and left.min() < size:
        user = int(left.argmin())
        raise ValueError(
            f"evaluation_negatives={asked} takes {size} items, and user {called(user, names)} has "
            f"only {left[user]} items outside its history; ask for fewer, or for 0 to have none."
        )
    rng = np.random.default_rng(seed)
    chosen = np.full((num_users, size), -1, np.int64)
    for j in range(size):
        top = left - size + j
        draw = (rng.random(num_users) * (top + 1)).astype(np.int64)
        taken = (chosen[:, :j] == draw[:, None]).any(1)
        chosen[:, j] = np.where(taken, top, draw)
    chosen = rng.permuted(chosen, axis=1)
    gaps = excluded - (np.arange(len(excluded)) - np.repeat(start, length))
    user_of = np.repeat(np.arange(num_users), length)
    # One global search: gaps grow within a user, and user * num_items keeps users apart.
    code = user_of.astype(np.int64) * (num_items + 1) + gaps
    query = np.arange(num_users)[:, None] * (num_items + 1) + chosen
    below_or_equal = np.searchsorted(code, query, side="right") - start[:, None]
    return (chosen + below_or_equal).astype(np.int32)
