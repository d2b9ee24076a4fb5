"""FedRecAttack: what few public interactions say of users is enough to know what they would rank.

The adversary trains vectors p_u of its own on the public interactions V'_u and the server's items,
an epoch in each round, as honest clients would (BPR, Adam). Among the K items that it believes u is
shown, public ones and targets left out, the last is v_u. A target t is pushed past it:

    l = sum_u sum_{t not in V'_u} g(p_u . q_{v_u} - p_u . q_t),    g(x) = x above 0, e^x - 1 below

Its gradient G on the items is what is to be sent. A malicious client keeps to kappa rows for good:
the targets, and others drawn with chances |G_i| when it first takes part. It sends

    -rate G_i min(1, C / |G_i|)

of its rows, and what that leaves of G is for the clients of the round after it.

(Rong et al., "FedRecAttack: model poisoning attack to federated recommendation", ICDE 2022; K, Adam
and its batches are those of the released code, which takes, of several targets, the first past the
last of the K items, the second past the one before, and so on, where the paper takes the last for
all, as here. It adds noise of deviation 3e-4 to what is sent, which this does not.)

`N` users, `P` the most public interactions of one, `T` targets, `I` items, `D` width.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import optax

from .. import check
from ..keys import mix, words
from . import pushed
from .attacked import Attack
from .published import Published

BEGIN = 0.01  # deviation of vectors of users before they are trained
TINY = 1e-12


def fed_rec_attack(
    targets: Sequence[int],
    public: Published,
    rate: float = 1.0,
    kappa: int = 60,
    bound: float = 1.0,
    user_rate: float = 0.01,
    batch_size: int = 256,
    among: int = 10,
    remembers: int = 1024,
) -> Attack:
    """Pushes items into what users are shown, as public interactions tell it: FedRecAttack.

    The adversary reads the server's item table in the rounds that one of its clients takes part in,
    and public interactions; no upload. It has to know the rate at which items learn. A malicious
    client touches at most kappa rows, the targets among them, the same in all rounds.

    Args:
        targets: ids of the items that are pushed.
        public: what is known of users, such as `published("ml-100k", share=0.01)`.
        rate: the learning rate of items, of one honest client. Positive.
        kappa: how many rows a client sends, with targets.
        bound: C, the longest gradient of a row. Positive.
        user_rate: Adam's, on vectors of users. Positive.
        batch_size: users of a batch.
        among: K, of how many items that a user is shown the last is passed.
        remembers: of how many malicious clients it remembers the rows; others choose anew in each
            round.

    Returns:
        An `Attack` on models with one table of items that score by inner products, such as
        `models.fedmf`.

    Raises:
        ValueError: for no target, one twice, kappa below the number of targets, or numbers out of
            range; and in a round, for a target that the catalogue does not have, for more of K or
            kappa than there are items, and for a model without such a table or of another
            catalogue than `public` is.

    Example:
        >>> from fedjax_rec import attacks
        >>> public = attacks.published("synthetic", share=0.05)
        >>> push = attacks.fed_rec_attack(targets=[7], public=public, kappa=20)
    """
    where = "fed_rec_attack"
    wanted = pushed.wanted(where, targets)
    for name, value in (("rate", rate), ("bound", bound), ("user_rate", user_rate)):
        check.positive(where, name, value)
    for name, value in (("batch_size", batch_size), ("among", among), ("remembers", remembers)):
        check.at_least(where, name, value, 1)
    if kappa < len(wanted):
        raise ValueError(
            f"{where}(kappa={kappa}) rows have no room for {len(wanted)} targets; use kappa >= "
            f"{len(wanted)}."
        )
    at, adam = jnp.asarray(wanted, jnp.int32), optax.adam(user_rate)
    known, real = (jnp.asarray(x) for x in public.laid_out())  # [N, P]
    num_users, draws = public.num_users, public.others()

    def items_of(shared):
        items = pushed.items_of(where, shared, wanted)
        public.refuse_other(where, items.shape[0])
        for name, value, less in (
            ("kappa", kappa, 0), ("among", among, known.shape[1] + len(wanted)),
        ):  # fmt: skip
            if value > items.shape[0] - less:
                raise ValueError(
                    f"{where}({name}={value}) is more than there are items; use {name} <= "
                    f"{items.shape[0] - less}."
                )
        return items

    def init(shared):
        users = jnp.zeros((num_users, items_of(shared).shape[1]))
        return {
            "looked": jnp.bool_(False), "users": users, "adam": adam.init(users),
            "who": jnp.full(remembers, -1, jnp.int32),
            "rows": jnp.zeros((remembers, kappa), jnp.int32),
        }  # fmt: skip

    def trained(key, users, state, items):
        """An epoch of BPR on public interactions, in batches of users."""
        of_order, of_draws = jax.random.split(key)
        order = jax.random.permutation(of_order, num_users)
        count = -(-num_users // batch_size)
        order = jnp.pad(order, (0, count * batch_size - num_users), constant_values=num_users)
        seed = words(of_draws, 2)

        def batch(t, carry):
            users, state = carry
            ids = jax.lax.dynamic_slice_in_dim(order, t * batch_size, batch_size)
            has, user = real.at[ids].get(mode="fill", fill_value=False), ids[:, None]
            place = jnp.arange(has.size, dtype=jnp.uint32).reshape(has.shape)
            bits = mix(mix(place + seed[0]) ^ (seed[1] + t.astype(jnp.uint32)))
            others = draws.pick(jnp.minimum(user, num_users - 1), bits)
            apart = items[known.at[ids].get(mode="clip")] - items[others]  # [B, P, D]
            mine = users.at[ids].get(mode="clip")
            push = jnp.where(has, jax.nn.sigmoid(-(apart * mine[:, None]).sum(-1)), 0)
            slope = -(push[..., None] * apart).sum(1)
            slope = jnp.zeros_like(users).at[ids].set(slope, mode="drop")
            step, state = adam.update(slope, state)
            return users + step, state

        return jax.lax.fori_loop(0, count, batch, (users, state))

    def slope_of(users, items):
        """float32[I, D]: G."""

        def one(user):
            vector, has, mine = user
            scores = items @ vector
            left_out = jnp.where(has, mine, items.shape[0])
            shown = scores.at[left_out].set(-jnp.inf, mode="drop").at[at].set(-jnp.inf)
            last = jax.lax.top_k(shown, among)[1][-1]
            ahead = scores[last] - scores[at]
            free = ~((mine[:, None] == at) & has[:, None]).any(0)
            weight = jnp.where(free, jnp.exp(jnp.minimum(ahead, 0)), 0)  # g'
            return last, weight

        last, weight = jax.lax.map(one, (users, real, known), batch_size=256)
        of_last = jnp.zeros_like(items).at[last].add(weight.sum(1)[:, None] * users)
        return of_last.at[at].add(-(weight.T @ users))

    def forge(key, state, update, sides, now):
        items = items_of(now.shared)
        of_users, of_epoch, of_rows = jax.random.split(key, 3)

        def looked(state):
            fresh = BEGIN * jax.random.normal(of_users, state["users"].shape)
            users = jnp.where(state["looked"], state["users"], fresh)
            users, moments = trained(of_epoch, users, state["adam"], items)
            return {**state, "looked": jnp.bool_(True), "users": users, "adam": moments}

        state = jax.lax.cond(sides.lies.any(), looked, lambda state: state, state)

        def one(k, carry):
            left, who, kept = carry
            same, free = who == sides.client[k], who < 0
            old = same.any()
            slot = jnp.where(old, jnp.argmax(same), jnp.argmax(free))
            slot = jnp.where(old | free.any(), slot, remembers)
            of_client = jax.random.fold_in(of_rows, sides.client[k])
            chance = jnp.log(jnp.linalg.norm(left, axis=-1) + TINY)
            chance = (chance + jax.random.gumbel(of_client, chance.shape)).at[at].set(-jnp.inf)
            chosen = jax.lax.top_k(chance, kappa - len(wanted))[1].astype(jnp.int32)
            mine = jnp.where(old, kept.at[slot].get(mode="clip"), jnp.concatenate([at, chosen]))
            sent = left[mine]
            length = jnp.linalg.norm(sent, axis=-1, keepdims=True)
            sent = sent * jnp.minimum(1, bound / jnp.maximum(length, TINY))
            who = who.at[slot].set(sides.client[k], mode="drop")
            kept = kept.at[slot].set(mine, mode="drop")
            return (left.at[mine].add(-sent), who, kept), (mine, sent)

        begin = slope_of(state["users"], items), state["who"], state["rows"]
        (_, who, kept), (ids, sent) = pushed.in_turn(sides.lies, sides.client, begin, one)
        said = pushed.of_tables(update, -rate * sent)
        forged = pushed.sent(where, update, sides.lies, ids, said)
        return {**state, "who": who, "rows": kept}, forged

    return Attack(forge, init)
