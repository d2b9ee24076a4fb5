"""A-ra and A-hum: users are drawn from a Gaussian, and targets are pushed to them.

Vectors of users that begin near zero stay near it for a while, so an adversary that knows nothing
draws s of them, p ~ N(0, sigma^2), and pushes the targets to these as an honest client would:

    l = 1/s sum_p 1/T sum_t -log y(p, q_t)

y is the logistic of the model's score. A malicious client sends -rate dl/dq_t, and -rate dl/dw of
the layers w of a deep model. That is A-ra (random approximation). A-hum mines hard users first:
each p takes steps against the targets, down the slope of 1/T sum_t -log(1 - y(p, q_t)).

(Rong, He, Chen, "Poisoning deep learning based recommender model in federated learning scenarios",
IJCAI 2022; s and the steps are those of the released code.)

`T` targets, `D` width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import check, rows, trees
from ..types import Model, PyTree
from . import pushed
from .attacked import Attack


def a_ra(
    model: Model,
    targets: Sequence[int],
    rate: float = 1.0,
    layer_rate: float | None = None,
    scale: float = 0.01,
    draws: int = 10,
) -> Attack:
    """Pushes items to users that are drawn at random: A-ra.

    The adversary reads the server's model in the rounds that one of its clients takes part in; no
    upload and no data. It has to know how the model scores, and the rates at which it learns. A
    malicious client touches the rows of the targets and the dense leaves, as an honest one does.

    Args:
        model: of the run, or one that shares and scores alike, for the same catalogue.
        targets: ids of the items that are pushed.
        rate: the learning rate of items, of one honest client. Positive.
        layer_rate: that of all else that is shared; None for `rate`.
        scale: sigma, the deviation of users' numbers. Positive.
        draws: s, users of one malicious client in a round.

    Returns:
        An `Attack` on models with tables of items, such as `models.mlp` or `models.fedmf`.

    Raises:
        ValueError: for no target, one twice, or numbers out of range; and in a round, for a target
            that the catalogue does not have, and for a run's model that has no table of items or
            does not share what `model` does.

    Example:
        >>> from fedjax_rec import attacks, models
        >>> push = attacks.a_ra(models.mlp(num_items, width=8, layers=[8, 8]), targets=[7])
    """
    return _imagining("a_ra", model, targets, rate, layer_rate, scale, draws, 0, 1.0)


def a_hum(
    model: Model,
    targets: Sequence[int],
    rate: float = 1.0,
    layer_rate: float | None = None,
    scale: float = 0.01,
    draws: int = 10,
    steps: int = 30,
    user_rate: float = 0.001,
) -> Attack:
    """Pushes items to users who like them least, found from random ones: A-hum.

    Arguments that are not named here are those of `a_ra`, as are what the adversary knows and what
    its clients touch.

    Args:
        steps: against the targets, of each drawn user.
        user_rate: of these steps. Positive.

    Raises:
        ValueError: as `a_ra`.

    Example:
        >>> from fedjax_rec import attacks, models
        >>> push = attacks.a_hum(models.fedmf(num_items, width=8), targets=[7], steps=10)
    """
    check.at_least("a_hum", "steps", steps, 1)
    check.positive("a_hum", "user_rate", user_rate)
    return _imagining("a_hum", model, targets, rate, layer_rate, scale, draws, steps, user_rate)


def _imagining(
    where: str, model: Model, targets, rate, layer_rate, scale, draws: int, steps: int, user_rate
) -> Attack:
    wanted = pushed.wanted(where, targets)
    layer_rate = rate if layer_rate is None else layer_rate
    for name, value in (("rate", rate), ("layer_rate", layer_rate), ("scale", scale)):
        check.positive(where, name, value)
    check.at_least(where, "draws", draws, 1)
    if model.ranking is None:
        raise ValueError(f"{where}(model) scores no items; use one that does, such as models.mlp.")
    outline = jax.eval_shape(model.init, jax.random.key(0))
    at = jnp.asarray(wanted, jnp.int32)

    def init(shared):
        tables = rows.tables(trees.trainable(shared))
        if not tables or any(x.fields != ("items",) for x in tables):
            raise ValueError(
                f"{where} pushes rows of tables of items, and the model has "
                f"{len(tables) or 'none'}; use one such as models.mlp or models.fedmf."
            )
        pushed.in_catalogue(where, wanted, min(x.shape[0] for x in tables))
        if jax.tree.structure(outline[0]) != jax.tree.structure(shared) or [
            x.shape for x in jax.tree.leaves(outline[0])
        ] != [x.shape for x in jax.tree.leaves(shared)]:
            raise ValueError(
                f"{where}(model) does not share what the model of the run shares; give it that one."
            )
        return ()

    def loss(shared: PyTree, user: PyTree, label: float) -> jax.Array:
        """-1/T sum_t log of the chance of `label`."""
        scores = model.score(shared, user, at)
        return jax.nn.softplus((1 - 2 * label) * scores).mean()

    def imagined(key, shared) -> PyTree:
        """A user who is drawn, and mined where there are steps."""
        leaves, structure = jax.tree.flatten(outline[1])
        keys = jax.random.split(key, max(len(leaves), 1))
        drawn = [scale * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=False)]
        against = jax.grad(loss, argnums=1)

        def step(_, user):
            return jax.tree.map(lambda p, g: p - user_rate * g, user, against(shared, user, 0.0))

        return jax.lax.fori_loop(0, steps, step, jax.tree.unflatten(structure, drawn))

    def forge(key, state, update, sides, now):
        init(now.shared)
        trained = trees.trainable(now.shared)

        def seen(said):
            """The server's model with these rows of targets and these layers."""
            at_targets = lambda x, new: replace(x, values=jnp.asarray(x.values).at[at].set(new))
            put = lambda x, new: at_targets(x, new) if rows.is_table(x) else new
            return trees.with_frozen(rows.map_nodes(put, trained, said), now.shared)

        before = rows.map_nodes(lambda x: x[at] if rows.is_table(x) else x, trained)

        def one(k, state):
            keys = jax.random.split(jax.random.fold_in(key, sides.client[k]), draws)
            users = jax.vmap(lambda key: imagined(key, now.shared))(keys)
            mean = lambda said: jax.vmap(lambda user: loss(seen(said), user, 1.0))(users).mean()
            return state, jax.grad(mean)(before)

        _, slope = pushed.in_turn(sides.lies, sides.client, (), one)
        said = rows.map_nodes(
            lambda x, g: -(rate if rows.is_table(x) else layer_rate) * g, update, slope
        )
        return state, pushed.sent(where, update, sides.lies, at, said)

    return Attack(forge, init)
