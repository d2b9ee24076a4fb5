"""PSMU: made up users who would take the target over what they like best.

Each malicious client m is a user with `filler` items drawn once. In each round it fits a vector to
them, on the server's item table, from 0 by `steps` steps of gradient descent

    p_m = argmin -mean over its items log s(p . q_i) - mean over as many others log s(-p . q_j)

looks for the items A_m that it ranks first, its own and the targets left out, which are the
alternatives that a target has to beat, and sends -rate times the slope of

    l_m = -1/|A_m| sum over targets t and alternatives a  log s(p_m . q_t - p_m . q_a)

for the rows of the targets and of the alternatives, and nothing else.

(Yuan, Nguyen, Qu, Ye, Hung, Yin, "Manipulating federated recommender systems: poisoning with
synthetic users and its countermeasures", SIGIR 2023.) The paper has users of random items, a
vector for each that is learned on the device, and targets that are to beat their alternative
products. No code was released: which items are alternatives, and how vectors are fitted, are this
file's.

`n` clients, `T` targets, `A` alternatives, `I` items, `D` width.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from .. import check, keys
from ..types import PyTree
from . import pushed
from .attacked import Attack


def psmu(
    targets: Sequence[int],
    rate: float = 1.0,
    filler: int = 30,
    alternatives: int = 10,
    steps: int = 50,
    user_rate: float = 1.0,
    seed: int = 0,
) -> Attack:
    """Pushes items past what made up users like best: PSMU.

    The adversary reads the server's item table in the rounds that its clients take part in, and no
    upload; it has to know the rates. Its clients touch the targets and their alternatives, T + A
    rows.

    Args:
        targets: ids of the items that are pushed.
        rate: the learning rate of items, of one honest client. Positive.
        filler: items of each made up user.
        alternatives: A, how many items a target has to beat.
        steps: of descent on a made up user's vector, in each round.
        user_rate: of these steps. Positive.
        seed: of the items.

    Returns:
        An `Attack` on models with one table of items whose scores are inner products, such as
        `models.fedmf`.

    Raises:
        ValueError: for no target, one twice, numbers out of range, and in a round, for a target
            that the catalogue does not have, another model, more items than there are, and more
            rows than an upload has room for.

    Example:
        >>> from fedjax_rec import attacks
        >>> push = attacks.psmu(targets=[7], filler=5, alternatives=3)
        >>> rule = attacks.attacked(aggregate.total(), push, attacks.from_id(30))
    """
    where, wanted = "psmu", pushed.wanted("psmu", targets)
    check.positive(where, "rate", rate)
    check.positive(where, "user_rate", user_rate)
    check.seed(where, seed)
    for name, value in (("filler", filler), ("alternatives", alternatives), ("steps", steps)):
        check.static(where, name, value)
        check.at_least(where, name, value, 1)

    def items_of(shared: PyTree) -> jax.Array:
        items = pushed.items_of(where, shared, wanted)
        most = items.shape[0] - len(wanted) - alternatives
        if 2 * filler > most:
            raise ValueError(
                f"{where}(filler={filler}) and as many others are more than the items beside "
                f"targets and alternatives; use filler <= {most // 2}."
            )
        return items

    def one(of_round, client, items, at):
        """(ids [T + A], what it says of them [T + A, D]) of a malicious client."""
        mine = jax.random.gumbel(jax.random.fold_in(jax.random.key(seed), client), items.shape[:1])
        mine = jax.lax.top_k(mine.at[at].set(-jnp.inf), filler)[1]
        taken = jnp.zeros(items.shape[0], bool).at[at].set(True).at[mine].set(True)
        others = jax.random.gumbel(jax.random.fold_in(of_round, client), items.shape[:1])
        others = jax.lax.top_k(jnp.where(taken, -jnp.inf, others), filler)[1]
        user = fitted(items[mine], items[others], steps, user_rate)
        against = jax.lax.top_k(jnp.where(taken, -jnp.inf, items @ user), alternatives)[1]
        margins = (items[at] @ user)[:, None] - items[against] @ user
        pull = jax.nn.sigmoid(-margins) / alternatives
        shares = jnp.concatenate([pull.sum(1), -pull.sum(0)])
        return jnp.concatenate([at, against]), rate * shares[:, None] * user

    def forge(key, state, update, sides, now):
        items, at = items_of(now.shared), jnp.asarray(wanted, jnp.int32)
        of_round = keys.stream(key, "others")
        ids, step = jax.vmap(lambda client: one(of_round, client, items, at))(sides.client)
        said = pushed.of_tables(update, step)
        return state, pushed.sent(where, update, sides.lies, ids, said)

    def init(shared):
        items_of(shared)
        return ()

    return Attack(forge, init)


def fitted(positive: jax.Array, negative: jax.Array, steps: int, rate) -> jax.Array:
    """float32[D]: a user who has items [F, D] and not others [F, D], by gradient descent from 0."""

    def step(_, user):
        up = jax.nn.sigmoid(-positive @ user) @ positive
        down = jax.nn.sigmoid(negative @ user) @ negative
        return user + rate * (up - down) / positive.shape[0]

    return jax.lax.fori_loop(0, steps, step, jnp.zeros(positive.shape[1]))
