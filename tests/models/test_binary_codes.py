"""Binary codes of vectors: by NumPy, trained on likes, and as the text of prompts."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from safetensors.numpy import save_file
from small_decoder import KEY, close, played

from fedjax_rec import data, models, strategies
from fedjax_rec.data.sources.codes import NAMES, Notation, written
from fedjax_rec.experiment.exported import weights

USERS, ITEMS, D, BITS = 12, 30, 5, 16


@pytest.fixture
def vectors(tmp_path):
    rng = np.random.default_rng(0)
    users, items = (rng.normal(size=(n, D)).astype(np.float32) for n in (USERS, ITEMS))
    save_file({"private/user": users, "shared/item": items}, tmp_path / "weights.safetensors")
    return tmp_path, users, items


def likes(users, items, seed=1):
    """Every user about half of the items, liked where the vectors agree."""
    rng = np.random.default_rng(seed)
    user, item = np.divmod(rng.permutation(USERS * ITEMS)[: USERS * ITEMS // 2], ITEMS)
    labels = ((users[user] * items[item]).sum(1) > 0).astype(np.float32)
    fields = {"user": user.astype(np.int32), "items": item.astype(np.int32), "labels": labels}
    part = np.where(np.arange(len(user)) % 5 == 0, 2, 0).astype(np.int8)
    return data.Examples("likes", fields, user % 4, part, num_rows=ITEMS)


def test_logits_are_products_of_signs(vectors):
    place, users, items = vectors
    model = models.binary_codes(str(place), BITS, num_items=ITEMS)
    shared, private = model.init(KEY)
    shared["mean"], shared["scale"] = jnp.float32(0.3), jnp.float32(0.2)
    rng = np.random.default_rng(2)
    shared["of_user"]["bias"] = jnp.float32(rng.normal(size=BITS))
    user, item = np.array([1, 5, 1]), np.array([2, 0, 29])
    assert model.predict is not None
    z = model.predict(shared, private, {"user": user, "items": item})
    unit = np.sqrt(np.mean(np.concatenate([users, items]) ** 2))
    sign = lambda x, layer: np.where(x / unit @ layer["kernel"] + layer["bias"] >= 0, 1, -1)
    h, g = sign(users, shared["of_user"]), sign(items, shared["of_item"])
    close(0.3 + 0.2 * (h[user] * g[item]).sum(1), z)


def test_slopes_pass_through_the_sign(vectors):
    """They are those of the logits with tanh, taken where the other side has its signs."""
    place, users, items = vectors
    model = models.binary_codes(str(place), BITS)
    shared, private = model.init(KEY)
    rng = np.random.default_rng(3)
    user, item = rng.integers(0, USERS, 9), rng.integers(0, ITEMS, 9)
    batch = {"user": user, "items": item, "labels": jnp.float32(user % 2), "mask": jnp.ones(9)}

    def of_bias(bias):
        held = {**shared, "of_user": {**shared["of_user"], "bias": bias}}
        return model.loss(held, private, batch, KEY)

    got = jax.jit(jax.grad(of_bias))(shared["of_user"]["bias"])
    unit = np.sqrt(np.mean(np.concatenate([users, items]) ** 2))
    at = lambda x, layer: x / unit @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])
    u, v = at(users[user], shared["of_user"]), at(items[item], shared["of_item"])
    signs = lambda x: np.where(x >= 0, 1.0, -1.0)
    z = BITS**-0.5 * (signs(u) * signs(v)).sum(1)
    slope = 1 / (1 + np.exp(-z)) - user % 2
    want = (slope[:, None] * BITS**-0.5 * signs(v) * (1 - np.tanh(u) ** 2)).mean(0)
    assert np.abs(want).max() > 1e-3
    close(want, got)


def test_clients_learn_codes_that_prompts_say(vectors, tmp_path):
    """What is trained tells likes from the rest; what is exported is read as text, bit by bit."""
    place, users, items = vectors
    packed = data.pack_examples(likes(users, items))
    model = models.binary_codes(str(place), BITS, num_items=ITEMS)
    strategy = strategies.fedavg(
        model, data.examples(), optimizer=optax.adam(0.03), batch_size=16, epochs=4
    )
    _, state, info, losses = played(strategy, packed.store, 12)
    assert losses[-1] < 0.8 * losses[0]
    assert int(info.bytes_up[0]) < 4 * (2 * BITS * (D + 1) + 2) + 60
    found = {name: np.asarray(x) for name, x in weights(state).items()}
    assert set(NAMES) <= set(found)
    (tmp_path / "codes").mkdir()
    save_file(found, tmp_path / "codes" / "weights.safetensors")
    bases: tuple[tuple[Notation, int], ...] = (("decimal", 256), ("binary", 2))
    for notation, base in bases:
        texts = data.text_codes(str(tmp_path / "codes"), notation)()
        for side, said, layer in zip(("users", "items"), texts, ("user", "item"), strict=True):
            x = found[f"shared/{side}"] @ found[f"shared/of_{layer}/kernel"]
            bits = x + found[f"shared/of_{layer}/bias"] >= 0
            for row, text in zip(bits, said, strict=True):
                parts = text.split(".") if base == 256 else text
                number = 0
                for part in parts:
                    number = number * base + int(part)
                assert number == sum(2**i for i, bit in enumerate(row[::-1]) if bit)


def test_addresses_are_read_from_the_first_bit():
    bits = np.unpackbits(np.array([[198, 51, 100, 7], [0, 255, 1, 128]], np.uint8), axis=1) > 0
    assert written(bits) == ["198.51.100.7", "0.255.1.128"]
    assert written(bits[:1, :9], "binary") == ["110001100"]
    with pytest.raises(ValueError, match=r"codes have 9 bits; train them with a multiple of 8"):
        written(bits[:, :9])


def test_what_is_no_such_run_is_refused(vectors):
    place, *_ = vectors
    with pytest.raises(ValueError, match=r"has no shared/users, but .*models.binary_codes"):
        data.text_codes(str(place))()
    with pytest.raises(ValueError, match=r"notation='octal'"):
        data.text_codes(str(place), "octal")  # pyright: ignore
    with pytest.raises(ValueError, match=r"vectors of 30 items and the data have 7"):
        models.binary_codes(str(place), num_items=7)
    with pytest.raises(ValueError, match=r"binary_codes\(bits=0\)"):
        models.binary_codes(str(place), bits=0)
