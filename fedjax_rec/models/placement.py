"""A model some of whose shared parameters live elsewhere, or are made of others.

- `frozen_at(model, "*lora_a")`    stay as they began: FFA-LoRA
- `private_at(model, "*lora_b")`   each client keeps its own: FedSA-LoRA
- `with_core(model)`   A R B for A B, with A, B frozen and R [r, r] trained: Fed-SB

Functions of models from `from_nnx`, so that one model with adapters serves every rule of
`strategies.adapters`.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Callable
from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import factors, rows
from ..check import positive
from ..trees import Frozen, is_frozen
from ..types import Model, PyTree


def frozen_at(model: Model, targets: str) -> Model:
    """`model` with some of its shared parameters never trained.

    Args:
        model: one from `from_nnx`.
        targets: patterns of dotted paths, separated by `|`, as in `*lora_a|head.*`.

    Raises:
        ValueError: where a pattern fits none.

    Example:
        >>> model = models.frozen_at(adapted, "*lora_a")
    """
    chosen = _chosen("frozen_at", model, targets)

    def init(key, common=None):
        shared, private = model.init(key, common)
        return _map_paths(lambda path, x: Frozen(x) if path in chosen else x, shared), private

    return replace(model, init=init)


def private_at(model: Model, targets: str) -> Model:
    """`model` with some of its shared parameters kept by each client; they begin alike for all.

    What scoring needs of the catalogue is then made for each user, not once for all.

    Args:
        model: one from `from_nnx`.
        targets: as in `frozen_at`.

    Raises:
        ValueError: where a pattern fits none, and for row tables.

    Example:
        >>> model = models.private_at(adapted, "*lora_b")
    """
    chosen = _chosen("private_at", model, targets)

    def init(key, common=None):
        shared, private = model.init(key, common)
        alike = shared if common is None else model.init(common)[0]
        mine, rest = _taken(alike, chosen)
        return rest, _merged(private, mine)

    def view(shared, private):
        mine, own = _taken(private, chosen)
        return _merged(shared, mine), own

    return model.through(view, init)


def with_core(model: Model, scale: float = 1.0) -> Model:
    """`model` whose adapters train R [..., r, r] alone, in A R B; R begins at 0.

    A and B are the leading singular vectors of the kernel, times sqrt(scale) each, as in LoRA-XS
    (Balazy et al., 2024); LoRA-SB takes those of a first gradient (Ponkshe et al., 2024), which
    needs data that the server of a federation does not have. The mean of R is the mean of A R B
    (Fed-SB, Singhal et al., 2025).

    Args:
        model: one from `from_nnx` with adapters, see `lora`.
        scale: of the product A B, positive.

    Raises:
        ValueError: where the model has no adapter, and for scale <= 0.

    Example:
        >>> model = models.with_core(adapted, scale=0.5)
    """
    positive("with_core", "scale", scale)
    if not factors.pairs(jax.eval_shape(model.init, jax.random.key(0))[0]):
        raise ValueError("with_core(model) finds no adapter; make the model with models.lora.")

    def init(key, common=None):
        shared, private = model.init(key, common)

        def one(layer):
            a, b = layer[factors.A], layer[factors.B]
            rank = a.shape[-1]
            u, _, v = jnp.linalg.svd(layer[factors.KERNEL].value, full_matrices=False)
            root = scale**0.5
            return {
                **layer,
                factors.A: Frozen((root * u[..., :rank]).astype(a.dtype)),
                factors.B: Frozen((root * v[..., :rank, :]).astype(b.dtype)),
                factors.CORE: jnp.zeros((*a.shape[:-2], rank, rank), a.dtype),
            }

        return factors.map_pairs(one, shared), private

    def whole(shared):
        has_core = lambda x: isinstance(x, dict) and factors.CORE in x

        def one(layer):
            layer = dict(layer)
            a = layer[factors.A].value @ layer.pop(factors.CORE)
            return {**layer, factors.A: a, factors.B: layer[factors.B].value}

        return factors.map_layers(has_core, one, shared)

    return model.through(lambda shared, private: (whole(shared), private), init)


def _map_paths(one: Callable, shared: PyTree) -> PyTree:
    """`one(dotted path, x)` on every leaf that is not frozen."""

    def at(path, x):
        return x if is_frozen(x) else one(_dotted(path), x)

    is_leaf = lambda x: rows.is_table(x) or is_frozen(x)
    return jax.tree_util.tree_map_with_path(at, shared, is_leaf=is_leaf)


def _dotted(path) -> str:
    return ".".join(str(getattr(k, "key", k)) for k in path)


def _chosen(where: str, model: Model, targets: str) -> set[str]:
    found: dict = {}
    shared = jax.eval_shape(model.init, jax.random.key(0))[0]
    _map_paths(lambda path, x: found.setdefault(path, x), shared)
    chosen = set()
    for pattern in targets.split("|"):
        fitting = {path for path in found if fnmatch.fnmatch(path, pattern)}
        if not fitting:
            raise ValueError(
                f"{where}(targets={targets!r}): {pattern!r} fits no shared parameter; "
                f"the model has {', '.join(found)}."
            )
        chosen |= fitting
    if where == "private_at" and any(rows.is_table(found[path]) for path in chosen):
        raise ValueError(f"private_at(targets={targets!r}) fits a row table; use PrivateRows.")
    return chosen


def _taken(tree: dict, chosen: set[str], before: str = "") -> tuple[dict, dict]:
    """(what stands at the paths `chosen`, the rest) of nested dicts."""
    taken, rest = {}, {}
    for name, value in tree.items():
        path = before + name
        if path in chosen:
            taken[name] = value
        elif isinstance(value, dict):
            inside, other = _taken(value, chosen, path + ".")
            if inside:
                taken[name] = inside
            if other or not inside:
                rest[name] = other
        else:
            rest[name] = value
    return taken, rest


def _merged(a: dict, b: dict) -> dict:
    """Nested dicts with the entries of both."""
    out = dict(a)
    for name, value in b.items():
        out[name] = _merged(out[name], value) if isinstance(out.get(name), dict) else value
    return out
