"""Blocks whose weights stay where they lie, by heads, on two devices of four or on all four: losses
and the gradients of every client's adapters are those of one device, to the tolerance of floats."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_decoder
from flax import nnx
from jax.sharding import PartitionSpec
from rotating import in_turn
from small_decoder import KEY, NO, YES
from test_packed import P, batch_of, decoder, prompts

from fedjax_rec import data, models, pieces, simulate, trees

PLACE = Path(__file__).parent
CHECKPOINTS = sorted(x.name for x in (PLACE / "checkpoints").iterdir() if x.is_dir())
ALL = "*query|*key|*value|*output|*gate|*up|*down"
CLIENTS = 8
pytestmark = pytest.mark.usefixtures("compiled_fast")


def slopes(model, each, batches, mesh=None):
    """(losses, gradients) of the clients whose adapters are `each`, leaves [N, ...]."""
    shared, private = model.init(KEY)

    def of(shared):
        whole = lambda trained: (trees.with_frozen(trained, shared), private)
        loss = lambda trained, batch: model.loss(*whole(trained), batch, KEY)
        return jax.vmap(jax.value_and_grad(loss))

    if mesh is None:
        return jax.jit(of(shared))(each, batches)
    cuts, split = pieces.cuts(shared, mesh), PartitionSpec(mesh.axis_names)
    both = zip(pieces.leaves(shared), cuts, strict=True)
    base = [(x, how) for x, how in both if how is not None]
    assert {how.stands for _, how in base} >= {pieces.Share}

    def own(each, blocks, batches):
        return of(pieces.with_pieces(shared, blocks, cuts))(each, batches)

    lie = split, [pieces.spec(x, how) for x, how in base], split
    go = jax.shard_map(own, mesh=mesh, in_specs=lie, out_specs=split, check_vma=False)
    return jax.jit(go)(each, [x for x, _ in base], batches)


def drawn(model, clients: int = CLIENTS):
    """Adapters of so many clients, none of which is zero."""
    rng = np.random.default_rng(3)
    draw = lambda x: 0.1 * jnp.float32(rng.normal(size=(clients, *x.shape)))
    return jax.tree.map(draw, trees.trainable(model.init(KEY)[0]))


def same(model, batches, count: int, tolerance: float = 2e-5, least: float = 1e-6):
    """Holds both ways against each other, and gives the gradients."""
    each, mesh = drawn(model), simulate.clients_mesh(4, base_devices=count, base_by="heads")
    one, many = slopes(model, each, batches), slopes(model, each, batches, mesh)
    for x, y in zip(jax.tree.leaves(one), jax.tree.leaves(many), strict=True):
        x, y = np.asarray(x), np.asarray(y)
        assert np.abs(x).max() > least
        np.testing.assert_allclose(y, x, rtol=1e-3, atol=tolerance * np.abs(x).max())
    return many


def questions(vocabulary: int, clients: int = CLIENTS, tokens: int = 9):
    """Batches of three prompts, of lengths that differ from client to client."""
    rng, lead = np.random.default_rng(0), (clients, 3)
    return {
        "tokens": jnp.int32(rng.integers(5, vocabulary, (*lead, tokens))),
        "length": jnp.int32(rng.integers(2, tokens + 1, lead)),
        "labels": jnp.float32(rng.integers(0, 2, lead)), "mask": jnp.ones(lead),
    }  # fmt: skip


def asked(base, **more):
    return models.yes_no(base, (YES, NO), ALL, rank=2, **more)


@pytest.mark.parametrize("count", [2, 4])
def test_grouped_keys_and_adapters_of_all_seven(count):
    base = small_decoder.decoder(heads=8, key_heads=4, layers=2)
    found = same(asked(base), questions(50), count)[1]
    assert len(jax.tree.leaves(found)) == 14


@pytest.mark.parametrize(
    "name", in_turn([x for x in CHECKPOINTS if x not in ("gemma", "olmo2")], 24)
)
def test_every_family(name):
    """Windows, biases, norms of each head, caps, kinds of layers, angles that are stretched."""
    same(asked(models.load_decoder(PLACE / "checkpoints" / name)), questions(64), 2, 1e-4)


@pytest.mark.parametrize("kinds", [False, True])
@pytest.mark.parametrize("begins", [False, True])
def test_packed_prompts_and_a_beginning_that_is_read_once(kinds, begins):
    found = data.with_prefix(prompts()) if begins else prompts()
    first = found.fields["tokens"][0, :P] if begins else None
    store = data.pack_examples(data.packed_prompts(found, 25)).store
    rows = np.arange(CLIENTS) % len(store.fields["ends"])
    batches = jax.tree.map(lambda x: x[rows][:, None], batch_of(store))
    same(asked(decoder(kinds), prefix=first), batches, 2)


@pytest.mark.parametrize("change", ["remat", "bfloat16", "int8"])
def test_bases_in_fewer_bits_and_recomputed(change):
    base = models.freeze(decoder())
    if change == "remat":
        base.remat = True
    elif change == "int8":
        models.quantised(base, "int8", tile=4)
    else:
        models.in_dtype(base)
    # Sums of bfloat16 are rounded in another order.
    same(asked(base), questions(50), 2, 0.1 if change == "bfloat16" else 2e-5)


class Read(nnx.Module):
    """An encoder with adapters, and a number of what it makes of texts."""

    def __init__(self, name, rngs, dropout=0.0, targets="*"):
        encoder = models.freeze(models.load_encoder(PLACE / "encoders" / name))
        encoder.layers = models.lora(encoder.layers, rngs, targets, 2, dropout=dropout)
        self.encoder = encoder

    def predict(self, batch):
        return self.encoder(batch["ids"], batch["real"])

    def loss(self, batch, key):
        return (jnp.sin(self.predict(batch)) * batch["real"][..., None]).sum()


def texts(clients: int = CLIENTS):
    rng, lead = np.random.default_rng(0), (clients, 3)
    real = np.arange(7) < rng.integers(2, 8, lead)[..., None]
    return {"ids": jnp.int32(rng.integers(5, 40, (*lead, 7)) * real), "real": jnp.asarray(real)}


ENCODERS = ["bert", "electra_wide", "mpnet", "modernbert_biased"]


@pytest.mark.parametrize("name", in_turn(ENCODERS, 12))
def test_encoders_like_bert(name):
    same(models.from_nnx(lambda rngs: Read(name, rngs)), texts(), 2, 1e-4)


def refused(model, batches, count: int = 2, line: str = ""):
    mesh = simulate.clients_mesh(4, base_devices=count, base_by="heads")
    with pytest.raises(ValueError, match=line) as error:
        slopes(model, drawn(model), batches, mesh)
    assert "\n" not in str(error.value).split("\n---")[0]
    assert "base_by=layers" in str(error.value)


@pytest.mark.parametrize(
    "model, batches, count, line",
    [
        (lambda: asked(small_decoder.decoder(heads=4)), questions(50), 4,
         r"base_devices=4 by heads does not divide the 2 key heads of this model; use base_device"
         "s=2, or"),
        (lambda: asked(small_decoder.decoder(inner=42)), questions(50), 4,
         "base_devices=4 does not divide the 42 inputs, or tiles of them, of down"),
        (lambda: asked(models.load_decoder(PLACE / "checkpoints" / "olmo2")), questions(64), 2,
         r"norms of all heads together \(queries, keys, as in OLMo 2\)"),
        (lambda: asked(models.quantised(models.freeze(decoder()), "int8", tile=8)),
         questions(50), 2, "base_devices=2 does not divide the 5 inputs, or tiles of them, of dow"),
        (lambda: models.from_nnx(lambda rngs: Read("t5", rngs)), texts(), 2,
         "the model reads a linear layer of the base in a way that is not divided by heads"),
        (lambda: models.from_nnx(lambda rngs: Read("bert", rngs, 0.5, "out")), texts(), 2,
         "what goes into the adapters of output and down lies on several devices"),
    ],
    ids=["key heads", "inner", "olmo2", "scales", "t5", "dropout"],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(model, batches, count, line):
    refused(model(), batches, count, line)


def test_dora_needs_whole_weights():
    made = models.freeze(decoder())
    models.dora(made, nnx.Rngs(0), rank=2)
    refused(models.yes_no(made, (YES, NO)), questions(50), 2, "not divided by heads")


def test_dropout_of_what_goes_into_columns_is_drawn_at_home():
    """Where nothing is dropped of 1e-9: the numbers without it."""
    with_dropout = models.from_nnx(lambda rngs: Read("bert", rngs, 1e-9, "query|up"))
    same(with_dropout, texts(), 2, 1e-4)
