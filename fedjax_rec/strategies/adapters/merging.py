"""What the server makes of adapters whose product is averaged: factors, and what goes to the base.

With A, B as the round began and `products()`, the mean of what clients trained is

    P = sum_k p_k A_k B_k = A H B + A mean(dB) + mean(dA) B + sum_k p_k dA_k dB_k

(H the shares h_i that hold each component, 1 where all ranks are alike), or, with each component
by the clients that hold it alone,

    P' = sum_i A_i B_i + (A_i mean(dB_i) + mean(dA_i) B_i + sum_k p_k dA_ki dB_ki) / h_i

of which a component that nobody holds in the round stays A_i B_i. A rule chooses the factors A', B'
that go on. `merging` puts what they do not say into the frozen kernel,

    W <- W + s (P - A' B'),

so that W + s A' B' is the mean of the clients' weights to the last rounding, whatever the rule
chose; a kernel of bfloat16 is rounded up or down by chance, so that steps too small for it arrive
on average. `by_choice` leaves W as it is. All else in the model moves by the server within. A round
without clients changes nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ... import factors, trees
from ...factors import KERNEL, SCALE, A, B, first_a, product
from ...rows.narrow import is_narrow, wide
from ...servers.stochastic import stochastic
from ...trees import Frozen
from ...types import PyTree, Server
from .products import Products

# choice(layer, update, stepped, key) -> (A', B'): the layer as it was, what was aggregated, and the
# layer after the server within.
Choice = Callable[..., tuple[jax.Array, jax.Array]]


def merging(choice: Choice, server: Server) -> Server:
    """Raises ValueError, when the state is made, where the model has no pair of shared factors,
    and where a kernel is quantised and nothing can be added to it."""

    def one(layer, update, stepped, key):
        a, b = choice(layer, update, stepped, jax.random.fold_in(key, 0))
        kernel, scale = layer[KERNEL].value, layer[SCALE].value
        rest = mean_product(layer, update) - product(a, b)
        moved = wide(kernel) + (jnp.asarray(scale)[..., None, None] * rest)
        if is_narrow(kernel):
            moved = stochastic(jax.random.fold_in(key, 1))(moved)
        return {A: a, B: b, KERNEL: Frozen(moved.astype(kernel.dtype))}

    return _by_pair(one, server, _can_merge)


def by_choice(choice: Choice, server: Server) -> Server:
    """Raises ValueError as `merging`, but takes any kernel."""

    def one(layer, update, stepped, key):
        a, b = choice(layer, update, stepped, key)
        return {A: a, B: b}

    return _by_pair(one, server, _has_pairs)


def averaged(layer, update, stepped, key):
    """A' and B' as the server within moved them."""
    return stepped[A], stepped[B]


def restarted(layer, update, stepped, key):
    """A' drawn anew as by `models.lora`, B' = 0."""
    a = layer[A]
    return first_a(key, a.shape, a.dtype), jnp.zeros_like(layer[B])


def truncated(layer, update, stepped, key):
    """A' B' nearest to P among the products of this rank, the largest first: the first r_k
    components are nearest to P among the products of rank r_k (Eckart and Young).

    Columns of A' are orthonormal and B' has the singular values: a component of which P has nothing
    keeps a direction in A', so that B' has a gradient there and the component learns again.
    """
    return _split(mean_product(layer, update), layer[A].shape[-1])


def truncated_of_holders(layer, update, stepped, key):
    """As `truncated`, of P'."""
    return _split(product_of_holders(layer, update), layer[A].shape[-1])


def mean_of_holders(layer, update, stepped, key):
    """The means of each component over those who hold it; where nobody does, as it was."""
    share = _of_holders(_products(update).held)
    return layer[A] + update[A] * share, layer[B] + update[B] * share[:, None]


def _split(p, rank: int):
    u, s, v = jnp.linalg.svd(p, full_matrices=False)
    return u[..., :rank], s[..., :rank, None] * v[..., :rank, :]


def padded(layer, update, stepped, key):
    """The means of factors that are zero beyond the rank of their client."""
    held = _products(update).held
    return layer[A] * held + update[A], layer[B] * held[:, None] + update[B]


def mean_product(layer: dict, update: dict) -> jax.Array:
    """P [..., in, out], of a layer with a pair and its aggregated update."""
    a, b, said = layer[A], layer[B], _products(update)
    both = product(a * said.held, b) + product(a, update[B]) + product(update[A], b)
    return both + said.product


def product_of_holders(layer: dict, update: dict) -> jax.Array:
    """P' [..., in, out], of a layer with a pair and its aggregated update, whose products are those
    of `products(ranks)`."""
    a, b, said = layer[A], layer[B], _products(update)
    share = _of_holders(said.held)
    both = product(a, b + update[B] * share[:, None]) + product(update[A] * share, b)
    parts = said.product * trees.leading(share[jnp.array(said.first)], said.product)
    return both + parts.sum(0)


def _of_holders(held: jax.Array) -> jax.Array:
    """1 / h [r], 0 of a component that nobody holds."""
    return jnp.where(held > 0, 1 / jnp.where(held > 0, held, 1.0), 0.0)


def _products(update: dict) -> Products:
    return update[KERNEL].value


def _by_pair(one: Callable, server: Server, check: Callable) -> Server:
    def init(shared):
        check(shared)
        return server.init(shared)

    def apply(state, shared, update):
        moved, stepped = server.apply(state, shared, trees.trainable(update))
        number = itertools.count()

        def of_layer(stepped, layer, update):
            said = _products(update)
            key = jax.random.fold_in(said.key, next(number))
            changed = one(layer, update, stepped, key)
            before = {name: layer[name] for name in changed}
            anyone = said.held.max() > 0
            return {**stepped, **trees.select(anyone, changed, before)}

        return moved, factors.map_pairs(of_layer, stepped, shared, update)

    return Server(init, apply)


def _has_pairs(shared: PyTree) -> list[dict]:
    layers = factors.pairs(shared)
    if not layers:
        raise ValueError(
            "This aggregation of adapters finds no layer with shared lora_a and lora_b; "
            "make the model with models.lora(module, a=nnx.Param, b=nnx.Param)."
        )
    if any("lora_m" in layer for layer in layers):
        raise ValueError(
            "This aggregation needs layers that mean W + s A B, and those of models.dora do not; "
            "use models.lora, or strategies.fedit."
        )
    return layers


def _can_merge(shared: PyTree) -> None:
    for layer in _has_pairs(shared):
        kernel = layer[KERNEL].value
        if not hasattr(kernel, "dtype") or hasattr(kernel, "qvalue"):
            raise ValueError(
                "This aggregation merges adapters into the base, which is quantised; keep the "
                "base in float32, or use fedit, ffa_lora, rolora, flexlora or fed_sb."
            )
