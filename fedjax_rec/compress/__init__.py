"""What an update becomes on the wire."""

from .cast import cast
from .combine import identity, leafwise

__all__ = ["cast", "identity", "leafwise"]
