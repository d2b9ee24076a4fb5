"""Yes or no of a decoder, against its own logits; states of prompts, kept and computed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from small_decoder import KEY, NO, SIZE, YES, decoder, played

from fedjax_rec import data, models, strategies, trees
from fedjax_rec.models.text import answers as answers_file
from fedjax_rec.models.text import prompt_states
from fedjax_rec.models.transformers.families.llama import llama

N, T = 40, 20


pytestmark = pytest.mark.usefixtures("compiled_fast")


def prompts(seed=0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    tokens, length = rng.integers(0, 50, (N, T)), rng.integers(3, T + 1, N)
    tokens[np.arange(T) >= length[:, None]] = 0
    labels = (tokens[np.arange(N), length - 1] > 24).astype(np.float32)
    fields = {"tokens": tokens, "length": length, "prompt": np.arange(N)}
    return {name: x.astype(np.int32) for name, x in fields.items()} | {"labels": labels}


def batch_of(fields):
    return {**{k: jnp.asarray(v) for k, v in fields.items()}, "mask": jnp.ones(N)}


def test_the_answer_is_the_difference_of_two_logits_at_the_last_token():
    base, fields = decoder(), prompts()
    whole = models.yes_no(base, (YES, NO))
    shared, private = whole.init(KEY)
    logits = nnx.jit(lambda m, t: m(t))(base, fields["tokens"])
    last = np.asarray(logits)[np.arange(N), fields["length"] - 1]
    want = last[:, YES] - last[:, NO]
    z = jax.jit(whole.predict)(shared, private, batch_of(fields))
    np.testing.assert_allclose(z, want, rtol=1e-3, atol=1e-5)
    y = fields["labels"]
    loss = np.where(y > 0, np.log1p(np.exp(-want)), np.log1p(np.exp(want))).mean()
    got = jax.jit(whole.loss)(shared, private, batch_of(fields), KEY)
    np.testing.assert_allclose(got, loss, rtol=1e-4)


@pytest.mark.parametrize(("layers", "tied"), [(1, True), (3, False)])
def test_adapters_above_computed_states_are_adapters_of_the_whole(layers, tied):
    """The same loss and gradient as adapters of the same layers in the whole decoder."""
    base, fields = decoder(tied=tied), prompts()
    whole, above = (
        models.yes_no(base, (YES, NO), "*query|*down", rank=2),
        models.yes_no_above(base, (YES, NO), fields, layers, "*query|*down", rank=2),
    )
    shared, private = whole.init(KEY)
    rng = np.random.default_rng(1)
    zero_below = lambda x: x.at[: SIZE.layers - layers].set(0.0)
    of_whole = jax.tree.map(
        lambda x: zero_below(jnp.float32(0.3 * rng.normal(size=x.shape))), trees.trainable(shared)
    )
    mine, cut = above.init(KEY)[0], SIZE.layers - layers
    of_above = jax.tree.unflatten(
        jax.tree.structure(trees.trainable(mine)), [x[cut:] for x in jax.tree.leaves(of_whole)]
    )

    def slope(model, trainable, source):
        def loss(trainable):
            full = trees.with_frozen(trainable, source)
            return model.loss(full, private, batch_of(fields), KEY)

        return jax.jit(jax.value_and_grad(loss))(trainable)

    want, gradient = slope(whole, of_whole, shared)
    got, other = slope(above, of_above, mine)
    np.testing.assert_allclose(got, want, rtol=1e-3)
    for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(other), strict=True):
        scale = np.abs(a).max()
        np.testing.assert_allclose(b, a[cut:], atol=0.02 * scale, rtol=0.02)
    size = {x.shape for x in jax.tree.leaves(mine)}
    assert (2, SIZE.width) in size and (SIZE.vocabulary, SIZE.width) not in size
    assert prompt_states.divided(base, layers)[0].size.layers == cut


def test_kept_states_are_read_again(tmp_path, monkeypatch):
    base, fields = decoder(), prompts()
    arguments = (base, fields["tokens"], fields["length"])
    plain = prompt_states.states(*arguments)
    want = nnx.jit(lambda m, t: m.hidden(t))(base, fields["tokens"])
    real = np.arange(T) < fields["length"][:, None]
    np.testing.assert_allclose(plain[real], np.asarray(want)[real], rtol=2e-3, atol=1e-4)
    assert (plain[~real] == 0).all()
    told = []
    np.testing.assert_array_equal(prompt_states.states(*arguments, tmp_path, told.append), plain)
    assert told[-1] == "40 of 40 prompts read" and len(list(tmp_path.iterdir())) == N
    told.clear()
    again = prompt_states.states(*arguments, tmp_path, told.append)
    np.testing.assert_array_equal(again, plain)
    assert told == []
    # Another decoder has states of its own.
    other = llama(nnx.Rngs(1), SIZE)
    assert np.abs(prompt_states.states(other, *arguments[1:], tmp_path) - plain).max() > 0.01
    with pytest.raises(ValueError, match="exceed float16"):
        base.tokens[...] = base.tokens[...] * 1e6
        prompt_states.states(*arguments)
    with pytest.raises(ValueError, match=r"divided\(above=4\)"):
        prompt_states.divided(base, 4)


def test_clients_learn_the_answer_together():
    """Four clients whose answer is whether the last token is above 24; base and states are one
    copy for all of them, and only adapters travel."""
    base, fields = decoder(), prompts(2)
    client, part = np.arange(N) % 4, np.where(np.arange(N) % 10 == 0, 2, 0).astype(np.int8)
    packed = data.pack_examples(data.Examples("prompts", fields, client, part))
    model = models.yes_no_above(base, (YES, NO), fields, layers=2, rank=4)
    strategy = strategies.fedavg(
        model, data.examples(), optimizer=optax.adam(0.02), batch_size=9, epochs=2
    )
    _, state, info, losses = played(strategy, packed.store, 8)
    assert losses[-1] < 0.5 * losses[0]
    adapters = trees.nbytes(trees.trainable(state.shared))
    assert adapters == 4 * 2 * 4 * (24 + 24 + 24 + 8)
    assert adapters <= int(info.bytes_up[0]) < adapters + 200


def test_an_answer_is_one_token(tmp_path):
    pytest.importorskip("tokenizers")
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers.models import WordLevel

    made = Tokenizer(WordLevel({"?": 0, "Yes": 1, "No": 2, "thanks": 3}, unk_token="?"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(ValueError, match=r"answers=' No thanks'\) has 2 tokens"):
        models.tallrec(prompts(), str(tmp_path), answers=(" Yes", " No thanks"))


def test_counts_are_a_line_beside_the_answer():
    base, fields = decoder(), prompts()
    fields["dense"] = np.random.default_rng(1).random((N, 3)).astype(np.float32)
    plain = models.yes_no_above(base, (YES, NO), fields, layers=1)
    model = models.yes_no_above(base, (YES, NO), fields, layers=1, counts=3)
    z = jax.jit(plain.predict)(*plain.init(KEY), batch_of(fields))
    shared, private = model.init(KEY)
    np.testing.assert_array_equal(jax.jit(model.predict)(shared, private, batch_of(fields)), z)
    weights = jnp.array([[1.0], [-2.0], [0.5]])
    shared["line"]["kernel"], shared["line"]["bias"] = weights, jnp.ones(1)
    want = z + fields["dense"] @ weights[:, 0] + 1
    found = jax.jit(model.predict)(shared, private, batch_of(fields))
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match=r"yes_no_above\(counts=-1\) is too small"):
        models.yes_no_above(base, (YES, NO), fields, layers=1, counts=-1)


def beside(fields, seed=5) -> dict[str, np.ndarray]:
    """A second prompt for each, of which some are alike, and of another width."""
    rng = np.random.default_rng(seed)
    tokens, length = rng.integers(1, 50, (N, 7)), rng.integers(2, 8, N)
    tokens[N // 2 :], length[N // 2 :] = tokens[: N // 2], length[: N // 2]
    tokens[np.arange(7) >= length[:, None]] = 0
    return {**fields, "prior_tokens": np.int32(tokens), "prior_length": np.int32(length)}


def test_what_the_prompt_beside_says_is_taken_off(monkeypatch):
    """By the logits of the whole decoder, of both prompts; those alike are read once."""
    pytest.importorskip("tokenizers")
    base, fields = decoder(), beside(prompts())
    monkeypatch.setattr(answers_file, "asked", lambda *_: (base, (YES, NO)))
    model = models.calibrated(fields, layers=2, rank=2, states="float32")
    shared, private = model.init(KEY)
    assert shared["states"].value.shape == (N + N // 2, T, SIZE.width)
    whole = nnx.jit(lambda m, t: m(t))

    def answered(tokens, length):
        last = np.asarray(whole(base, tokens))[np.arange(N), length - 1]
        return last[:, YES] - last[:, NO]

    want = answered(fields["tokens"], fields["length"])
    want = want - answered(fields["prior_tokens"], fields["prior_length"])
    z = jax.jit(model.predict)(shared, private, batch_of(fields))
    np.testing.assert_allclose(z, want, rtol=1e-3, atol=1e-4)
    y = fields["labels"]
    loss = np.logaddexp(0, np.where(y > 0, -want, want)).mean()
    got = jax.jit(model.loss)(shared, private, batch_of(fields), KEY)
    np.testing.assert_allclose(got, loss, rtol=1e-3)
    with pytest.raises(ValueError, match=r"has no 'prior_tokens', the prompts beside; use"):
        models.calibrated(prompts())


def test_a_line_begins_where_counting_ended():
    """As `start_from` a run of counting does: its line is the model's."""
    base, fields = decoder(), prompts()
    fields["dense"] = np.random.default_rng(1).random((N, 3)).astype(np.float32)
    counting = models.logistic(dense=3)
    shared, private = counting.init(KEY)
    shared["line"]["kernel"] = jnp.array([[1.0], [-2.0], [0.5]])
    plain = models.yes_no_above(base, (YES, NO), fields, layers=1)
    both = models.yes_no_above(base, (YES, NO), fields, layers=1, counts=3)
    begun = models.started(both, trees.named(shared))
    z = jax.jit(plain.predict)(*plain.init(KEY), batch_of(fields))
    z = z + counting.predict(shared, private, batch_of(fields))
    found = jax.jit(begun.predict)(*begun.init(KEY), batch_of(fields))
    np.testing.assert_allclose(found, z, rtol=1e-5, atol=1e-5)
