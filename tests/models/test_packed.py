"""Packed prompts, and a beginning that is read once: the numbers of each prompt by itself."""

from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import small_decoder
from flax import nnx
from small_decoder import KEY, NO, SIZE, YES, close, moved, played

from fedjax_rec import data, models, strategies, trees, weights
from fedjax_rec.models import Frozen
from fedjax_rec.models.text import prompt_states
from fedjax_rec.models.transformers.decoder import Sight
from fedjax_rec.models.transformers.layers import Scores
from fedjax_rec.models.transformers.packed import Packing, after, ends, read
from fedjax_rec.models.transformers.reader import Top, through
from fedjax_rec.models.transformers.rope import Rope

N, T, P = 24, 14, 4
PLACE = Path(__file__).with_name("encoders")

pytestmark = pytest.mark.usefixtures("compiled_fast")


def decoder(kinds: bool = False):
    """With a window in every other layer, and scores of its own, where there are `kinds`."""
    made = small_decoder.decoder()
    if kinds:
        sights = Sight(Rope(100.0, 4), 3), Sight(Rope(10_000.0, 4))
        size = replace(made.size, sights=sights, scores=Scores(0.3, 20.0))
        made.size = made.layers.size = size
        made.layers.kind = nnx.data(Frozen(jnp.int32([0, 1, 0, 1])))
    return made


def prompts(prefix: bool = True) -> data.Examples:
    rng = np.random.default_rng(0)
    tokens, length = rng.integers(0, 50, (N, T)), rng.integers(P + 1, T + 1, N)
    if prefix:
        tokens[:, :P] = tokens[0, :P]
    tokens[np.arange(T) >= length[:, None]] = 0
    labels = (tokens[np.arange(N), length - 1] > 24).astype(np.float32)
    dense = rng.random((N, 2)).astype(np.float32)
    fields = {"tokens": tokens, "length": length, "prompt": np.arange(N), "dense": dense}
    part = np.where(np.arange(N) % 8 == 0, 2, 0).astype(np.int8)
    return data.Examples("prompts", {**fields, "labels": labels}, np.arange(N) % 3, part)


def batch_of(store, real=1.0):
    fields = store.fields
    return {**fields, "mask": jnp.full(len(fields["labels"]), real)}


def carried(parameters, model, cut=0):
    """`parameters` with what is trained of the layers from `cut` on, in `model`."""
    leaves = [x[cut:] for x in jax.tree.leaves(trees.trainable(parameters[0]))]
    shared, private = model.init(KEY)
    structure = jax.tree.structure(trees.trainable(shared))
    return trees.with_frozen(jax.tree.unflatten(structure, leaves), shared), private


def slope(model, parameters, batch):
    shared, private = parameters

    def loss(trained):
        return model.loss(trees.with_frozen(trained, shared), private, batch, KEY)

    return jax.jit(jax.value_and_grad(loss))(trees.trainable(shared))


def same_slopes(a, b, tolerance=1e-5):
    close(a[0], b[0], tolerance)
    for x, y in zip(jax.tree.leaves(a[1]), jax.tree.leaves(b[1]), strict=True):
        assert np.abs(x).max() > 1e-6
        close(x, y, tolerance)


@pytest.mark.parametrize("kinds", [False, True])
@pytest.mark.parametrize("begins", [False, True])
def test_a_packed_sequence_has_the_states_of_its_texts(kinds, begins):
    base, found = decoder(kinds), prompts()
    tokens, length = found.fields["tokens"], found.fields["length"]
    first = P if begins else 0
    layout = weights.first_fit(length - first, 25)
    row = np.take_along_axis(layout.of, np.maximum(layout.texts, 0), 1)
    packed = jnp.int32(tokens[row, layout.places + first])

    @nnx.jit
    def together(base, packed):
        reading = read(base, base.embed(jnp.int32(tokens[0, :P])))[1] if begins else None
        x, packing = (
            base.embed(packed),
            Packing(jnp.asarray(layout.places), jnp.asarray(layout.texts)),
        )
        last = ends(base, x, jnp.asarray(layout.ends), packing, reading)
        return after(base, x, packing, reading), last

    states, last = together(base, packed)
    alone = np.asarray(nnx.jit(lambda m, t: m.hidden(t))(base, jnp.int32(tokens)))
    real = layout.texts >= 0
    assert real.sum() == (length - first).sum()
    close(alone[row, layout.places + first][real], np.asarray(states)[real])
    there = layout.of >= 0
    of = layout.of[there]
    close(alone[of, length[of] - 1], np.asarray(last)[there])


