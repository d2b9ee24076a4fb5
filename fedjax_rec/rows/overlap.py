"""`values_at` lies in `layout`; this is where it was."""

from .layout import values_at

__all__ = ["values_at"]
