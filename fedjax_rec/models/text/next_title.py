"""Recommendation by the likelihood of a title after the titles of a user's history.

    score(i) = 1/|t_i| sum_j log p(t_ij | opening, titles of the history, t_i1 .. t_i(j-1))

with the tokens t_i of the title of item i and of what ends it: ranking by perplexity, which needs
no head for items (Geng et al., "Recommendation as language processing", RecSys 2022; the mean over
tokens keeps short titles from winning by their length). It learns from the titles of users'
sequences: loss = - the mean of log p of their tokens. Texts are assembled from the catalogue's
tokens on the device, and the opening is read once a step, not once a text (`packed.Reading`).

`I` items, `W` most tokens of a title, `H` items of a history, `S` most tokens of a text, `D` width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ... import weights
from ...check import at_least
from ...types import Model
from ..objectives import masked_mean
from ..roles import Frozen, from_nnx
from ..transformers.decoder import Decoder
from ..transformers.generate import check_tokens
from ..transformers.packed import after, read
from .answers import adapted, begun

CANDIDATES = 32  # titles that are scored at once


class NextTitle(nnx.Module):
    """opening: int[P], P >= 1, before the titles; titles: int32[I, W]; sizes: int32[I], their
    tokens. most: `S`."""

    def __init__(self, decoder: Decoder, opening, titles, sizes, most: int):
        self.decoder, self.opening, self.most = decoder, tuple(map(int, opening)), most
        self.titles, self.sizes = Frozen(jnp.asarray(titles)), Frozen(jnp.asarray(sizes))

    def text(self, items, real):
        """(tokens int32[S], their number) of the opening and the last of `items` int32[H] that
        find room; `real` bool[H]. Padding stands behind."""
        titles, sizes = self.titles[...], self.sizes[...]
        items, first = jnp.maximum(items, 0), len(self.opening)
        size = jnp.where(real, sizes[items], 0)
        after = jnp.cumsum(size[::-1])[::-1]
        size = jnp.where(after <= self.most - first, size, 0)
        begin = first + jnp.cumsum(size) - size
        column = jnp.arange(titles.shape[1])
        place = jnp.where(column < size[:, None], begin[:, None] + column, self.most)
        tokens = jnp.zeros(self.most, jnp.int32).at[:first].set(jnp.array(self.opening))
        return tokens.at[place].set(titles[items], mode="drop"), first + size.sum()

    def loss(self, batch, key):
        """On `data.sequences`: `inputs` and `targets` int32[B, H], `real` [B, H]."""
        items = jnp.concatenate([batch["inputs"], batch["targets"][:, -1:]], 1)
        real = jnp.concatenate([batch["real"], batch["real"][:, -1:]], 1) > 0
        tokens, size = jax.vmap(self.text)(items, real)
        # What all texts begin with is read once, and says the first token of each.
        first = len(self.opening)
        said, reading = read(self.decoder, self.decoder.embed(jnp.array(self.opening)))
        x = after(self.decoder, self.decoder.embed(tokens[:, first:]), reading=reading)
        said = jnp.broadcast_to(said[-1:], (len(x), 1, x.shape[-1]))
        logits = self.decoder.logits(jnp.concatenate([said, x[:, :-1]], 1))
        tokens = tokens[:, first:]
        chosen = jnp.take_along_axis(logits, tokens[..., None], -1)[..., 0]
        real = (jnp.arange(first, self.most) < size[:, None]) * batch["mask"][:, None]
        return masked_mean(jax.nn.logsumexp(logits, -1) - chosen, real)

    def read(self, history):
        """What titles after `history` int32[H] need of it: keys and values of each layer, and the
        logits float32[V] of a title's first token."""
        tokens, size = self.text(history, history >= 0)
        x, reading = read(self.decoder, self.decoder.embed(tokens))
        first = self.decoder.logits(x[size - 1])
        return {"read": replace(reading, size=size), "first": first}

    def score(self, items, user, reading):
        titles, sizes = self.titles[...][items], self.sizes[...][items]
        n, c = titles.shape[0], min(CANDIDATES, titles.shape[0])
        fill = lambda x: jnp.concatenate([x, jnp.repeat(x[:1], -n % c, 0)])
        parts = fill(titles).reshape(-1, c, titles.shape[1]), fill(sizes).reshape(-1, c)
        one = lambda part: self.likelihood(part[0], part[1], reading)
        scored = jax.lax.map(one, parts)
        return scored.reshape(-1)[:n]

    def likelihood(self, titles, sizes, reading):
        """float32[c]: the mean log p of the tokens of `titles` int32[c, W]."""
        x = after(self.decoder, self.decoder.embed(titles), reading=reading["read"])
        # Logits of token j + 1 stand at token j, those of the first one in the reading.
        logits = self.decoder.logits(x[:, :-1])
        rest = jnp.take_along_axis(logits, titles[:, 1:, None], -1)[..., 0]
        rest = rest - jax.nn.logsumexp(logits, -1)
        first = jax.nn.log_softmax(reading["first"])[titles[:, 0]]
        counts = jnp.arange(1, titles.shape[1]) < sizes[:, None]
        return (first + (rest * counts).sum(-1)) / sizes


