"""Layers behind the pooling of a sentence encoder, as sentence-t5 and EmbeddingGemma have them.

    e <- act(e W + b)

A `Dense` is a folder of sentence-transformers, with the widths and the activation in config.json.

`E`, `D` widths before and behind.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx

from ... import weights
from .held import Held
from .layers import Linear
from .settings import Settings

PLACE = "torch.nn.modules"
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    f"{PLACE}.activation.Tanh": jnp.tanh,
    f"{PLACE}.linear.Identity": lambda x: x,
    f"{PLACE}.activation.ReLU": jax.nn.relu,
    f"{PLACE}.activation.GELU": partial(jax.nn.gelu, approximate=False),
    f"{PLACE}.activation.Sigmoid": jax.nn.sigmoid,
}
VECTOR = "sentence_embedding"


class Dense(nnx.Module):
    """linear: [E, D]; activation: one of `ACTIVATIONS`."""

    def __init__(self, linear: Linear, activation: str):
        self.linear, self.activation = linear, activation

    def __call__(self, x):
        """[..., D] of x [..., E]."""
        return ACTIVATIONS[self.activation](self.linear(x))


def dense(folder: Path) -> Dense:
    """Of the folder of one.

    Raises:
        FileNotFoundError: where it has no safetensors.
        ValueError: for a key or a tensor that is not computed.
    """
    said = Settings(weights.config(folder), f"{folder / 'config.json'}")
    ins, outs = said.count("in_features"), said.count("out_features")
    biased = said.only("bias", True, False)
    activation = said.only("activation_function", *ACTIVATIONS)
    for name in ("module_input_name", "module_output_name"):
        said.only(name, VECTOR)
    said.done()
    held = Held(folder, weights.tensors(folder), "", ())
    kernel = held.get("linear.weight", outs, ins).T
    made = Linear(kernel, held.get("linear.bias", outs) if biased else None)
    held.done()
    return Dense(made, activation)
