"""Mimic: all attackers send what one honest client sends.

    u_m = u_j,   j the honest client of the round with the smallest id

(Karimireddy, He, Jaggi, "Byzantine-robust learning on heterogeneous datasets via bucketing", ICLR
2022.) Nothing that is sent is wrong: one client counts as many, which no distance shows, and where
clients differ a rule takes it for all. The paper looks for the client to copy; this takes the same
one in every round that it is there, as the paper asks of who is copied.
"""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp

from .. import rows, trees
from .attacked import Attack


def mimic() -> Attack:
    """The upload of one honest client in the place of each malicious one, the rows that it touches
    included. The adversary reads the uploads of all. Without an honest client in the round nothing
    is forged.

    Example:
        >>> from fedjax_rec import attacks
        >>> rule = attacks.attacked(aggregate.median(), attacks.mimic(), attacks.named([3, 7]))
    """

    def forge(key, state, update, sides, now):
        last = jnp.iinfo(jnp.int32).max
        chosen = jnp.argmin(jnp.where(sides.honest, sides.client, last))
        lies = sides.lies & sides.honest.any()
        copied = lambda x: jnp.where(trees.leading(lies, x), x[chosen], x)

        def one(x):
            if not rows.is_table(x):
                return copied(x)
            ids = None if x.ids is None else copied(x.ids)
            return replace(x, values=copied(x.values), ids=ids, live=copied(x.live))

        return state, rows.map_nodes(one, update)

    return Attack(forge)
