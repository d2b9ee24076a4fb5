"""A model whose clients know which groups their user is in, by which it neither trains nor scores.

`strategies.f2mf` reads it. Membership is a private leaf `about`, float[members, G], zero until
`strategies.described` sets it; it is in no message, and no gradient comes to it.

`G` groups.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from ..types import Model
from .factorization.mf import fedmf
from .fields import user_sizes
from .objectives import Objective


def grouped(model: Model, user_features: np.ndarray) -> Model:
    """`model` beside a private leaf `about` like the features of one client.

    Args:
        model: whose private part is a dict.
        user_features: float[N, members, G], 1 in the group of each user, as `data.features` makes
            of a column by `tokens()` or bins. What they are is set by `strategies.described`.

    Raises:
        ValueError: for features of another shape, and in `init` for a model that keeps another
            private part than a dict, or one with a leaf `about`.

    Example:
        >>> gender = np.eye(2, dtype=np.float32)[np.arange(dataset.num_users) % 2][:, None]
        >>> model = models.grouped(models.fedmf(num_items, width=4), gender)
    """
    user_sizes("grouped", user_features, None)
    about = np.zeros(user_features.shape[1:], np.float32)

    def init(key, common=None):
        shared, private = model.init(key, common)
        if not isinstance(private, dict) or "about" in private:
            raise ValueError(
                "grouped(model) keeps groups beside what is private, which here is "
                f"{sorted(private) if isinstance(private, dict) else type(private).__name__}; give "
                "a model such as models.fedmf."
            )
        return shared, {**private, "about": jnp.array(about)}

    def view(shared, private):
        return shared, {name: x for name, x in private.items() if name != "about"}

    return model.through(view, init)


def f2mf(
    num_items: int,
    members: int = 1,
    width: int = 32,
    scale: float = 0.1,
    objective: Objective | None = None,
    user_features: np.ndarray | None = None,
) -> Model:
    """`fedmf` whose clients know their users' groups, for `strategies.f2mf`.

    Arguments that are not named here are those of `fedmf`.

    Args:
        user_features: float[N, members, G], see `grouped`; None where groups are those of activity,
            which a client knows by itself.

    Raises:
        ValueError: as `fedmf` and `grouped`.

    Example:
        >>> gender = np.eye(2, dtype=np.float32)[np.arange(dataset.num_users) % 2][:, None]
        >>> model = models.f2mf(num_items, width=4, user_features=gender)
    """
    model = fedmf(num_items, members, width, scale, objective)
    return model if user_features is None else grouped(model, user_features)
