"""What of a decoder lies where, when clients hold its first and last layers and the server those
between (`strategies.split`).

`L` layers.
"""

from __future__ import annotations

from flax import nnx

from ...check import at_least
from .decoder import Decoder
from .quantise import stored_nbytes


def sides(decoder: Decoder, first: int = 1, last: int = 1) -> dict[str, int]:
    """Bytes of the weights that a client holds, and that the server does.

    A client has the table of tokens, its layers, the last norm and the head; the server the layers
    between. Adapters that there are count with their layers.

    Args:
        decoder: of L layers; outlines will do, as those of `nnx.eval_shape`.
        first: layers of the client above the tokens.
        last: layers of the client below the head.

    Returns:
        {"client": bytes, "server": bytes}; numbers of four bits count half a byte.

    Raises:
        ValueError: for numbers below 1, and where no layer is left to the server.

    Example:
        >>> deep = models.llama(nnx.Rngs(0), models.LlamaSize(60, 16, 24, 4, 2, 1, 8))
        >>> held = models.sides(deep, first=2, last=1)
    """
    layers = decoder.size.layers
    refuse_no_middle("sides", layers, first, last)
    whole, stack = (stored_nbytes(nnx.state(part)) for part in (decoder, decoder.layers))
    between = stack * (layers - first - last) // layers
    return {"client": whole - between, "server": between}


def refuse_no_middle(where: str, layers: int, first: int, last: int) -> None:
    """Raises ValueError for numbers below 1, and where no layer is left to the server."""
    for name, value in {"layers": layers, "first": first, "last": last}.items():
        at_least(where, name, value, 1)
    if first + last >= layers:
        raise ValueError(
            f"{where}(first={first}, last={last}) of {layers} layers leaves the server no layer; "
            f"use first + last < {layers}."
        )
