"""TIGER on a decoder against that decoder with codes among its tokens, one whole text at a time."""

import sys
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from small_decoder import moved, played

from fedjax_rec import clients, data, models, strategies, trees
from fedjax_rec.models.sequential.tiger_decoder import on_decoder

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
import tiny_bert
import tiny_llama

ITEMS, WORDS, OPENING = 17, 30, [7, 3, 7]
RNG = np.random.default_rng(3)
IDS = models.told_apart(RNG.integers(0, 3, (ITEMS, 2)), 3)
LEVELS = len(IDS.sizes)
OFFSETS = np.cumsum([0, *IDS.sizes])
HISTORY = [-1, 4, 0, 9]
KEY = jax.random.key(1)


@cache
def decoder():
    """With the numbers of a Granite or a Gemma, each other than one."""
    made = tiny_llama.decoder(WORDS)
    made.tokens[...] = made.tokens[...] * 30.0
    made.size = replace(made.size, embedding=1.5, logits=0.7, cap=6.0)
    return made


@cache
def made(layers=None, beam=None):
    return on_decoder(IDS, decoder(), OPENING, layers, "*query|*down", 3, 5.0, beam)


def compiled(f):
    return jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})


@cache
def drawn(layers=None):
    return moved(made(layers))[0]


@cache
def by_hand(layers=None):
    """The logits of codes, of the decoder that has them too as tokens, adapters in its weights."""
    shared, there = drawn(layers), nnx.clone(decoder())
    if layers:
        there.layers = nnx.merge(
            nnx.split(there.layers)[0],
            jax.tree.map(lambda x: x[:layers], nnx.split(there.layers)[1]),
        )
        there.size = replace(there.size, layers=layers)
    for name in ("query", "down"):
        part = getattr(there.layers, name)
        adapter = shared["trunk"]["decoder"]["layers"][name]
        a, b = (np.float64(adapter[f"lora_{x}"]) for x in "ab")
        part.kernel[...] = jnp.float32(np.float64(part.kernel[...]) + 5.0 / 3 * a @ b)
    # Read s times as long as they are predicted.
    words = there.tokens[...]
    scale = np.median(np.sqrt(np.square(words).mean(1))) / 0.02
    read = jnp.concatenate([words, scale * shared["code"]])
    there.tokens = nnx.Param(shared["code"])
    return compiled(lambda tokens: there.logits(there.through(read[tokens] * 1.5)))


def logits_of(tokens, layers=None):
    """[len(tokens), V] of all codes after each token."""
    padded = np.zeros(32, np.int32)
    padded[: len(tokens)] = tokens
    return np.float64(by_hand(layers)(jnp.asarray(padded)))[: len(tokens)]


def tokens_of(items):
    return [WORDS + OFFSETS[m] + c for i in items for m, c in enumerate(IDS.codes[i])]


def leading(row, level):
    """Codes of a level that lead on to an item after the first `level` of `row`."""
    return sorted({r[level] for r in IDS.codes.tolist() if r[:level] == list(row[:level])})


def one_by_one(before, item, layers=None):
    """log p of an item after `before`: its whole text goes through the decoder."""
    said, row = logits_of([*before, *tokens_of([item])], layers), IDS.codes[item]
    total = 0.0
    for level, code in enumerate(row):
        scores = said[len(before) - 1 + level, OFFSETS[level] : OFFSETS[level + 1]]
        among = scores[leading(row, level)]
        total += scores[code] - np.log(np.exp(among).sum())
    return total


def scored(model, history, layers=None):
    score = lambda shared, h: model.score(shared, {}, slice(None), history=h)
    return np.asarray(compiled(score)(drawn(layers), jnp.int32(history)))


@pytest.mark.parametrize("layers", [None, 1])
@pytest.mark.parametrize("history", [HISTORY, [-1, -1, -1, -1]], ids=["some", "none"])
def test_an_item_is_worth_what_its_text_of_codes_is(history, layers):
    before = OPENING + tokens_of([i for i in history if i >= 0])
    expected = np.array([one_by_one(before, item, layers) for item in range(ITEMS)])
    assert IDS.collided > 4 and expected.std() > 0.3
    np.testing.assert_allclose(scored(made(layers), history, layers), expected, atol=1e-5)
    np.testing.assert_allclose(np.exp(expected).sum(), 1)


