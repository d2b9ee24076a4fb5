"""Semantic ids: items as short codes of what their texts say, the same first codes for like texts.

    i -> (c_1, .., c_L, c_{L+1}),   c_1 .. c_L a residual quantiser's of the text's embedding

Items whose L codes are the same are told apart by a further one, which counts them in the order of
the catalogue (Rajput et al., "Recommender systems with generative retrieval", NeurIPS 2023, section
3.1); where no two are the same there is none. The server computes them of public texts, once, and
no client trains them. TIGER's codes are an RQ-VAE's (`rq_vae`); the paper has k-means as the
simpler way, which is the default.

`I` items, `L` levels, `K` codes of a level, `M` codes of an item: L, or L + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np

from ...check import at_least
from ...check import seed as check_seed
from ...made import refuse_uncalled
from ..transformers.sentences import sentences
from .residual_kmeans import residual_kmeans
from .rq_vae import Quantiser


@dataclass(frozen=True)
class SemanticIds:
    """The codes of a catalogue, no two items' the same.

    Attributes:
        codes: int32[I, M].
        sizes: how many codes each of the M levels has.
        collided: items whose first L codes another one has, too.
    """

    codes: np.ndarray
    sizes: tuple[int, ...]
    collided: int = 0

    def __post_init__(self) -> None:
        least, most = self.codes.min(0), self.codes.max(0)
        for level, size in enumerate(self.sizes):
            if least[level] < 0 or most[level] >= size:
                raise ValueError(
                    f"SemanticIds(codes): level {level} has codes {least[level]} to {most[level]}, "
                    f"of sizes {self.sizes}; use 0 to {size - 1}."
                )
        _, where, counts = np.unique(self.codes, axis=0, return_inverse=True, return_counts=True)
        if counts.max() > 1:
            first, second, *_ = np.flatnonzero(where.reshape(-1) == counts.argmax())
            raise ValueError(
                f"SemanticIds(codes): items {first} and {second} have the same; let told_apart "
                "give them a further code."
            )


def semantic_ids(
    texts: Sequence[str],
    weights: str = "minilm",
    tokens: int = 128,
    levels: int = 3,
    codes: int = 32,
    seed: int = 0,
    quantiser: Quantiser | None = None,
) -> SemanticIds:
    """The codes of texts, by what a residual quantiser makes of their embeddings.

    Args:
        texts: I of them.
        weights: of their embeddings, as in `load_encoder`.
        tokens: most tokens of a text.
        levels: `L`.
        codes: `K`.
        seed: of what the quantiser draws.
        quantiser: such as `rq_vae()`; default `residual_kmeans`.

    Raises:
        ValueError: for more codes than there are different texts, and for sizes below 1.

    Example:
        >>> ids = models.semantic_ids(titles, bert_folder, levels=2, codes=4)
        >>> ids.codes.shape[0], ids.sizes[:2]
        (24, (4, 4))
    """
    at_least("semantic_ids", "tokens", tokens, 3)
    check_seed("semantic_ids", seed)
    refuse_uncalled("semantic_ids", "quantiser", quantiser)
    if codes > (different := len(set(texts))):
        raise ValueError(
            f"semantic_ids(codes={codes}) of {different} different texts; use at most as many."
        )
    with jax.ensure_compile_time_eval():  # a run may be traced, and its texts are not
        embeddings = sentences(texts, weights, tokens)
        quantise = residual_kmeans if quantiser is None else quantiser.quantise
        found, _ = quantise(jax.random.key(seed), embeddings, levels, codes)
    return told_apart(np.asarray(found), codes)


def told_apart(codes: np.ndarray, size: int) -> SemanticIds:
    """Codes [I, L], each below `size`, and a further level where items have the same.

    Args:
        codes: int[I, L].
        size: `K`.

    Example:
        >>> models.told_apart(np.array([[0, 1], [2, 0], [0, 1]]), 3).codes.tolist()
        [[0, 1, 0], [2, 0, 0], [0, 1, 1]]
    """
    codes = np.asarray(codes, np.int32)
    _, group, counts = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    group, sizes = group.reshape(-1), (size,) * codes.shape[1]
    if counts.max() == 1:
        return SemanticIds(codes, sizes)
    order = np.argsort(group, kind="stable")  # those of a group by their number
    begin = np.cumsum(counts) - counts
    further = np.empty(len(codes), np.int32)
    further[order] = np.arange(len(codes)) - np.repeat(begin, counts)
    collided = int(counts[counts > 1].sum())
    return SemanticIds(np.c_[codes, further], (*sizes, int(counts.max())), collided)
