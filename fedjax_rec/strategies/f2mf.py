"""F2MF: matrix factorization whose clients learn faster or slower by how well their group is served
(Liu, Ge, Xu, Zhang & Marian, "Fairness-aware federated matrix factorization", RecSys 2022; released
code github CharlieMat/FedFairRec).

    client u of group g:  (p_u, Q_u) <- descent on  D_g grad f_u(p_u, Q_u)  from Q
                          F_u = 1 - mean f_u over its round
    server:               A_g <- sum_{u in g} F_u / #{u in g},  of the clients of the last round
    D_g = 1 - lambda sum_{h != g} rho sign(A_g - A_h) |A_g - A_h|^(rho - 1)

which is descent on sum_u f_u + lambda sum_{g < h} |A_g - A_h|^rho, but for the sizes of groups,
with their performance in the round before in place of that of now. With rho = 1 and two groups, who
is served better takes 1 - lambda of a step and who is served worse 1 + lambda. The released code
sweeps lambda < 0 as well: F is of a loss, and a group of small losses need not be one of good
lists.

A client sends F_u and 1 in the place of its group, and 0 in the others, which tells its group:
noise is against that, or `aggregator=privacy.secure_aggregation(...)`, under which the server sees
sums alone. The released noise, N(0, sigma^2) that a client draws once and adds to each of its
numbers in all rounds, and to the sums N(0, sigma^2) anew in each round, bounds no epsilon: nothing
bounds F_u, and what is drawn once is the same in every message of a client.

From the released code this differs so: a round is one of all drawn clients, whose rows are averaged
by who touched them, as in `fedmf`, where it adds them up; vectors have no biases. A group of which
nobody takes part keeps what was last said of it.

`G` groups.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import keys, rows
from ..aggregate import per_row
from ..aggregate.parts import by_part, total
from ..check import at_least
from ..clients import groups as by_groups
from ..clients import sgd
from ..clients.batches import Passes
from ..clients.training import change, first_private, kept, metrics_of, several, train
from ..data import Batches
from ..rounds.federated import federated
from ..servers.step import as_server, step
from ..servers.step import by_part as servers_by_part
from ..types import Aggregator, Client, Model, PyTree, Server, Strategy, Transform, Upload


def f2mf(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    lam: float = 0.5,
    rho: float = 1.0,
    active_above: float | None = None,
    noise: float | None = None,
    user_learning_rate: float = 1.0,
    item_learning_rate: float = 1.0,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    aggregator: Aggregator | None = None,
    server: Server | Transform | None = None,
    **assembly,
) -> Strategy:
    """SGD on (p_u, Q) as in `fedmf`, whose rates a group's performance scales.

    Two numbers a group go up and come down beside the model, and are billed. Metrics: those of
    `fedavg`, and `factor`, D of the client. Arguments that are not named here are those of
    `fedavg`.

    Args:
        model: `models.f2mf(num_items, ...)`, whose groups are the columns of its features, or any
            of `fedmf`'s kind, with `active_above`.
        lam: lambda.
        rho: of the gap, at least 1.
        active_above: groups are users of more training interactions than this and the others;
            default those of the model's features.
        noise: sigma, of what clients say of their group; default none. With rho > 1 and few
            clients it makes D of any size.
        user_learning_rate: of p_u, and of all else that is private.
        item_learning_rate: of Q, and of all else that is shared.
        aggregator: of the model, default `per_row()`; one with a seal is of the sums as well.
        server: what steps on the model; default `step(1.0)`.
        assembly: as in `federated`.

    Raises:
        ValueError: for rho < 1 and noise < 0; in `init`, for a model that knows no groups, or of
            several users a client, without `active_above`.

    Example:
        >>> gender = np.eye(2, dtype=np.float32)[np.arange(dataset.num_users) % 2][:, None]
        >>> model = models.f2mf(num_items, width=4, user_features=gender)
        >>> strategy = strategies.f2mf(model, data.pointwise(4), lam=0.3)
        >>> strategy = strategies.described(strategy, gender)
    """
    at_least("f2mf", "rho", rho, 1)
    count, member = _groups(active_above)
    rates = {"private": sgd(user_learning_rate), "shared": sgd(item_learning_rate)}
    optimizers, passes = several(by_groups(rates)), Passes(epochs, steps, batch_size)

    def update(key, private, shared, data, now):
        own = member(private, data)
        factor = own @ factors(shared["groups"], lam, rho)

        def scaled(start):
            def direction(gradient, params, batch):
                value, gradients = gradient(params, batch)
                return value, rows.scale(gradients, factor)

            return direction

        trained = train(
            model, examples, optimizers, passes, key, private, shared["model"], data, now, scaled
        )
        metrics = metrics_of(trained, probe, model, shared["model"], data)
        told = {"sum": own * (1 - trained.loss), "count": own}
        sent = {"model": change(trained, shared["model"]), "groups": told}
        return kept(trained), Upload(sent, trained.count, metrics | {"factor": factor})

    client = Client(first_private(model), update, examples=examples)
    beside = beside_groups(model, count)
    if noise is not None:
        at_least("f2mf", "noise", noise, 0)
        client = noised(client, noise, count)
        beside = beside.through(lambda shared, private: (shared, private["client"]), beside.init)
    if aggregator is None or aggregator.seal is None:
        aggregator = by_part({"model": aggregator or per_row(), "groups": total()})
    both = {"model": as_server(server or step(1.0)), "groups": latest()}
    return federated(
        client, beside, aggregator=aggregator, server=servers_by_part(both), **assembly
    )


def factors(told: PyTree, lam, rho) -> jax.Array:
    """float[G]: D of each group, of {"sum": float[G], "count": float[G]}; a group of which nobody
    has said anything is neither better nor worse."""
    known = told["count"] > 0
    performance = told["sum"] / jnp.where(known, told["count"], 1.0)
    apart = performance[:, None] - performance
    slope = rho * jnp.sign(apart) * jnp.abs(apart) ** (rho - 1)
    return 1 - lam * jnp.where(known[:, None] & known, slope, 0.0).sum(1)


def beside_groups(model: Model, count: Callable[[PyTree], int]) -> Model:
    """`model` of shared {"model": ..., "groups": what was last said of count(private) groups}."""

    def init(key, common=None):
        shared, private = model.init(key, common)
        return {"model": shared, "groups": _zeros(count(private))}, private

    return model.through(lambda shared, private: (shared["model"], private), init)


def noised(client: Client, sigma, count: Callable[[PyTree], int]) -> Client:
    """`client`, which adds noise to what it says of count(private) groups, as released.

    `private` is {"client": ..., "noise": what it adds to each number in all rounds}.
    """

    def drawn(key, count: int):
        return jax.tree.map(
            lambda key, x: sigma * jax.random.normal(key, x.shape),
            dict(zip(("sum", "count"), jax.random.split(key), strict=True)),
            _zeros(count),
        )

    def init(key, id):
        own = keys.stream(keys.for_client(key, id), "noise of groups")
        private = client.init(key, id)
        return {"client": private, "noise": drawn(own, count(private))}

    def update(key, private, shared, data, now):
        mine, upload = client.update(key, private["client"], shared, data, now)
        told = jax.tree.map(jnp.add, upload.update["groups"], private["noise"])
        fresh = jax.random.normal(keys.stream(key, "noise of groups"), told["sum"].shape)
        told = {**told, "sum": told["sum"] + sigma * fresh}
        return {**private, "client": mine}, replace(
            upload, update={**upload.update, "groups": told}
        )

    return replace(client, init=init, update=update)


def latest() -> Server:
    """What was said in this round, of groups of which anything was, in the place of what was
    known."""

    def apply(state, known, said):
        heard = said["count"] > 0
        return state, jax.tree.map(lambda old, new: jnp.where(heard, new, old), known, said)

    return Server(lambda shared: (), apply)


def _zeros(count: int) -> dict[str, jax.Array]:
    return {"sum": jnp.zeros(count), "count": jnp.zeros(count)}


def _groups(active_above: float | None) -> tuple[Callable, Callable]:
    """(count(private) -> G, member(private, data) -> float[G], 1 in the client's group)."""

    def by_activity(private, data):
        active = (data.length > active_above).astype(jnp.float32)
        return jnp.stack([1 - active, active])

    def columns(private) -> int:
        about = private.get("about") if isinstance(private, dict) else None
        if about is None or about.shape[0] != 1:
            raise ValueError(
                "f2mf(model) needs the group of the one user that each client is; use models.f2mf "
                "with features of users, or active_above=100."
            )
        return about.shape[1]

    if active_above is not None:
        return lambda private: 2, by_activity
    return columns, lambda private, data: private["about"][0]