@pytest.mark.parametrize("shares", [False, True])
def test_packed_prompts_have_the_loss_and_gradient_of_prompts(shares):
    base = decoder()
    found = data.with_prefix(prompts()) if shares else prompts()
    begins = found.fields["tokens"][0, :P] if shares else None
    plain, packed = (data.pack_examples(x) for x in (found, data.packed_prompts(found, 25)))
    assert packed.store.num_clients == 3 and len(packed.store.fields["ends"]) < len(found) / 2
    whole, other = (models.yes_no(base, (YES, NO), rank=2, prefix=x) for x in (None, begins))
    parameters = moved(whole)
    mine = carried(parameters, other)
    want = slope(whole, parameters, batch_of(plain.store))
    same_slopes(want, slope(other, mine, batch_of(plain.store)))
    same_slopes(want, slope(other, mine, batch_of(packed.store)))
    z = jax.jit(other.predict)(*mine, batch_of(packed.store))
    where = np.asarray(packed.store.fields["real"]) > 0
    by_prompt = np.full(N, np.nan)
    by_prompt[np.asarray(packed.store.fields["prompt"])[where]] = np.asarray(z)[where]
    held = jax.jit(whole.predict)(*parameters, batch_of(plain.store))
    close(held, by_prompt[np.asarray(plain.store.fields["prompt"])])
    # Padding of a batch counts for nothing.
    np.testing.assert_array_equal(other.loss(*mine, batch_of(packed.store, 0.0), KEY), 0.0)


@pytest.mark.parametrize("kinds", [False, True])
def test_states_and_a_beginning_of_the_lower_layers_are_the_whole_decoder(kinds):
    """Adapters in the last two of four layers, on states in float32, unpacked and packed, against
    adapters in all layers whose lower ones do nothing."""
    base, cut = decoder(kinds), 2
    found = data.with_prefix(prompts())
    plain, packed = (data.pack_examples(x) for x in (found, data.packed_prompts(found, 25)))
    whole = models.yes_no(base, (YES, NO), rank=2)
    shared, private = moved(whole)
    trained = jax.tree.map(lambda x: x.at[:cut].set(0.0), trees.trainable(shared))
    parameters = trees.with_frozen(trained, shared), private
    want = slope(whole, parameters, batch_of(plain.store))
    want = want[0], jax.tree.map(lambda x: x[cut:], want[1])
    without = {name: x for name, x in found.fields.items() if name != "prefix"}
    for fields, store in (
        (without, plain.store), (found.fields, plain.store), (found.fields, packed.store)
    ):  # fmt: skip
        above = models.yes_no_above(base, (YES, NO), fields, cut, rank=2, states="float32")
        mine = carried(parameters, above, cut)
        same_slopes(want, slope(above, mine, batch_of(store)))
        first = P if "prefix" in fields else 0
        frozen = {x.shape: x.dtype for x in jax.tree.leaves(mine[0])}
        assert frozen[(N, T - first, SIZE.width)] == jnp.float32
        assert ((P, SIZE.width) in frozen) == bool(first)


@pytest.mark.parametrize("name", ["bert", "mpnet", "modernbert", "t5_v1.1", "embedding_gemma"])
def test_texts_of_an_encoder_that_share_a_sequence_have_the_gradient_of_each(name):
    """Adapters in all layers: the embedding of each text, and the gradient of a sum over them."""
    encoder, rng = models.load_encoder(PLACE / name), np.random.default_rng(0)
    layers = models.freeze(nnx.clone(encoder)).layers
    whole = Top(models.lora(layers, nnx.Rngs(0), "query|value", 2), encoder.sees, encoder.last)
    for part in (layers.query, layers.value):
        part.lora_b.set_value(jnp.float32(0.3 * rng.normal(size=part.lora_b.shape)))
    sizes = rng.integers(2, 10, 12)
    ids = jnp.int32(rng.integers(1, 20, (12, 9)))
    layout = weights.first_fit(sizes, 20)
    row = np.take_along_axis(layout.of, np.maximum(layout.texts, 0), 1)
    packing = Packing(jnp.asarray(layout.places), jnp.asarray(layout.texts))
    real = np.arange(9) < sizes[:, None]
    weight = np.where(real[..., None], rng.normal(size=(12, 9, encoder.words.shape[-1])), 0)

    def alone(top):
        x = through(top, encoder.embed(ids), jnp.asarray(real))
        return (x * weight).sum(), x

    def together(top):
        x = encoder.embed(ids[row, layout.places], packing.places)
        x = through(top, x, packing.texts >= 0, packing=packing)
        return (
            x * jnp.where((packing.texts >= 0)[..., None], weight[row, layout.places], 0)
        ).sum(), x

    slope = lambda f: nnx.jit(nnx.value_and_grad(f, has_aux=True))(whole)
    (_, states), want = slope(alone)
    (_, packed), got = slope(together)
    there = layout.texts >= 0
    close(np.asarray(states)[row, layout.places][there], np.asarray(packed)[there])
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
        close(a, b, 2e-5)


