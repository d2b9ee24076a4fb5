"""Adapters of a model by the modules of its base, as PEFT has them.

Components that are zero in both factors are left out, so that layers of a stack have ranks of their
own, and layers without any component have no adapter. Modules of the base that hold several of our
layers (`qkv_proj` of Phi-3) get one adapter of all their components,

    A = [A_q A_k A_v],   B = diag(B_q, B_k, B_v),

unless these share A, as they do where they were read from such a module.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ... import factors
from ...trees import Frozen
from ...types import PyTree
from .layers import weight
from .lora import LoRA
from .peft_names import Names
from .peft_read import Pair

MAGNITUDE = "lora_m"


def both(a: PyTree, b: PyTree) -> PyTree:
    """Nested dicts with the entries of both."""
    if not isinstance(a, Mapping) or not isinstance(b, Mapping):
        return a
    return {**a, **{name: both(a[name], x) if name in a else x for name, x in b.items()}}


class Stack(NamedTuple):
    """pairs: {layer: its adapter}, of those that have one; layers: their number, 0 of one layer
    that is no stack, whose pair has the number None. kernel: [..., in, out], what is adapted."""

    pairs: dict[int | None, Pair]
    layers: int
    kernel: Any


def found(adapted: nnx.Module | PyTree) -> dict[str, Stack]:
    """By the names of our linear layers. Raises ValueError where one is there twice, or none is."""
    if isinstance(adapted, nnx.Module):
        parts = nnx.iter_modules(adapted)
        each = [(str(path[-1]), vars(part)) for path, part in parts if isinstance(part, LoRA)]
    else:
        each = list(within(adapted))
    out = {}
    for name, layer in each:
        if name in out:
            raise ValueError(
                f"export_peft(adapted) has two layers {name} with adapters; give the one model."
            )
        out[name] = stack(layer)
    if not out:
        raise ValueError("export_peft(adapted) finds no adapter; make it by models.lora.")
    return out


def within(tree: PyTree, name: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(name, layer) of the layers with adapters in nested dicts."""
    if not isinstance(tree, Mapping):
        return
    if factors.A in tree or factors.B in tree:
        yield name, tree
    else:
        for inside, below in tree.items():
            yield from within(below, inside)


def stack(layer: Mapping[str, Any]) -> Stack:
    read = lambda name: np.asarray(value(layer[name]), np.float32)
    if factors.A not in layer or factors.B not in layer:
        raise ValueError(
            "export_peft(adapted) has one factor of two, and clients keep the other; give own, of "
            "one of them."
        )
    a, b, scale = read(factors.A), read(factors.B), read(factors.SCALE)
    a = a @ read(factors.CORE) if factors.CORE in layer else a
    norm = ms = None
    if MAGNITUDE in layer:
        ms, kernel = read(MAGNITUDE), weight(nnx.Param(value(layer[factors.KERNEL])), jnp.float32)
        norm = np.linalg.norm(np.asarray(kernel), axis=-2)
    pairs: dict[int | None, Pair] = {}
    for i in range(len(a)) if a.ndim == 3 else [None]:
        here = () if i is None else i
        held = a[here].any(0) | b[here].any(1)
        m = None if ms is None else ms[here]
        changed = m is not None and not np.allclose(m, norm[here], rtol=1e-6)  # pyright: ignore
        held[0] |= changed  # m alone says something
        if held.any():
            pairs[i] = Pair(a[here][:, held], b[here][held], m, float(scale[here]))
    return Stack(pairs, len(a) if a.ndim == 3 else 0, value(layer[factors.KERNEL]))


def value(x: Any) -> Any:
    """The array of a variable, of a frozen node or of an array."""
    return x.value if isinstance(x, Frozen) else x.get_value() if hasattr(x, "get_value") else x


def placed(
    names: Names, linear: Mapping[str, jax.Array], stacks: Mapping[str, Stack], source: str
) -> dict[str, Pair]:
    """The adapters by the full names of their modules.

    Raises ValueError where the base has no such layer, or other weights there.
    """
    for part, one in stacks.items():
        x, kernel = linear.get(part), one.kernel
        if x is not None and x.ndim == 3:
            x = x[len(x) - one.layers :]
        if x is None or x.shape != kernel.shape:
            raise ValueError(
                f"export_peft(source={source!r}) has no layers {part} of shape "
                f"{tuple(kernel.shape)}, as are adapted; name the base of this model."
            )
        if not hasattr(kernel, "qvalue") and not np.array_equal(x.astype(kernel.dtype), kernel):
            raise ValueError(
                f"export_peft(source={source!r}) is another at {part}; name "
                "the base of this model, or a rule that leaves it as it is in place of flora and "
                "fedex_lora."
            )
    widths = {part: kernel.shape[-1] for part, kernel in linear.items()}
    modules = {}
    for name, (parts, number) in names.places().items():
        inside = {}
        for part in parts:
            if part in stacks:
                one = stacks[part]
                i = None if number is None else number - (names.layers - one.layers)
                if i in one.pairs:
                    inside[part] = one.pairs[i]
        if inside:
            modules[name] = joined(name, parts, inside, widths)
    return modules


def joined(
    name: str, parts: Sequence[str], inside: Mapping[str, Pair], widths: Mapping[str, int]
) -> Pair:
    """The adapter of a module that holds `parts`, of which those `inside` have one."""
    if len(parts) == 1:
        return inside[parts[0]]
    first = next(iter(inside.values()))
    m = None
    if first.m is not None:
        if len(inside) < len(parts):
            raise ValueError(
                f"export_peft: {name} holds {', '.join(parts)}, of which {', '.join(inside)} alone "
                "have DoRA; adapt all of them."
            )
        m = np.concatenate([inside[part].m for part in parts])  # pyright: ignore
    one = lambda p: p.a.shape == first.a.shape and (p.a == first.a).all() and p.scale == first.scale
    if len(inside) == len(parts) and all(map(one, inside.values())):
        return Pair(first.a, np.concatenate([inside[p].b for p in parts], 1), m, first.scale)
    scale = max((pair.scale for pair in inside.values()), key=abs)
    rows, offset = [], 0
    total = sum(widths[part] for part in parts)
    for part in parts:
        if part in inside:
            row = np.zeros((inside[part].b.shape[0], total), np.float32)
            row[:, offset : offset + widths[part]] = inside[part].b * (inside[part].scale / scale)
            rows.append(row)
        offset += widths[part]
    a = np.concatenate([inside[part].a for part in parts if part in inside], 1)
    return Pair(a, np.concatenate(rows), m, scale)
