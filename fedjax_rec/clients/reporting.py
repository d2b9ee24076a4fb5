"""What a client tells beside its update: numbers that the protocol needs, sent and billed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ..check import nearest
from ..types import Client


def reporting(client: Client, names: Sequence[str]) -> Client:
    """`client`, which sends the metrics called `names` beside its update, such as `steps`.

    What the simulator sees of a client (`Upload.metrics`) nobody sends; what an aggregator or a
    stage reads (`Upload.aux`) is part of the message: four bytes a number and a header.

    Args:
        client: any.
        names: of its metrics, each a float32[].

    Raises:
        ValueError: in the round, for a name that is none of the client's metrics.

    Example:
        >>> client = clients.local_training(model, data.pointwise(4), clients.sgd(0.1))
        >>> told = clients.reporting(client, ["steps"])  # for `aggregate.normalized`
    """

    def update(key, private, shared, data, now):
        private, upload = client.update(key, private, shared, data, now)
        for name in names:
            if name not in upload.metrics:
                raise ValueError(
                    f"reporting(names={list(names)}): the client has no metric {name!r}"
                    f"{nearest(name, upload.metrics)}; it has {', '.join(upload.metrics)}."
                )
        said = {name: upload.metrics[name] for name in names}
        return private, replace(upload, aux=upload.aux | said)

    return replace(client, update=update)
