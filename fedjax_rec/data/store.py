"""Interactions packed once on the device: training data as CSR by client, and evaluation cases.

`pack` takes a split and a partition of its users over clients, and makes a `Dataset`: a `Store`
that every client of a round reads in place (never copied per client), and `Cases` for the
validation and test parts.

Dimensions: `N` clients, `U` users, `I` items, `R` most held-out items of a user.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .. import check
from ..check import at_least, one_of
from ..made import refuse_uncalled
from ..rows import static
from ..types import Array, record
from .cases import cases_of
from .evaluation_draws import EvaluationDraws, Histories, uniform_draws
from .interactions import Interactions
from .negatives import POLICIES, Draws, exclusion
from .partition import Partition, by_user, members_of
from .spans import Spans, spans_of
from .splits import TEST, TRAIN, VALIDATION, Split

USUAL_NEGATIVES = 99  # of papers that rank among sampled items


@record
class Store:
    """Training interactions by client, in the order of time within a user.

    items: int32[nnz]; labels: float32[nnz] or None; owners and users: int32[nnz], the user of the
    data set and its index inside the client, or None where each client is one user.
    start, length: int32[N]; exclusion: how negatives are drawn.
    longest: most interactions of any client. members: most users of any client.
    spans: where each user's interactions lie, None where each client is one user.
    everything: most interactions and items that may be drawn of any client that is one user.
    ends: int32[I], training interactions of the items 0 to i, for `popular_negatives`.
    """

    items: Array
    labels: Array | None
    owners: Array | None
    users: Array | None
    start: Array
    length: Array
    exclusion: Draws | None
    num_items: int = static()
    longest: int = static()
    members: int = static(default=1)
    spans: Spans | None = None
    everything: int | None = static(default=None)
    ends: Array | None = None

    @property
    def num_clients(self) -> int:
        return self.start.shape[0]

    def viewed(self, view, longest) -> Store:
        """The same through `view(array)` of every array of interactions."""
        names = ("items", "labels", "owners", "users")
        seen = {name: getattr(self, name) for name in names}
        seen = {name: None if x is None else view(x) for name, x in seen.items()}
        return replace(self, longest=longest, **seen)

    def sizes(self, ids: jax.Array) -> jax.Array:
        """int32[C]: interactions of the clients `ids`; 0 for padding."""
        return self.length.at[ids].get(mode="fill", fill_value=0)

    def axes(self) -> ClientData:
        """Which fields of `take` have a leading client axis, for `vmap`."""
        return ClientData(None, 0, 0, 0, None)

    def take(self, ids: jax.Array) -> ClientData:
        """The slices of the clients `ids` int32[c], for `vmap` over `axes()`."""
        length = self.sizes(ids)
        safe = jnp.minimum(ids, self.start.shape[0] - 1)
        users = None if self.spans is None else self.spans.count[safe].max()
        return ClientData(self, safe, self.start[safe], length, length.max(), users)


@record
class ClientData:
    """One client's part of a `Store`. longest: the largest `length` in its chunk; most_users: most
    users with a sequence, see `Spans`, or None."""

    store: Any
    id: Array
    start: Array
    length: Array
    longest: Array
    most_users: Array | None = None


@dataclass(frozen=True, repr=False)
class Dataset:
    """Everything that a run reads. store, validation, test: `Store` and `Cases`, or, of labelled
    examples, `ExampleStore` and `HeldOut`; None without held-out ones. activity: int32[N], training
    interactions of each client; popularity: int32[I], of each item."""

    name: str
    num_clients: int
    num_users: int
    num_items: int
    members: int
    store: Any
    validation: Any
    test: Any
    activity: np.ndarray
    popularity: np.ndarray
    negatives: str

    def __repr__(self) -> str:
        return (
            f"Dataset({self.name!r}: {self.num_clients} clients, {self.num_users} users, "
            f"{self.num_items} items, {int(self.activity.sum())} training rows)"
        )


def pack(
    split: Split,
    partition: Partition | None = None,
    negatives: str = "train",
    evaluation_negatives: int | None = None,
    seed: int = 0,
    history: int = 0,
    evaluation_draws: EvaluationDraws | None = None,
) -> Dataset:
    """`split` on the device.

    Args:
        split: what trains, validates and tests.
        partition: users over clients; default one client a user.
        negatives: the policy for training negatives, one of `paper`, `train`, `symmetric`.
        evaluation_negatives: fixed negatives per user and part for sampled evaluation;
            those of validation and test are distinct. 0 for none; None for 99, or for none where
            some user has too few items outside its history.
        seed: of these negatives.
        history: items of each user's history that cases hold for models that read it.
        evaluation_draws: how these negatives are drawn; default `uniform_draws()`.

    Raises:
        ValueError: for an unknown policy, where nothing is left to train on, or where a user has
            no negatives left, or fewer than `evaluation_negatives` a part.

    Example:
        >>> dataset = data.pack(split, data.by_hash(4)(split), evaluation_negatives=0)
    """
    refuse_uncalled("pack", "partition", partition)
    refuse_uncalled("pack", "evaluation_draws", evaluation_draws)
    if not isinstance(split, Split):
        raise TypeError(
            f"pack(split={getattr(split, '__name__', type(split).__name__)}) is no split; give "
            "data.leave_one_out()(interactions)."
        )
    one_of("pack", "negatives", negatives, POLICIES)
    at_least("pack", "evaluation_negatives", evaluation_negatives or 0, 0)
    at_least("pack", "history", history, 0)
    check.seed("pack", seed)
    data = split.interactions
    partition = partition or by_user()(split)
    train = split.part == TRAIN
    if not train.any():
        raise ValueError("pack(split) has no training interaction; use a split that leaves some.")
    drawn = None
    popularity = np.bincount(data.items[train], minlength=data.num_items)
    if evaluation_negatives != 0:
        wanted = USUAL_NEGATIVES if evaluation_negatives is None else evaluation_negatives
        known = Histories(data.users, data.items, data.num_users, popularity, data.user_names)
        try:
            drawn = (evaluation_draws or uniform_draws()).sample(known, wanted, seed, 2)
        except ValueError:
            if evaluation_negatives is not None or negatives == "symmetric":
                raise
        evaluation_negatives = wanted
    cases = {
        part: cases_of(split, partition, part, chosen, history)
        for part, chosen in (
            (VALIDATION, None if drawn is None else drawn[:, :evaluation_negatives]),
            (TEST, None if drawn is None else drawn[:, evaluation_negatives:]),
        )
    }
    draws = exclusion(
        *_known(split, negatives, drawn), data.num_users, data.num_items,
        absent=split.absent, names=data.user_names,
    )  # fmt: skip
    store = _store(data, train, partition, draws)
    return Dataset(
        name=data.name,
        num_clients=partition.num_clients,
        num_users=data.num_users,
        num_items=data.num_items,
        members=store.members,
        store=store,
        validation=cases[VALIDATION],
        test=cases[TEST],
        activity=np.asarray(store.length),
        popularity=popularity.astype(np.int32),
        negatives=negatives,
    )


def _known(split: Split, policy: str, drawn: np.ndarray | None):
    """Pairs (users, items) that are no training negatives."""
    data = split.interactions
    if policy == "paper":
        return data.users, data.items
    if policy == "train":
        train = split.part == TRAIN
        return data.users[train], data.items[train]
    keep = np.isin(split.part, (TRAIN, VALIDATION, TEST))
    users, items = data.users[keep], data.items[keep]
    if drawn is not None:
        users = np.concatenate([users, np.repeat(np.arange(data.num_users), drawn.shape[1])])
        items = np.concatenate([items, drawn.reshape(-1)])
    return users, items


def _store(data: Interactions, train: np.ndarray, partition: Partition, draws) -> Store:
    users, items = data.users[train], data.items[train]
    labels = None if data.ratings is None else data.ratings[train]
    client = partition.client_of_user[users]
    order = np.argsort(client, kind="stable")
    length = np.bincount(client, minlength=partition.num_clients).astype(np.int32)
    start = np.concatenate([[0], np.cumsum(length)[:-1]]).astype(np.int32)
    member, most = members_of(partition)
    grouped = not np.array_equal(partition.client_of_user, np.arange(partition.num_clients))
    return Store(
        items=jnp.asarray(items[order], jnp.int32),
        labels=None if labels is None else jnp.asarray(labels[order], jnp.float32),
        owners=jnp.asarray(users[order], jnp.int32) if grouped else None,
        users=jnp.asarray(member[users[order]], jnp.int32) if grouped else None,
        start=jnp.asarray(start),
        length=jnp.asarray(length),
        exclusion=draws,
        num_items=data.num_items,
        longest=int(length.max()),
        members=most,
        spans=spans_of(users[order], client[order], partition.num_clients) if grouped else None,
        everything=None if grouped else int((length + np.asarray(draws.count)).max()),
        ends=jnp.asarray(np.cumsum(np.bincount(items, minlength=data.num_items)), jnp.int32),
    )
