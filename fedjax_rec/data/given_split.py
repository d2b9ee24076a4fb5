"""The split that comes with the data: benchmark files of RecBole, or a column that says the part.

part of a row = what the source says of it: train, valid, test, or unused.
"""

from __future__ import annotations

from .interactions import Interactions
from .splits import TEST, TRAIN, Split, Splitter


def as_given() -> Splitter:
    """Each interaction is in the part that its source says.

    Sources that say one: a folder with `.train.inter`, `.valid.inter` and `.test.inter`, a column
    (`read(..., split="fold")`), `from_arrays(..., parts=...)`. Filters keep the parts of what they
    leave.

    Raises:
        ValueError: for data whose source says none, and where nothing trains or tests.

    Example:
        >>> table = {"user": [1, 1, 2], "item": [1, 2, 1], "fold": ["train", "test", "train"]}
        >>> found = data.read(table, split="fold", say=lambda line: None)
        >>> split = data.as_given()(found)
    """

    def split(interactions: Interactions) -> Split:
        if interactions.parts is None:
            raise ValueError(
                f"as_given() wants a split with the data, and '{interactions.name}' has none; name "
                "its column, data.read(..., split=NAME), or use leave_one_out."
            )
        for part, name in ((TRAIN, "train"), (TEST, "test")):
            if not (interactions.parts == part).any():
                raise ValueError(
                    f"as_given(): no row of '{interactions.name}' is of the part {name}; filter "
                    "less, or write it in the split column."
                )
        return Split(interactions, interactions.parts)

    return split
