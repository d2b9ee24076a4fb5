"""What clients do on the rows that they do not touch, added by the server, which knows it.

    u = A(v_1, v_2, ...) + drift(A(a_1, a_2, ...)),   v_k of touched rows, drift on every row

A term of a local step that is no gradient of the client's own examples (a control variate, a
momentum, a linear term) moves every row of a table, and a client has the few that it touches. On
the others it moves them by a known length in a known direction: a client sends what its gradients
did besides, v_k, and how far its terms reached, a_k. So a table of rows is trained as the array.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from .. import rows
from ..types import Aggregator, PyTree, Upload
from .mean import uniform
from .parts import each_of


def with_drift(
    aggregator: Aggregator,
    amount: Callable[[Upload], PyTree],
    drift: Callable[..., PyTree] = lambda amount, now: amount,
) -> Aggregator:
    """`aggregator` of updates, and the drift of what it makes of amounts on every row.

    Args:
        aggregator: of both; of the amounts `uniform()`, where it does not add up over chunks.
        amount: amount(upload) -> a_k of a client, a tree of arrays: of `aux` or `known`.
        drift: drift(amount, now) -> float[I, D] a table, and None for what is none. Default: the
            amount itself.

    Returns:
        An `Aggregator` that is not linear, since what it adds has not been through a compressor.
    """
    rule = aggregator.of or aggregator
    of_amounts = rule if rule.additive is True else uniform()
    parts = {
        "update": (aggregator, lambda upload: upload),
        "amount": (of_amounts, lambda upload: replace(upload, update=amount(upload))),
    }
    both = each_of(parts, lambda shared, name: shared)

    def finish(key, state, summary, now):
        state, found, verdicts = both.finish(key, state, summary, now)
        moved = drift(found["amount"], now)
        return state, rows.add_everywhere(found["update"], moved), verdicts

    return replace(both, finish=finish, linear=False)
