"""Personal federated learning: what of a model is a client's own, and how it comes about.

- `fedper`           private parameters, trained with the shared ones (Arivazhagan et al., 2019)
- `fedrep`           private parameters first, then the shared ones (Collins et al., ICML 2021)
- `fine_tuned_fedavg` the received model is looked at after local fine-tuning
- `ditto`            a whole model of one's own, pulled to the common one (Li et al., ICML 2021)
- `pfedme`           Moreau envelopes (Dinh et al., NeurIPS 2020)
- `apfl`             a mixture of an own and the common model (Deng et al., 2020)
- `reptile`          meta-learning by first-order steps (Nichol et al., 2018)
- `per_fedavg`       meta-learning of a good start for one step (Fallah et al., NeurIPS 2020)
- `fedrecon`         private parameters made anew each round (Singhal et al., NeurIPS 2021)
- `ifca`             several models, each client in the best cluster (Ghosh et al., NeurIPS 2020)

A recipe takes a model, examples and a probe as `fedavg` does, and passes what it does not name on
to it or to `federated`: uplink, aggregator, server, clients_per_chunk, downlink.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..aggregate import mean, uniform
from ..clients import Local, groups, local_training, sgd
from ..clients.apfl import apfl as apfl_client
from ..clients.batches import Passes
from ..clients.ditto import ditto as ditto_client
from ..clients.maml import maml
from ..clients.pfedme import pfedme as pfedme_client
from ..clients.proximal import proximal
from ..clients.sequence import anew, fine_tuned, in_sequence
from ..data import Batches
from ..data.subsets import query, support
from ..rounds.federated import federated
from ..servers.step import step
from ..types import Aggregator, Client, Compressor, Model, Strategy, Transform
from .clusters import by_cluster, clustered, of_one_cluster, several_models
from .recipes import fedavg

Optimizer = Local | Sequence[Local] | Transform


def fedper(model: Model, examples: Batches, probe=None, **kwargs) -> Strategy:
    """(p_k, Q_k) <- (p_k, Q_k) - eta grad f_k(p_k, Q_k): `fedavg` of a model whose private
    parameters stay with their clients, both trained in every step. kwargs: as in `fedavg`."""
    return fedavg(model, examples, probe, **kwargs)


def fedrep(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    head_optimizer: Local | Transform | None = None,
    head_epochs: int = 1,
    optimizer: Local | Transform | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    **assembly,
) -> Strategy:
    """p_k <- p_k - eta grad_p f_k(p_k, Q) for head_epochs;  Q_k <- Q_k - eta grad_Q f_k(p_k, Q_k).

    head_optimizer: of the private parameters; optimizer: of the shared ones; both `sgd(0.1)`.
    Two passes by its mathematics, head_epochs and epochs long.
    """
    head = groups({"private": head_optimizer or sgd(0.1)})
    body = groups({"shared": optimizer or sgd(0.1)})
    client = in_sequence(
        [
            local_training(model, examples, head, head_epochs, None, batch_size),
            local_training(model, examples, body, epochs, steps, batch_size, probe),
        ]
    )
    return _of(model, client, **assembly)


def fine_tuned_fedavg(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    optimizer: Optimizer | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    tuning: Optimizer | None = None,
    tuning_epochs: int = 1,
    **assembly,
) -> Strategy:
    """`fedavg`, whose probe sees, of each client in the cohort, the received model x after
    `tuning_epochs` epochs by `tuning` (default: the optimizer). Two passes where there is a probe.
    """
    first = optimizer or sgd(0.1)
    client = local_training(model, examples, first, epochs, steps, batch_size)
    if probe is not None:
        tuned = local_training(
            model, examples, tuning or first, tuning_epochs, None, batch_size, probe
        )
        client = fine_tuned(client, tuned)
    return _of(model, client, **assembly)


def ditto(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    lam: float = 0.1,
    optimizer: Optimizer | None = None,
    own_optimizer: Optimizer | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    **assembly,
) -> Strategy:
    """v_k <- v_k - eta (grad f_k(v_k) + lam (v_k - w)), beside `fedavg` of w; see `clients.ditto`.

    The probe and the strategy's `score` see v_k. Two passes by its mathematics.
    """
    client = ditto_client(
        model, examples, optimizer or sgd(0.1), lam, own_optimizer,
        Passes(epochs, steps, batch_size), probe,
    )  # fmt: skip
    return _of(model, client, **assembly)


def pfedme(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    lam: float = 15.0,
    beta: float = 1.0,
    inner_steps: int = 5,
    optimizer: Optimizer | None = None,
    personal: Local | Transform | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    aggregator: Aggregator | None = None,
    **assembly,
) -> Strategy:
    """w_k <- w_k - eta lam (w_k - theta(w_k));  x <- (1 - beta) x + beta mean_k w_k.

    optimizer: sgd(eta), default `sgd(0.01)`. personal: of theta, default `sgd(0.05)`; it must be
    stable under the pull, eta_p lam < 1. aggregator: default `uniform()`.
    The probe sees the personal model, argmin_theta f_k(theta) + lam/2 |theta - x|^2 by `epochs`
    (or `steps`) of `personal` on the received x, private parameters free: a pass of its own, and
    none without a probe. Without it x scores, with the private part of w_k.
    `inner_steps` gradients a batch by its mathematics.
    """
    passes, personal = Passes(epochs, steps, batch_size), personal or sgd(0.05)
    client = pfedme_client(
        model, examples, optimizer or sgd(0.01), personal, lam, inner_steps, passes
    )
    if probe is not None:
        client = fine_tuned(client, proximal(model, examples, personal, lam, passes, probe))
    aggregator = aggregator or uniform()
    return _of(model, client, aggregator=aggregator, server=step(beta), **assembly)


def apfl(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    alpha: float = 0.5,
    alpha_rate: float = 0.0,
    optimizer: Optimizer | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    **assembly,
) -> Strategy:
    """v_k <- v_k - eta alpha grad f_k(alpha v_k + (1 - alpha) w_k), in the loop of `fedavg` of w;
    see `clients.apfl`. alpha_rate: of alpha, once a round; 0 keeps it.

    The probe and the strategy's `score` see the mixture. Two gradients a batch by its mathematics.
    """
    passes = Passes(epochs, steps, batch_size)
    client = apfl_client(model, examples, optimizer or sgd(0.1), alpha, alpha_rate, passes, probe)
    return _of(model, client, **assembly)


def reptile(
    model: Model, examples: Batches, probe=None, *, epsilon: float = 1.0, **kwargs
) -> Strategy:
    """x <- x + epsilon mean_k (U_k(x) - x), with U_k some steps of client k's optimizer.

    The batched Reptile of Nichol, Achiam & Schulman (2018), section 3: `fedavg` with clients that
    count alike and a short server step. kwargs: as in `fedavg`, without `server`.
    """
    kwargs.setdefault("aggregator", uniform())
    return fedavg(model, examples, probe, server=step(epsilon), **kwargs)


def per_fedavg(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    alpha: float = 0.1,
    order: str = "first",
    delta: float = 1e-3,
    optimizer: Optimizer | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    aggregator: Aggregator | None = None,
    **assembly,
) -> Strategy:
    """w <- w - beta grad f(w - alpha grad f(w)), with or without the Hessian; see `clients.maml`.

    optimizer: sgd(beta), default `sgd(0.1)`. aggregator: default `uniform()`.
    The probe sees, as the paper does, the received model after one step of sgd(alpha) on one batch
    of up to `batch_size` examples: another short pass, and none without a probe.
    """
    passes = Passes(epochs, steps, batch_size)
    client = maml(model, examples, optimizer or sgd(0.1), alpha, order, delta, passes)
    if probe is not None:
        adapted = local_training(model, examples, sgd(alpha), 1, 1, batch_size, probe)
        client = fine_tuned(client, adapted)
    return _of(model, client, aggregator=aggregator or uniform(), **assembly)


def fedrecon(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    private_optimizer: Local | Transform | None = None,
    private_epochs: int = 1,
    optimizer: Local | Transform | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    seed: int = 0,
    **assembly,
) -> Strategy:
    """p_k from its start by private_epochs on the support half with Q fixed;  then Q_k <- Q_k -
    eta grad_Q f_k(p_k, Q_k) on the query half, and p_k is forgotten.

    Halves are those of `data.subsets`, and clients weigh what they have in the query half: a client
    of one interaction reconstructs and sends nothing.
    private_optimizer, optimizer: default `sgd(0.1)`. seed: of the starts. For the evaluation the
    last reconstruction of each client stays in `State.private`; no round reads it.
    An epoch of both halves costs one of `fedavg`.
    """
    p = groups({"private": private_optimizer or sgd(0.1)})
    q = groups({"shared": optimizer or sgd(0.1)})
    parts = [
        local_training(model, support(examples), p, private_epochs, None, batch_size),
        local_training(model, query(examples), q, epochs, steps, batch_size, probe),
    ]
    return _of(model, anew(in_sequence(parts), seed), **assembly)


def ifca(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    clusters: int = 2,
    optimizer: Optimizer | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    uplink: Compressor | None = None,
    aggregator: Aggregator | None = None,
    **assembly,
) -> Strategy:
    """j_k = argmin_j f_k(x_j);  x_j <- x_j + mean of the updates of the clients with j_k = j.

    Models start from keys of their own. server: steps on all models at once. A
    downlink broadcasts all of them.
    k forward passes a round by its mathematics; see `strategies.clusters`.
    """
    client = local_training(
        model, examples, optimizer or sgd(0.1), epochs, steps, batch_size, probe
    )
    return federated(
        clustered(client, model, examples, steps, batch_size),
        several_models(model, clusters),
        None if uplink is None else of_one_cluster(uplink),
        by_cluster(aggregator or mean(), clusters),
        **assembly,
    )


def _of(model: Model, client: Client, **assembly) -> Strategy:
    return federated(client, lambda key: model.init(key)[0], **assembly)
