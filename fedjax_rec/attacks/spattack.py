"""Spattack: few clients touch most items, so that few liars who touch them all are many.

With m_i liars that touch row i, and u_k what the honest send:

    O (omniscient)   u_m[i] = -strength / m_i  sum of u_k[i] over honest k
    L (limited)      u_m[i] = scale z_i,   z_i of the normal distribution, alike in all rounds

O leaves of each sum 1 - strength: nothing with 1, with more the sum turned round. What is
averaged over the clients that touched a row then stands still, whatever the number of liars, which
one is enough of. L needs to know nothing: liars agree on a direction for each item and push it that
way until the honest are drowned, which rows of few clients are first.

Each liar names all rows of a table (the paper's dense variants, -D), or R of them drawn by how
often honest clients touch them (the sparse ones, -S), which looks like a user's upload.

(Zhang, Zhang, Wang, Lyu, Yan, Du, Shi, "Rethinking Byzantine robustness in federated recommendation
from sparse aggregation perspective", AAAI 2025.) There R is what the largest honest client touches,
and rows are drawn once; here in each round.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .. import check, trees
from .attacked import Attack
from .everywhere import everywhere
from .honest import of_rows


def spattack_o(rows: int | None = None, strength: float = 1.0) -> Attack:
    """Takes the sum of what honest clients say of each item back: Spattack-O.

    The adversary reads the uploads of all. Malicious clients touch all rows, or those that they
    draw, and every dense leaf, of which they take the sum back as well.

    Args:
        rows: R, how many rows of a table each names, see above; None for all. All do not fit into
            what clients send, so that the round's uploads are laid out as whole tables.
        strength: 1 takes back what there is, 2 turns it round. Positive.

    Returns:
        An `Attack` on any model.

    Raises:
        ValueError: for rows below 1, unless strength is positive, and in a round for more rows than
            an upload has room for.

    Example:
        >>> from fedjax_rec import attacks
        >>> rule = attacks.attacked(aggregate.per_row(), attacks.spattack_o(), attacks.named([3]))
    """
    check.positive("spattack_o", "strength", strength)
    _check_rows("spattack_o", rows)

    def forge(key, state, update, sides, now):
        lies, honest = sides.lies, sides.honest

        def of_table(number, x, ids):
            total = of_rows(x, honest, x.values)
            if ids is None:
                return -strength * total / jnp.maximum(lies.sum(), 1)
            count = jnp.zeros(x.size).at[jnp.where(lies[:, None], ids, x.size)].add(1, mode="drop")
            return -strength * total / jnp.maximum(count, 1)[:, None]

        def of_array(number, x):
            total = jnp.where(trees.leading(honest, x), x, 0).sum(0)
            return -strength * total / jnp.maximum(lies.sum(), 1)

        return state, everywhere("spattack_o", key, update, sides, rows, of_table, of_array)

    return Attack(forge)


def spattack_l(scale: float = 0.01, rows: int | None = None, seed: int = 0) -> Attack:
    """Pushes each item in a direction of its own, always the same: Spattack-L.

    The adversary reads no numbers: it knows the shapes of the model, and, where it draws rows, how
    many clients touched each. Malicious clients touch all rows, or those that they draw, and every
    dense leaf.

    Args:
        scale: how far a number is pushed in a round, its standard deviation. Positive; the paper's
            is the items' learning rate, .01.
        rows: as of `spattack_o`.
        seed: of the directions.

    Returns:
        An `Attack` on any model.

    Raises:
        ValueError: as `spattack_o`, unless scale is positive, and for no seed of 32 bits.

    Example:
        >>> from fedjax_rec import attacks
        >>> push = attacks.spattack_l(scale=0.1)
        >>> rule = attacks.attacked(aggregate.per_row(), push, attacks.named([3]))
    """
    check.positive("spattack_l", "scale", scale)
    check.seed("spattack_l", seed)
    _check_rows("spattack_l", rows)

    def direction(number, shape):
        of_leaf = jax.random.fold_in(jax.random.key(seed), number)
        return scale * jax.random.normal(of_leaf, shape)

    def forge(key, state, update, sides, now):
        of_table = lambda number, x, ids: direction(number, (x.size, x.values.shape[-1]))
        of_array = lambda number, x: direction(number, x.shape[1:])
        return state, everywhere("spattack_l", key, update, sides, rows, of_table, of_array)

    return Attack(forge)


def _check_rows(where: str, rows: int | None) -> None:
    if rows is not None:
        check.static(where, "rows", rows)
        check.at_least(where, "rows", rows, 1)
