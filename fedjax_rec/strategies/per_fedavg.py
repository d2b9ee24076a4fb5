"""Meta-learning of a start from which a client is good after a step or a few.

- `per_fedavg`  w <- w - beta (I - alpha grad^2 f(w; D'')) grad f(w~; D'),
                w~ = w - alpha grad f(w; D)
    `order="first"`         without the Hessian, FO
    `order="hessian_free"`  grad^2 f(w) g = (grad f(w + delta g) - grad f(w - delta g)) / (2 delta),
                            HF
- `reptile`     x <- x + epsilon mean_k (U_k(x) - x), U_k some steps of client k (Nichol, Achiam &
                Schulman, 2018)

(Fallah, Mokhtari & Ozdaglar, "Personalized federated learning with theoretical guarantees", NeurIPS
2020, algorithm 1 and section 5.) D, D' and D'' are halves (thirds) of each batch.
"""

from __future__ import annotations

from collections.abc import Sequence

from .. import rows
from ..aggregate import uniform
from ..check import one_of, positive
from ..clients import Local, local_training, sgd
from ..clients.batches import Passes
from ..clients.rates import rated
from ..clients.training import (
    descent,
    first_private,
    several,
)
from ..data import Batches
from ..rounds.federated import federated
from ..rows.batch import back, of_batch
from ..servers.step import step
from ..types import (
    Aggregator,
    Client,
    Model,
    PyTree,
    Strategy,
    Transform,
)
from .fedavg import fedavg
from .reconstruction import fine_tuned

Optimizer = Local | Sequence[Local] | Transform


def per_fedavg(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    alpha: float = 0.1,
    order: str = "first",
    delta: float = 1e-3,
    optimizer: Optimizer | None = None,
    user_learning_rate: float | None = None,
    item_learning_rate: float | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    aggregator: Aggregator | None = None,
    **assembly,
) -> Strategy:
    """w <- w - beta grad f(w - alpha grad f(w)), with or without the Hessian; see `maml`.

    The probe sees, as the paper does, the received model after one step of sgd(alpha) on one batch
    of up to `batch_size` examples: another short pass, and none without a probe.
    Arguments that are not named here are those of `fedavg`.

    Args:
        alpha: the rate of the inner step.
        order: "first" leaves the Hessian out, "hessian_free" has it by differences of gradients.
        delta: the width of these differences.
        optimizer: sgd(beta), default `sgd(0.1)`.
        aggregator: default `uniform()`.
        assembly: as in `federated`.

    Raises:
        ValueError: as `maml`.

    Example:
        >>> strategy = strategies.per_fedavg(model, data.pointwise(4), alpha=0.05)
    """
    local = rated(model, optimizer, user_learning_rate, item_learning_rate)
    passes = Passes(epochs, steps, batch_size)
    client = maml(model, examples, local, alpha, order, delta, passes)
    if probe is not None:
        adapted = local_training(model, examples, sgd(alpha), 1, 1, batch_size, probe)
        client = fine_tuned(client, adapted)
    return federated(client, model, aggregator=aggregator or uniform(), **assembly)


def reptile(
    model: Model, examples: Batches, probe=None, *, epsilon: float = 1.0, **kwargs
) -> Strategy:
    """x <- x + epsilon mean_k (U_k(x) - x), with U_k some steps of client k's optimizer.

    The batched Reptile of Nichol, Achiam & Schulman (2018), section 3: `fedavg` with clients that
    count alike and a short server step. Arguments that are not named here are those of `fedavg`.

    Args:
        epsilon: the server's step.
        kwargs: as in `fedavg`, without `server`.

    Raises:
        ValueError: for epsilon <= 0.

    Example:
        >>> strategy = strategies.reptile(model, data.pointwise(4), epsilon=0.5, steps=5)
    """
    kwargs.setdefault("aggregator", uniform())
    return fedavg(model, examples, probe, server=step(epsilon), **kwargs)


def maml(
    model: Model,
    batches,
    optimizer: Local | Sequence[Local] | Transform,
    alpha: float = 0.1,
    order: str = "first",
    delta: float = 1e-3,
    passes: Passes = Passes(),
    probe=None,
) -> Client:
    """`local_training` along the gradient after one step of rate `alpha`.

    `loss` is that of w~ on D'. The probe sees w; to see the model after one step, as the paper
    does, put `fine_tuned(..., local_training(..., sgd(alpha), steps=1, probe=probe))` around it. A
    batch that leaves D' empty changes nothing but by what a loss has without examples. Where every
    batch would, as where a user's sequence is one example, it is refused. Cost: two gradients on
    half a batch (four on a third, of which two are the Hessian's), on copies of the batch's rows.
    Arguments that are not named here are those of `local_training`.

    Args:
        optimizer: what takes the step beta. All that it trains is adapted, private parameters
            included.
        alpha: the rate of the inner step.
        order: "first" or "hessian_free", as above.
        delta: of the differences that make the Hessian.
        passes: how much a client does in a round.

    Raises:
        ValueError: for alpha or delta that are not positive, for an unknown order, and, where it is
            traced, for batches of fewer examples than parts.

    Example:
        >>> client = strategies.maml(model, data.pointwise(4), clients.sgd(0.1), alpha=0.05)
    """
    positive("maml", "alpha", alpha)
    positive("maml", "delta", delta)
    one_of("maml", "order", order, ("first", "hessian_free"))
    optimizers = several(optimizer)

    def first(gradient, params, batch):
        _, inner = gradient(params, share_of(batch, 0, 2))
        return gradient(moved(params, inner, -alpha), share_of(batch, 1, 2))

    def hessian_free(gradient, params, batch):
        _, inner = gradient(params, share_of(batch, 0, 3))
        value, outer = gradient(moved(params, inner, -alpha), share_of(batch, 1, 3))
        third = share_of(batch, 2, 3)
        _, up = gradient(moved(params, outer, delta), third)
        _, down = gradient(moved(params, outer, -delta), third)
        # Of other examples than `outer`, so a term for every row of the batch.
        along = rows.scale(rows.subtract(up, down), -alpha / (2 * delta))
        return value, rows.add(outer, rows.at_rows(along, params))

    meta, parts = (first, 2) if order == "first" else (hessian_free, 3)

    def direction(gradient, params, batch):
        if (held := batch["mask"].shape[0]) < parts:
            raise ValueError(
                f"maml splits each batch into {parts}, and batches are of {held}; set batch_size "
                "higher or, where a user is one example (a sequence), take reptile."
            )
        few = of_batch(params, batch)
        value, gradients = meta(gradient, few, batch)
        return value, back(gradients, few, params)

    update = descent(model, batches, optimizers, passes, probe, lambda start: direction)
    return Client(first_private(model), update, examples=batches)


def share_of(batch: dict, part: int, of: int) -> dict:
    """Every `of`-th example of `batch`, from number `part`.

    Examples are in random order, and padding stands behind them: parts differ by at most one.
    """
    return {name: x[part::of] for name, x in batch.items()}


def moved(params: PyTree, gradients: PyTree, step: float) -> PyTree:
    """params + step * gradients; where there is no gradient, params."""
    return rows.apply(params, rows.scale(gradients, step))
