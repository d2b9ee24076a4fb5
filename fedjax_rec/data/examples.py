"""Labelled examples that are no (user, item) pairs: clicks on impressions, prompts with an answer.

`Examples` is the host's record, with whatever fields a model reads; `pack_examples` groups it by
client and lays it on the device once, as an `ExampleStore` that all clients of a round read in
place and a `HeldOut` for each of the validation and test parts; `examples()` are its batches: each
example of a client once an epoch, as it is.

A field of integers may name rows of a table: `Rows(values, fields=("ids",))` finds it by name.

Dimensions: `n` examples, `N` clients, `K` clients with something held out.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..rows import static
from ..types import Array, record
from .batches import Batches
from .splits import TEST, TRAIN, VALIDATION
from .store import ClientData, Dataset

LABELS = "labels"


@dataclass(frozen=True)
class Examples:
    """fields: name -> array [n, ...], of which `labels` float[n] is 0 or 1.

    client: int[n], 0 to num_clients - 1; part: int8[n], TRAIN, VALIDATION or TEST of `data.splits`,
    others are left out. num_clients: None for as many as `client` names. num_rows: rows of the
    table that id fields point into, which a model's factory gets as `num_items`; 0 where none do.
    pack: makes fewer, larger examples of those of each client to train on, see `packed_prompts`;
    None leaves them as they are.
    Raises ValueError for fields of unequal length, no labels, or labels other than 0 and 1.
    """

    name: str
    fields: dict[str, np.ndarray]
    client: np.ndarray
    part: np.ndarray
    num_rows: int = 0
    num_clients: int = 0
    pack: Callable[[dict[str, np.ndarray], np.ndarray], Any] | None = None

    def __post_init__(self):
        told = f"Examples(name={self.name!r})"
        lengths = {name: len(x) for name, x in self.fields.items()}
        lengths |= {"client": len(self.client), "part": len(self.part)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"{told} has fields of unequal length {lengths}; give one value each.")
        if LABELS not in self.fields:
            raise ValueError(f"{told} has no field {LABELS!r}; give one of 0 and 1.")
        if not len(self.client):
            raise ValueError(f"{told} has no example; give at least one.")
        if not np.isin(self.fields[LABELS], (0, 1)).all():
            raise ValueError(f"{told} has {LABELS} other than 0 and 1; give one of those two.")
        low, high = int(self.client.min()), int(self.client.max())
        if low < 0 or (self.num_clients and high >= self.num_clients):
            raise ValueError(
                f"{told} names client {low if low < 0 else high}; use 0 to num_clients - 1."
            )
        object.__setattr__(self, "num_clients", self.num_clients or high + 1)

    def __len__(self) -> int:
        return len(self.client)


@record
class ExampleStore:
    """Training examples by client, in the order of the record: what `data.Store` is for
    interactions. fields: name -> array [n, ...]; start, length: int32[N]; longest: most examples
    of any client."""

    fields: dict[str, Array]
    start: Array
    length: Array
    longest: int = static()

    @property
    def num_clients(self) -> int:
        return self.start.shape[0]

    @property
    def ids(self) -> dict[str, int]:
        """How many row ids an example has in each field of integers."""
        whole = lambda x: jnp.issubdtype(x.dtype, jnp.integer)
        return {name: math.prod(x.shape[1:]) for name, x in self.fields.items() if whole(x)}

    def viewed(self, view, longest) -> ExampleStore:
        """The same through `view(array)` of every field."""
        seen = {name: view(x) for name, x in self.fields.items()}
        return replace(self, fields=seen, longest=longest)

    def sizes(self, ids: jax.Array) -> jax.Array:
        """int32[C]: examples of the clients `ids`; 0 for padding."""
        return self.length.at[ids].get(mode="fill", fill_value=0)

    def axes(self) -> ClientData:
        """Which fields of `take` have a leading client axis, for `vmap`."""
        return ClientData(None, 0, 0, 0, None)

    def take(self, ids: jax.Array) -> ClientData:
        """The slices of the clients `ids` int32[c], for `vmap` over `axes()`."""
        length = self.sizes(ids)
        safe = jnp.minimum(ids, self.num_clients - 1)
        return ClientData(self, safe, self.start[safe], length, length.max())


@record
class HeldOut:
    """Held-out examples by client. fields: name -> array [n, ...]; users, clients: int32[K], both
    the client; count: int32[K], its examples; owner: int32[n], the place in 0..K-1 of an example's
    client. longest: most examples of any client."""

    fields: dict[str, Array]
    clients: Array
    count: Array
    owner: Array
    longest: int = static()

    @property
    def users(self) -> Array:
        return self.clients


def examples() -> Batches:
    """Each example of an `ExampleStore` as it is: every field, of which those of integers may be
    ids of table rows.

    Example:
        >>> strategy = strategies.fedavg(click_model, data.examples())
    """

    def draw(seed, data, q):
        index = data.start + q.astype(jnp.int32)
        return {name: x.at[index].get(mode="clip") for name, x in data.store.fields.items()}

    return Batches(lambda data: data.length, lambda store: store.longest, draw, ids=None)


def pack_examples(found: Examples) -> Dataset:
    """`found` on the device.

    Args:
        found: the record.

    Returns:
        A `Dataset` whose `members` is one more than the largest `users` where there is such a field
        (the user's index inside its client), else 1.

    Raises:
        ValueError: where nothing is left to train on.

    Example:
        >>> dataset = data.pack_examples(clicks)
    """
    train = _part(found, TRAIN)
    if not len(train):
        raise ValueError(f"pack_examples({found.name!r}) has no training example; put some in it.")
    fields, client = _of(found, train), found.client[train]
    if found.pack is not None:
        fields, client, _ = found.pack(fields, client)
    length = np.bincount(client, minlength=found.num_clients).astype(np.int32)
    start = np.concatenate([[0], np.cumsum(length)[:-1]]).astype(np.int32)
    store = ExampleStore(
        _on_device(fields), jnp.asarray(start), jnp.asarray(length), int(length.max())
    )
    members = 1 + int(found.fields["users"].max()) if "users" in found.fields else 1
    return Dataset(
        name=found.name, num_clients=found.num_clients, num_users=found.num_clients,
        num_items=found.num_rows, members=members, store=store,
        validation=_held_out(found, VALIDATION), test=_held_out(found, TEST),
        activity=length, popularity=np.zeros(0, np.int32), negatives="none",
    )  # fmt: skip


def describe_examples(found: Examples) -> dict[str, Any]:
    """Sizes, the share of ones among the labels, examples a client, and the fields; of packed ones
    also the sequences that are trained on, and the share of their tokens that is padding.

    Args:
        found: the record.

    Returns:
        Plain numbers and texts by name, ready for JSON.

    Example:
        >>> told = data.describe_examples(clicks)
    """
    count = np.bincount(found.client, minlength=found.num_clients)
    packed = {}
    if found.pack is not None:
        train = _part(found, TRAIN)
        _, client, waste = found.pack(_of(found, train), found.client[train])
        packed = {"sequences": len(client), "padding": waste}
    return {
        "name": found.name,
        "examples": len(found),
        "rows": found.num_rows,
        "positive": float(np.mean(found.fields[LABELS], dtype=np.float64)),
        "per_client_min": int(count.min()),
        "per_client_median": float(np.median(count)),
        "per_client_max": int(count.max()),
        "fields": {name: f"{x.dtype}{list(x.shape[1:])}" for name, x in found.fields.items()},
        **packed,
    }


def _part(found: Examples, part: int) -> np.ndarray:
    """The examples of a part, by client, else in their order."""
    where = np.flatnonzero(found.part == part)
    return where[np.argsort(found.client[where], kind="stable")]


def _of(found: Examples, where: np.ndarray) -> dict[str, np.ndarray]:
    return {name: x[where] for name, x in found.fields.items()}


def _on_device(fields: dict[str, np.ndarray]) -> dict[str, Array]:
    kinds = {"i": jnp.int32, "u": jnp.int32, "b": jnp.bool_, "f": jnp.float32}
    kind = lambda name, x: jnp.float32 if name == LABELS else kinds.get(x.dtype.kind, x.dtype)
    return {name: jnp.asarray(x, kind(name, x)) for name, x in fields.items()}


def _held_out(found: Examples, part: int) -> HeldOut | None:
    where = _part(found, part)
    if not len(where):
        return None
    clients, owner, count = np.unique(
        found.client[where], return_inverse=True, return_counts=True
    )  # fmt: skip
    place = lambda x: jnp.asarray(x, jnp.int32)
    return HeldOut(
        _on_device(_of(found, where)),
        place(clients),
        place(count),
        place(owner),
        int(count.max()),
    )