def next_title(
    titles: Sequence[str],
    source: str = "smollm2",
    opening: str = "Films that a user liked, in order:",
    most: int = 128,
    targets: str = "*query|*value",
    rank: int = 8,
    alpha: float = 16.0,
    dtype: str = "float32",
    adapter: str | None = None,
) -> Model:
    """The decoder of known weights or a local folder, frozen, with LoRA at `targets`.

    Train it on `data.sequences`; it is measured on cases with a history.
    Arguments that are not named here are those of `after_titles`.

    Args:
        titles: of the items, which a run knows; each is said as " <title>;", up to its first
            bracket, which holds the year of a film.
        source: as in `load_decoder`.
        opening: what stands before the titles.
        dtype: as in `load_decoder`.
        adapter: a folder of PEFT, whose adapters go on in place of new ones, see `import_peft`.

    Raises:
        ValueError: without titles, for a tokenizer of another model, and as `after_titles` and
            `import_peft`.

    Example:
        >>> numbers = [str(i) for i in range(num_items)]
        >>> model = models.next_title(numbers, decoder_folder, opening="499", most=15, rank=2)
    """
    if titles is None:
        raise ValueError("next_title(titles=None) has nothing to say; use data with titles.")
    made = weights.tokenizer(weights.find(source))
    said = weights.within(made, [f" {title.split(' (')[0]};" for title in titles])
    (before,) = weights.begun(made, [opening])
    decoder = begun(source, dtype, adapter)
    weights.fitting(made, decoder.size.vocabulary, source)
    return after_titles(decoder, before, said, most, targets, rank, alpha)


def after_titles(
    decoder: Decoder,
    opening: Sequence[int],
    titles: Sequence[Sequence[int]],
    most: int = 128,
    targets: str = "*query|*value",
    rank: int = 8,
    alpha: float = 16.0,
) -> Model:
    """`next_title` of a decoder at hand, and tokens.

    Args:
        decoder: what is asked how likely a title is; it stays as it is. Of adapters that it has, as
            in `yes_no`.
        opening: tokens before the titles, at least one.
        titles: the tokens of the title of each item.
        most: `S`, tokens of a text; the oldest titles of a history are left out.
        targets: as in `lora`.
        rank: as in `lora`.
        alpha: as in `lora`.

    Raises:
        ValueError: where the longest title finds no room among `most` tokens after the opening, and
            for tokens that the decoder does not know.

    Example:
        >>> model = models.after_titles(decoder, opening=[3], titles=[[1], [2, 4]], most=8, rank=2)
        >>> strategy = strategies.fedavg(model, data.sequences(5))
    """
    for name, texts in (("opening", [opening]), ("titles", titles)):
        check_tokens("after_titles", name, texts, decoder)
    sizes = np.array([len(title) for title in titles], np.int32)
    at_least("after_titles", "len(opening)", len(opening), 1)
    at_least("after_titles", "most", most, len(opening) + int(sizes.max()))
    table = np.zeros((len(titles), int(sizes.max())), np.int32)
    for row, title in zip(table, titles, strict=True):
        row[: len(title)] = title

    def build(rngs):
        made = adapted(decoder, rngs, targets, rank, alpha)
        return NextTitle(made, opening, table, sizes, most)

    return from_nnx(build)
