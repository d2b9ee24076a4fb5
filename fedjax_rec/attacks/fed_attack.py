"""FedAttack: malicious clients train on the hardest examples that there are, turned round.

A malicious client knows what its user likes, and trains a vector u for it on the server's items as
an honest client would (one step of BPR in a round). Of the items that it looks at, those nearest to
u become negatives n_1, ..., n_S, and those furthest from it positives m_1, ..., m_S, hardest first:

    l = 1/S sum_r -log s(u . q_(m_r) - u . q_(n_r))

It sends -rate dl/dq of these rows: what a user of odd taste would send, who is hard to tell from
others. No item is pushed; everybody is served worse.

(Wu et al., "FedAttack: effective and covert poisoning attack on federated recommendation via hard
sampling", KDD 2022. The released code, of central training, takes the nearest and the furthest item
alone, of all items, for each of the user's examples: `hardest=1`.)

`N` users whose profiles are known, `P` the longest profile, `I` items, `D` width, `S` hard pairs.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from .. import check
from ..keys import mix, words
from . import pushed
from .attacked import Attack
from .published import Published


def fed_attack(
    profiles: Published,
    rate: float = 1.0,
    user_rate: float = 1.0,
    hardest: int = 30,
    candidates: int | None = None,
    scale: float = 0.01,
) -> Attack:
    """Trains on hardest positives and negatives, so that everybody is served worse: FedAttack.

    The adversary reads the server's item table in the rounds that one of its clients takes part in,
    and what users of its own clients like; no upload, and no profile of others. It has to know the
    rates at which clients learn. A malicious client touches 2 S rows.

    Args:
        profiles: what its clients' users like, such as `published("ml-100k", share=1.0)`; profiles
            of honest clients in it are not looked at. Clients of whom none is known send what they
            trained.
        rate: the learning rate of items, of one honest client. Positive.
        user_rate: that of users. Positive.
        hardest: S, positives and as many negatives.
        candidates: among how many items, drawn in each round, the hardest are; None for all.
        scale: deviation of u's numbers before it is trained. Positive.

    Returns:
        An `Attack` on models with one table of items that score by inner products, such as
        `models.fedmf`.

    Raises:
        ValueError: for numbers out of range, fewer candidates than 2 S; and in a round, for fewer
            items than that, and for a model without such a table or of another catalogue than
            `profiles` is.

    Example:
        >>> from fedjax_rec import attacks
        >>> known = attacks.published("synthetic", share=1.0)
        >>> rule = attacks.attacked(
        ...     aggregate.total(), attacks.fed_attack(known), attacks.drawn(1000, 0.05)
        ... )
    """
    where = "fed_attack"
    for name, value in (("rate", rate), ("user_rate", user_rate), ("scale", scale)):
        check.positive(where, name, value)
    check.at_least(where, "hardest", hardest, 1)
    if candidates is not None:
        check.at_least(where, "candidates", candidates, 2 * hardest)
    known, real = (jnp.asarray(x) for x in profiles.laid_out())  # [N, P]
    others = profiles.others()

    def items_of(shared):
        items = pushed.items_of(where, shared)
        profiles.refuse_other(where, items.shape[0])
        if max(candidates or 0, 2 * hardest) > items.shape[0]:
            raise ValueError(
                f"{where}(hardest={hardest}, candidates={candidates}) takes more items than the "
                f"{items.shape[0]} there are; use fewer."
            )
        return items

    def init(shared):
        width = items_of(shared).shape[1]
        return {
            "begun": jnp.zeros(profiles.num_users, bool),
            "users": jnp.zeros((profiles.num_users, width)),
        }

    def forge(key, state, update, sides, now):
        items = items_of(now.shared)
        there = jnp.append(real.any(1), False).at[sides.client].get(mode="clip")
        lies = sides.lies & there

        def one(k, state):
            client = sides.client[k]
            of_user, of_draws, of_sample = jax.random.split(jax.random.fold_in(key, client), 3)
            fresh = scale * jax.random.normal(of_user, items.shape[1:])
            user = jnp.where(state["begun"][client], state["users"][client], fresh)
            seed = words(of_draws, 2)
            place = jnp.arange(known.shape[1], dtype=jnp.uint32)
            drawn = others.pick(client, mix(mix(place + seed[0]) ^ seed[1]))
            apart = items[known[client]] - items[drawn]
            push = jnp.where(real[client], jax.nn.sigmoid(-(apart @ user)), 0)
            user = user + user_rate * (push @ apart) / jnp.maximum(real[client].sum(), 1)
            looks = jnp.arange(items.shape[0])
            if candidates is not None:
                looks = jax.random.permutation(of_sample, looks)[:candidates]
            scores = items[looks] @ user
            near = looks[jax.lax.top_k(scores, hardest)[1]]
            far = looks[jax.lax.top_k(-scores, hardest)[1]]
            wrong = jax.nn.sigmoid((items[near] - items[far]) @ user) / hardest
            moves = rate * wrong[:, None] * user
            state = {
                "begun": state["begun"].at[client].set(True),
                "users": state["users"].at[client].set(user),
            }
            ids = jnp.concatenate([far, near]).astype(jnp.int32)
            return state, (ids, jnp.concatenate([moves, -moves]))

        state, (ids, moves) = pushed.in_turn(lies, sides.client, state, one)
        said = pushed.of_tables(update, moves)
        return state, pushed.sent(where, update, lies, ids, said)

    return Attack(forge, init)
