"""TIGER: the codes of the next item, generated one after another from those of a user's history
(Rajput et al., "Recommender systems with generative retrieval", NeurIPS 2023).

    x = sqrt(D) e_{c} + p_t,     of all codes c of the items i_1 .. i_T, those of an item at place t
    log p(i) = sum_m log softmax_k(h(x, c_1 .. c_{m-1}) . e_mk)[c_m],      (c_1, .., c_M) of item i

k being the codes that lead on from c_1 .. c_{m-1} to an item of the catalogue. h is what
self-attention makes of the last code (the layers of `sasrec`), e_mk the vector of code k of level
m, read and predicted alike. In training each place predicts the next item's codes. The paper's
softmax is over all codes of a level, so that it learns which codes there are besides which are
next, and its transformer has an encoder for the history and begins with a token of the user; this
one is a decoder alone, and a client holds its user.

Items are ranked exhaustively: a history goes through the layers once, and each prefix that two
items share is one place more, which looks at the history and at its own beginning; after a prefix
of one item alone there is no choice. Or by the beam, as the paper does.

`I` items, `M` codes of an item, `V` codes of all levels, `L` places, `D` width, `H` heads, `d`
width of a head, `T = L M` codes of a history, `P` prefixes.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from itertools import accumulate

import jax
import jax.numpy as jnp
from flax import nnx

from ...check import at_least
from ...types import Model
from ..objectives import masked_mean
from ..roles import Frozen, from_nnx
from ..text.rq_vae import Quantiser
from ..text.semantic_ids import SemanticIds, semantic_ids
from ..text.text_tower import described
from ..transformers.dropping import dropout, seeds
from ..transformers.layers import MASKED, attention, stacked
from .sasrec import Block, check, looking_back, norm
from .trie import Trie, beam_search, children, trie


class TIGER(nnx.Module):
    """ids: `SemanticIds`. layers(rngs): a stack of `sasrec.Block`. beam: its width, or None."""

    def __init__(self, ids: SemanticIds, width, length, layers, rate, beam, rngs):
        draw = lambda *shape: 0.02 * jax.random.normal(rngs.params(), shape)
        self.codes = Frozen(jnp.asarray(ids.codes))
        self.trie = Frozen(trie(ids.codes))
        self.code = nnx.Param(draw(sum(ids.sizes), width))
        self.position = nnx.Param(draw(length + 1, width))  # the last is the next item's
        self.layers = layers(rngs)
        self.norm = norm(width)
        self.sizes, self.offsets = ids.sizes, (0, *accumulate(ids.sizes))[:-1]
        self.rate, self.beam = rate, beam

    def embedded(self, items, last: int):
        """[..., n M, D] of the codes of `items` int[..., n], the place of whose last is `last`,
        counted from the right end."""
        known, (*lead, n) = self.position.shape[0], items.shape
        if n + last > known:
            raise ValueError(
                f"tiger has length={known - 1} places and read {n + last - 1} items; make it with "
                f"length={n + last - 1}, or train on sequences(length={known - 1})."
            )
        code = self.code[self.codes[items] + jnp.asarray(self.offsets)]
        places = self.position[known - last - n : known - last]
        x = code.shape[-1] ** 0.5 * code + places[:, None]
        return x.reshape(*lead, n * len(self.sizes), -1)

    def scores(self, states, level: int):
        """[..., K] of the codes of a level, after states [..., D]."""
        begin = self.offsets[level]
        return states @ self.code[begin : begin + self.sizes[level]].T

    def loss(self, batch, key):
        levels = len(self.sizes)
        items = jnp.concatenate([batch["inputs"], batch["targets"][:, -1:]], 1)
        real = batch["real"] * batch["mask"][:, None]
        there = jnp.concatenate([real, batch["mask"][:, None]], 1) > 0
        first, rest = seeds(jax.random.bits(key, (), jnp.uint32), 2)
        x = dropout(first, self.embedded(items, 0)[:, :-1], self.rate)
        mask = looking_back(jnp.repeat(there, levels, 1)[:, :-1])
        x, _ = stacked(self.layers, (x, rest), mask)
        # From the last code of an item to the last but one of the next: M states a target.
        ahead = self.norm(x)[:, levels - 1 :].reshape(*real.shape, levels, -1)
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
        """(the state of the last code [D]; keys and values [layers, T, H, d]; bool[T] of which are
        real) of int32[H]."""
        real = jnp.repeat(history >= 0, len(self.sizes))
        mask = looking_back(real)

        def one(block, x):
            q, k, v = block.attended(x)
            y = attention(q, k, v, mask).reshape(x.shape)
            return block.finish(x, y), (k, v)

        x, held = self._through(one, self.embedded(jnp.maximum(history, 0), 1), ())
        return self.norm(x[-1]), held, real

    def after(self, memory, codes, family):
        """[P, D]: states of codes int[P], of all levels, at the place of the next item.

        family: int[P, A], which of the P each attends to besides the history, itself among them;
        -1 for none.
        """
        _, held, real = memory
        real = jnp.broadcast_to(real, (len(codes), len(real)))
        mask = jnp.concatenate([real, family >= 0], 1)[:, None]

        def one(block, x, held):
            q, k, v = block.attended(x)
            known, said = held
            worth = jnp.einsum("phd,thd->pht", q, known), jnp.einsum("phd,pahd->pha", q, k[family])
            worth = jnp.concatenate(worth, -1) * q.shape[-1] ** -0.5
            weights = jax.nn.softmax(jnp.where(mask, worth, MASKED), -1)
            far, near = jnp.split(weights, [len(known)], -1)
            y = jnp.einsum("pht,thd->phd", far, said)
            y += jnp.einsum("pha,pahd->phd", near, v[family])
            return block.finish(x, y.reshape(x.shape)), ()

        x = self.code.shape[1] ** 0.5 * self.code[codes] + self.position[-1]
        return self.norm(self._through(one, x, held)[0])

    def _through(self, one, x, rest):
        """(x after all layers, what each gave) of one(block, x, *rest of the layer)."""
        structure, variables = nnx.split(self.layers)

        def layer(x, here):
            variables, rest = here
            return one(nnx.merge(structure, variables), x, *([rest] if rest else []))

        return jax.lax.scan(layer, x, (variables, rest))

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
        states = self.after(memory, jnp.concatenate(codes), jnp.concatenate(families))
        return jnp.split(states, begins[1:-1])

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
            states = self.after(memory, codes.reshape(-1), family)
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


def tiger(
    num_items: int,
    members: int = 1,
    titles: Sequence[str] | None = None,
    weights: str = "minilm",
    tokens: int = 128,
    levels: int = 3,
    codes: int = 32,
    seed: int = 0,
    width: int = 64,
    length: int = 50,
    layers: int = 2,
    heads: int = 1,
    dropout: float = 0.2,
    beam: int | None = None,
    quantiser: Quantiser | None = None,
) -> Model:
    """Shared vectors of codes and layers; no private part and no rows: all codes of a level compete
    in each step, so all are trained, and sent. Warns of how many items' codes collided.

    Train it on `data.sequences(length)`, without negatives. Arguments that are not named here are
    those of `sasrec`.

    Args:
        titles: I texts, which a run knows.
        weights: of their embeddings, as in `load_encoder`.
        tokens: most tokens of a text.
        levels: codes of an item, before the one that tells collided items apart.
        codes: of a level.
        seed: of the quantiser that makes them, see `semantic_ids`.
        beam: prefixes that are kept where items are ranked; the items that are lost so come last.
            None ranks by the log-probabilities of all. Nothing in training depends on it.
        quantiser: what makes codes of embeddings, such as `rq_vae()`; default `residual_kmeans`.

    Raises:
        ValueError: without a text for each item, for a beam that is wider than the catalogue, as
            `semantic_ids` and as `sasrec`.

    Example:
        >>> texts = {"titles": titles, "weights": bert_folder, "codes": 4}
        >>> model = models.tiger(num_items, **texts, width=8, length=10)
        >>> strategy = strategies.fedavg(model, data.sequences(10))
    """
    check("tiger", width, length, layers, heads, dropout)
    if beam is not None:
        at_least("tiger", "beam", beam, 1)
        if beam > num_items:
            raise ValueError(
                f"tiger(beam={beam}) is wider than the catalogue of {num_items} items; use at "
                f"most {num_items}, or None for all."
            )
    texts = described("tiger", titles, num_items)
    ids = semantic_ids(texts, weights, tokens, levels, codes, seed, quantiser)
    if ids.collided:
        warnings.warn(
            f"tiger(levels={levels}, codes={codes}): {ids.collided} of {num_items} items have "
            f"codes that another one has; a further code of {ids.sizes[-1]} tells them apart.",
            stacklevel=2,
        )
    return of_ids(ids, width, length, layers, heads, dropout, beam)


def of_ids(ids: SemanticIds, width, length, layers, heads, rate, beam) -> Model:
    """`TIGER` of these semantic ids."""
    block = lambda rngs: Block(width, width, heads, rate, jax.nn.relu, rngs, (layers,))
    return from_nnx(lambda rngs: TIGER(ids, width, length, block, rate, beam, rngs))