def test_a_beam_of_all_items_is_exhaustive():
    whole = scored(made(), HISTORY)
    np.testing.assert_allclose(scored(made(beam=ITEMS), HISTORY), whole, atol=1e-5)
    few = scored(made(beam=3), HISTORY)
    found = few > -1e8
    assert found.sum() == 3
    np.testing.assert_allclose(few[found], whole[found], atol=1e-5)


def test_the_loss_is_that_of_whole_texts():
    items = np.array([[2, 2, 2, 7, 1], [11, 3, 3, 16, 8], [0, 0, 0, 0, 0]])
    real = np.array([[0, 0, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]], np.float32)
    total = []
    for row, there in zip(items[:2], real[:2] > 0, strict=True):
        line = [int(i) for i in row[:-1][there]] + [int(row[-1])]
        for n in range(1, len(line)):
            total.append(-one_by_one(OPENING + tokens_of(line[:n]), line[n]))
    batch = {
        "inputs": jnp.int32(items[:, :-1]), "targets": jnp.int32(items[:, 1:]),
        "real": jnp.asarray(real), "mask": jnp.float32([1, 1, 0]),
    }  # fmt: skip
    value = compiled(lambda shared: made().loss(shared, {}, batch, KEY))(drawn())
    assert len(total) == 2 + 4
    np.testing.assert_allclose(value, np.mean(total), rtol=1e-5)


def test_the_base_is_frozen_and_not_sent():
    found = data.synthetic(num_users=8, num_items=ITEMS, interactions_per_user=7, seed=2)
    packed = data.pack(data.leave_one_out()(found), evaluation_negatives=0, history=5)
    strategy = strategies.fedavg(
        made(), data.sequences(5), batch_size=1, optimizer=clients.sgd(0.1),
        server=optax.adam(0.01),
    )  # fmt: skip
    before, after, info, losses = played(strategy, packed.store, 10)
    assert losses[-1] < losses[0] - 0.1
    leaves = lambda state: jax.tree.leaves(trees.frozen(state.shared))
    assert len(leaves(before)) > 10
    for a, b in zip(leaves(before), leaves(after), strict=True):
        np.testing.assert_array_equal(a, b)
    # Vectors of the codes; A and B of rank 3 at query [16, 16] and down [24, 16] of two layers.
    trained = 4 * (16 * sum(IDS.sizes) + 2 * 3 * (16 + 16 + 24 + 16))
    assert trees.nbytes(trees.trainable(after.shared)) == trained
    up = np.asarray(info.bytes_up)
    assert ((trained <= up) & (up < trained + 400)).all()
    # Of the table of words the opening is held alone.
    assert after.shared["trunk"]["decoder"]["tokens"].value.shape == (len(OPENING), 16)


def test_what_cannot_be_is_one_line():
    texts = tiny_bert.titles(ITEMS)
    named = lambda titles, beam=None: models.tiger_decoder(ITEMS, titles=titles, beam=beam)
    on = partial(on_decoder, IDS, decoder())
    for make, said in [
        (lambda: named(texts, 18), r"tiger_decoder\(beam=18\) is wider than the catalogue of 17 i"),
        (lambda: named(None), "tiger_decoder needs titles"),
        (lambda: named(texts[:9]), "tiger_decoder: 9 titles for 17 items"),
        (lambda: on([1], 3), r"layers=3\) are more than the 2 that the decoder has; use at most 2"),
        (lambda: on([1], 0), r"layers=0\) is too small"),
        (lambda: on([]), r"len\(opening\)=0\) is too small"),
        (lambda: on([30]), r"opening\): text 0 has token 30"),
        (lambda: on([1], None, "*value|*key2"), r"'\*key2' fits no linear layer"),
    ]:
        with pytest.raises(ValueError, match=said) as refused:
            make()
        assert "\n" not in str(refused.value)
