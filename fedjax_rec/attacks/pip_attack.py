"""PipAttack: targets are pushed to users, made to look popular, and not pushed further than others.

    l(q_t) = 1/M sum_u -log s(p_u . q_t)  -  alpha log f(q_t)[popular]

- Explicit promotion: the targets are liked by M users of the adversary's own, each with a profile
  of items drawn as often as they are popular; vectors p_u are trained on these profiles in every
  round.
- Popularity obfuscation: f, a layer of tanh and a softmax, is trained in every round to tell from
  an item's row how popular it is, most popular first, targets left out, each level weighing the
  same; rows are divided by their root mean square over all items. Then it is held fixed, and the
  target goes where f takes it for popular.
- Distance constraint: a malicious client sends what it honestly trained, with the rows of the
  targets in the place of what it did to them,

      u_t = -rate dl/dq_t min(1, distance b / |rate dl/dq_t|),   b the longest row that it trained

  so that no row of it stands out among its own.

(Zhang, Yin, Chen, Huang, Nguyen, Cui, "PipAttack: poisoning federated recommender systems for
manipulating item promotion", WSDM 2022. Without released code: the paper holds the distance down by
a penalty, where this cuts at it, and how its own users are made is ours.)

`M` users of the adversary, `T` targets, `I` items, `D` width, `H` hidden numbers, `L` levels.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from .. import check, rows
from ..types import PyTree
from . import pushed
from .attacked import Attack
from .published import Published

BEGIN, TINY = 0.01, 1e-12


def pip_attack(
    targets: Sequence[int],
    public: Published,
    rate: float = 1.0,
    alpha: float = 1.0,
    distance: float = 10.0,
    levels: Sequence[float] = (0.1, 0.45),
    users: int = 32,
    profile: int = 30,
    hidden: int = 32,
    fits: int = 20,
    fit_rate: float = 0.01,
    seed: int = 0,
) -> Attack:
    """Makes items liked and popular to look at, in steps as long as those of others: PipAttack.

    The adversary reads the server's item table in the rounds that one of its clients takes part in,
    what its clients trained themselves, and how popular items are. It has to know the rate at which
    items learn. Malicious clients touch the rows that they touch honestly, and the targets.

    Args:
        targets: ids of the items that are pushed.
        public: whose counts say how popular items are, such as `published("ml-100k", share=0.1)`.
        rate: the learning rate of items, of one honest client. Positive.
        alpha: of popularity beside promotion; 0 for promotion alone.
        distance: the longest row of a target beside the longest that the client trained. Positive.
        levels: shares of the catalogue that make the most popular level, the next, and so on; what
            is left makes the last.
        users: M.
        profile: items of each of these.
        hidden: H.
        fits: steps of f, and of the vectors of users, in a round.
        fit_rate: of these steps, by Adam. Positive.
        seed: of the profiles.

    Returns:
        An `Attack` on models with one table of items that score by inner products, such as
        `models.fedmf`.

    Raises:
        ValueError: for no target, one twice, levels that are no shares, or numbers out of range;
            and in a round, for a target that the catalogue does not have, and for a model without
            such a table or of another catalogue than `public` is.

    Example:
        >>> from fedjax_rec import attacks
        >>> public = attacks.published("synthetic", share=0.1)
        >>> push = attacks.pip_attack(targets=[7], public=public, alpha=0.5)
    """
    where, wanted = "pip_attack", pushed.wanted("pip_attack", targets)
    for name, value in (("rate", rate), ("distance", distance), ("fit_rate", fit_rate)):
        check.positive(where, name, value)
    check.at_least(where, "alpha", alpha, 0)
    check.seed(where, seed)
    for name, value in (("users", users), ("profile", profile), ("hidden", hidden), ("fits", fits)):
        check.at_least(where, name, value, 1)
    pushed.in_catalogue(where, wanted, public.num_items)
    level, weight = _levels(where, public, wanted, levels)
    liked = _profiles(where, public, wanted, users, profile, seed)  # [M, profile]
    at, adam = jnp.asarray(wanted, jnp.int32), optax.adam(fit_rate)

    def items_of(shared):
        items = pushed.items_of(where, shared, wanted)
        public.refuse_other(where, items.shape[0])
        return items

    def begun(key, width: int) -> PyTree:
        of_users, first, second = jax.random.split(key, 3)
        scaled = lambda key, a, b: jax.random.normal(key, (a, b)) / jnp.sqrt(a)
        count = len(levels) + 1
        return {
            "users": BEGIN * jax.random.normal(of_users, (users, width)),
            "first": scaled(first, width, hidden), "first_bias": jnp.zeros(hidden),
            "second": scaled(second, hidden, count), "second_bias": jnp.zeros(count),
        }  # fmt: skip

    def misfit(fitted, items, others):
        """How badly f knows levels, and users' vectors what they like."""
        apart = items[liked] - items[others]
        ranks = jax.nn.softplus(-jnp.einsum("mpd,md->mp", apart, fitted["users"])).mean(1).sum()
        told = jnp.take_along_axis(jax.nn.log_softmax(_told(fitted, items, _size(items))), level, 1)
        return ranks - (weight * told[:, 0]).sum()

    def lure(rows, fitted, size):
        """l of each target, summed; rows: float[T, D]."""
        explicit = jax.nn.softplus(-(rows @ fitted["users"].T)).mean(1)
        popular = jax.nn.log_softmax(_told(fitted, rows, size))[:, 0]
        return (explicit - alpha * popular).sum()

    def init(shared):
        fitted = begun(jax.random.key(0), items_of(shared).shape[1])
        fitted = jax.tree.map(jnp.zeros_like, fitted)
        return {"looked": jnp.bool_(False), "fitted": fitted, "adam": adam.init(fitted)}

    def forge(key, state, update, sides, now):
        items = items_of(now.shared)
        of_beginning, of_others = jax.random.split(key)

        def looked(state):
            fresh = begun(of_beginning, items.shape[1])
            fitted = jax.tree.map(
                lambda old, new: jnp.where(state["looked"], old, new), state["fitted"], fresh
            )

            def fit(t, carry):
                fitted, moments = carry
                of_fit = jax.random.fold_in(of_others, t)
                others = jax.random.randint(of_fit, liked.shape, 0, items.shape[0])
                slope = jax.grad(misfit)(fitted, items, others)
                step, moments = adam.update(slope, moments)
                return optax.apply_updates(fitted, step), moments

            fitted, moments = jax.lax.fori_loop(0, fits, fit, (fitted, state["adam"]))
            return {"looked": jnp.bool_(True), "fitted": fitted, "adam": moments}

        state = jax.lax.cond(sides.lies.any(), looked, lambda state: state, state)
        step = -rate * jax.grad(lure)(items[at], state["fitted"], _size(items))
        (table,) = (x for x in rows.nodes(update) if rows.is_table(x))
        trained = jnp.linalg.norm(jnp.where(table.live[..., None], table.values, 0), axis=-1)
        bound = distance * trained.max(1)[:, None]  # [n, 1]
        length = jnp.linalg.norm(step, axis=-1)
        said = step * jnp.minimum(1, bound / jnp.maximum(length, TINY))[..., None]
        return state, pushed.beside(update, sides.lies, at, said)

    return Attack(forge, init)


