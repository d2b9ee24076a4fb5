"""The codes of the next item, one after another, whatever reads those of the history.

    log p(i) = sum_m log softmax_k(s(h, c_1 .. c_{m-1})_k)[c_m],      (c_1, .., c_M) of item i

k being the codes that lead on from c_1 .. c_{m-1} to an item of the catalogue (Rajput et al.,
"Recommender systems with generative retrieval", NeurIPS 2023; the paper's softmax is over all codes
of a level, so that it learns which codes there are besides which are next). A code has one vector,
read and predicted alike. In training each place predicts the next item's codes.

Items are ranked exhaustively: a history is read once, and each prefix that two items share is one
place more, which looks at the history and at its own beginning; after a prefix of one item alone
there is no choice. Or by the beam, as the paper does.

`I` items, `M` codes of an item, `V` codes of all levels, `D` width, `P` prefixes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from ...check import at_least
from ..objectives import masked_mean
from ..roles import Frozen
from ..text.rq_vae import Quantiser
from ..text.semantic_ids import SemanticIds, semantic_ids
from ..text.text_tower import described
from ..transformers.layers import MASKED
from .trie import Trie, beam_search, children, trie


class Trunk(Protocol):
    """What reads the vectors of codes, of items in the order of time."""

    def ahead(self, vectors: jax.Array, there: jax.Array, key: jax.Array) -> jax.Array:
        """[B, n, M, D] of n + 1 items [B, n + 1, M, D], `there` bool[B, n + 1] real ones: the
        states from the last code of an item to the last but one of the next."""
        ...

    def remembered(self, vectors: jax.Array, real: jax.Array) -> tuple[jax.Array, Any]:
        """(the state of the last code [D], what `after` needs) of a history [H, M, D], `real`
        bool[H]."""
        ...

    def after(self, memory: Any, vectors: jax.Array, family: jax.Array) -> jax.Array:
        """[P, D]: states of codes [P, D] of the next item. family: int32[P, A], which of the P each
        attends to besides the history, itself among them; -1 for none."""
        ...

    def scores(self, states: jax.Array, vectors: jax.Array) -> jax.Array:
        """[..., K] of codes [K, D] after states [..., D]."""
        ...


class NextCodes(nnx.Module):
    """ids: `SemanticIds`. code: [V, D]. trunk: a `Trunk`. beam: its width, or None for all."""

    def __init__(self, ids: SemanticIds, code: jax.Array, trunk: Trunk, beam: int | None):
        self.codes = Frozen(jnp.asarray(ids.codes))
        self.trie = Frozen(trie(ids.codes))
        self.code = nnx.Param(code)
        self.trunk = trunk
        self.sizes, self.offsets = ids.sizes, (0, *accumulate(ids.sizes))[:-1]
        self.beam = beam

    def of_items(self, items):
        """[..., M, D]: the vectors of the codes of items int[...]."""
        return self.code[self.codes[items] + jnp.asarray(self.offsets)]

    def scores(self, states, level: int):
        """[..., K] of the codes of a level, after states [..., D]."""
        begin = self.offsets[level]
        return self.trunk.scores(states, self.code[begin : begin + self.sizes[level]])

    def loss(self, batch, key):
        """On `data.sequences`: `inputs` and `targets` int32[B, H], `real` [B, H]."""
        items = jnp.concatenate([batch["inputs"], batch["targets"][:, -1:]], 1)
        real = batch["real"] * batch["mask"][:, None]
        there = jnp.concatenate([real, batch["mask"][:, None]], 1) > 0
        ahead = self.trunk.ahead(self.of_items(items), there, key)
        wanted, total = self.codes[batch["targets"]], jnp.zeros_like(real)
        tree: Trie = self.trie.get_value()
        before = tree.prefixes[batch["targets"]]
        for level, codes in enumerate(tree.codes):
            scores = self.scores(ahead[:, :, level], level)
            child, leads = children(tree, level, before[..., level])
            others = jnp.take_along_axis(scores, codes[child], -1)
            others = jax.nn.logsumexp(jnp.where(leads, others, MASKED), -1)
            total += jnp.take_along_axis(scores, wanted[..., level, None], -1)[..., 0] - others
        return masked_mean(-total, real)

    def remembered(self, history):
        """What the trunk remembers of int32[H], -1 where there is none."""
        return self.trunk.remembered(self.of_items(jnp.maximum(history, 0)), history >= 0)

    def exhaustive(self, memory):
        """[I]: log-probabilities of the codes of all items."""
        tree: Trie = self.trie.get_value()
        slots = [jnp.full(len(codes), len(mine)).at[mine].set(jnp.arange(len(mine)))
                 for codes, mine in zip(tree.codes[:-1], tree.shared, strict=True)]  # fmt: skip
        states = [memory[0][None], *self._after_shared(memory, slots)]
        parents = [jnp.zeros(len(tree.codes[0]), jnp.int32)]
        parents += [slot[above] for slot, above in zip(slots, tree.parents[1:], strict=True)]
        total = jnp.zeros(1)
        for level, (state, parent) in enumerate(zip(states, parents, strict=True)):
            total = total[tree.parents[level]]
            if not len(state):
                continue
            code, scores = tree.codes[level], self.scores(state, level)
            # Prefixes of one item have no slot: what follows is without a choice.
            leads = jnp.zeros(scores.shape, bool).at[parent, code].set(True, mode="drop")
            found = jax.nn.log_softmax(jnp.where(leads, scores, MASKED))
            total += found.at[parent, code].get(mode="fill", fill_value=0)
        return jnp.zeros_like(total).at[tree.items].set(total)

    def _after_shared(self, memory, slots):
        """[Q_d, D] of depths 1 .. M - 1: states after the prefixes that items share. slots: of
        depths 1 .. M - 1, int32[P_d], the place of a prefix among those, Q_d where it is none."""
        tree: Trie = self.trie.get_value()
        sizes = [len(mine) for mine in tree.shared]
        begins = [0, *accumulate(sizes)]
        if not begins[-1]:
            return [memory[0][None][:0]] * len(sizes)
        family, codes, families = jnp.zeros((1, 0), jnp.int32), [], []
        for depth, mine in enumerate(tree.shared):
            above = tree.parents[depth][mine]
            family = family[slots[depth - 1][above] if depth else above]
            own = begins[depth] + jnp.arange(sizes[depth])
            family = jnp.concatenate([family, own[:, None]], 1)
            lacking = len(sizes) - 1 - depth
            families.append(jnp.pad(family, ((0, 0), (0, lacking)), constant_values=-1))
            codes.append(tree.codes[depth][mine] + self.offsets[depth])
        family, vectors = jnp.concatenate(families), self.code[jnp.concatenate(codes)]
        return jnp.split(self.trunk.after(memory[1], vectors, family), begins[1:-1])

    def searched(self, memory, width: int, allowed=None):
        """`beam_search` of the items after a history."""

        def scores(prefixes):
            many, depth = prefixes.shape
            if not depth:
                return self.scores(memory[0], 0)[None]
            places = jnp.arange(many * depth).reshape(many, depth)
            back = jnp.tril(jnp.ones((depth, depth), bool))
            family = jnp.where(back, places[:, None], -1).reshape(-1, depth)
            codes = prefixes + jnp.asarray(self.offsets[:depth])
            states = self.trunk.after(memory[1], self.code[codes.reshape(-1)], family)
            return self.scores(states.reshape(many, depth, -1)[:, -1], depth)

        return beam_search(self.trie.get_value(), scores, width, allowed)

    def read(self, history):
        """[I]: log-probabilities of all items, of those that a beam lost one that is far below."""
        memory = self.remembered(history)
        if self.beam is None:
            return self.exhaustive(memory)
        items, total = self.searched(memory, self.beam)
        return jnp.full(len(self.codes[...]), MASKED).at[items].set(total)

    def score(self, items, user, reading):
        return reading[items]


def ids_of_texts(
    where: str,
    num_items: int,
    titles: Sequence[str] | None,
    weights: str,
    tokens: int,
    levels: int,
    codes: int,
    seed: int,
    quantiser: Quantiser | None,
    beam: int | None,
) -> SemanticIds:
    """The `semantic_ids` of a catalogue, for a model `where` that ranks by a beam; warns of how
    many items' codes collided. Raises ValueError as `tiger`."""
    if beam is not None:
        at_least(where, "beam", beam, 1)
        if beam > num_items:
            raise ValueError(
                f"{where}(beam={beam}) is wider than the catalogue of {num_items} items; use at "
                f"most {num_items}, or None for all."
            )
    texts = described(where, titles, num_items)
    ids = semantic_ids(texts, weights, tokens, levels, codes, seed, quantiser)
    if ids.collided:
        warnings.warn(
            f"{where}(levels={levels}, codes={codes}): {ids.collided} of {num_items} items have "
            f"codes that another one has; a further code of {ids.sizes[-1]} tells them apart.",
            stacklevel=3,
        )
    return ids
