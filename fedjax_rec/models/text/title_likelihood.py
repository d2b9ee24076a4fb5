"""Items judged by the likelihood of their titles after those of a history, nobody trained.

    score(i) = 1/|t_i| sum_j log p(t_ij | opening, titles of the history, t_i1 .. t_i(j-1))

as `next_title`, whose adapters may be used (`adapter`). Titles of many common words are likely
after anything: the likelihood after the opening alone, `models.alone`, may be subtracted (Holtzman
et al., "Surface form competition", EMNLP 2021).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from ... import weights
from ...check import at_least
from ..transformers.decoder import Decoder
from ..transformers.generate import check_tokens
from ..transformers.packed import after
from .answers import begun
from .judge import Judge, packing_of
from .title_texts import TitleTexts, title_texts


def title_likelihood(
    titles: Sequence[str],
    source: str = "smollm2",
    opening: str = "Films that a user liked, in order:",
    item: str = " {title};",
    most: int = 128,
    dtype: str = "float32",
    adapter: str | None = None,
) -> Judge:
    """The mean log-likelihood of the tokens of a title, by a decoder of known weights or a local
    folder.

    Args:
        titles: of the items, as they are to be said. Items that are called alike are warned of.
        source: as in `load_decoder`.
        opening: what stands before the titles.
        item: words of a title, in the history and as what is judged, with `{title}`.
        most: tokens of the opening and the history together; the oldest titles are left out, and
            `judged` counts them.
        dtype: as in `load_decoder`.
        adapter: a folder of PEFT, such as `LoadedRun.export_peft` writes of a run of `next_title`;
            None for the decoder as it is.

    Raises:
        ValueError: without titles or for items without one (how many, and which), for words without
            `{title}`, where the longest title finds no room among `most` tokens, and for a
            tokenizer of another model.

    Example:
        >>> judge = models.title_likelihood(titles, decoder_folder, opening="499", most=20)
    """
    made = weights.tokenizer(weights.find(source))
    texts = title_texts("title_likelihood", titles, made, opening, item, item, most)
    decoder = begun(source, dtype, adapter)
    weights.fitting(made, decoder.size.vocabulary, source)
    return by_likelihood(decoder, texts)


def by_likelihood(decoder: Decoder, texts: TitleTexts) -> Judge:
    """`title_likelihood` of a decoder at hand, and tokens."""
    at_least("by_likelihood", "len(opening)", len(texts.opening), 1)
    for name, some in (("opening", [texts.opening]), ("said", texts.said), ("asked", texts.asked)):
        check_tokens("by_likelihood", name, some, decoder)
    return Judge(decoder, texts, _mean_log_likelihood)


def _mean_log_likelihood(decoder: Decoder, last, items, reading) -> jax.Array:
    tokens, places, of, ends = items
    x = after(decoder, decoder.embed(tokens), packing_of(items), reading)
    # Logits of a token stand at the one before; those of a first one at the end of the history.
    said = jnp.where((places == 0)[:, None], last, jnp.roll(x, 1, 0))
    logits = decoder.logits(said)
    chosen = jnp.take_along_axis(logits, tokens[:, None], -1)[:, 0]
    log_p = chosen - jax.nn.logsumexp(logits, -1)
    at = jnp.where(of < 0, ends.shape[0], of)
    total = jnp.zeros(ends.shape[0]).at[at].add(log_p, mode="drop")
    return total / (places[ends] + 1)
