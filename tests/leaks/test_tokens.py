"""Tokens from adapters: exact where they are fewer than the rank, and silent where they are not."""

import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from fedjax_rec import clients, data, factors, keys, leaks, models, strategies, wire
from fedjax_rec.models import LlamaSize, llama
from fedjax_rec.types import Cohort

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
import tiny_llama

pytestmark = pytest.mark.usefixtures("compiled_fast")
KEY, USERS, ITEMS = jax.random.key(2), 6, 120


SHIFT = 50  # the negative of item i is item i + SHIFT


def shifted() -> data.Batches:
    """Each interaction and one negative that is known from it."""

    def draw(seed, own, q):
        n = own.length.astype(jnp.uint32)
        items = own.store.items.at[own.start + (q % n).astype(jnp.int32)].get(mode="clip")
        items = jnp.where(q < n, items, (items + SHIFT) % ITEMS)
        return {"items": items, "labels": (q < n).astype(jnp.float32)}

    return tiny_llama.as_prompts(replace(data.pointwise(1), draw=draw))


def worn(layer: dict) -> dict:
    """An adapter after many rounds, whose B has full rank."""
    b = layer[factors.B]
    return {**layer, factors.B: 0.3 * jax.random.normal(KEY, b.shape, b.dtype)}


@pytest.fixture(scope="module")
def sent():
    """(by client the changes of A of queries and of values in its message, what it read; inputs of
    the first layer) of a decoder that trains on prompts: an item, and one token behind it."""
    decoder = llama(nnx.Rngs(0), LlamaSize(ITEMS + 1, 48, 24, 2, 2, 1, 8))
    embedded, scale = (
        np.asarray(x[...]) for x in (decoder.tokens, decoder.layers.before_attention.scale)
    )
    inputs = embedded / np.sqrt((embedded**2).mean(1, keepdims=True) + 1e-5) * scale[0]
    rng = np.random.default_rng(0)
    chosen = [*(rng.permutation(ITEMS)[:5] for _ in range(USERS)), np.arange(ITEMS)]
    users = np.repeat(np.arange(USERS + 1), [len(x) for x in chosen])
    found = data.from_arrays("texts", users, np.concatenate(chosen))
    packed = data.pack(data.leave_one_out()(found), evaluation_negatives=0)
    model = models.yes_no(decoder, (0, 1), rank=12)
    strategy = strategies.fedit(model, shifted(), optimizer=clients.sgd(0.05), batch_size=2)
    assert strategy.packets and strategy.opened and strategy.uploads
    key = keys.stream(KEY, "round")
    state = strategy.init(KEY, USERS + 1)
    state = replace(state, shared=factors.map_pairs(worn, state.shared))
    cohort = Cohort(jnp.arange(USERS, dtype=jnp.int32), packed.store)
    packets = jax.device_get(jax.jit(strategy.packets)(key, state, cohort)[0])
    like = jax.tree.map(lambda x: x[0], packets.body)
    changes, read = [], []
    for k in range(USERS):
        packet = jax.tree.map(lambda x, k=k: x[k], packets)
        packet = wire.from_bytes(wire.to_bytes(packet), packet)
        layers = strategy.opened(state, packet, k, like)["decoder"]["layers"]
        changes.append([np.asarray(layers[n]["lora_a"])[0] for n in ("query", "value")])
        own = leaks.positives(packed.store, [k])[k]
        read.append(np.union1d(np.union1d(own, (own + SHIFT) % ITEMS), [ITEMS]))
    return changes, read, inputs


def test_tokens_are_told_exactly_where_they_are_fewer_than_the_rank(sent):
    changes, read, inputs = sent
    guesses = [leaks.tokens(c, inputs, client=k) for k, c in enumerate(changes)]
    found = leaks.scored("tokens", guesses, dict(enumerate(read)), "tokens")
    assert found.by["f1"].mean == 1.0 and found.by["auc"].mean == 1.0 and found.random < 0.15
    assert 5 <= min(map(len, read)) <= max(map(len, read)) <= 7


def test_a_rank_that_is_used_up_tells_nothing(sent):
    _, _, inputs = sent
    few = [inputs[:8].T @ np.random.default_rng(1).normal(size=(8, 3))]  # 8 tokens, rank 3
    with pytest.raises(ValueError, match="3 columns of width 48 are all taken up"):
        leaks.tokens(few, inputs)
    with pytest.raises(ValueError, match="B of a fresh adapter is zero"):
        leaks.tokens([np.zeros((48, 12))], inputs)