def _size(items: jax.Array) -> jax.Array:
    """float32[]: the root mean square of a number of `items`."""
    return jnp.sqrt((items**2).mean() + TINY)


def _told(fitted: PyTree, items: jax.Array, size: jax.Array) -> jax.Array:
    """float32[n, L]: what f says of rows [n, D], before the softmax."""
    inner = jnp.tanh(items / size @ fitted["first"] + fitted["first_bias"])
    return inner @ fitted["second"] + fitted["second_bias"]


def _levels(where: str, public: Published, wanted, levels: Sequence[float]):
    """(int32[I, 1] the level of each item, float32[I] what it weighs: 0 of a target)."""
    shares = np.asarray(list(levels), float)
    if not shares.size or (shares <= 0).any() or shares.sum() >= 1:
        raise ValueError(
            f"{where}(levels={list(levels)}) are no shares of a catalogue; use some > 0 with a sum "
            "below 1."
        )
    order = np.argsort(-public.count, kind="stable")
    ends = np.ceil(np.cumsum(shares) * public.num_items)
    level = np.empty(public.num_items, np.int32)
    level[order] = (np.arange(public.num_items)[:, None] >= ends).sum(1)
    counts = np.ones(public.num_items)
    counts[wanted] = 0
    size = np.bincount(level, counts, minlength=shares.size + 1)
    weight = counts / np.maximum(size, 1)[level] / (shares.size + 1)
    return jnp.asarray(level)[:, None], jnp.asarray(weight, jnp.float32)


def _profiles(where: str, public: Published, wanted, users: int, profile: int, seed: int):
    """int32[M, profile]: items of each user, as often as they are popular, without targets."""
    chance = public.count.astype(float)
    chance[wanted] = 0
    if (some := int((chance > 0).sum())) < profile:
        raise ValueError(
            f"{where}(profile={profile}) is more than the {some} items that are known of; use "
            f"profile <= {some}."
        )
    rng = np.random.default_rng(seed)
    drawn = [
        rng.choice(chance.size, profile, replace=False, p=chance / chance.sum())
        for _ in range(users)
    ]
    return jnp.asarray(np.array(drawn), jnp.int32)