def test_states_behind_a_beginning_are_kept_apart(tmp_path):
    base, found = decoder(), prompts()
    arguments = base, found.fields["tokens"], found.fields["length"], tmp_path, None
    whole = prompt_states.states(*arguments, "float32")
    rest = prompt_states.states(*arguments, "float32", P)
    for i, size in enumerate(found.fields["length"]):
        close(whole[i, P:size], rest[i, : size - P])
    again = prompt_states.states(*arguments, "float32", P)
    np.testing.assert_array_equal(again, rest)
    assert len(list(tmp_path.iterdir())) == 2 * N
    assert prompt_states.states(*arguments).dtype == np.float16
    close(whole[0, :P], prompt_states.beginning(base, found.fields["tokens"][0, :P], "float32"))


def test_clients_learn_from_packed_prompts():
    found = data.packed_prompts(data.with_prefix(prompts()), 25)
    packed = data.pack_examples(found)
    model = models.yes_no_above(decoder(), (YES, NO), found.fields, layers=2, rank=4, counts=2)
    strategy = strategies.fedavg(
        model, data.examples(), optimizer=optax.adam(0.02), batch_size=2, epochs=2
    )
    *_, losses = played(strategy, packed.store, 8)
    assert losses[-1] < 0.6 * losses[0]


def test_a_layout_holds_each_text_once_and_says_its_waste():
    rng = np.random.default_rng(3)
    for room in (16, 40, 128):
        sizes = rng.integers(1, 17, 200)
        layout = weights.first_fit(sizes, room)
        assert sorted(layout.of[layout.of >= 0]) == list(range(200))
        rows = len(layout.of)
        np.testing.assert_allclose(layout.waste, 1 - sizes.sum() / (rows * room))
        # A text opens a sequence where none has room: no two are at most half full.
        full = (layout.texts >= 0).sum(1)
        assert (2 * full <= room).sum() <= 1
        for of, texts, places, stops in zip(*layout[:4], strict=True):
            for k, text in enumerate(of):
                there = np.flatnonzero(texts == k) if text >= 0 else []
                if text < 0:
                    assert stops[k] == 0
                    continue
                np.testing.assert_array_equal(places[there], np.arange(sizes[text]))
                np.testing.assert_array_equal(there, stops[k] + 1 - sizes[text] + places[there])
    assert weights.first_fit([5, 5, 5], 16).waste == 1 / 16
    assert weights.first_fit([4, 4], 4).waste == 0


def test_common_starts():
    tokens = np.array([[1, 2, 3, 9], [1, 2, 4, 9], [1, 2, 3, 0]])
    assert weights.common_start(tokens, np.array([4, 4, 3])) == 2
    assert weights.common_start(tokens[:1], np.array([4])) == 3
    assert weights.common_start(tokens, np.array([4, 2, 4])) == 1
    assert weights.common_start(tokens[:, 2:], np.array([2, 2, 2])) == 0


def test_what_cannot_be_packed_or_shared_is_refused():
    found = prompts(prefix=False)
    with pytest.raises(ValueError, match="no token is the first of all prompts"):
        data.with_prefix(found)
    with pytest.raises(ValueError, match="room"):
        data.packed_prompts(found, 5)
    with pytest.raises(ValueError, match="has no field 'tokens'"):
        clicks = {"ids": np.arange(2), "labels": np.zeros(2)}
        data.packed_prompts(data.Examples("clicks", clicks, np.zeros(2, int), np.zeros(2, int)))
    with pytest.raises(ValueError, match="sizes"):
        weights.first_fit([2, 0], 4)
    fields = {**found.fields, "prefix": np.full(N, 2)}
    with pytest.raises(ValueError, match=r"prefix says 2, and 0 tokens"):
        models.yes_no_above(decoder(), (YES, NO), fields, layers=1)
    with pytest.raises(ValueError, match=r"len\(prefix\)"):
        models.yes_no(decoder(), (YES, NO), prefix=[])
    packed = data.pack_examples(data.packed_prompts(data.with_prefix(prompts()), 25))
    model = models.yes_no(decoder(), (YES, NO))
    with pytest.raises(ValueError, match="packed with a prefix left out, and the model reads none"):
        model.predict(*model.init(KEY), batch_of(packed.store))
