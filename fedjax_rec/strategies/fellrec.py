"""FELLRec's dynamic balance: a model for every client, mixed by how alike clients' models are.

    s_ij = (1 + cos(x_i, x_j)) / 2,   or  exp(cos(x_i, x_j) / temperature)
    l_i  = exp(L_i / loss_temperature) / sum_j exp(L_j / loss_temperature)
    w_i  = tanh(alpha / l_i^(t / beta))                          round t = 1, 2, ...
    x_i <- (s_ii x_i + w_i sum_(j != i) s_ij x_j) / (s_ii + w_i sum_(j != i) s_ij)

(Zhao et al., "A federated framework for LLM-based recommendation", NAACL 2025 findings, arXiv
2402.09959; released code github Polaris-JZ/FELLRec, whose alpha and loss_temperature are the
defaults.) x_i is what client i shares, adapters in one vector, and L_i its mean loss of the round.
w_i warms up to 1: a client whose loss lags behind that of the others takes less of them at first,
and learns from its own. Clients are few, groups of users (`data.by_hash`; the paper clusters
vectors of a pretrained factorization).

From the release this differs so: there the exponent is t - 1 + 1 / beta (its precedence), w_i is
left out at beta = 1, and a client that is mixed later sees the models of those before it as mixed
already; here all are mixed at once.

The layers that lie on the server in that paper are another part, `split`.

`N` clients.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from .. import rows, trees, wire
from ..check import positive
from ..clients import Local, local_training, reporting
from ..clients.rates import rated
from ..data import Batches
from ..rounds.own_models import Mixed, Mixing, Seen, own_models
from ..rounds.user_graph import cosine_similarity
from ..types import Compressor, Model, Packet, Stage, Strategy, Transform


def fellrec(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    alpha: float = 0.7,
    beta: float = 1.0,
    loss_temperature: float = 0.05,
    temperature: float | None = None,
    optimizer: Local | Sequence[Local] | Transform | None = None,
    user_learning_rate: float | None = None,
    item_learning_rate: float | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    uplink: Compressor | None = None,
    clients_per_chunk: int | str | None = None,
    stages: Sequence[Stage] = (),
) -> Strategy:
    """Adapters of each client's own, which the server mixes with those of clients like it.

    N models are kept; `simulate.aggregated` measures each client with its own, as it is after
    mixing. Metrics: those of `fedavg`; `warm_up`, w_i; and `own_weight`, what of x_i stays. Bytes:
    up the change of x_i and the loss, four bytes and a header; down x_i as mixed.
    Arguments that are not named here are those of `fedavg`.

    Args:
        model: one with adapters, see `models.lora`; any other is mixed as well.
        alpha: how much clients take from each other at first: w_i = tanh(alpha) where the exponent
            is 0.
        beta: of so many rounds w_i warms up as in one at beta = 1.
        loss_temperature: of the share l_i that a client's loss has among all.
        temperature: of the similarity of two clients; None for (1 + cos) / 2, which is near 1 for
            all of adapters that began alike, so that the mix is near the mean.
        uplink: as in `federated`; clients go on from what arrived.
        clients_per_chunk: as in `federated`.
        stages: as in `federated`, of the change of x_i.

    Raises:
        ValueError: for numbers that are not above 0, for an optimizer beside rates, and for a stage
            that receives.
        MemoryError: in `init`, where N models cannot fit.

    Example:
        >>> strategy = strategies.fellrec(adapted, data.pointwise(4), temperature=0.1)
    """
    local = rated(model, optimizer, user_learning_rate, item_learning_rate)
    client = local_training(model, examples, local, epochs, steps, batch_size, probe)
    mixing = balanced(alpha, beta, loss_temperature, temperature)
    told = reporting(client, ["loss"])
    return own_models(told, model, mixing, uplink, clients_per_chunk, stages)


def balanced(
    alpha: float, beta: float, loss_temperature: float, temperature: float | None
) -> Mixing:
    """What the server of `fellrec` does; it keeps {"round": int32[]}, of those with anybody."""
    for name, value in {"alpha": alpha, "beta": beta, "loss_temperature": loss_temperature}.items():
        positive("fellrec", name, value)
    if temperature is not None:
        positive("fellrec", "temperature", temperature)
    cosine = cosine_similarity()

    def init(shared, num_clients):
        return {"round": jnp.int32(0)}

    def mix(key, kept, seen: Seen, models):
        there = seen.weight > 0
        round = kept["round"] + there.any()
        plain = rows.dense(models)
        share = jax.nn.softmax(seen.told["loss"] / loss_temperature, where=there)
        # In logs: a small share to a large power is no number that a float32 holds.
        power = -(round / beta) * jnp.log(jnp.where(there, share, 1.0))
        warm = jnp.tanh(alpha * jnp.exp(jnp.minimum(power, 80.0)))
        weights = mixing_weights(cosine.between(plain, plain), warm, there, temperature)
        mixed = trees.select_each(there, jax.tree.map(lambda x: _times(weights, x), models), models)
        nbytes = wire.nbytes(Packet({"model": rows.dense(seen.mean)}))
        down = jnp.where(there, nbytes, 0).astype(jnp.uint32)
        metrics = {"warm_up": warm, "own_weight": jnp.diagonal(weights)}
        return Mixed({"round": round}, mixed, down, metrics)

    return Mixing(init, mix)


def mixing_weights(
    cosines: jax.Array, warm: jax.Array, there: jax.Array, temperature: float | None = None
) -> jax.Array:
    """float32[N, N]: what each client takes of each, rows that sum to 1, of `there` bool[N] alone;
    0 for who is not. cosines: float[N, N]; warm: w, float[N]."""
    if temperature is None:
        alike = (1 + cosines) / 2
    else:
        # Less the largest, which leaves the weights as they are.
        of_those = jnp.where(there[:, None] & there, cosines, -jnp.inf)
        largest = jnp.where(there, of_those.max(1), 0.0)
        alike = jnp.exp((cosines - largest[:, None]) / temperature)
    own = jnp.eye(there.size, dtype=bool)
    taken = jnp.where(own, alike, warm[:, None] * alike)
    taken = jnp.where(there[:, None] & there, taken, 0.0)
    return taken / jnp.maximum(taken.sum(1, keepdims=True), jnp.finfo(jnp.float32).tiny)


def _times(weights: jax.Array, x: jax.Array) -> jax.Array:
    """sum_j weights[i, j] x[j] of x [N, ...]."""
    total = jnp.matmul(weights, x.reshape(x.shape[0], -1), precision="highest")
    return total.reshape(x.shape).astype(x.dtype)
