"""The frozen base of a model in fewer bits: bf16, or int8, int4 and nf4 by `qwix`.

QLoRA (Dettmers et al., NeurIPS 2023) is a base in nf4 with adapters beside it:

    models.lora(models.quantised(models.freeze(module), "nf4"), rngs)

The base is one copy for all clients of a `vmap`, and a layer's numbers are made anew where it is
used. What is trained stays in float32.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from ... import trees
from ...check import at_least, one_of
from ...types import PyTree
from ..roles import Frozen
from .layers import Linear

QTYPES = ("int8", "int4", "nf4")


def in_dtype(module: nnx.Module, dtype: str = "bfloat16") -> nnx.Module:
    """Casts the frozen floats of `module`; what is trained stays as it is.

    Args:
        module: it is changed in place.
        dtype: bfloat16, float16 or float32.

    Returns:
        `module`.

    Raises:
        ValueError: for another dtype.

    Example:
        >>> base = models.in_dtype(models.freeze(nnx.clone(decoder)))
    """
    one_of("in_dtype", "dtype", dtype, ("float32", "bfloat16", "float16"))
    for _, variable in nnx.to_flat_state(nnx.state(module, Frozen)):
        value: Any = variable.get_value()
        if not hasattr(value, "qvalue") and jnp.issubdtype(value.dtype, jnp.floating):
            variable.set_value(value.astype(dtype))
    return module


def quantised(module: nnx.Module, qtype: str = "nf4", tile: int = 64) -> nnx.Module:
    """Makes the frozen kernels of the linear layers of `module` `qwix.QArray`s.

    Before `models.lora` or after. Needs `pip install qwix`.

    Args:
        module: it is changed in place.
        qtype: int8, int4 or nf4.
        tile: inputs that share a scale, float32, with each output having its own; all inputs where
            `tile` does not divide them.

    Returns:
        `module`.

    Raises:
        ValueError: where no frozen kernel is found, for an unknown qtype, tile < 1, and without
            qwix.

    Example:
        >>> base = models.freeze(nnx.clone(decoder))
        >>> module = models.quantised(base, "int8", tile=4)
    """
    one_of("quantised", "qtype", qtype, QTYPES)
    at_least("quantised", "tile", tile, 1)
    try:
        import qwix
    except ImportError:
        raise ValueError(f"quantised(qtype={qtype!r}) needs qwix; pip install qwix.") from None
    kernels = [
        variable
        for _, part in nnx.iter_modules(module)
        if isinstance(variable := getattr(part, "kernel", None), Frozen)
    ]
    if not kernels:
        raise ValueError(
            "quantised(module) finds no frozen kernel; give it models.freeze(module) of a model "
            f"that is made of models.layers.{Linear.__name__}."
        )
    for variable in kernels:
        value = variable.get_value()
        *lead, inputs, _ = range(value.ndim)
        size = value.shape[inputs]
        variable.set_value(
            qwix.quantize(
                value.astype(jnp.float32),
                qtype,
                channelwise_axes=(*lead, value.ndim - 1),
                tiled_axes={inputs: tile if size % tile == 0 else size},
            )
        )
    return module


def base_nbytes(shared: PyTree) -> int:
    """Bytes of the frozen leaves of `shared`, numbers of four bits counted as half a byte.

    Args:
        shared: what a model shares.

    Example:
        >>> count = models.base_nbytes(jax.eval_shape(adapted.init, key)[0])
    """
    return stored_nbytes(trees.frozen(shared))


def stored_nbytes(tree: PyTree) -> int:
    """Bytes of the leaves of `tree`, numbers of four bits counted as half a byte."""

    def of(x) -> int:
        bits = jnp.iinfo(x.dtype).bits if "int" in str(x.dtype) else 8 * x.dtype.itemsize
        return -(-x.size * bits // 8)

    return sum(of(x) for x in jax.tree.leaves(tree))
