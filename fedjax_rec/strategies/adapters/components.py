"""Adapters on the wire, component by component.

The factors A [..., in, r] and B [..., r, out] of `models.lora` become r rows, one a component, of
which only those that changed are sent. So a client of rank r_k sends r_k components of the r that
its arrays have room for (HetLoRA, FLoRA, FlexLoRA), and a round that leaves A alone sends no A
(RoLoRA). What the compressor within makes of touched rows it makes of components.
"""

from __future__ import annotations

from ... import factors
from ...compress.combine import composed, identity
from ...types import Compressor


def by_component(inner: Compressor | None = None) -> Compressor:
    """`inner`, default `identity()`, on an update whose adapters are rows.

    Components without any change are zero on arrival, and cost their share of the row ids alone.
    Error memory of `inner` is kept a component.
    """
    return composed(_by_component, inner or identity())


def _by_component(inner: Compressor) -> Compressor:
    def rows(update):
        return factors.as_rows(update, lambda x: (x != 0).any(-1))

    def encode(key, memory, update):
        return inner.encode(key, memory, rows(update))

    def decode(packet, like):
        return factors.from_rows(inner.decode(packet, rows(like)), like)

    return Compressor(lambda update: inner.init(rows(update)), encode, decode)
