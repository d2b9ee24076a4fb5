"""Adapters: small trainable parts beside frozen linear layers, found by the name of the layer.

    lora   y = x W + b + (alpha / r) (x A) B,   A [in, r], B [r, out], W and b frozen, B = 0 first

(Hu et al., ICLR 2022). W is not touched and never merged: under a `vmap` over clients it stays one
copy, and only A and B have a client axis. Which of A and B is shared, private or frozen is the
variable type that they are given, which makes FFA-LoRA and FedSA-LoRA choices of two words.
"""

from __future__ import annotations

import fnmatch

import jax
import jax.numpy as jnp
from flax import nnx

from ..check import at_least, positive
from .layers import Linear
from .roles import Frozen


class LoRA(nnx.Module):
    """kernel: [..., in, out], bias: [..., out] or None, both as the `Linear` has them; lora_a:
    [..., in, r]; lora_b: [..., r, out]."""

    def __init__(self, linear: Linear, a: nnx.Variable, b: nnx.Variable, scale: float):
        self.kernel, self.bias = linear.kernel, linear.bias
        self.lora_a, self.lora_b, self.scale = a, b, scale

    def __call__(self, x):
        y = x @ self.kernel[...].astype(x.dtype)
        if self.bias is not None:
            y = y + self.bias[...].astype(x.dtype)
        small = x @ self.lora_a[...].astype(x.dtype)
        return y + self.scale * (small @ self.lora_b[...].astype(x.dtype))


def freeze(module: nnx.Module) -> nnx.Module:
    """`module` with every `nnx.Param` in it made `Frozen`; other variables stay what they are."""
    for _, part in list(nnx.iter_modules(module)):
        for name, value in list(vars(part).items()):
            if type(value) is nnx.Param:
                setattr(part, name, Frozen(value[...]))
    return module


def lora(
    module: nnx.Module,
    rngs: nnx.Rngs,
    targets: str = "*query|*value",
    rank: int = 8,
    alpha: float = 16.0,
    a: type[nnx.Variable] = nnx.Param,
    b: type[nnx.Variable] = nnx.Param,
) -> nnx.Module:
    """`module` with LoRA at the linear layers whose dotted path fits one of the patterns `targets`,
    separated by `|`, as in `layers.*.query|head`.

    a, b: what A and B are, e.g. `models.Frozen` or `models.Private`. Raises ValueError for rank < 1
    and where no layer fits.
    """
    at_least("lora", "rank", rank, 1)
    positive("lora", "alpha", alpha)
    found = linears(module)
    chosen = [path for path in found if any(fnmatch.fnmatch(path, t) for t in targets.split("|"))]
    if not chosen:
        raise ValueError(
            f"lora(targets={targets!r}) fits no linear layer; the model has {', '.join(found)}."
        )
    for path in chosen:
        holder, name = found[path]
        layer = getattr(holder, name)
        *lead, inputs, outputs = layer.kernel.shape
        start = inputs**-0.5 * jax.random.normal(rngs.params(), (*lead, inputs, rank))
        pair = a(start), b(jnp.zeros((*lead, rank, outputs)))
        setattr(holder, name, LoRA(layer, *pair, alpha / rank))
    return module


def linears(module: nnx.Module) -> dict[str, tuple[nnx.Module, str]]:
    """{"layers.query": (holder, "query")}: where the linear layers of `module` hang."""
    found = {}
    for path, part in nnx.iter_modules(module):
        for name, value in vars(part).items():
            if isinstance(value, Linear):
                found[".".join(map(str, (*path, name)))] = (part, name)
    return dict(sorted(found.items()))
