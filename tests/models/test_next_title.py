"""Titles ranked by likelihood, against the decoder's own logits of each whole text."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from compiling import fast
from flax import nnx

from fedjax_rec import models
from fedjax_rec.models.transformers.families.llama import LlamaSize, llama

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


def test_a_tokenizer_that_brackets_texts_opens_the_text_and_no_title(tmp_path, monkeypatch):
    """As Llama's, which begins every text with <s>; some end it too."""
    pytest.importorskip("tokenizers")
    from tokenizers import Tokenizer, pre_tokenizers, processors
    from tokenizers import models as kinds

    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "laws")
    import tiny_llama

    words = {**{str(i): i for i in range(47)}, "<s>": 47, "</s>": 48, ";": 49}
    made = Tokenizer(kinds.WordLevel(words, unk_token="0"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 47), ("</s>", 48)]
    )
    made.save(str(tmp_path / "tokenizer.json"))
    tiny_llama.write(tmp_path, tiny_llama.decoder(50))
    model = models.next_title(["5 6", "7", "8 9 10"], str(tmp_path), "1 2", most=20, rank=2)
    shared, _ = jax.eval_shape(model.init, KEY)
    assert shared["titles"].value.shape == (3, 4)
    shared, _ = model.init(KEY)
    want = [[5, 6, 49, 0], [7, 49, 0, 0], [8, 9, 10, 49]]
    np.testing.assert_array_equal(shared["titles"].value, want)
    text = models.after_titles(DECODER, [47, 1, 2], [[5, 6, 49], [7, 49], [8, 9, 10, 49]], 20)
    np.testing.assert_array_equal(text.init(KEY)[0]["titles"].value, want)


def test_tokens_of_another_vocabulary_are_refused():
    for texts in ([[1, 50]], [[3], [-1]]):
        with pytest.raises(ValueError, match=r"generate\(prompts\): text \d has token (50|-1)"):
            models.generate(DECODER, texts, 2)
        with pytest.raises(ValueError, match=r"after_titles\(titles\): text \d has token (50|-1)"):
            models.after_titles(DECODER, OPENING, texts, MOST)
    with pytest.raises(ValueError, match=r"after_titles\(opening\): text 0 has token 99"):
        models.after_titles(DECODER, [99], TITLES, MOST)


def test_titles_need_room():
    with pytest.raises(ValueError, match=r"most=5\) is too small"):
        models.after_titles(DECODER, OPENING, TITLES, 5)
    with pytest.raises(ValueError, match="nothing to say"):
        models.next_title(None)
