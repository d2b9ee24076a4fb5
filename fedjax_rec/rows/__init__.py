"""Row tables: what a client touches of a table, and updates of it as rows."""

from .table import (
    Gathered,
    LocalTable,
    Overlay,
    RowsGradient,
    RowsUpdate,
    Table,
    add_to,
    clients_per_row,
    dense,
    is_table,
    localize,
    map_axes,
    map_tables,
    mark,
    read,
    scaled,
    static,
    tables,
    to_dense,
    update_of,
    weighted_sum,
    whole,
)

__all__ = [
    "Gathered", "LocalTable", "Overlay", "RowsGradient", "RowsUpdate", "Table", "add_to",
    "clients_per_row", "dense", "is_table", "localize", "map_axes", "map_tables", "mark", "read",
    "scaled", "static", "tables", "to_dense", "update_of", "weighted_sum", "whole",
]  # fmt: skip
