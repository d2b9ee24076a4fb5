"""What the linear layers of a model are called by PEFT: by their names in the Hugging Face model.

model.layers.3.self_attn.q_proj      our `query`, of layer 3
model.layers.3.self_attn.qkv_proj    our `query`, `key` and `value`, one after another (Phi-3)
lm_head                              our `head`
encoder.layer.3.output.dense         our `down`, of a BERT
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from flax import nnx

from .bert import Bert
from .decoder import Decoder
from .families.architecture import ENDS, KERNEL_NAMES
from .reader import Reader, number

PREFIX, DECODER = "base_model.model.", "model."


class Place(NamedTuple):
    """parts: our linear layers that lie in it, one after another; layer: None of the head."""

    parts: tuple[str, ...]
    layer: int | None


@dataclass(frozen=True)
class Names:
    """parts: {name in a layer: our linear layers in it}. layer: how the two make a name. layers:
    their number. head: its name. prefix: what may stand before all names. others: linear layers
    that have no place here."""

    parts: Mapping[str, tuple[str, ...]]
    layers: int
    layer: str = "model.layers.{}.{}"
    head: str | None = None
    prefix: str = DECODER
    others: tuple[str, ...] = ()

    def places(self) -> dict[str, Place]:
        """By the full name of each linear layer."""
        found = {
            self.layer.format(i, name): Place(parts, i)
            for i in range(self.layers)
            for name, parts in self.parts.items()
        }
        return found if self.head is None else {**found, self.head: Place(("head",), None)}


def of_decoder(layers: int, head: bool, fused: Mapping[str, tuple[str, ...]]) -> Names:
    """fused: those of the family, by which its tensors lie together."""
    together = {part for parts in fused.values() for part in parts}
    alone = {theirs: (ours,) for ours, theirs in KERNEL_NAMES.items() if ours not in together}
    return Names({**alone, **fused}, layers, head=ENDS["head"] if head else None)


def of_encoder(encoder: Bert | Reader) -> Names:
    called = encoder.called
    return Names(
        dict(called.parts), number(encoder), called.layer, prefix=called.prefix,
        others=called.others,
    )  # fmt: skip


def of_module(where: str, module: nnx.Module) -> Names:
    """The names of the layers of `module`.

    Raises ValueError for what is no decoder and no encoder.
    """
    if isinstance(module, Decoder):
        return of_decoder(module.size.layers, module.head is not None, dict(module.fused))
    if isinstance(module, Bert | Reader):
        return of_encoder(module)
    raise ValueError(
        f"{where}(module) is a {type(module).__name__}; give a decoder of models.load_decoder, or "
        "an encoder of models.load_encoder."
    )
