"""What attributes of items say without any training of vectors: lines of reference for new items.

- `attribute_popularity`   s_i = y_i . b,   b = (Y'Y + l2 I)^-1 Y'p over the items j that somebody
                           met, p_j the share of users who did: a new item is as popular as items of
                           its genres are
- `attribute_neighbours`   score(u, i) = sum_{j met by u} W_ij,   W_ij = max(0, cos(z_i, z_j)) where
                           j is one of the `neighbours` items that are most like i, else 0: items
                           like those that a user met, by genre or text and not by who met them

y are the attributes as they are, z the same less their mean. (Content-based recommendation, Pazzani
& Billsus, "Content-based recommendation systems", 2007; the second is `item_knn` over attributes.)

`I` items, `Fi` numbers that are known of an item, `M` users of a client.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from ... import trees
from ...check import at_least
from ...types import Model, Ranking
from ..attributed import attributes
from .fit import Fit, by_user, users_in
from .item_weights import item_weights


def attribute_scores(
    num_items: int,
    members: int = 1,
    item_features: np.ndarray | None = None,
    titles: Sequence[str] | None = None,
    weights: str | None = None,
    length: int = 128,
    components: int = 64,
) -> Model:
    """score(i) = y_i . b, the same for every user; filled by `attribute_popularity`.

    Arguments that are not named here are those of `models.ifedrec`.

    Returns:
        A model whose `shared` is {"attributes": Frozen(float[I, Fi]), "slope": float[Fi]} and whose
        `private` is empty.

    Raises:
        ValueError: where nothing is known of items; from its loss: it is fitted with
            `strategies.central` and never by steps.

    Example:
        >>> genres = np.eye(num_items, 5, dtype=np.float32)
        >>> model = models.attribute_scores(num_items, item_features=genres)
        >>> strategy = strategies.central(model, fit=models.attribute_popularity())
    """
    of = "attribute_scores"
    known = attributes(of, num_items, item_features, titles, weights, length, components)

    def init(key, common=None):
        return {
            "attributes": trees.Frozen(jnp.asarray(known)),
            "slope": jnp.zeros(known.shape[1]),
        }, {}

    def score(shared, private, items, user=0):
        return shared["attributes"].value[items] @ shared["slope"]

    return Model(init, _no_loss(of), Ranking.of(score))


def attribute_popularity(l2: float = 1.0) -> Fit:
    """Fits how popular items of each attribute are, on the items that somebody met.

    Args:
        l2: of the slope, at least 0.

    Returns:
        A `Fit` of the model `attribute_scores`. Its loss is the mean squared error over the items.

    Raises:
        ValueError: for l2 < 0.

    Example:
        >>> genres = np.eye(num_items, 5, dtype=np.float32)
        >>> model = models.attribute_scores(num_items, item_features=genres)
        >>> strategy = strategies.central(model, fit=models.attribute_popularity(l2=0.1))
    """
    at_least("attribute_popularity", "l2", l2, 0)

    def solve(history, shared, private):
        matrix = by_user(history)
        share = matrix.sum(0) / users_in(matrix)
        met = (share > 0).astype(jnp.float32)
        y = shared["attributes"].value * met[:, None]
        squares = jnp.matmul(y.T, y, precision="highest") + l2 * jnp.eye(y.shape[1])
        slope = jnp.linalg.solve(squares, jnp.matmul(y.T, share, precision="highest"))
        loss = (met * (y @ slope - share) ** 2).sum() / jnp.maximum(met.sum(), 1)
        return {**shared, "slope": slope}, private, loss

    return Fit.of(solve)


def attribute_weights(
    num_items: int,
    members: int = 1,
    neighbours: int = 20,
    item_features: np.ndarray | None = None,
    titles: Sequence[str] | None = None,
    weights: str | None = None,
    length: int = 128,
    components: int = 64,
) -> Model:
    """`item_weights` whose W are the likenesses of attributes; `attribute_neighbours` fills in what
    users met.

    Arguments that are not named here are those of `attribute_scores`.

    Args:
        members: `M`, the users that one client holds.
        neighbours: how many items vote for an item; those beyond the catalogue are left out.

    Returns:
        A model whose `shared` is {"weights": float32[I, I]} and whose `private` is {"history":
        bfloat16[M, I]}.

    Raises:
        ValueError: as `attribute_scores`, and for neighbours < 1.

    Example:
        >>> genres = np.eye(num_items, 5, dtype=np.float32)
        >>> model = models.attribute_weights(num_items, item_features=genres)
        >>> strategy = strategies.central(model, fit=models.attribute_neighbours())
    """
    of = "attribute_weights"
    at_least(of, "neighbours", neighbours, 1)
    known = attributes(of, num_items, item_features, titles, weights, length, components)
    model, alike = item_weights(num_items, members), _alike(known, neighbours)

    def init(key, common=None):
        return {"weights": jnp.asarray(alike)}, model.init(key, common)[1]

    return replace(model, init=init, loss=_no_loss(of))


def attribute_neighbours() -> Fit:
    """Fills in what users met, and leaves the weights of attributes as they are.

    Returns:
        A `Fit` of the model `attribute_weights`. It minimises nothing; its loss is 0.

    Example:
        >>> genres = np.eye(num_items, 5, dtype=np.float32)
        >>> model = models.attribute_weights(num_items, item_features=genres)
        >>> strategy = strategies.central(model, fit=models.attribute_neighbours())
    """

    def solve(history, shared, private):
        return shared, {"history": history.astype(jnp.bfloat16)}, jnp.float32(0)

    return Fit.of(solve)


def _alike(known: np.ndarray, neighbours: int) -> np.ndarray:
    """float32[I, I]: cosines of the rows less their mean, of each row the largest positive ones. In
    NumPy, since XLA would fold it while it compiles, which took minutes."""
    z = known - known.mean(0)
    z = z / np.sqrt(np.maximum((z**2).sum(1, keepdims=True), 1e-12))
    cosines = np.maximum(z @ z.T, 0)
    np.fill_diagonal(cosines, 0)
    voters = np.argsort(-cosines, 1, kind="stable")[:, :neighbours]
    kept = np.zeros_like(cosines, np.float32)
    np.put_along_axis(kept, voters, np.take_along_axis(cosines, voters, 1), 1)
    return kept


def _no_loss(name: str):
    def loss(shared, private, batch, key):
        raise ValueError(
            f"{name}() has no loss of a batch; use the strategy central with the fit that fills it."
        )

    return loss
