"""Decoders of every family against transformers, on tiny random checkpoints that it made
(make_checkpoints.py)."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from write_compatibility import HAS

from fedjax_rec import models, weights
from fedjax_rec.models.transformers.decoder import Sight
from fedjax_rec.models.transformers.layers import Scores
from fedjax_rec.models.transformers.pretrained import FAMILIES

PLACE = Path(__file__).parent / "checkpoints"
CHECKPOINTS = sorted(path.name for path in PLACE.iterdir() if path.is_dir())
# What a window, layers without places, angles of two kinds and caps do to all that uses a cache.
HARD = ("gemma2", "gemma3", "phi3", "smollm3")
forward = nnx.jit(lambda model, tokens: model(tokens))
pytestmark = pytest.mark.usefixtures("compiled_fast")


def reference(name: str):
    return np.load(PLACE / name / "reference.npz")


def off(got, want) -> float:
    """The largest error, over the largest logit."""
    return float(np.abs(np.asarray(got, np.float64) - want).max() / np.abs(want).max())


def test_every_family_has_a_checkpoint():
    kinds = {weights.config(PLACE / name)["model_type"] for name in CHECKPOINTS}
    assert kinds == FAMILIES.keys()


def test_the_page_has_a_row_of_each_as_it_was_measured():
    text = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text()
    rows = {
        row[2].strip(): row
        for row in (line.split("|") for line in text.splitlines())
        if len(row) == 9
    }
    assert set(CHECKPOINTS) <= rows.keys() and HAS.keys() == set(CHECKPOINTS)
    for name in CHECKPOINTS:
        assert float(rows[name][4]) < 1e-5 and rows[name][7].strip() == "same"


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_logits_are_those_of_transformers(name):
    want = reference(name)
    got = forward(models.load_decoder(PLACE / name), jnp.asarray(want["tokens"]))
    assert got.dtype == jnp.float32 and off(got, want["logits"]) < 1e-5


@pytest.mark.parametrize("name", ["gemma2", "qwen3"])
def test_in_bfloat16_they_are_near_and_choose_alike(name):
    want, decoder = reference(name), models.load_decoder(PLACE / name, "bfloat16")
    floats = nnx.state(decoder, nnx.Param)
    assert {x.dtype for x in jax.tree.leaves(floats)} == {jnp.dtype("bfloat16")}
    got = forward(decoder, jnp.asarray(want["tokens"]))
    assert 1e-4 < off(got, want["logits"]) < 3e-2
    np.testing.assert_array_equal(got.argmax(-1), want["logits"].argmax(-1))


@pytest.mark.parametrize("name", HARD)
def test_the_cache_continues_as_transformers_does(name):
    want, decoder = reference(name), models.load_decoder(PLACE / name)
    count = want["greedy"].shape[1]
    prompts = [*want["tokens"].tolist(), [5, 9]]
    got = models.generate(decoder, prompts, count)
    assert got[:2] == want["greedy"].tolist()
    # And a short prompt, that is padded, as its whole text does.
    text = jnp.int32([5, 9, *got[2]])
    assert forward(decoder, text).argmax(-1)[1:-1].tolist() == got[2]


def with_size(decoder, **changes):
    decoder.size = decoder.layers.size = replace(decoder.size, **changes)
    return decoder


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("gemma2", lambda s: {"sights": tuple(Sight(x.rope) for x in s.sights)}),
        ("gemma2", lambda s: {"scores": Scores(s.scores.scale)}),
        ("gemma2", lambda s: {"scores": Scores(0.5 * s.scores.scale, s.scores.cap)}),
        ("gemma2", lambda s: {"cap": None}),
        ("gemma2", lambda s: {"embedding": 1.0}),
        (
            "gemma3",
            lambda s: {"sights": tuple(replace(x, rope=s.sights[0].rope) for x in s.sights)},
        ),
        (
            "smollm3",
            lambda s: {"sights": tuple(replace(x, rope=s.sights[0].rope) for x in s.sights)},
        ),
        ("phi3_longrope", lambda s: {"sights": plain(s, size=1.0)}),
        ("phi3_longrope", lambda s: {"sights": plain(s, scaling=None)}),
        ("llama_3.1", lambda s: {"sights": plain(s, scaling=None)}),
        ("granite", lambda s: {"residual": 1.0}),
    ],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_what_a_size_says_shows(name, changes):
    """The references would not be met without it: they tell each part from its absence."""
    want, decoder = reference(name), models.load_decoder(PLACE / name)
    without = with_size(decoder, **changes(decoder.size))
    assert off(forward(without, jnp.asarray(want["tokens"])), want["logits"]) > 1e-3


def plain(of, **changes):
    return tuple(replace(s, rope=replace(s.rope, **changes)) for s in of.sights)


def test_texts_are_as_long_as_their_angles_are_known():
    decoder = models.load_decoder(PLACE / "phi3_longrope")
    assert jax.eval_shape(decoder, jnp.zeros(64, jnp.int32)).shape == (64, 64)
    with pytest.raises(ValueError, match="a text of 65 tokens is longer than 64"):
        jax.eval_shape(decoder, jnp.zeros(65, jnp.int32))
    with pytest.raises(ValueError, match="a text of 70 tokens is longer than 64"):
        models.generate(decoder, [[3] * 60], 10)
