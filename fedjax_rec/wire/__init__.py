"""What crosses the network: packets as bytes, and their exact size inside jit."""

from importlib.util import find_spec

from .message import from_bytes, nbytes, nbytes_by_shape, to_bytes
from .nodes import Codes, Elias, Live, Raw, flatten, is_node, map_nodes, nodes

__all__ = [
    "Codes", "Elias", "Live", "Raw", "can_range_code", "flatten", "from_bytes", "is_node",
    "map_nodes", "nbytes", "nbytes_by_shape", "nodes", "to_bytes",
]  # fmt: skip


def can_range_code() -> bool:
    """Whether `constriction`, which `to_bytes(entropy=True)` needs, is installed.

    Example:
        >>> there = wire.can_range_code()
    """
    return find_spec("constriction") is not None
