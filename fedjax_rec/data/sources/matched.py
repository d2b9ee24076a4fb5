"""What a factorization says of each prompt, beside what counting does: what any model that is given
its vectors has to beat.

    dense(n) = (counts of the prompt, b_u + c_i + p_u . q_i)

of vectors whose last number is a bias, as those of `models.biased_mf`; without its mean, which a
line on these has itself.

`n` prompts, `P` features before.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ... import weights
from ..examples import Examples


# Any: parts that a configuration makes of a dataclass would be read field by field.
def with_match(
    found: Any, vectors: str, names: tuple[str, str] = ("private/user", "shared/item")
) -> Examples:
    """Prompts whose `dense` has one more column, the logit of a factorization.

    Args:
        found: `Examples` with the fields `user`, `item` int[n] and `dense` float[n, P].
        vectors: a folder that `fedjax-rec export` wrote of a run of `models.biased_mf` on
            `data.liked_pairs`, or a file of safetensors. They must not have seen what is held out.
        names: of the users' vectors in the file, [U, D + 1] or as clients keep them, and of the
            items'.

    Returns:
        `found` with `dense` float32[n, P + 1].

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: without these fields, without these names, and for vectors of other users or
            items than the prompts'.

    Example:
        >>> found = data.with_match(prompted, "runs/likes/export")  # doctest: +SKIP
    """
    for name in ("user", "item", "dense"):
        if name not in found.fields:
            raise ValueError(
                f"with_match({found.name!r}) has no field {name!r}; use prompts, as those of "
                "data.yes_no_prompts."
            )
    users, items = weights.exported_vectors("with_match", vectors, names)
    user, item = found.fields["user"], found.fields["item"]
    if user.max() >= len(users) or item.max() >= len(items):
        raise ValueError(
            f"with_match(vectors={vectors!r}): there are vectors of {len(users)} users and "
            f"{len(items)} items and prompts about user {user.max()} and item {item.max()}; train "
            "them on the same data."
        )
    p, q = users[user], items[item]
    logit = p[:, -1] + q[:, -1] + (p[:, :-1] * q[:, :-1]).sum(1)
    dense = np.concatenate([found.fields["dense"], logit[:, None]], 1).astype(np.float32)
    return replace(found, fields={**found.fields, "dense": dense})
