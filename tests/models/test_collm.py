"""Vectors as soft tokens: the numbers of the sequence that one would lay out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from safetensors.numpy import save_file
from small_decoder import KEY, NO, SIZE, YES, close, decoder, moved, played

from fedjax_rec import data, models, strategies, trees, weights
from fedjax_rec.models.text import prompt_states
from fedjax_rec.models.text.soft_tokens import Projection, typical

N, T, P, USERS, ITEMS, D = 12, 12, 3, 6, 9, 5

pytestmark = pytest.mark.usefixtures("compiled_fast")


def prompts(prefix: bool = False) -> data.Examples:
    """Vectors stand anywhere behind the first P tokens and before the last, in either order, beside
    each other and apart."""
    rng = np.random.default_rng(0)
    tokens, length = rng.integers(0, 50, (N, T)), rng.integers(P + 3, T + 1, N)
    if prefix:
        tokens[:, :P] = tokens[0, :P]
        tokens[:2, P] = [1, 2]  # and no more than that
    tokens[np.arange(T) >= length[:, None]] = 0
    soft = np.stack([rng.permutation(np.arange(P, n + 1))[:2] for n in length])
    soft[0] = [P, P + 1]
    soft[1] = [P + 1, P]
    user, item = rng.integers(0, USERS, N), rng.integers(0, ITEMS, N)
    labels = ((user + item) % 2).astype(np.float32)
    fields = {
        "tokens": tokens, "length": length, "prompt": np.arange(N), "user": user, "item": item,
        "soft": soft,
    }  # fmt: skip
    fields = {name: x.astype(np.int32) for name, x in fields.items()}
    part = np.where(np.arange(N) % 7 == 0, 2, 0).astype(np.int8)
    return data.Examples("prompts", {**fields, "labels": labels}, np.arange(N) % 3, part)


def soft_tokens(seed=1, **changes):
    rng = np.random.default_rng(seed)
    users, items = 0.3 * rng.normal(size=(USERS, D)), 0.3 * rng.normal(size=(ITEMS, D))
    return models.SoftTokens(users, items, **{"hidden": 7, **changes})


def batch_of(fields):
    return {**{k: jnp.asarray(v) for k, v in fields.items()}, "mask": jnp.ones(len(fields["user"]))}


def layout(fields, i):
    """(0/1 [T + 2, T] of text tokens, 0/1 [T + 2, 2] of vectors): which row stands at each place of
    prompt i, one after another."""
    of_text, of_soft = np.zeros((T + 2, T), np.float32), np.zeros((T + 2, 2), np.float32)
    next_token = 0
    for place in range(fields["length"][i] + 2):
        where = [j for j in range(2) if fields["soft"][i][j] == place]
        if where:
            of_soft[place, where[0]] = 1
        else:
            of_text[place, next_token] = 1
            next_token += 1
    assert next_token == fields["length"][i]
    return of_text, of_soft


def adapted_of(shared, base):
    """`base`, a decoder, with the adapters of `shared`, as products in its kernels."""
    made = nnx.merge(*nnx.split(base))
    for name in ("query", "value"):
        part = shared["decoder"]["layers"][name]
        kernel = getattr(made.layers, name).kernel
        kernel[...] = kernel[...] + 16.0 / 2 * part["lora_a"] @ part["lora_b"]
    return made


class World:
    """A model with vectors in all layers, or above states, and one prompt by hand: `text`
    float32[n, T, E] is what the layers above get of each."""

    def __init__(self, layers, found, begun=None):
        base, fields = decoder(), found.fields
        self.soft, self.fields = soft_tokens(), fields
        tokens = jnp.asarray(fields["tokens"])
        if layers is None:
            self.model = models.yes_no(base, (YES, NO), rank=2, prefix=begun, soft=self.soft)
            self.above, self.text = base, base.embed(tokens)
            self.scale = typical(base.tokens[...])
        else:
            self.model = models.yes_no_above(
                base, (YES, NO), fields, layers, rank=2, states="float32", soft=self.soft
            )
            below, self.above = prompt_states.divided(base, layers)
            self.text = nnx.jit(lambda m, t: m.hidden(t))(below, tokens)
            begins = jnp.arange(T) >= (0 if "prefix" not in fields else P)
            real = begins & (jnp.arange(T) < fields["length"][:, None])
            self.scale = typical(self.text * real[..., None])
        self.shared, self.private = moved(self.model)
        self.whole = adapted_of(self.shared, self.above)
        self.layers = self.shared["soft"]["layers"]["layers"]

        def forward(layers, text, of_text, of_soft, vectors, last):
            unit = np.sqrt(np.mean(np.concatenate([self.soft.users, self.soft.items]) ** 2))
            y = vectors / unit @ layers["0"]["kernel"] + layers["0"]["bias"]
            y = jnp.maximum(y, 0) @ layers["1"]["kernel"] + layers["1"]["bias"]
            x = of_text @ text + of_soft @ (self.scale * y)
            logits = self.whole.logits(self.whole.through(x)[last])
            return logits[YES] - logits[NO]

        self.forward = jax.jit(forward)

    def one(self, i):
        """What `forward` takes of prompt i."""
        f = self.fields
        two = np.stack([self.soft.users[f["user"][i]], self.soft.items[f["item"][i]]])
        return self.text[i], *layout(f, i), two, f["length"][i] + 1


@pytest.mark.parametrize("begins", [False, True])
@pytest.mark.parametrize("layers", [None, 2])
def test_answers_are_those_of_the_assembled_sequence(layers, begins):
    """Vectors among embeddings, or among the states of the text below; by a forward of each prompt
    alone, for prompts by themselves and for packed ones, with and without a beginning that is read
    once."""
    found = prompts(begins)
    asked = data.with_prefix(found) if begins else found
    begun = asked.fields["tokens"][0, :P].tolist() if begins else None
    world = World(layers, asked, begun)
    want = np.array([world.forward(world.layers, *world.one(i)) for i in range(N)])
    assert np.std(want) > 1e-2
    predict = jax.jit(world.model.predict)
    close(want, predict(world.shared, world.private, batch_of(asked.fields)), 2e-5)
    packed = data.pack_examples(data.packed_prompts(asked, 30)).store.fields
    assert len(packed["texts"]) < (found.part == 0).sum()
    batch = {**packed, "mask": jnp.ones(len(packed["texts"]))}
    z = np.asarray(predict(world.shared, world.private, batch))
    real = np.asarray(packed["real"]) > 0
    close(want[np.asarray(packed["prompt"])[real]], z[real], 2e-5)


def test_the_mapping_is_one_of_numpy():
    """One hidden layer with ReLU for both, on vectors over their root mean square."""
    world = World(None, prompts())
    made = nnx.merge(*nnx.split(Projection(world.soft, SIZE.width, world.scale, nnx.Rngs(0))))
    user, item = np.array([1, 5]), np.array([8, 0])
    found = made({"user": user, "item": item, "soft": np.zeros((2, 2), int)})
    unit = np.sqrt(np.mean(np.concatenate([world.soft.users, world.soft.items]) ** 2))
    first, second = made.layers.layers
    for row, v in ((0, world.soft.users[user]), (1, world.soft.items[item])):
        y = np.maximum(v / unit @ np.asarray(first.kernel[...]) + np.asarray(first.bias[...]), 0)
        want = world.scale * (y @ np.asarray(second.kernel[...]) + np.asarray(second.bias[...]))
        close(want, found[:, row])
    # As large as a token of the text, to begin with.
    assert 0.5 < np.sqrt(np.mean(np.square(found))) / world.scale < 3


@pytest.mark.parametrize("layers", [None, 2])
def test_slopes_of_the_mapping_are_those_of_a_loop(layers):
    """Of the mean loss, by a loop over prompts in plain jax; adapters are fixed."""
    world = World(layers, prompts())
    model, private = models.frozen_at(world.model, "decoder.*"), world.private
    lifted = lambda x, y: trees.Frozen(y) if trees.is_frozen(x) and not trees.is_frozen(y) else y
    outline = model.init(KEY)[0]
    shared = jax.tree.map(lifted, outline, world.shared, is_leaf=trees.is_frozen)

    def of_one(layers, label, *one):
        z = world.forward(layers, *one)
        return jnp.logaddexp(0.0, jnp.where(label > 0, -z, z)) / N

    slope, total = jax.jit(jax.value_and_grad(of_one)), []
    for i in range(N):
        total.append(slope(world.layers, world.fields["labels"][i], *world.one(i)))
    want, slopes = jax.tree.map(lambda *x: sum(x), *total)

    def by_batch(trained):
        full = trees.with_frozen(trained, shared)
        return model.loss(full, private, batch_of(world.fields), KEY)

    got, others = jax.jit(jax.value_and_grad(by_batch))(trees.trainable(shared))
    close(want, got)
    assert len(jax.tree.leaves(others)) == 4
    for a, b in zip(jax.tree.leaves(slopes), jax.tree.leaves(others), strict=True):
        assert np.abs(a).max() > 1e-6
        close(a, b)


def test_clients_learn_what_only_the_vectors_tell():
    """Whether the item is of one kind, of which no text says anything; the mapping alone is
    sent, to the byte, and adapters and vectors stay as they were."""
    found, rng = prompts(), np.random.default_rng(3)
    kind = lambda n: np.where(np.arange(n) % 2, 1.0, -1.0)[:, None]
    soft = models.SoftTokens(
        0.1 * rng.normal(size=(USERS, D)),
        kind(ITEMS) + 0.1 * rng.normal(size=(ITEMS, D)),
        hidden=8,
    )
    fields = {**found.fields, "labels": (found.fields["item"] % 2).astype(np.float32)}
    packed = data.pack_examples(data.Examples("prompts", fields, found.client, found.part))
    model = models.yes_no_above(decoder(), (YES, NO), fields, layers=2, rank=2, soft=soft)
    model = models.frozen_at(model, "decoder.*")
    strategy = strategies.fedavg(
        model, data.examples(), optimizer=optax.adam(0.01), batch_size=8, epochs=3
    )
    first, state, info, losses = played(strategy, packed.store, 20)
    before = trees.frozen(first.shared)
    assert losses[-1] < 0.3 * losses[0]
    for a, b in zip(before, trees.frozen(state.shared), strict=True):
        np.testing.assert_array_equal(a.value, b.value)
    size = 4 * (D * 8 + 8 + 8 * SIZE.width + SIZE.width)
    assert trees.nbytes(trees.trainable(state.shared)) == size
    assert size <= int(info.bytes_up[0]) < size + 60


def test_vectors_of_prompts_are_found_by_prompt():
    fields = prompts().fields
    soft = soft_tokens()
    each = models.SoftTokens(soft.users[fields["user"]], soft.items, hidden=7, of="prompt")
    # The root mean square is of other rows: that of the first is made that of the second.
    a, b = (models.yes_no(decoder(), (YES, NO), rank=2, soft=x) for x in (soft, each))
    (shared, private), (other, _) = a.init(KEY), b.init(KEY)
    ratio = other["soft"]["items"].value / shared["soft"]["items"].value
    assert np.ptp(ratio) < 1e-4
    layers = other["soft"]["layers"]["layers"]
    layers["0"]["kernel"] = layers["0"]["kernel"] / ratio.mean()
    z = jax.jit(a.predict)(shared, private, batch_of(fields))
    close(z, jax.jit(b.predict)(other, private, batch_of(fields)), 1e-4)


def test_vectors_are_read_as_runs_write_them(tmp_path):
    rng = np.random.default_rng(0)
    users, items = (np.float32(rng.normal(size=(n, D))) for n in (USERS, ITEMS))
    file, names = tmp_path / "weights.safetensors", ("private/user", "shared/item")
    for kept in (users, users[:, None], users[None]):
        save_file({"private/user": np.ascontiguousarray(kept), "shared/item": items}, file)
        for place in (tmp_path, file):
            found = weights.exported_vectors("collm", place, names)
            np.testing.assert_array_equal(found[0], users)
            np.testing.assert_array_equal(found[1], items)
    with pytest.raises(ValueError, match=r"has no user, but private/user, shared/item; say names="):
        weights.exported_vectors("collm", file, ("user", "item"))
    save_file({"private/user": np.zeros((2, 3, D), np.float32), "shared/item": items}, file)
    with pytest.raises(ValueError, match=r"private/user is \[2, 3, 5\]; give one vector each"):
        weights.exported_vectors("collm", file, names)
    with pytest.raises(FileNotFoundError, match="fedjax-rec export"):
        weights.exported_vectors("collm", tmp_path / "nowhere", names)


def test_what_does_not_fit_is_refused(tmp_path):
    fields, soft = prompts().fields, soft_tokens()
    without = lambda *names: {k: v for k, v in fields.items() if k not in names}
    above = lambda fields, soft=soft: models.yes_no_above(
        decoder(), (YES, NO), fields, layers=2, soft=soft
    )
    with pytest.raises(ValueError, match=r"no field 'soft', no place for vectors; name it in the"):
        above(without("soft"))
    for name in ("user", "item"):
        with pytest.raises(ValueError, match=f"no field '{name}', by which their vectors are"):
            above(without(name))
    few = models.SoftTokens(soft.users[:2], soft.items)
    with pytest.raises(ValueError, match=r"vectors of 2 users and a prompt is about user 5"):
        above(fields, few)
    with pytest.raises(ValueError, match=r"users have 5 numbers each and items 4"):
        models.SoftTokens(soft.users, soft.items[:, :4])
    with pytest.raises(ValueError, match=r"SoftTokens\(items\) is \[9\]"):
        models.SoftTokens(soft.users, soft.items[:, 0])
    with pytest.raises(ValueError, match=r"SoftTokens\(users\) has numbers that are not finite"):
        models.SoftTokens(soft.users * np.nan, soft.items)
    begun = data.with_prefix(prompts(prefix=True)).fields
    early = {**begun, "soft": begun["soft"] - 1}
    with pytest.raises(ValueError, match=r"vectors stand among the first 3 tokens"):
        above(early)
    model = models.yes_no(decoder(), (YES, NO), soft=soft)
    with pytest.raises(ValueError, match=r"predict: prompts have no field 'soft'"):
        model.predict(*model.init(KEY), batch_of(without("soft")))
    file = tmp_path / "weights.safetensors"
    save_file({"private/user": soft.users, "shared/item": soft.items}, file)
    with pytest.raises(
        ValueError, match=r"collm: there are vectors of 9 items and the data have 7"
    ):
        models.collm(fields, str(tmp_path), num_items=7)
