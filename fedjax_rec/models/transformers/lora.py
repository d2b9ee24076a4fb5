"""Adapters: small trainable parts beside frozen linear layers, found by the name of the layer.

    lora   y = x W + b + s (x A) B,   s = alpha / r, A [in, r], B [r, out] at first 0, W, b frozen
    dora   y = x V m / |V| + b,       V = W + s A B, m [out] at first |W|, norms of columns

(Hu et al., ICLR 2022; Liu et al., ICML 2024.) W is not touched and never merged: under a `vmap`
over clients it stays one copy, and only A, B and m have a client axis. Which of A and B is shared,
private or frozen is the variable type that they are given, or `models.frozen_at` and
`models.private_at` of the model.
"""

from __future__ import annotations

import fnmatch

import jax
import jax.numpy as jnp
from flax import nnx

from ...check import at_least, positive
from ...factors import first_a, product
from ..roles import Frozen
from .by_heads import way_of
from .layers import Linear
from .products import EVERY, times, weight


class LoRA(nnx.Module):
    """kernel: [..., in, out], bias: [..., out] or None, both as the `Linear` has them; lora_a:
    [..., in, r]; lora_b: [..., r, out]; lora_scale: [...], frozen, so that whoever sees the
    variables knows the product. dropout: of what goes into A, or None."""

    def __init__(
        self,
        linear: Linear,
        a: nnx.Variable,
        b: nnx.Variable,
        scale: float | jax.Array,
        dropout: nnx.Dropout | None = None,
    ):
        self.kernel, self.bias = linear.kernel, linear.bias
        self.lora_a, self.lora_b = a, b
        lead = linear.kernel.shape[:-2]
        self.lora_scale = Frozen(jnp.broadcast_to(jnp.asarray(scale, jnp.float32), lead))
        self.dropout = dropout

    def beside(self, x, of=EVERY):
        """s (x A) B, of the outputs `of` alone."""
        a, b = self.lora_a[...].astype(x.dtype), self.lora_b[..., of].astype(x.dtype)
        made = way_of(self.kernel).through(x, a, b, self.dropout)
        return self.lora_scale[...].astype(x.dtype) * made

    def with_bias(self, y, of=EVERY):
        if self.bias is None:
            return y
        return y + way_of(self.kernel).outputs(self.bias[..., of], y).astype(y.dtype)

    def __call__(self, x, of=EVERY):
        y = way_of(self.kernel).times(x, self.kernel, of)
        return self.with_bias(y + self.beside(x, of), of)

    def whole(self, of=EVERY):
        """float32[..., in, out]: W + s A B, of the outputs `of` alone."""
        a, b, s = (v[...].astype(jnp.float32) for v in (self.lora_a, self.lora_b, self.lora_scale))
        w = weight(self.kernel, jnp.float32)[..., of]
        return w + s[..., None, None] * product(a, b[..., of])


class DoRA(LoRA):
    """A `LoRA` with the norm of each column of its own, lora_m [..., out].

    The norm of V is constant to the gradient, as the paper proposes, and comes from products with
    A and B, so that V itself is never made.
    """

    def __init__(self, *args):
        super().__init__(*args)
        self.lora_m = nnx.Param(jnp.sqrt(_columns(weight(self.kernel, jnp.float32))))

    def __call__(self, x, of=EVERY):
        a, b, s = (v[...].astype(jnp.float32) for v in (self.lora_a, self.lora_b, self.lora_scale))
        b, w = b[..., of], weight(self.kernel, x.dtype)[..., of].astype(jnp.float32)
        mixed = ((a.mT @ w) * b).sum(-2) * 2 * s[..., None]
        square = _columns(w) + mixed + s[..., None] ** 2 * ((a.mT @ a @ b) * b).sum(-2)
        norm = jax.lax.stop_gradient(jnp.sqrt(jnp.maximum(square, 1e-12)))
        share = (self.lora_m[..., of] / norm).astype(x.dtype)
        return self.with_bias(share * (times(x, self.kernel, of) + self.beside(x, of)), of)

    def whole(self, of=EVERY):
        """float32[..., in, out]: V m / |V|, of the outputs `of` alone."""
        v = super().whole(of)
        return v * (self.lora_m[..., of] / jnp.sqrt(jnp.maximum(_columns(v), 1e-12)))[..., None, :]


def _columns(kernel: jax.Array) -> jax.Array:
    """Squared norms of the columns, [..., out]."""
    return (kernel * kernel).sum(-2)


def freeze(module: nnx.Module) -> nnx.Module:
    """Makes every `nnx.Param` in `module` a `Frozen`; other variables stay what they are.

    Args:
        module: it is changed in place.

    Returns:
        `module`.

    Example:
        >>> base = models.freeze(nnx.clone(decoder))
    """
    for _, part in list(nnx.iter_modules(module)):
        for name, value in list(vars(part).items()):
            if type(value) is nnx.Param:
                setattr(part, name, Frozen(value.get_value()))
    return module


