"""Prompts that say less, beside those that ask: what a model answers to them is its prior.

`without_title(words)`     the history, and a title that says nothing, "N/A"
`without_history(words)`   the title, and no history

    z(history, title) - z(history, "N/A")    contextual calibration (Zhao et al., "Calibrate before
                                             use", ICML 2021), whose few shots are the history here
    z(history, title) - z(title)             what the history adds (Holtzman et al., "Surface form
                                             competition", EMNLP 2021, PMI)

Which of both is taken off says the words of the second prompts; `models.calibrated` takes it off.
The first moves all prompts of one history alike and changes no order within it; the second takes
off what the model holds of a title whoever is asked.

`n` prompts, `T` most tokens of one of the second.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from ..examples import Examples
from .prompts import Words, prompt_template


def without_title(words: Words | None = None, said: str = "N/A") -> Words:
    """Words that ask about a title without content.

    Args:
        words: those of the prompts; default `prompt_template()`.
        said: in place of the title.

    Returns:
        words(past, target) -> those of `words`, as if `said` was the target.

    Example:
        >>> data.without_title()([("Heat", True)], "Fargo")
        'Heat: Yes\\nN/A:'
    """
    made = words or prompt_template()
    return lambda past, target: made(past, said)


def without_history(words: Words | None = None) -> Words:
    """Words that ask about a title, of nobody.

    Args:
        words: those of the prompts; default `prompt_template()`.

    Returns:
        words(past, target) -> those of `words`, as if nothing was before the target.

    Example:
        >>> data.without_history()([("Heat", True)], "Fargo")
        'Fargo:'
    """
    made = words or prompt_template()
    return lambda past, target: made([], target)


# Any: parts that a configuration makes of a dataclass would be read field by field.
def with_prior(found: Any, prior: Any) -> Examples:
    """Prompts, each beside another one of which the model's answer is taken off its own.

    Args:
        found: `Examples` of `yes_no_prompts`.
        prior: the same with other words.

    Returns:
        `found` with the fields `prior_tokens` int32[n, T] and `prior_length` int32[n], which
        `models.calibrated` reads.

    Raises:
        ValueError: where the second are not about the same users and items, in order.

    Example:
        >>> prompts = data.with_prior(prompted, prompted)
    """
    for name in ("user", "item", "tokens", "length"):
        for what, one in (("found", found), ("prior", prior)):
            if name not in one.fields:
                raise ValueError(
                    f"with_prior({what}={one.name!r}) has no field {name!r}; use prompts, as those "
                    "of data.yes_no_prompts."
                )
    alike = len(found) == len(prior) and all(
        np.array_equal(found.fields[name], prior.fields[name]) for name in ("user", "item")
    )
    if not alike:
        raise ValueError(
            "with_prior(found, prior): the second prompts are about other users or items; say the "
            "same source, shots, clients, asking and seed in both."
        )
    beside = {f"prior_{name}": prior.fields[name] for name in ("tokens", "length")}
    return replace(found, fields={**found.fields, **beside})
