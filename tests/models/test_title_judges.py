"""A decoder as judge of lists, against its own logits of each whole text, nothing shared."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import fast
from flax import nnx

from fedjax_rec import models
from fedjax_rec.models.text.title_answers import by_answers
from fedjax_rec.models.text.title_likelihood import by_likelihood
from fedjax_rec.models.text.title_texts import TitleTexts, one_sequence
from fedjax_rec.models.transformers.families.llama import LlamaSize, llama

RNG = np.random.default_rng(0)
OPENING, YES, NO, MOST, ITEMS = (7, 8, 9), 3, 4, 20, 31
WORDS = tuple(tuple(RNG.integers(1, 50, RNG.integers(1, 5)).tolist()) for _ in range(ITEMS))
SAID = tuple((*title, 10, 11) for title in WORDS)  # in a history, with an answer
HISTORIES = np.array([[-1, -1, -1, -1, 4, 30], [2, 36 % ITEMS, 11, 5, 0, 1], [-1] * 6])
LISTS = np.array([[1, 5, 9, 2, 30], [3, -1, 8, -1, 12], [6, 7, 6, -1, -1]])
LONGEST = 40


@pytest.fixture(scope="module")
def decoder():
    made = llama(nnx.Rngs(0), LlamaSize(50, 24, 40, 3, 6, 2, 4, tied=False))
    made.tokens[...] = made.tokens[...] * 30.0  # so that tokens differ as those of trained ones do
    return made


@pytest.fixture(scope="module")
def plain(decoder):
    """log p and logits [len(text), V] of the token after each, of one text by itself."""
    structure, variables = nnx.split(decoder)

    @jax.jit
    def call(variables, tokens):
        return nnx.merge(structure, variables)(tokens)

    def of(text):
        with fast():
            found = call(variables, jnp.int32([*text, *[0] * (LONGEST - len(text))]))
        return np.asarray(found, np.float64)[: len(text)]

    return of


def before(texts: TitleTexts, history) -> tuple[list[int], int]:
    items = [i for i in history if i >= 0]
    cut = 0
    while len(OPENING) + sum(len(texts.said[i]) for i in items) > texts.most:
        items, cut = items[1:], cut + 1
    return [*OPENING, *(token for i in items for token in texts.said[i])], cut


def likelihood(plain, start, title):
    z = plain([*start, *title])
    log_p = z - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1, keepdims=True))
    log_p = log_p - z.max(-1, keepdims=True)
    return np.mean([log_p[len(start) + j - 1, token] for j, token in enumerate(title)])


def answer(plain, start, title):
    z = plain([*start, *title])[-1]
    return z[YES] - z[NO]


@pytest.mark.parametrize("kind", ["likelihood", "answers"])
def test_a_list_is_judged_as_each_title_in_a_text_of_its_own(decoder, plain, kind):
    if kind == "likelihood":
        texts = TitleTexts(OPENING, WORDS, WORDS, 12)
        judge, one = by_likelihood(decoder, texts), likelihood
    else:
        texts = TitleTexts(OPENING, SAID, tuple((*title, 12) for title in WORDS), MOST)
        judge, one = by_answers(decoder, texts, (YES, NO)), answer
    done = []
    with fast():
        scores, cut = models.judged(judge, HISTORIES, LISTS, done.append)
    assert done == [1, 2, 3]
    for u, items in enumerate(LISTS):
        start, lost = before(texts, HISTORIES[u])
        assert cut[u] == lost
        for k, i in enumerate(items):
            want = one(plain, start, texts.asked[i]) if i >= 0 else -np.inf
            np.testing.assert_allclose(scores[u, k], want, rtol=2e-4, atol=2e-4)
    assert cut[1] > 0, "no history was too long, so that nothing was tried"


def test_alone_is_after_the_opening(decoder, plain):
    judge = by_likelihood(decoder, TitleTexts(OPENING, WORDS, WORDS, 12))
    with fast():
        found = models.alone(judge, [5, 1, 1, 30, -1], at_once=2)
    assert np.flatnonzero(~np.isnan(found)).tolist() == [1, 5, 30]
    for i in (1, 5, 30):
        want = likelihood(plain, OPENING, WORDS[i])
        np.testing.assert_allclose(found[i], want, rtol=2e-4, atol=2e-4)


def test_texts_stand_one_after_another():
    tokens, places, of, ends = one_sequence([(5, 6), (7,), (8, 9)], 7)
    assert tokens.tolist() == [5, 6, 7, 8, 9, 0, 0] and places.tolist() == [0, 1, 0, 0, 1, 0, 0]
    assert of.tolist() == [0, 0, 1, 2, 2, -1, -1] and ends.tolist() == [1, 2, 4]


def test_what_does_not_fit_is_refused(decoder):
    texts = TitleTexts(OPENING, WORDS, WORDS, 12)
    judge = by_likelihood(decoder, texts)
    with pytest.raises(ValueError, match="item 31 is asked about and there are titles of 31"):
        models.judged(judge, [[0]], [[31]])
    with pytest.raises(ValueError, match=r"histories: \[2, 1\], lists: \[1, 1\]"):
        models.judged(judge, [[0], [1]], [[3]])
    with pytest.raises(ValueError, match=r"judged\(K=0\)"):
        models.judged(judge, [[0]], np.zeros((1, 0), int))
    with pytest.raises(ValueError, match=r"by_answers\(answers\): text 0 has token 50"):
        by_answers(decoder, texts, (3, 50))


class TestWords:
    """Judges of a folder, whose words are the numbers below 500."""

    @pytest.fixture(autouse=True)
    def place(self, monkeypatch):
        pytest.importorskip("tokenizers")
        from pathlib import Path

        monkeypatch.syspath_prepend(Path(__file__).parents[1] / "laws")
        import tiny_llama

        self.words = {"source": tiny_llama.folder(), "opening": "499", "most": 20}

    def test_titles_become_tokens(self):
        judge = models.title_likelihood(["5 6", "7"], item="{title} 3", **self.words)
        assert judge.texts == TitleTexts((499,), ((5, 6, 3), (7, 3)), ((5, 6, 3), (7, 3)), 20)
        words = {**self.words, "item": "{title} 1", "ask": "{title} 9", "answers": ("1", "2")}
        judge = models.title_answers(["5 6", "7"], **words)
        assert judge.texts == TitleTexts((499,), ((5, 6, 1), (7, 1)), ((5, 6, 9), (7, 9)), 20)

    def test_titles_that_are_missing_or_alike_are_told(self):
        make = models.title_likelihood
        with pytest.raises(ValueError, match=r"2 of 3 items have no title \(ids 0, 2\)"):
            make(["", "5", " "], **self.words)
        with pytest.raises(ValueError, match="nothing to say; use data with titles"):
            make(None, **self.words)
        with pytest.warns(UserWarning, match=r"3 items share 1 titles, such as '5' of \[0, 1, 3\]"):
            make(["5", "5", "6", "5"], **self.words)

    def test_words_that_make_no_text_are_refused(self):
        with pytest.raises(ValueError, match=r"item=' title;'\) has no {title}"):
            models.title_likelihood(["5"], item=" title;", **self.words)
        with pytest.raises(ValueError, match=r"opening=''\) has no token"):
            models.title_likelihood(["5"], **{**self.words, "opening": ""})
        with pytest.raises(ValueError, match=r"most=3\) is too small; use most >= 4"):
            models.title_likelihood(["5 6 7"], **{**self.words, "most": 3}, item="{title}")
        with pytest.raises(ValueError, match=r"answers\): '1 2' has 2 tokens; use answers of one"):
            models.title_answers(["5"], answers=("1 2", "3"), **self.words)
