"""A decoder cut in two places: the gradients of the whole from what crosses, the tokens of every
batch counted in NumPy, bytes to the byte, and the training of the strategy within to the bit."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from adapter_prompts import CLIENTS, COUNT, KEY, LAYERS, WIDTH, T, adapted, found, packed
from flax import nnx

from fedjax_rec import clients, data, models, simulate, strategies
from fedjax_rec.models.transformers.decoder import Decoder, some
from fedjax_rec.strategies.split import _width, adapted_layers
from fedjax_rec.types import Cohort

pytestmark = pytest.mark.usefixtures("compiled_fast")

COHORT = [3, 0, CLIENTS, 1, 4]
RULES: dict[str, Any] = {"optimizer": clients.sgd(0.5), "batch_size": 4, "clients_per_chunk": 2}


def cut(model=None, **parts):
    given = {"layers": LAYERS, "width": WIDTH, **RULES}
    return strategies.split(model or adapted(), data.examples(), **given | parts)


def played(strategy, store, cohort=COHORT):
    state = strategy.init(KEY, CLIENTS)
    made = Cohort(jnp.array(cohort, jnp.int32), store)
    return state, *jax.jit(strategy.round)(KEY, state, made)


def binary(length: int) -> int:
    """Bytes of a part of a message, and of what stands before it."""
    return length + 2 + (length >= 2**8) + 2 * (length >= 2**16)


def crossing(tokens: int, arrays: int, itemsize: int) -> int:
    """Bytes of a message of so many arrays of states: three to open it, the count, the states."""
    count = 1 + (tokens >= 2**7) + (tokens >= 2**8)
    return 3 + arrays * (count + binary(tokens * WIDTH * itemsize))


@pytest.mark.parametrize("recipe", ["fedit", "fellrec"])
def test_training_is_that_of_the_strategy_within_and_bytes_are_beside_its_own(recipe):
    make, store = getattr(strategies, recipe), packed().store
    whole = make(adapted(), data.examples(), **RULES, epochs=2)
    _, want, plain = played(whole, store)
    start, got, info = played(cut(recipe=make, epochs=2, states="float16"), store)
    for a, b in zip(jax.tree.leaves(want), jax.tree.leaves(got), strict=True):
        np.testing.assert_array_equal(a, b)
    length = np.split(found().fields["length"], np.cumsum(COUNT)[:-1])
    tokens = [2 * int(length[i].sum()) if i < CLIENTS else 0 for i in COHORT]
    np.testing.assert_array_equal(info.metrics["tokens"], tokens)
    for way in ("bytes_up", "bytes_down"):
        more = np.asarray(getattr(info, way), int) - np.asarray(getattr(plain, way), int)
        assert more.tolist() == [crossing(n, 2, 2) if n else 0 for n in tokens]
    audited = simulate.audit(
        cut(recipe=make, epochs=2, states="float16"), start, store, KEY, clients=CLIENTS
    )
    assert audited["message"] == audited["ledger"]


def test_steps_cross_the_tokens_of_the_batches_that_they_draw():
    """Of three steps of two prompts: each client goes round its own batches, and a third step may
    be a batch of one prompt, or the first again."""
    length = np.split(found().fields["length"], np.cumsum(COUNT)[:-1])
    _, _, info = played(cut(steps=3, batch_size=2), packed().store, range(CLIENTS))
    told = np.asarray(info.metrics["tokens"]).astype(int)
    for i in range(CLIENTS):
        least, most = np.sort(length[i])[:5].sum(), np.sort(length[i])[-6:].sum()
        assert least <= told[i] <= max(most, 2 * length[i].sum())
    # Of three prompts in batches of two: all of them, and the first batch again.
    one = COUNT.index(3)
    first = told[one] - length[one].sum()
    assert first in [length[one].sum() - x for x in length[one]]


@pytest.mark.parametrize(
    ("first", "last", "trained", "up", "down"),
    [(1, 1, 3, 2, 1), (1, 1, 4, 2, 2), (1, 1, 1, 1, 1), (2, 1, 2, 2, 1), (2, 1, 4, 2, 2)],
)
def test_gradients_cross_where_something_below_is_trained(first, last, trained, up, down):
    """What is counted for a token, in numbers, of adapters in the last `trained` of four layers."""
    model = adapted()

    def init(key, common=None):
        shared, private = model.init(key, common)
        stacked = lambda x: jnp.resize(x, (trained, *x.shape[1:])) if x.ndim > 1 else x
        return jax.tree.map(stacked, shared), private

    parts = {"layers": 4, "first": first, "last": last, "width": 64}
    inner = strategies.fedit(adapted(), data.examples(), **RULES)
    whole = strategies.split(
        type(model)(init, model.loss), data.examples(),
        recipe=lambda *_, **__: inner, **parts, **RULES,
    )  # fmt: skip
    plain, (_, _, info) = played(inner, packed().store)[2], played(whole, packed().store)
    tokens = np.asarray(info.metrics["tokens"])
    for way, arrays in (("bytes_up", up), ("bytes_down", down)):
        more = np.asarray(getattr(info, way), int) - np.asarray(getattr(plain, way), int)
        np.testing.assert_array_equal((more - 3) // (256 * np.maximum(tokens, 1)) * (tokens > 0),
                                      arrays * (tokens > 0))  # fmt: skip


def test_tokens_of_a_batch_are_its_real_ones():
    fields, count = found(prefix=np.full(sum(COUNT), 2)).fields, sum(COUNT)
    batch = {name: jnp.asarray(x) for name, x in fields.items()}
    batch["mask"] = jnp.ones(count).at[:2].set(0.0)
    plain = {name: x for name, x in batch.items() if name != "prefix"}
    real = fields["length"][2:]
    assert int(strategies.prompt_tokens(plain).sum()) == real.sum()
    # Its two tokens are read once.
    assert int(strategies.prompt_tokens(batch).sum()) == (real - 2).sum() + 2
    together = data.packed_prompts(found(), room=2 * T)
    store = data.pack_examples(together).store
    sequences = {**store.fields, "mask": jnp.ones(len(store.fields["texts"]))}
    assert int(strategies.prompt_tokens(sequences).sum()) == fields["length"].sum()
    with pytest.raises(ValueError, match="prefix"):
        strategies.prompt_tokens({**sequences, "prefix": jnp.zeros(1)})
    with pytest.raises(ValueError, match="no field 'tokens'"):
        strategies.prompt_tokens({"mask": jnp.ones(2)})


def decoder() -> Decoder:
    made = models.llama(nnx.Rngs(0), models.LlamaSize(20, 8, 12, 4, 2, 1, 4))
    made.tokens[...] = made.tokens[...] * 30.0  # so that tokens differ as those of trained ones do
    return made


def test_what_crosses_is_enough_for_the_gradients_of_the_whole():
    """Three parts that see nothing of each other but states and their gradients, D numbers a token
    each, have the loss and the slopes by all kernels that the whole decoder has."""
    base, tokens = decoder(), jnp.arange(6).reshape(1, 6) % 20
    blocks = nnx.split(base.layers)

    def through(kernels, where, x):
        layers = nnx.merge(blocks[0], kernels)
        size = base.size
        part = Decoder(size, base.tokens[...], some(layers, where), base.norm)
        return part.through(x)

    def ask(x):
        return jax.nn.softplus(base.logits(x[0, -1], jnp.array([1, 2])) @ jnp.array([1.0, -1.0]))

    parts = [partial(through, where=slice(*at)) for at in ((0, 1), (1, 3), (3, 4))]

    @jax.jit
    def whole(kernels):
        x = base.embed(tokens)
        for part in parts:
            x = part(kernels, x=x)
        return ask(x)

    @jax.jit
    def apart(kernels):
        h1, first = jax.vjp(lambda k: parts[0](k, x=base.embed(tokens)), kernels)
        h2, server = jax.vjp(lambda k, x: parts[1](k, x=x), kernels, h1)
        loss, last = jax.vjp(lambda k, x: ask(parts[2](k, x=x)), kernels, h2)
        of_last, back2 = last(jnp.ones_like(loss))
        of_server, back1 = server(back2)
        (of_first,) = first(back1)
        sizes = [x.size for x in (h1, h2, back2, back1)]
        assert sizes == [tokens.size * base.size.width] * 4
        return loss, jax.tree.map(lambda *x: sum(x), of_last, of_server, of_first)

    want, slopes = jax.value_and_grad(whole)(blocks[1])
    got, others = apart(blocks[1])
    np.testing.assert_allclose(got, want, rtol=1e-6)
    for a, b in zip(jax.tree.leaves(slopes), jax.tree.leaves(others), strict=True):
        np.testing.assert_allclose(b, a, atol=1e-5 * max(float(jnp.abs(a).max()), 1e-3))


def test_layers_and_width_are_read_off_the_model():
    model = models.yes_no(decoder(), (1, 2), rank=2)
    outline = jax.eval_shape(model.init, KEY)
    assert adapted_layers(outline) == 4 and _width(outline[0]) == 8
    private = models.private_at(model, "*lora_b")
    assert adapted_layers(jax.eval_shape(private.init, KEY)) == 4


def test_bytes_of_the_base_by_side():
    size = models.LlamaSize(20, 8, 12, 4, 2, 1, 4, tied=False)
    base = models.llama(nnx.Rngs(0), size)
    block = 8 * 8 + 2 * 8 * 4 + 8 * 8 + 3 * 8 * 12 + 2 * 8
    sides = models.sides(base, first=2, last=1)
    assert sides == {"client": 4 * (2 * 20 * 8 + 8 + 3 * block), "server": 4 * block}
    assert sum(sides.values()) == 4 * sum(x.size for x in jax.tree.leaves(nnx.state(base)))
    with pytest.raises(ValueError, match="leaves the server no layer"):
        models.sides(base, first=2, last=2)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: cut(first=0), "first=0"),
        (lambda: cut(last=2), "leaves the server no layer"),
        (lambda: cut(layers=2, last=0), "last=0"),
        (lambda: cut(width=0), "width=0"),
        (lambda: cut(width=None), "no decoder"),
        (lambda: cut(states="int8"), "int8"),
        (lambda: cut(models.fedmf(9)), "no adapters"),
        (lambda: cut(recipe=strategies.fedasync, settings={"concurrency": 2}), "synchronous"),
    ],
)
def test_what_is_wrong_is_said(make, told):
    with pytest.raises(ValueError, match=told):
        make()


def test_states_that_no_ledger_counts_are_refused():
    strategy = cut(width=2**26)
    with pytest.raises(ValueError, match="train fewer steps"):
        strategy.round(
            KEY, strategy.init(KEY, CLIENTS), Cohort(jnp.arange(CLIENTS), packed().store)
        )
