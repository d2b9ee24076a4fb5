"""Eleven ways to aggregate adapters W + s A B, A [in, r], B [r, out], of clients k of weight p_k.

| recipe | after a round | mean of the products |
|---|---|---|
| `fedit`      | A = sum p_k A_k, B = sum p_k B_k | inexact |
| `ffa_lora`   | A as it began, B = sum p_k B_k | exact |
| `rolora`     | B in even rounds, A in odd ones | exact in each round |
| `fedsa_lora` | A = sum p_k A_k, every client its own B_k | - |
| `flora`      | W += s sum p_k A_k B_k, A drawn anew, B = 0 | exact |
| `fedex_lora` | as `fedit`, W += s (sum p_k A_k B_k - A B) | exact |
| `flexlora`   | A B = the first r singular values of sum p_k A_k B_k | the best of rank r |
| `raflora`    | as `flexlora`, each component by the clients that hold it | the best of rank r |
| `hetlora`    | as `fedit`, padded with zeros, p_k as the norm of A_k B_k | inexact |
| `rbla`       | as `fedit`, each component by the clients that hold it | inexact |
| `fed_sb`     | A, B as they began, R = sum p_k R_k in A R B | exact |

All take one model with adapters (`models.lora`, A and B shared), what an example is, and a probe.
What is not an adapter is averaged by examples. Uplink compressors compose with every rule: what is
aggregated is what arrives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp

from ... import factors, trees, wire
from ...clients import Local, local_training, sgd
from ...data import Batches
from ...models import frozen_at, private_at, with_core
from ...rounds.downlink import downloaded
from ...rounds.federated import federated
from ...servers.step import as_server, step
from ...types import (
    Aggregator,
    Client,
    Compressor,
    Model,
    Packet,
    Server,
    Strategy,
    Transform,
)
from ..fedavg import fedavg
from .alternating import alternating
from .components import by_component
from .merging import (
    Choice,
    averaged,
    by_choice,
    mean_of_holders,
    merging,
    padded,
    restarted,
    truncated,
    truncated_of_holders,
)
from .products import by_norm, holders, products
from .ranks import of_rank

Optimizer = Local | Sequence[Local] | Transform


def fedit(model: Model, examples: Batches, probe=None, **kwargs) -> Strategy:
    """A = sum p_k A_k, B = sum p_k B_k: `fedavg` (Zhang et al., "Towards building the federated
    GPT", ICASSP 2024).

    Arguments that are not named here are those of `fedavg`.

    Args:
        model: one with adapters, see `models.lora`.
        kwargs: as in `fedavg`.

    Example:
        >>> strategy = strategies.fedit(adapted, data.pointwise(4))
    """
    return fedavg(model, examples, probe, **kwargs)


def ffa_lora(model: Model, examples: Batches, probe=None, **kwargs) -> Strategy:
    """B = sum p_k B_k with A frozen: half of the bytes (Sun et al., ICLR 2024).

    Arguments that are not named here are those of `fedit`.

    Args:
        kwargs: as in `fedavg`.

    Example:
        >>> strategy = strategies.ffa_lora(adapted, data.pointwise(4))
    """
    fixed = frozen_at(model, "*lora_a")
    return fedavg(fixed, examples, probe, **kwargs)


def rolora(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    optimizer: Local | Transform | None = None,
    uplink: Compressor | None = None,
    **kwargs,
) -> Strategy:
    """B = sum p_k B_k in rounds 0, 2, ..., A = sum p_k A_k in rounds 1, 3, ... (Chen et al., 2025).

    Clients send the factor of the round alone. They get both, since who was away missed one.
    Arguments that are not named here are those of `fedit` and `fedavg`.

    Args:
        optimizer: default `sgd(0.1)`; a single one.
        kwargs: as in `fedavg`.

    Example:
        >>> strategy = strategies.rolora(adapted, data.pointwise(4))
    """
    optimizer = alternating(optimizer or sgd(0.1))
    uplink = by_component(uplink)
    return fedavg(
        model, examples, probe, optimizer=optimizer, user_learning_rate=None,
        item_learning_rate=None, uplink=uplink, **kwargs,
    )  # fmt: skip


def fedsa_lora(model: Model, examples: Batches, probe=None, **kwargs) -> Strategy:
    """A = sum p_k A_k, and B_k stays with its client (Guo et al., ICLR 2025).

    Scores are of each client's own B_k, so items are encoded for each user; a model whose B is
    private already is taken as it is, and may know to encode no more than it scores.
    Arguments that are not named here are those of `fedit`.

    Args:
        kwargs: as in `fedavg`.

    Example:
        >>> strategy = strategies.fedsa_lora(adapted, data.pointwise(4))
    """
    private = jax.eval_shape(model.init, jax.random.key(0))[1]
    paths = jax.tree_util.tree_leaves_with_path(private)
    has_b = any(getattr(path[-1], "key", None) == factors.B for path, _ in paths)
    own = model if has_b else private_at(model, "*lora_b")
    return fedavg(own, examples, probe, **kwargs)


def fed_sb(
    model: Model, examples: Batches, probe=None, *, scale: float = 1.0, **kwargs
) -> Strategy:
    """R = sum p_k R_k [r, r] in A R B, with A and B as `models.with_core(model, scale)` makes them
    (Singhal et al., 2025).

    Arguments that are not named here are those of `fedit`.

    Args:
        scale: as in `models.with_core`.
        kwargs: as in `fedavg`.

    Raises:
        ValueError: as `models.with_core`.

    Example:
        >>> strategy = strategies.fed_sb(adapted, data.pointwise(4))
    """
    return fedavg(with_core(model, scale), examples, probe, **kwargs)


def flora(
    model: Model, examples: Batches, probe=None, *, ranks: Sequence[int] = (), **kwargs
) -> Strategy:
    """W <- W + s sum p_k A_k B_k, then A is drawn anew and B = 0 (Wang et al., NeurIPS 2024).

    What the paper does by stacking the factors of all clients. A `server` is of what is no adapter.
    Clients get, after the first round, the change of the adapted kernels since the start, which
    serves whoever was away; the new A comes as a seed.
    Arguments that are not named here are those of `fedit`.

    Args:
        ranks: client k has the first ranks[k mod len(ranks)] components, see
            `strategies.adapters.of_rank`; default all of the model's.
        kwargs: as in `fedavg`, without `aggregator` and `downlink`.

    Raises:
        ValueError: for a downlink, for ranks below 1 and, in the round, above that of the model.

    Example:
        >>> strategy = strategies.flora(adapted, data.pointwise(4), ranks=[1, 2])
    """

    def around(client, uplink):
        client, uplink = _of_ranks(client, uplink, ranks)
        return _with_base(client, seeded=True), uplink

    return _merged(model, examples, probe, choice=restarted, around=around, **kwargs)


def fedex_lora(model: Model, examples: Batches, probe=None, **kwargs) -> Strategy:
    """A = sum p_k A_k, B = sum p_k B_k, W <- W + s (sum p_k A_k B_k - A B) (Singhal et al., ACL
    2025).

    A `server` is of the model's every trained part; W takes up what A B does not say, whatever it
    does. Clients get, after the first round, the change of the adapted kernels since the start
    beside the adapters. Arguments that are not named here are those of `fedit`.

    Args:
        kwargs: as in `fedavg`, without `aggregator` and `downlink`.

    Raises:
        ValueError: for a downlink.

    Example:
        >>> strategy = strategies.fedex_lora(adapted, data.pointwise(4))
    """
    around = lambda client, uplink: (_with_base(client, seeded=False), uplink)
    return _merged(model, examples, probe, choice=averaged, around=around, **kwargs)


def flexlora(
    model: Model, examples: Batches, probe=None, *, ranks: Sequence[int] = (), **kwargs
) -> Strategy:
    """A B = sum_{i <= r} s_i u_i v_i of the singular values of sum p_k A_k B_k (Bai et al., NeurIPS
    2024); a client of rank r_k has the first r_k of them.

    A has the left singular vectors and B the rest, as in the paper, so that no rank is lost for
    good. A component counts as zero of a client that does not hold it: what few hold shrinks with
    every round, which `raflora` mends. Arguments that are not named here are those of `flora`.

    Args:
        kwargs: as in `fedavg`, without `aggregator`.

    Raises:
        ValueError: for ranks below 1 and, in the round, above that of the model.

    Example:
        >>> strategy = strategies.flexlora(adapted, data.pointwise(4), ranks=[1, 2])
    """
    return _ruled(
        model, examples, probe, aggregator=products(), rule=partial(by_choice, truncated),
        around=lambda client, uplink: _of_ranks(client, uplink, ranks), **kwargs,
    )  # fmt: skip


def raflora(
    model: Model, examples: Batches, probe=None, *, ranks: Sequence[int] = (), **kwargs
) -> Strategy:
    """`flexlora` of sum_i sum_{k: i < r_k} p_k A_ki B_ki / sum_{k: i < r_k} p_k: each component is
    the mean of the clients that hold it, so that those that few hold do not shrink (Wu et al.,
    "Preventing rank collapse in federated low-rank adaptation with client heterogeneity", 2026).

    What nobody of a round holds stays as it was. Takes the dense product of each part of the
    components between two ranks. Arguments that are not named here are those of `flora`.

    Args:
        kwargs: as in `fedavg`, without `aggregator`.

    Raises:
        ValueError: for ranks below 1 and, in the round, above that of the model.

    Example:
        >>> strategy = strategies.raflora(adapted, data.pointwise(4), ranks=[1, 2])
    """
    return _ruled(
        model, examples, probe, aggregator=products(ranks),
        rule=partial(by_choice, truncated_of_holders),
        around=lambda client, uplink: _of_ranks(client, uplink, ranks), **kwargs,
    )  # fmt: skip


def hetlora(
    model: Model, examples: Batches, probe=None, *, ranks: Sequence[int] = (), **kwargs
) -> Strategy:
    """A = sum p_k A_k, B = sum p_k B_k of factors padded with zeros, p_k = |A_k B_k|_F / sum_j |A_j
    B_j|_F (Cho et al., EMNLP 2024), without the paper's pruning of ranks.

    A component shrinks by the share of clients that lack it in every round, and one that nobody of
    a round holds is zero in A and in B from then on and learns no more; `rbla` keeps it.
    Arguments that are not named here are those of `flora`.

    Args:
        kwargs: as in `fedavg`, without `aggregator`.

    Raises:
        ValueError: for ranks below 1 and, in the round, above that of the model.

    Example:
        >>> strategy = strategies.hetlora(adapted, data.pointwise(4), ranks=[1, 2])
    """
    return _ruled(
        model, examples, probe, aggregator=by_norm(), rule=partial(by_choice, padded),
        around=lambda client, uplink: (of_rank(client, ranks), by_component(uplink)), **kwargs,
    )  # fmt: skip


def rbla(
    model: Model, examples: Batches, probe=None, *, ranks: Sequence[int] = (), **kwargs
) -> Strategy:
    """A_i = sum_{k: i < r_k} p_k A_ki / sum_{k: i < r_k} p_k, and B_i likewise: each component is
    the mean of the clients that hold it ("RBLA: Rank-based-LoRA-aggregation for fine-tuning
    heterogeneous models in FLaaS", 2024).

    What nobody of a round holds stays as it was. Arguments that are not named here are those of
    `flora`.

    Args:
        kwargs: as in `fedavg`, without `aggregator`.

    Raises:
        ValueError: for ranks below 1 and, in the round, above that of the model.

    Example:
        >>> strategy = strategies.rbla(adapted, data.pointwise(4), ranks=[1, 2])
    """
    return _ruled(
        model, examples, probe, aggregator=holders(), rule=partial(by_choice, mean_of_holders),
        around=lambda client, uplink: _of_ranks(client, uplink, ranks), **kwargs,
    )  # fmt: skip


def _ruled(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    aggregator: Aggregator,
    rule: Callable[[Server], Server],
    around: Callable[..., tuple[Client, Compressor | None]],
    optimizer: Optimizer | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    uplink: Compressor | None = None,
    server: Server | Transform | None = None,
    **assembly,
) -> Strategy:
    """Local training and uplink as `around` changes them, under `rule` of the server."""
    client = local_training(
        model, examples, optimizer or sgd(0.1), epochs, steps, batch_size, probe
    )
    client, uplink = around(client, uplink)
    ruled = rule(as_server(server or step(1.0)))
    return federated(client, model, uplink, aggregator, ruled, **assembly)


def _merged(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    choice: Choice,
    around: Callable[..., tuple[Client, Compressor | None]],
    downlink: Compressor | None = None,
    **kwargs,
) -> Strategy:
    if downlink is not None:
        raise ValueError(
            "downlink: broadcasts hold what is trained, and this rule changes the base as well; "
            "use fedit, ffa_lora, rolora, flexlora or hetlora with a downlink."
        )
    return _ruled(
        model, examples, probe, aggregator=products(), rule=partial(merging, choice),
        around=around, **kwargs,
    )  # fmt: skip


def _of_ranks(client: Client, uplink: Compressor | None, ranks: Sequence[int]):
    """Client and uplink where clients differ in rank; as they are where all have the model's."""
    if not ranks:
        return client, uplink
    return of_rank(client, ranks), by_component(uplink)


def _with_base(client: Client, seeded: bool) -> Client:
    """`client`, which gets the adapted kernels as well, once they have changed. seeded: its factors
    come as a seed of four bytes."""

    def update(key, private, shared, data, now):
        private, upload = client.update(key, private, shared, data, now)
        got, sent = trees.trainable(shared), upload.update
        if seeded:
            got, sent = (factors.map_pairs(lambda pair: {}, x) for x in (got, sent))
        seed = jnp.zeros(1, jnp.uint32) if seeded else ()
        body = downloaded(got, sent).body
        # By their shapes: of a kernel that lies on several devices a client gets the whole.
        whole = lambda kernel: jnp.zeros(kernel.shape, kernel.dtype)
        kernels = [whole(pair[factors.KERNEL].value) for pair in factors.pairs(shared)]
        first, later = (wire.nbytes(Packet((body, seed, k))) for k in ([], kernels))
        return private, replace(upload, down=jnp.where(now.round > 0, later, first))

    return replace(client, update=update)
