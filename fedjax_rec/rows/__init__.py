"""Row tables: what a client touches of a table, and the algebra of its updates.

- `table`: the nodes, and what a client receives of a table and sends back
- `gathered`: what a loss sees of a table
- `walk`: trees of tables and arrays; `update`: their algebra; `sums`: over clients and chunks
- `apart`: a table whose rows lie on several devices
- `local`: numbers, terms and gradients at the rows of a client
- `layout`: the same change in fewer rows, in more, or in all; `view`: as plain arrays
- `batch`: parameters on the rows of one batch; `fields`: which rows a batch names; `narrow`:
  bfloat16
"""

from .apart import ALONE, AXIS, Apart, refuse_waiting, row_by_row
from .gathered import Gathered, gather
from .layout import all_rows, any_of, blank, compact, spread, values_at
from .local import as_update, at_rows, here, put, settled, with_term
from .sums import clients_per_row, combine, divide, join, no_sum, parted, weighted_sum
from .table import (
    LocalTable,
    Overlay,
    RowsGradient,
    RowsUpdate,
    Table,
    is_table,
    localize,
    mark,
    read,
    static,
    update_of,
    whole,
)
from .update import (
    add,
    add_everywhere,
    add_to,
    apply,
    change,
    deltas,
    dense,
    difference,
    map_axes,
    negative,
    scale,
    squared_norm,
    subtract,
    to_dense,
    with_values,
    zero_update,
    zeros_for,
    zeros_of,
)
from .view import dense_view
from .walk import (
    flatten,
    has_tables,
    map_nodes,
    map_nodes_with_path,
    map_tables,
    merge,
    nodes,
    nodes_with_path,
    tables,
)

__all__ = [
    "ALONE", "AXIS", "Apart", "Gathered", "LocalTable", "Overlay", "RowsGradient", "RowsUpdate",
    "Table", "add", "add_everywhere", "add_to", "all_rows", "any_of", "apply", "as_update",
    "at_rows", "blank", "change", "clients_per_row", "combine", "compact", "deltas", "dense",
    "dense_view", "difference", "divide", "flatten", "gather", "has_tables", "here", "is_table",
    "join", "localize", "map_axes", "map_nodes", "map_nodes_with_path", "map_tables", "mark",
    "merge", "negative", "no_sum", "nodes", "nodes_with_path", "parted", "put", "read",
    "refuse_waiting", "row_by_row", "scale", "settled", "spread", "squared_norm", "static",
    "subtract", "tables", "to_dense", "update_of", "values_at", "weighted_sum", "whole",
    "with_term", "with_values", "zero_update", "zeros_for", "zeros_of",
]  # fmt: skip
