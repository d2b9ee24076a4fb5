"""Adapters on the wire, component by component.

The factors A [..., in, r] and B [..., r, out] of `models.lora` become r rows, one a component, of
which only those that changed are sent. So a client of rank r_k sends r_k components of the r that
its arrays have room for (HetLoRA, FLoRA, FlexLoRA), and a round that leaves A alone sends no A
(RoLoRA). What the compressor within makes of touched rows it makes of components.
"""

from __future__ import annotations

from ... import factors
from ...compress.combine import identity
from ...types import Compressor


def by_component(inner: Compressor | None = None) -> Compressor:
    """Compresses an update whose adapters are rows, one a component.

    Components without any change are zero on arrival, and cost their share of the row ids alone.

    Args:
        inner: what is done with those rows; None for `identity()`. Its error memory is kept a
            component.

    Returns:
        A `Compressor` with the memory of `inner`; linear where that is.

    Example:
        >>> from fedjax_rec import compress
        >>> from fedjax_rec.strategies import adapters
        >>> uplink = adapters.by_component(compress.cast())
    """
    within = inner or identity()

    def rows(update):
        return factors.as_rows(update, lambda x: (x != 0).any(-1))

    def encode(key, memory, update, now):
        return within.encode(key, memory, rows(update), now)

    def decode(packet, like, now):
        return factors.from_rows(within.decode(packet, rows(like), now), like)

    claim = within.omega
    omega = claim and (lambda update: claim(rows(update)))
    init = lambda update: within.init(rows(update))
    told = within.complaint
    complaint = told and (lambda packet, like, now: told(packet, rows(like), now))
    return Compressor(init, encode, decode, within.linear, omega, complaint, within.takes_raw)
