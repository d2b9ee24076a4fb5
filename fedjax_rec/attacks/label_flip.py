"""Flipped labels: malicious clients train honestly on the opposite of what their data say.

    y -> lowest + highest - y        and of a pair (i preferred to j), (j preferred to i)

It is a batch maker around another, so that it goes with every model, objective and strategy, and
needs nothing of a round: the upload is what an honest client would send whose data were such.

(Biggio, Nelson, Laskov, "Support vector machines under adversarial label noise", ACML 2011;
federated in Tolpegin et al., "Data poisoning attacks against federated learning systems", ESORICS
2020.)
"""

from __future__ import annotations

from dataclasses import replace

import jax.numpy as jnp

from ..data import Batches
from .malicious import Malicious


def label_flip(
    examples: Batches, malicious: Malicious, lowest: float = 0.0, highest: float = 1.0
) -> Batches:
    """`examples`, of which those of malicious clients say the opposite.

    A malicious client knows and touches what an honest one does: its own data, and the rows that
    these name.

    Args:
        examples: with labels, such as `data.pointwise(4)`, `data.ratings()` or `data.examples()`;
            or pairs, `data.pairwise()`, whose items change places.
        malicious: whose labels are flipped.
        lowest: of the labels; 1 of ratings from 1 to 5.
        highest: of the labels.

    Returns:
        `Batches` with the fields of `examples`.

    Raises:
        ValueError: unless lowest < highest, and in a round for examples without labels.

    Example:
        >>> from fedjax_rec import attacks
        >>> flipped = attacks.label_flip(data.pointwise(4), attacks.drawn(30, share=0.1))
        >>> strategy = strategies.fedmf(model, flipped)
    """
    if not lowest < highest:
        raise ValueError(
            f"label_flip(lowest={lowest}, highest={highest}) has nothing to flip; use lowest < "
            "highest."
        )

    def draw(seed, data, q):
        batch, lies = examples.draw(seed, data, q), malicious.lies(data.id)
        items = batch.get("items")
        if items is not None and items.ndim == 2 and items.shape[-1] == 2:
            return {**batch, "items": jnp.where(lies, items[:, ::-1], items)}
        if "labels" not in batch:
            raise ValueError(
                f"label_flip: examples with {sorted(batch)} have no labels; use data.pointwise(), "
                "data.pairwise() or data.ratings()."
            )
        labels = batch["labels"]
        return {**batch, "labels": jnp.where(lies, lowest + highest - labels, labels)}

    return replace(examples, draw=draw)
