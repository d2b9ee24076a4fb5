"""What of a data set is public: some interactions of each user, which an adversary may read.

    ceil(xi n_u) of the n_u training interactions of user u, drawn alike

(As Rong et al., "FedRecAttack: model poisoning attack to federated recommendation", ICDE 2022, have
it: reviews, likes and follows that anybody sees.) Host-side NumPy.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .. import check
from ..data import Interactions, leave_one_out, load
from ..data.negatives import Draws, exclusion
from ..data.splits import TRAIN, Splitter
from ..made import part


@part
class Published:
    """Public interactions. users, items: int[n], sorted by user; num_users, num_items: of the data
    set that they are of."""

    users: np.ndarray
    items: np.ndarray
    num_users: int
    num_items: int

    @property
    def count(self) -> np.ndarray:
        """int[I]: the public interactions of each item, which say how popular it is."""
        return np.bincount(self.items, minlength=self.num_items)

    def laid_out(self) -> tuple[np.ndarray, np.ndarray]:
        """(items int32[N, P], real bool[N, P]) of each user, P the most of any."""
        length = np.bincount(self.users, minlength=self.num_users)
        real = np.arange(max(length.max(initial=0), 1)) < length[:, None]
        items = np.zeros(real.shape, np.int32)
        items[real] = self.items
        return items, real

    def others(self) -> Draws:
        """What draws an item that a user has not."""
        return exclusion(self.users, self.items, self.num_users, self.num_items, budget=0)

    def refuse_other(self, where: str, num_items: int) -> None:
        """Raises ValueError where the model's catalogue is not that of the data."""
        if num_items != self.num_items:
            raise ValueError(
                f"{where}(public) knows {self.num_items} items and the model has {num_items}; give "
                "`published` the data of the run."
            )


def published(
    source: str | Path | Interactions,
    share: float = 0.01,
    split: Splitter | None = None,
    seed: int = 0,
) -> Published:
    """A share of each user's training interactions, rounded up.

    Args:
        source: the data of the run, whose ids these are: a name or path for `data.load`, or
            interactions, such as what filters left of them.
        share: xi, of a user's training interactions. In (0, 1].
        split: of the run, which says what trains; default `leave_one_out()`.
        seed: of the draw.

    Raises:
        FileNotFoundError: where the data are not here; nothing is fetched for an adversary.
        ValueError: for a share outside 0 < share <= 1, no seed of 32 bits, and as `data.load`.

    Example:
        >>> from fedjax_rec import attacks
        >>> public = attacks.published("synthetic", share=0.01)
        >>> len(public.items) >= public.num_users
        True
    """
    check.seed("published", seed)
    if not 0 < share <= 1:
        raise ValueError(f"published(share={share}) is no share; use 0 < share <= 1.")
    found = source if isinstance(source, Interactions) else load(source, fetch=False)
    divided = (split or leave_one_out())(found)
    trains = divided.part == TRAIN
    data = divided.interactions
    users, items = data.users[trains], data.items[trains]
    draw = np.random.default_rng(seed).random(len(users))
    order = np.lexsort((draw, users))
    length = np.bincount(users, minlength=data.num_users)
    first = np.cumsum(length) - length
    place = np.arange(len(users)) - first[users[order]]
    # The product of a share and a count may lie above a whole number by its rounding.
    kept = order[place < np.ceil(share * length - 1e-9)[users[order]]]
    return Published(users[kept], items[kept], data.num_users, data.num_items)