def lora(
    module: nnx.Module,
    rngs: nnx.Rngs,
    targets: str = "*query|*value",
    rank: int = 8,
    alpha: float = 16.0,
    a: type[nnx.Variable] = nnx.Param,
    b: type[nnx.Variable] = nnx.Param,
    dropout: float = 0.0,
    layer: type[LoRA] = LoRA,
) -> nnx.Module:
    """Puts LoRA beside the linear layers of `module` that `targets` name.

    Args:
        module: it is changed in place; freeze it first, see `freeze`.
        rngs: of A, and of dropout.
        targets: patterns of dotted paths, separated by `|`, as in `layers.*.query|head`.
        rank: r.
        alpha: the product is scaled by alpha / r.
        a: what A is, e.g. `models.Frozen` or `models.Private`.
        b: what B is, likewise.
        dropout: the share of what goes into A that is left out in training.
        layer: `LoRA` or `DoRA`.

    Returns:
        `module`.

    Raises:
        ValueError: for rank < 1, alpha <= 0, a dropout outside [0, 1), and where a pattern fits no
            layer.

    Example:
        >>> base = models.freeze(nnx.clone(decoder))
        >>> module = models.lora(base, nnx.Rngs(1), "*query|*value", rank=2)
    """
    at_least("lora", "rank", rank, 1)
    positive("lora", "alpha", alpha)
    if not 0 <= dropout < 1:
        raise ValueError(f"lora(dropout={dropout}) leaves nothing; use 0 <= dropout < 1.")
    found = linears(module)
    patterns = targets.split("|")
    for pattern in patterns:
        if not any(fnmatch.fnmatch(path, pattern) for path in found):
            raise ValueError(
                f"lora(targets={targets!r}): {pattern!r} fits no linear layer; the model has "
                f"{', '.join(found)}."
            )
    chosen = [path for path in found if any(fnmatch.fnmatch(path, p) for p in patterns)]
    for path in chosen:
        holder, name = found[path]
        old = getattr(holder, name)
        *lead, inputs, outputs = old.kernel.shape
        start = first_a(rngs.params(), (*lead, inputs, rank))
        pair = a(start), b(jnp.zeros((*lead, rank, outputs)))
        drop = nnx.Dropout(dropout, rngs=rngs) if dropout else None
        setattr(holder, name, layer(old, *pair, alpha / rank, drop))
    return module


def dora(
    module: nnx.Module, rngs: nnx.Rngs, targets: str = "*query|*value", **kwargs
) -> nnx.Module:
    """`lora` with layers that are `DoRA`.

    Rules of aggregation that look at the product A B, which is not all of the weight here, refuse
    it. Arguments that are not named here are those of `lora`.

    Args:
        kwargs: as in `lora`, without `layer`.

    Raises:
        ValueError: as `lora`.

    Example:
        >>> base = models.freeze(nnx.clone(decoder))
        >>> module = models.dora(base, nnx.Rngs(1), rank=2)
    """
    return lora(module, rngs, targets, layer=DoRA, **kwargs)


def merged(module: nnx.Module) -> nnx.Module:
    """Puts what adapters say into the weights beside them, for use without adapters.

    The weights are in the dtype that they had; quantised ones become float32.

    Args:
        module: it is changed in place.

    Returns:
        `module`, with a plain linear layer in place of each adapted one.

    Raises:
        ValueError: where it has no adapter.

    Example:
        >>> adapted = models.lora(models.freeze(nnx.clone(decoder)), nnx.Rngs(1), rank=2)
        >>> plain = models.merged(adapted)
    """
    chosen = [
        (holder, name, part)
        for _, holder in nnx.iter_modules(module)
        for name, part in vars(holder).items()
        if isinstance(part, LoRA)
    ]
    if not chosen:
        raise ValueError("merged(module) finds no adapter; it is as plain as it can be.")
    for holder, name, part in chosen:
        value = part.kernel.get_value()
        dtype = jnp.float32 if hasattr(value, "qvalue") else value.dtype
        plain = Linear(part.whole().astype(dtype), None if part.bias is None else part.bias[...])
        if isinstance(part.kernel, Frozen):
            freeze(plain)
        setattr(holder, name, plain)
    return module


def linears(module: nnx.Module) -> dict[str, tuple[nnx.Module, str]]:
    """{"layers.query": (holder, "query")}: where the linear layers of `module` hang."""
    found = {}
    for path, part in nnx.iter_modules(module):
        for name, value in vars(part).items():
            if isinstance(value, Linear):
                found[".".join(map(str, (*path, name)))] = (part, name)
    return dict(sorted(found.items()))
