"""What travels between the devices that hold a base together, while each trains a client's batch.

By layers a device gets the rest of each weight, by heads what goes into the weights that it has of
the other devices' clients, and sums of what comes out. Of the leading terms, to each device:

    by layers   (K - 1) / K  P (2 (L - 1) + 1)
    by heads    (K - 1) n D (11 (L - 1) + 2)

numbers, with rematerialisation: XLA collects a weight once for what is computed again and for the
gradient, while of activations two gathers and two sums a layer go forth, three once more, and four
back. The last layer answers at one place, so its keys and values alone need all tokens, and it is
not computed again. So by heads less travels while

    K n  <  2 P / (11 D),   the tokens of all K devices in a batch

and without rematerialisation P / (4 D). Bytes are counted in the program that XLA makes, with its
loops over layers, and loops whose trips are data once: of one chunk of clients, and one batch.
Beside the leading terms there are adapters, angles and masks, and ids of tokens.

`K` devices, `n` tokens that each has in a batch, `L` layers, `D` width, `P` weights of the linear
parts of a layer.
"""

from __future__ import annotations

import math
import re

from ..models.transformers.decoder import KERNELS
from ..models.transformers.families.llama import LlamaSize
from .hlo_cost import Module

TRIP = re.compile(r" = (.*?) (all-gather|reduce-scatter|all-to-all)(?:-start)?\(")
ARRAY = re.compile(r"([a-z]+)(\d*)\[([\d,]*)\]")


def brought(text: str, devices: int) -> float:
    """Bytes that come to each of `devices` in one run of the program that XLA prints as `text`."""
    module, found = Module(text), 0.0
    for name, times in module.runs({}, []).items():
        for line in _lines(module, name):
            if trip := TRIP.search(line):
                size = sum(_bytes(*one) for one in ARRAY.findall(trip[1]))
                # A part of what is gathered was there; of a sum as much comes from each other.
                share = devices - 1 if trip[2] == "reduce-scatter" else (devices - 1) / devices
                found += times * size * share
    return found


def foreseen(size: LlamaSize, tokens: int, devices: int) -> dict[str, float]:
    """Bytes in float32 that come to each device, by the leading terms, with rematerialisation."""
    others, above = devices - 1, size.layers - 1
    return {
        "layers": 4 * others / devices * weights(size) * (2 * above + 1),
        "heads": 4 * others * tokens * size.width * (11 * above + 2),
    }


def even(size: LlamaSize) -> int:
    """K n: the tokens of all devices in a batch up to which less travels by heads."""
    return 2 * weights(size) // (11 * size.width)


def weights(size: LlamaSize) -> int:
    """P."""
    made = size.decoder()
    return sum(getattr(made, a) * getattr(made, b) for a, b in KERNELS.values())


def _lines(module: Module, name: str) -> list[str]:
    """Those of a computation and of what it calls, but its loops."""
    here = module.computations[name]
    below = [line for called in here.calls for line in _lines(module, called)]
    return [*here.text.splitlines(), *below]


def _bytes(kind: str, bits: str, shape: str) -> int:
    width = 1 if kind == "pred" else int(bits) / 8
    return int(width * math.prod(int(n) for n in shape.split(",") if n))
