"""Items judged by whether the user would like them, yes or no, nobody trained.

    score(i) = logit(" Yes" | opening, history, the question about i) - logit(" No" | ...)

(The words of `data.prompt_template`, with every item of the history liked: of interactions without
ratings there are no others.)
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp

from ... import weights
from ..transformers.decoder import Decoder
from ..transformers.generate import check_tokens
from ..transformers.packed import ends as at_ends
from .answers import begun
from .judge import Judge, packing_of
from .title_texts import TitleTexts, title_texts


def title_answers(
    titles: Sequence[str],
    source: str = "smollm2",
    opening: str = "Would this user like each film?\n",
    item: str = "{title}: Yes\n",
    ask: str = "{title}:",
    answers: tuple[str, str] = (" Yes", " No"),
    most: int = 128,
    dtype: str = "float32",
    adapter: str | None = None,
) -> Judge:
    """The logit of yes over no, by a decoder of known weights or a local folder.

    Arguments that are not named here are those of `title_likelihood`.

    Args:
        item: words of a title in the history, with `{title}`.
        ask: words of the title that is judged, with `{title}`; they end where the answer would
            begin.
        answers: of yes and of no, a token each.

    Raises:
        ValueError: for an answer of several tokens, and as `title_likelihood`.

    Example:
        >>> words = {"opening": "499", "item": "{title} 7", "ask": "{title}", "most": 20}
        >>> judge = models.title_answers(titles, decoder_folder, answers=("7", "8"), **words)
    """
    made = weights.tokenizer(weights.find(source))
    texts = title_texts("title_answers", titles, made, opening, item, ask, most)
    ids = weights.within(made, answers)
    for answer, some in zip(answers, ids, strict=True):
        if len(some) != 1:
            raise ValueError(
                f"title_answers(answers): {answer!r} has {len(some)} tokens; use answers of one."
            )
    decoder = begun(source, dtype, adapter)
    weights.fitting(made, decoder.size.vocabulary, source)
    return by_answers(decoder, texts, (ids[0][0], ids[1][0]))


def by_answers(decoder: Decoder, texts: TitleTexts, answers: tuple[int, int]) -> Judge:
    """`title_answers` of a decoder at hand, and tokens."""
    tokens = {"opening": [texts.opening], "said": texts.said, "asked": texts.asked}
    for name, some in (*tokens.items(), ("answers", [answers])):
        check_tokens("by_answers", name, some, decoder)
    return Judge(decoder, texts, partial(_yes_over_no, answers))


def _yes_over_no(answers: tuple[int, int], decoder: Decoder, last, items, reading) -> jax.Array:
    tokens, *_, ends = items
    x = at_ends(decoder, decoder.embed(tokens), ends, packing_of(items), reading)
    yes, no = jnp.moveaxis(decoder.logits(x, jnp.array(answers)), -1, 0)
    return yes - no
