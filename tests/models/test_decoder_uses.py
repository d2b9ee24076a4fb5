"""What is built on a decoder, on checkpoints of every family and on those that differ most from
Llama: adapters and their gradients, answers, titles, fewer bits."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from rotating import in_turn

from fedjax_rec import models
from fedjax_rec.models.text import prompt_states
from fedjax_rec.models.transformers.lora import linears
from fedjax_rec.models.transformers.pretrained import architecture

PLACE = Path(__file__).parent / "checkpoints"
CHECKPOINTS = sorted(path.name for path in PLACE.iterdir() if path.is_dir())
KEY = jax.random.key(0)
forward = nnx.jit(lambda model, tokens: model(tokens))
pytestmark = pytest.mark.usefixtures("compiled_fast")


def reference(name: str):
    return np.load(PLACE / name / "reference.npz")


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_adapters_find_the_layers_of_every_family(name):
    decoder = models.freeze(models.load_decoder(PLACE / name))
    ours = ["down", "gate", "key", "output", "query", "up", "value"]
    assert [x for x in linears(decoder) if x != "head"] == [f"layers.{part}" for part in ours]
    models.lora(decoder, nnx.Rngs(0), "*query|layers.down", rank=2)
    trained = jax.tree.leaves(nnx.state(decoder, nnx.Param))
    layers = architecture(PLACE / name).size.layers
    assert len(trained) == 4 and {len(x) for x in trained} == {layers}


@pytest.mark.parametrize("name", in_turn(CHECKPOINTS, 4))
def test_gradients_reach_every_layer(name):
    decoder = models.freeze(models.load_decoder(PLACE / name))
    models.lora(decoder, nnx.Rngs(0), "*query|*down", rank=2)
    tokens = jnp.asarray(reference(name)["tokens"][0])

    def loss(decoder):
        chances = jax.nn.log_softmax(decoder(tokens[:-1]))
        return -jnp.take_along_axis(chances, tokens[1:, None], -1).mean()

    slope = nnx.jit(nnx.grad(loss))(decoder)
    for part in (slope.layers.query, slope.layers.down):
        each = np.abs(part.lora_b[...]).max((1, 2))
        assert len(each) == decoder.size.layers and (each > 1e-5).all()


@pytest.mark.parametrize("name", ["gemma2", "smollm3"])
def test_answers_above_computed_states_are_those_of_the_whole(name):
    """Layers of several kinds are divided with what each of them sees."""
    want, decoder = reference(name), models.load_decoder(PLACE / name)
    tokens, length = want["tokens"], np.int32([24, 15])
    fields = {"tokens": tokens, "length": length, "prompt": np.arange(2, dtype=np.int32)}
    last = want["logits"][np.arange(2), length - 1]
    for model in (
        models.yes_no(decoder, (7, 9), rank=2),
        models.yes_no_above(decoder, (7, 9), fields, layers=2, rank=2),
    ):
        got = jax.jit(model.predict)(
            *model.init(KEY), {k: jnp.asarray(x) for k, x in fields.items()}
        )
        np.testing.assert_allclose(got, last[:, 7] - last[:, 9], atol=5e-3)


def test_decoders_that_differ_in_what_layers_see_keep_states_of_their_own():
    prints = set()
    for change in (
        lambda d: None,
        lambda d: setattr(d.layers, "kind", models.Frozen(jnp.int32([1, 1, 0]))),
        lambda d: setattr(d.layers.before_inner, "eps", 1e-3),
        lambda d: setattr(d, "size", replace(d.size, cap=3.0)),
    ):
        decoder = models.load_decoder(PLACE / "gemma2")
        assert decoder.layers.kind[...].tolist() == [0, 1, 0]
        change(decoder)
        prints.add(prompt_states.fingerprint(decoder))
    assert len(prints) == 4


@pytest.mark.parametrize("name", ["gemma2", "gemma3"])
def test_titles_are_ranked_by_the_decoders_own_logits(name):
    """The history is read once, and titles reach it through windows and caps."""
    decoder = models.load_decoder(PLACE / name)
    opening, titles = [5, 6, 7], [[8, 9, 10], [11, 12], [13, 14, 15]]
    model = models.after_titles(decoder, opening, titles, most=12, rank=2)
    shared, private = model.init(KEY)
    reading = jax.jit(model.ranking.context)(shared, private, jnp.int32([-1, 0, 1]))
    score = jax.jit(lambda r: model.ranking.score(shared, private, (), r, slice(None), 0))
    before, want = opening + titles[0] + titles[1], []
    for title in titles:
        text = before + title + [0] * (12 - len(before) - len(title))
        chances = np.asarray(jax.nn.log_softmax(forward(decoder, jnp.int32(text))))
        want.append(np.mean([chances[len(before) + j - 1, t] for j, t in enumerate(title)]))
    np.testing.assert_allclose(score(reading), want, rtol=1e-4, atol=1e-4)


def test_fused_kernels_are_quantised_apart():
    pytest.importorskip("qwix")
    want = reference("phi3")
    decoder = models.quantised(models.freeze(models.load_decoder(PLACE / "phi3")), "int8", 16)
    got = forward(decoder, jnp.asarray(want["tokens"]))
    off = np.abs(got - want["logits"]).max() / np.abs(want["logits"]).max()
    assert 1e-4 < off < 0.05
