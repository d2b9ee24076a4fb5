"""ClusterAttack: items are drawn together into few clusters, within which no user can tell them
apart.

In each round in which one of its clients takes part, the adversary clusters the rows q_i of the
item table by K-means, and its clients m push every row towards the middle c_i of its cluster,

    u_m[i] = b_mi (c_i - q_i) / |c_i - q_i|,   b_mi = mean + strength r_mi deviation

with r_mi uniform in [0, 1], mean and deviation those of the norms of rows that its clients would
have sent, a row that they did not touch among them as zero: each row is as long as a user's.
c_i - q_i is the slope of l = sum_i |q_i - c_i|^2 / K. K is found as the attack goes on: a moving
average of l is watched, and where it grew in `patience` rounds more than it fell, more clusters are
asked for, K + sqrt(most - K), and where it fell, fewer, K - sqrt(K - least).

(Yu, Liu, Wu, Yu, Yu, Zhang, "Untargeted attack against federated recommendation systems via
poisonous item embeddings and the defense", AAAI 2023, and its released code.) There the norms are
those of the malicious clients' own gradients, as here, of fifty of them drawn in each round; here
of those that take part. `patience` grows in the paper by a rate that the released code does not
set; here it stays.

`I` items, `D` width, `K` clusters.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .. import check, rows, trees
from ..types import PyTree
from . import pushed
from .attacked import Attack
from .everywhere import everywhere

TINY, DECAY = 1e-8, 0.999


def cluster_attack(
    clusters: int = 2,
    most: int = 50,
    least: int = 1,
    strength: float = 3.0,
    patience: int = 100,
    rows: int | None = None,
    iterations: int = 100,
) -> Attack:
    """Draws items together, so that scores no longer tell them apart: ClusterAttack.

    The adversary reads the server's item table, and what its own clients would have sent; of others
    no numbers. Its clients touch all rows, or those that they draw, and send of dense leaves what
    they would have.

    Args:
        clusters: K, at first.
        most: largest K.
        least: smallest K.
        strength: how far the norm of a row may be above the mean, in deviations. Positive.
        patience: rounds after which K changes, see above.
        rows: how many rows of the table each client names, drawn by how often honest clients touch
            them; None for all, for which the round's uploads are laid out as whole tables.
        iterations: most turns of K-means in a round.

    Returns:
        An `Attack` on models with one table of items, such as `models.fedmf`.

    Raises:
        ValueError: for numbers out of range, and in a round for another model, for more clusters
            than items, and for more rows than an upload has room for.

    Example:
        >>> from fedjax_rec import attacks
        >>> push = attacks.cluster_attack(clusters=2, most=5)
        >>> rule = attacks.attacked(aggregate.total(), push, attacks.named([3, 7]))
    """
    where = "cluster_attack"
    check.positive(where, "strength", strength)
    for name, value, low in (
        ("least", least, 1), ("clusters", clusters, least), ("most", most, clusters),
        ("patience", patience, 1), ("iterations", iterations, 1),
    ):  # fmt: skip
        check.static(where, name, value)
        check.at_least(where, name, value, low)
    if rows is not None:
        check.static(where, "rows", rows)
        check.at_least(where, "rows", rows, 1)

    def items_of(shared: PyTree) -> jax.Array:
        items = pushed.items_of(where, shared)
        if most > items.shape[0]:
            raise ValueError(
                f"{where}(most={most}) is more than there are items; use most <= {items.shape[0]}."
            )
        return items

    def init(shared):
        items_of(shared)
        return {
            "clusters": jnp.int32(clusters), "grew": jnp.int32(0), "average": jnp.float32(0),
            "last": jnp.float32(0), "looks": jnp.int32(0),
        }  # fmt: skip

    def forge(key, state, update, sides, now):
        items = items_of(now.shared)
        of_means, of_rows, of_norms = jax.random.split(key, 3)
        middles, label = means(of_means, items, state["clusters"], most, iterations)
        way = middles[label] - items
        loss = (way**2).sum() / state["clusters"]
        watched = _watched(state, loss, patience, most, least)
        state = trees.select(sides.lies.any(), watched, state)

        def of_table(number, x, ids):
            mean, deviation = _norms(own, sides.lies)
            shape = (sides.lies.shape[0], x.size if ids is None else ids.shape[1])
            bound = mean + strength * deviation * _uniform(of_norms, sides.client, shape)
            there = way / (jnp.linalg.norm(way, axis=-1, keepdims=True) + TINY)
            return bound[..., None] * (there[None] if ids is None else there[ids])

        (own,) = _tables(update)
        send = everywhere(where, of_rows, update, sides, rows, of_table, lambda number, x: x)
        return state, send

    return Attack(forge, init)


def means(
    key: jax.Array, items: jax.Array, count: jax.Array, most: int, iterations: int
) -> tuple[jax.Array, jax.Array]:
    """K-means from `count` of the items (a middle each, that are drawn): (middles [most, D], of
    which those from `count` on mean nothing, label int32[I]). A cluster that loses all of its items
    stays where it was; it ends when the middles move by less than 1e-4 together."""
    first = jax.random.choice(key, items.shape[0], (most,), replace=False)
    real = jnp.arange(most) < count

    def labels(middles):
        distance = (items**2).sum(1)[:, None] - 2 * items @ middles.T + (middles**2).sum(1)
        return jnp.argmin(jnp.where(real, distance, jnp.inf), 1)

    def turn(search):
        middles, _, i = search
        within = jax.nn.one_hot(labels(middles), most)
        size = within.sum(0)[:, None]
        after = jnp.where(size > 0, within.T @ items / jnp.maximum(size, 1), middles)
        moved = jnp.sqrt(jnp.where(real[:, None], (after - middles) ** 2, 0).sum())
        return after, moved, i + 1

    goes_on = lambda search: (search[1] >= 1e-4) & (search[2] < iterations)
    middles = jax.lax.while_loop(goes_on, turn, (items[first], jnp.float32(jnp.inf), 0))[0]
    return middles, labels(middles)


def _watched(state: dict, loss: jax.Array, patience: int, most: int, least: int) -> dict:
    """The state after a look at `loss`: its debiased moving average grew or fell, and K with it."""
    looks = state["looks"] + 1
    average = DECAY * state["average"] + (1 - DECAY) * loss
    debiased = average / (1 - DECAY ** looks.astype(jnp.float32))
    change = jnp.where(debiased > state["last"], 1, -1)
    grew = state["grew"] + jnp.where(looks > 1, change, 0)
    k = state["clusters"].astype(jnp.float32)
    root = lambda x: jnp.sqrt(jnp.maximum(x, 0))
    more = jnp.minimum(jnp.round(k + root(most - k)), most)
    fewer = jnp.maximum(jnp.round(k - root(k - least)), least)
    k = jnp.where(grew >= patience, more, jnp.where(grew <= -patience, fewer, k))
    again = jnp.abs(grew) >= patience
    return {
        "clusters": k.astype(jnp.int32), "grew": jnp.where(again, 0, grew),
        "average": jnp.where(again, 0.0, average), "last": debiased,
        "looks": jnp.where(again, 0, looks),
    }  # fmt: skip


def _norms(x: rows.RowsUpdate, lies: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and standard deviation of the norms of all rows of those who lie; untouched ones are
    0."""
    norms = jnp.where(lies[:, None] & x.live, jnp.linalg.norm(x.values, axis=-1), 0)
    count = jnp.maximum(lies.sum() * x.size, 2)
    mean = norms.sum() / count
    variance = ((norms**2).sum() - count * mean**2) / (count - 1)
    return mean, jnp.sqrt(jnp.maximum(variance, 0))


def _uniform(key: jax.Array, client: jax.Array, shape: tuple[int, int]) -> jax.Array:
    one = lambda i: jax.random.uniform(jax.random.fold_in(key, i), shape[1:])
    return jax.vmap(one)(client)


def _tables(update: PyTree) -> list[rows.RowsUpdate]:
    return [x for x in rows.nodes(update) if rows.is_table(x)]
