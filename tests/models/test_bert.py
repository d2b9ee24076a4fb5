"""BERT against one written in NumPy, token by token, and the real MiniLM where it is installed."""

import math
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fedjax_rec import weights
from fedjax_rec.models.transformers.bert import BertSizes, random_bert
from fedjax_rec.models.transformers.encoders import bert
from fedjax_rec.models.transformers.reader import outputs, top
from fedjax_rec.models.transformers.sentences import Sentence, sentences

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
import tiny_bert

TITLES = ["toy story", "the godfather", "star wars in space love night", "king"]
ERF = np.vectorize(math.erf)
# These tests compile for longer than they run.
compiled = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def by_hand(ids: list[int], layers: int) -> np.ndarray:
    """[T, D] after `layers` layers of the tiny BERT, for one text without padding."""
    w, config = tiny_bert.tensors(), tiny_bert.CONFIG
    dense = lambda x, name: x @ w[f"{name}.weight"].astype(float).T + w[f"{name}.bias"]

    def norm(x, name):
        mean, variance = x.mean(1, keepdims=True), x.var(1, keepdims=True)
        x = (x - mean) / np.sqrt(variance + config["layer_norm_eps"])
        return x * w[f"{name}.weight"] + w[f"{name}.bias"]

    tables = {k: w[f"embeddings.{k}_embeddings.weight"] for k in ("word", "position", "token_type")}
    x = np.stack(
        [
            tables["word"][t] + tables["position"][i] + tables["token_type"][0]
            for i, t in enumerate(ids)
        ]
    )
    x = norm(x, "embeddings.LayerNorm")
    size = config["hidden_size"] // config["num_attention_heads"]
    for i in range(layers):
        at = f"encoder.layer.{i}"
        q, k, v = (dense(x, f"{at}.attention.self.{n}") for n in ("query", "key", "value"))
        heads = []
        for h in range(config["num_attention_heads"]):
            part = slice(h * size, (h + 1) * size)
            scores = np.exp(q[:, part] @ k[:, part].T / math.sqrt(size))
            heads.append(scores / scores.sum(1, keepdims=True) @ v[:, part])
        seen = dense(np.concatenate(heads, 1), f"{at}.attention.output.dense")
        x = norm(x + seen, f"{at}.attention.output.LayerNorm")
        up = dense(x, f"{at}.intermediate.dense")
        up = up * 0.5 * (1 + ERF(up / math.sqrt(2)))
        x = norm(x + dense(up, f"{at}.output.dense"), f"{at}.output.LayerNorm")
    return x


def ids_of(text: str) -> list[int]:
    vocabulary = [*tiny_bert.SPECIAL, *tiny_bert.WORDS]
    return [vocabulary.index(word) for word in ["[CLS]", *text.split(), "[SEP]"]]


def test_tokens_end_in_padding_and_longer_texts_lose_their_end():
    place = weights.find(tiny_bert.folder())
    tokens = weights.tokenize(place, TITLES)
    assert tokens.ids.shape == (4, 8) and tokens.ids.dtype == np.int32
    for text, ids, mask in zip(TITLES, *tokens, strict=True):
        assert ids[mask].tolist() == ids_of(text)
        assert mask[: mask.sum()].all() and not ids[~mask].any()
    short = weights.tokenize(place, TITLES, 5)
    assert short.ids.shape == (4, 5)
    assert short.ids[2].tolist() == [*ids_of(TITLES[2])[:4], ids_of("king")[-1]]
    with pytest.raises(ValueError, match=r"tokenize\(length=2\) is too small; use length >= 3"):
        weights.tokenize(place, TITLES, 2)


@pytest.mark.parametrize("layers", [0, 2, 3])
def test_every_depth_against_numpy(layers):
    folder = tiny_bert.folder()
    tokens = weights.tokenize(weights.find(folder), TITLES)
    states = outputs(bert(folder), tokens, layers)
    for text, state, mask in zip(TITLES, states, tokens.mask, strict=True):
        np.testing.assert_allclose(state[mask], by_hand(ids_of(text), layers), rtol=2e-4, atol=2e-5)


def test_sentences_are_means_over_real_tokens_at_length_1():
    made = sentences(TITLES, tiny_bert.folder())
    for text, row in zip(TITLES, made, strict=True):
        mean = by_hand(ids_of(text), 3).mean(0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), rtol=2e-4, atol=2e-5)


def test_upper_layers_go_on_from_the_lower_ones():
    folder = tiny_bert.folder()
    encoder, tokens = bert(folder), weights.tokenize(weights.find(folder), TITLES)
    below, real = jnp.asarray(outputs(encoder, tokens, 1)), tokens.mask
    above = compiled(lambda x: top(encoder, 1)(x, jnp.asarray(real)))(below)
    whole = outputs(encoder, tokens, 3)
    np.testing.assert_allclose(above[real], whole[real], rtol=1e-5, atol=1e-5)
    assert not whole[~real].any()


def test_prefixed_tensors_read_alike_and_other_folders_are_refused(tmp_path):
    place = tiny_bert.write(tmp_path / "prefixed", "bert.")
    np.testing.assert_array_equal(sentences(TITLES, place), sentences(TITLES, tiny_bert.folder()))
    wrong = {
        "model_type": ("gpt2", "has model_type='gpt2', which is no family known here"),
        "hidden_act": ("gelus", "has hidden_act='gelus', which is not computed here; use a model"),
        "position_embedding_type": (
            "relative_key",
            "has position_embedding_type='relative_key'",
        ),
        "num_hidden_layers": (4, r"has no encoder\.layer\.3\.attention"),
    }
    for i, (key, (value, message)) in enumerate(wrong.items()):
        with pytest.raises(ValueError, match=message):
            bert(tiny_bert.write(tmp_path / str(i), **{key: value}))
    with pytest.raises(ValueError, match="texts of 19 tokens are longer than 16 positions"):
        sentences([" ".join(["toy"] * 17)], tiny_bert.folder())


def test_a_random_start_has_the_sizes_that_are_asked_for():
    sizes = BertSizes(vocabulary=50, width=12, layers=2, heads=3, hidden=24, positions=8)

    @compiled
    def encoded(ids):
        return Sentence().pooled(random_bert(sizes, nnx.Rngs(0))(ids, ids > 0), ids > 0)

    out = encoded(jnp.asarray([[1, 2, 3, 0], [4, 5, 0, 0]]))
    assert out.shape == (2, 12)
    np.testing.assert_allclose(np.linalg.norm(out, axis=1), 1, rtol=1e-5)
    # Padding is neither attended to nor pooled.
    np.testing.assert_allclose(encoded(jnp.asarray([[4, 5]]))[0], out[1], rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"width=12\) is no multiple of heads=5"):
        random_bert(BertSizes(50, 12, 2, 5), nnx.Rngs(0))


def minilm_or_skip():
    try:
        return weights.find("minilm")
    except FileNotFoundError as error:
        pytest.skip(str(error))


def test_minilm_gives_the_similarities_that_sbert_documents():
    place = minilm_or_skip()
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    films = ["Toy Story (1995)", "Toy Story 2 (1999)", "The Godfather (1972)", "Goodfellas (1990)"]
    e = sentences([*texts, *films], place)
    similar = lambda i, j: round(float(e[i] @ e[j]), 4)
    assert (similar(0, 1), similar(0, 2), similar(1, 2)) == (0.6660, 0.1046, 0.1411)
    found = [round(float(e[i] @ e[j]), 3) for i, j in ((3, 4), (3, 5), (5, 6))]
    assert found == [0.783, 0.216, 0.505]
