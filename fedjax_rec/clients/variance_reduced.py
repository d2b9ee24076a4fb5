"""Local steps along gradients that know the gradient of all clients, and the server's momentum.

    SVRG       y <- y - eta (g(y; batch) - g(x; batch) + c)
    Mime       y <- y - eta ((1 - beta) (g(y; batch) - g(x; batch) + c) + beta m)
    MimeLite   y <- y - eta ((1 - beta) g(y; batch) + beta m)

x is the server's model, c the gradient of all clients of the round at x, m the server's momentum,
the same in all steps (Konecny et al., "Federated optimization", 2016, algorithm 3; Karimireddy et
al., "Mime", NeurIPS 2021, algorithm 1). Of a table c and m act on the rows that the client touches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax

from .. import trees, wire
from ..rows.update import as_update, here, minus, scaled
from ..types import Client, Model, Packet, Transform, Upload
from .batches import Passes
from .full_gradient import mean_gradient
from .optimizers import Local
from .training import Terms, change, first_private, kept, metrics_of, moving, several, train


def variance_reduced(
    model: Model,
    batches,
    optimizer: Local | Sequence[Local] | Transform,
    passes: Passes = Passes(),
    beta: float = 0.0,
    probe=None,
) -> Client:
    """SVRG or, for beta > 0, Mime, on the shared parameters.

    `shared` is {"model": ..., "gradient": Frozen(c)}, for Mime with "momentum": Frozen(m), of which
    the model is trained. A batch costs two gradients. Private parameters descend along their own
    gradient.
    """
    optimizers = several(optimizer)

    def beside(start):
        """The gradient less that at the start, times 1 - beta."""

        def direction(gradient, params, batch):
            value, now = gradient(params, batch)
            _, then = gradient({**params, "shared": start["shared"]}, batch)
            apart = scaled(minus(now["shared"], then["shared"]), 1 - beta)
            return value, {**now, "shared": apart}

        return direction

    def common(shared):
        def terms(start):
            c = here(shared["gradient"].value, start["shared"])
            if not beta:
                return Terms(push=c)
            m = here(shared["momentum"].value, start["shared"])
            return Terms(push=jax.tree.map(lambda c, m: (1 - beta) * c + beta * m, c, m))

        return terms

    def update(key, private, shared, data):
        server = shared["model"]
        trained = train(
            model, batches, optimizers, passes, key, private, server, data, beside,
            common(shared),
        )  # fmt: skip
        sent = {**trees.trainable(shared), "model": change(trained, server)}
        # c and, where there is one, m, at the rows that the client touches: it has x already.
        local, server = trained.params["shared"], trees.trainable(server)
        names = ("gradient", "momentum") if beta else ("gradient",)
        parts = [as_update(here(shared[name].value, local), local, server) for name in names]
        down = wire.nbytes(Packet(parts))
        metrics = metrics_of(trained, probe, model, shared["model"], data)
        return kept(trained), Upload(sent, trained.count, metrics, down)

    make = lambda now: variance_reduced(model, batches, now, passes, beta, probe)
    return Client(first_private(model), update, moving(optimizers, make), _score(model))


def with_momentum(
    model: Model,
    batches,
    optimizer: Local | Sequence[Local] | Transform,
    passes: Passes = Passes(),
    beta: float = 0.9,
    probe=None,
) -> Client:
    """MimeLite: `shared` is {"model": ..., "momentum": m}; what goes up as "momentum" is the
    gradient of all of the client's examples at x, a pass over them of its own."""
    optimizers = several(optimizer)

    def update(key, private, shared, data):
        server, momentum = shared["model"], shared["momentum"]

        def smaller(start):
            def direction(gradient, params, batch):
                value, gradients = gradient(params, batch)
                return value, {**gradients, "shared": scaled(gradients["shared"], 1 - beta)}

            return direction

        terms = lambda start: Terms(push=trees.scale(here(momentum, start["shared"]), beta))
        full = Passes(1, None, passes.batch_size)
        mean = mean_gradient(model, batches, full, key, private, server, data)
        trained = train(
            model, batches, optimizers, passes, key, private, server, data, smaller, terms
        )
        sent = {
            "model": change(trained, server),
            "momentum": as_update(mean.shared, mean.local, trees.trainable(server)),
        }
        metrics = metrics_of(trained, probe, model, server, data)
        return kept(trained), Upload(sent, trained.count, metrics)

    make = lambda now: with_momentum(model, batches, now, passes, beta, probe)
    return Client(first_private(model), update, moving(optimizers, make), _score(model))


def _score(model: Model) -> Callable:
    return lambda shared, private, items, user=0: model.score(shared["model"], private, items, user)
