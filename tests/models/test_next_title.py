"""Titles ranked by likelihood, against the decoder's own logits of each whole text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import fast
from flax import nnx

from fedjax_rec import models
from fedjax_rec.models.transformers.llama import LlamaSize, llama

SIZE = LlamaSize(50, 24, 40, 3, 6, 2, 4, tied=False)
KEY, OPENING, MOST = jax.random.key(0), [7, 8, 9], 14
RNG = np.random.default_rng(0)
TITLES = [RNG.integers(1, 50, RNG.integers(1, 5)).tolist() for _ in range(37)]
DECODER = llama(nnx.Rngs(0), SIZE)
_chances = nnx.jit(lambda m, t: jax.nn.log_softmax(m(t)))


def chances(text) -> np.ndarray:
    """log p [len(text), V] of the token after each."""
    return np.asarray(_chances(DECODER, jnp.int32(text + [0] * (24 - len(text)))))[: len(text)]


def text_of(history) -> list[int]:
    """The opening and the last titles that find room among `MOST` tokens."""
    said = [TITLES[i] for i in history]
    while sum(map(len, said)) > MOST - len(OPENING):
        said = said[1:]
    return OPENING + [token for title in said for token in title]


@pytest.fixture(scope="module")
def model():
    return models.after_titles(DECODER, OPENING, TITLES, MOST)


@pytest.fixture(scope="module")
def start(model):
    """(shared, private, read, score of the whole catalogue), compiled once and not well."""
    with fast():
        rank = model.ranking.score
        score = jax.jit(lambda s, p, reading: rank(s, p, (), reading, slice(None), 0))
        yield *jax.jit(model.init)(KEY), jax.jit(model.ranking.context), score


@pytest.mark.parametrize("history", [[4, 30], [4, 30, 2, 36, 11, 5], []], ids=len)
def test_a_score_is_the_mean_log_likelihood_of_the_title(model, start, history):
    shared, private, read, score = start
    reading = read(shared, private, jnp.int32([-1] * (6 - len(history)) + history))
    before = text_of(history)
    want = []
    for title in TITLES:
        p = chances(before + title)
        want.append(np.mean([p[len(before) + j - 1, token] for j, token in enumerate(title)]))
    got = score(shared, private, reading)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-4)
    if history == [4, 30]:
        few = model.ranking.score(shared, private, (), reading, jnp.int32([30, 1, 1]), 0)
        np.testing.assert_allclose(few, got[np.array([30, 1, 1])], rtol=1e-5)


def test_the_loss_is_that_of_all_tokens_of_the_titles(model, start):
    """Windows of sequences: the first client has a short history, the last example is padding."""
    shared, private, *_ = start
    batch = {
        "inputs": jnp.int32([[4, 4, 30], [2, 36, 11], [1, 1, 1]]),
        "targets": jnp.int32([[4, 30, 6], [36, 11, 5], [1, 1, 1]]),
        "real": jnp.float32([[0, 1, 1], [1, 1, 1], [1, 1, 1]]),
        "mask": jnp.float32([1, 1, 0]),
    }
    lost = []
    for history in ([4, 30, 6], [2, 36, 11, 5]):
        text = text_of(history)
        p = chances(text)
        lost += [-p[t - 1, text[t]] for t in range(len(OPENING), len(text))]
    got = jax.jit(model.loss)(shared, private, batch, KEY)
    np.testing.assert_allclose(got, np.mean(lost), rtol=1e-4)


def test_titles_need_room():
    with pytest.raises(ValueError, match=r"most=5\) is too small"):
        models.after_titles(DECODER, OPENING, TITLES, 5)
    with pytest.raises(ValueError, match="nothing to say"):
        models.next_title(None)
