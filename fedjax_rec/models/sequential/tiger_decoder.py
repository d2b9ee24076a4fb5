"""TIGER on a language model: codes of items are new tokens of a pretrained decoder.

    x = [ E(opening), s e_{c} of all codes c of the items i_1 .. i_T ],    e_{c} trained, E frozen
    log p(i) = sum_m log softmax_k(n(f(x, s e_{c_1} .. s e_{c_{m-1}})) . e_mk)[c_m]

as `next_codes` has it. f are the layers of the decoder, frozen, with LoRA beside them, and n is its
last norm; e begin small, so that all codes are first likely alike, and s makes them as long as the
tokens that the decoder knows (LC-Rec, Zheng et al., "Adapting large language models by integrating
collaborative semantics for recommendation", ICDE 2024, whose vocabulary gets the codes as tokens;
it trains the whole model, and on texts as well, to bring the tokens into the language: here they
learn from sequences alone).

An opening of words is read before all histories, by a client once a step. A decoder knows places
by what stands before, so padding is seen by nobody and takes no place. The prefixes of the trie go
on after a history as the branches of one text (`packed.Branches`).

The first layers of a decoder may be taken alone. What is left is no language model any more, but
layers that begin where those of one do.

`I` items, `M` codes of an item, `P` tokens of the opening, `D` width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
from flax import nnx

from ... import weights as stored
from ...check import at_least
from ...types import Model
from ..roles import from_nnx
from ..text.answers import adapted, begun
from ..text.prompt_states import divided
from ..text.rq_vae import Quantiser
from ..text.semantic_ids import SemanticIds
from ..text.soft_tokens import typical
from ..transformers.decoder import Decoder
from ..transformers.generate import check_tokens
from ..transformers.layers import capped
from ..transformers.packed import Branches, Packing, after, read
from ..transformers.products import times_rows
from .next_codes import NextCodes, ids_of_texts

FIRST = 0.02  # deviation of the vectors of codes


class Decoding(nnx.Module):
    """The `Trunk` of a decoder, the tokens of which are those of the opening alone, [P, D]. scale:
    what vectors of codes are read as, s."""

    def __init__(self, decoder: Decoder, scale: float):
        self.decoder, self.scale = decoder, scale

    def opened(self):
        """[P, D], what goes into the layers."""
        return self.decoder.embed(jnp.arange(self.decoder.tokens.shape[0]))

    def embedded(self, vectors):
        """What goes into the layers, of codes [..., D]."""
        scale = self.scale * self.decoder.size.embedding
        return (scale * vectors).astype(self.decoder.tokens.dtype)

    def ahead(self, vectors, there, key):
        batch, items, levels, width = vectors.shape
        _, reading = read(self.decoder, self.opened())
        real = jnp.repeat(there, levels, 1)[:, :-1]
        places = jnp.maximum(jnp.cumsum(real, 1) - 1, 0)
        packing = Packing(places, jnp.where(real, 0, -1))
        x = self.embedded(vectors).reshape(batch, items * levels, width)[:, :-1]
        x = self.decoder.norm(after(self.decoder, x, packing, reading))
        return x[:, levels - 1 :].reshape(batch, items - 1, levels, width)

    def remembered(self, vectors, real):
        """Memory is a `Reading` of the opening and the history."""
        items, levels, width = vectors.shape
        vectors = vectors[jnp.argsort(~real, stable=True)]  # padding stands behind
        opening = self.opened()
        x = [opening, self.embedded(vectors).reshape(items * levels, width)]
        x, reading = read(self.decoder, jnp.concatenate(x))
        size = len(opening) + levels * real.sum()
        return self.decoder.norm(x[size - 1]), replace(reading, size=size)

    def after(self, memory, vectors, family):
        x = after(self.decoder, self.embedded(vectors), Branches(family), memory)
        return self.decoder.norm(x)

    def scores(self, states, vectors):
        size = self.decoder.size
        return capped(times_rows(states, vectors) / size.logits, size.cap)


def tiger_decoder(
    num_items: int,
    members: int = 1,
    titles: Sequence[str] | None = None,
    source: str = "smollm2",
    weights: str = "minilm",
    tokens: int = 128,
    levels: int = 3,
    codes: int = 32,
    seed: int = 0,
    opening: str = "Films that a user liked, in order:",
    layers: int | None = None,
    targets: str = "*query|*value",
    rank: int = 8,
    alpha: float = 16.0,
    dtype: str = "float32",
    adapter: str | None = None,
    beam: int | None = None,
    quantiser: Quantiser | None = None,
) -> Model:
    """Shared vectors of codes, and LoRA in the layers of a decoder of known weights or a local
    folder, which is frozen: no client sends it, and all have one copy.

    Train it on `data.sequences`, without negatives; a history is as long as these have it.
    Arguments that are not named here are those of `tiger`.

    Args:
        source: as in `load_decoder`.
        opening: words before the codes of a history, one token or more.
        layers: the first ones, that are taken; None for all.
        targets: as in `lora`, of all layers that are taken.
        rank: as in `lora`.
        alpha: as in `lora`.
        dtype: of the decoder, as in `load_decoder`; what is trained is float32.
        adapter: a folder of PEFT, whose adapters go on in place of new ones, see `import_peft`.

    Raises:
        ValueError: for fewer layers than 1, and more than there are, an opening without tokens,
            a tokenizer of another model, and as `tiger`, `lora` and `import_peft`.

    Example:
        >>> texts = {"titles": titles, "weights": bert_folder, "codes": 4}
        >>> model = models.tiger_decoder(
        ...     num_items, **texts, source=decoder_folder, opening="499", layers=1, rank=2
        ... )
        >>> strategy = strategies.fedavg(model, data.sequences(10))
    """
    ids = ids_of_texts(
        "tiger_decoder", num_items, titles, weights, tokens, levels, codes, seed, quantiser, beam
    )
    made = stored.tokenizer(stored.find(source))
    (before,) = stored.begun(made, [opening])
    decoder = begun(source, dtype, adapter)
    stored.fitting(made, decoder.size.vocabulary, source)
    return on_decoder(ids, decoder, before, layers, targets, rank, alpha, beam)


def on_decoder(
    ids: SemanticIds,
    decoder: Decoder,
    opening: Sequence[int],
    layers: int | None = None,
    targets: str = "*query|*value",
    rank: int = 8,
    alpha: float = 16.0,
    beam: int | None = None,
) -> Model:
    """`tiger_decoder` of a decoder at hand, which stays as it is, semantic ids and tokens.

    Vectors of codes are first read as long as those of tokens, and predicted as if all were alike.
    """
    at_least("tiger_decoder", "len(opening)", len(opening), 1)
    check_tokens("tiger_decoder", "opening", [opening], decoder)
    kept = _first(decoder, layers)
    # Of the table of tokens nothing else is read.
    words = decoder.tokens[...][jnp.asarray(opening)]
    small = Decoder(kept.size, words, kept.layers, kept.norm)
    scale, shape = typical(decoder.tokens[...]) / FIRST, (sum(ids.sizes), decoder.size.width)

    def build(rngs):
        code = FIRST * jax.random.normal(rngs.params(), shape)
        trunk = Decoding(adapted(small, rngs, targets, rank, alpha), scale)
        return NextCodes(ids, code, trunk, beam)

    return from_nnx(build)


def _first(decoder: Decoder, layers: int | None) -> Decoder:
    """`decoder` with its first `layers` alone."""
    there = decoder.size.layers
    if layers is None or layers == there:
        return decoder
    at_least("tiger_decoder", "layers", layers, 1)
    if layers > there:
        raise ValueError(
            f"tiger_decoder(layers={layers}) are more than the {there} that the decoder has; use "
            f"at most {there}, or None for all."
        )
    return divided(decoder, there - layers)[0]
