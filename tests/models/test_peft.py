"""Adapters of PEFT: read as it computes them, and written as it writes them (make_adapters.py)."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from fedjax_rec import models, trees
from fedjax_rec.models.transformers.lora import LoRA

ADAPTERS, BASES = (Path(__file__).parent / name for name in ("adapters", "checkpoints"))
NAMES = sorted(path.name for path in ADAPTERS.iterdir() if path.is_dir())
# Our layers in modules of the bases that hold several.
FUSED = {"qkv_proj": ("query", "key", "value"), "gate_up_proj": ("gate", "up")}
OURS = {
    "q_proj": "query", "k_proj": "key", "v_proj": "value", "o_proj": "output", "lm_head": "head",
    "gate_proj": "gate", "up_proj": "up", "down_proj": "down",
}  # fmt: skip
pytestmark = pytest.mark.usefixtures("compiled_fast")


def said(name: str) -> dict:
    return json.loads((ADAPTERS / name / "adapter_config.json").read_text())


def base(name: str, dtype="float32"):
    return models.freeze(models.load_decoder(BASES / said(name)["base_model_name_or_path"], dtype))


def read(name: str, folder=None, rngs=None):
    decoder = models.import_peft(base(name), folder or ADAPTERS / name, rngs or nnx.Rngs(0))
    decoder.eval()
    return decoder


def where(key: str):
    """(our layers, number of the layer) of the name of a module of PEFT."""
    parts = key.split("/")[-1].split(".")
    number = next((int(x) for x in parts if x.isdigit()), None)
    return FUSED.get(parts[-1], (OURS.get(parts[-1]),)), number


def of(decoder, part: str, number):
    layer = decoder.head if part == "head" else getattr(decoder.layers, part)
    return lambda x: getattr(layer, x)[...] if number is None else getattr(layer, x)[...][number]


def loss(decoder, tokens):
    chances = jax.nn.log_softmax(decoder(tokens)[:, :-1])
    return -jnp.take_along_axis(chances, tokens[:, 1:, None], -1).mean(), decoder(tokens)


@pytest.mark.parametrize("name", NAMES)
def test_logits_slopes_and_merged_weights_are_those_of_peft(name):
    want, decoder = np.load(ADAPTERS / name / "reference.npz"), read(name)
    tokens = jnp.asarray(want["tokens"])
    grad = nnx.jit(nnx.value_and_grad(loss, has_aux=True))
    (value, logits), slope = grad(decoder, tokens)
    np.testing.assert_allclose(logits, want["logits"], atol=1e-5 * np.abs(want["logits"]).max())
    np.testing.assert_allclose(value, want["loss"], rtol=1e-5)
    largest = max(np.abs(want[key]).max() for key in want if key.startswith("slope/"))
    seen = set()
    for key in (key for key in want if key.startswith("slope/")):
        kind = next(x for x in ("lora_A", "lora_B", "lora_magnitude_vector") if x in key)
        parts, number = where(key.split(f".{kind}")[0])
        ours = {"lora_A": "lora_a", "lora_B": "lora_b"}.get(kind, "lora_m")
        each = [np.asarray(of(slope, part, number)(ours)) for part in parts]
        # One A of a module that holds several has the slopes of all of them.
        got = sum(each) if kind == "lora_A" else np.concatenate(each, -1)
        rank = len(want[key]) if kind == "lora_A" else want[key].shape[-1]
        got = got.T[:rank] if kind == "lora_A" else got.T[:, :rank] if got.ndim == 2 else got
        np.testing.assert_allclose(got, want[key], atol=1e-5 * largest)
        seen |= set(parts)
    adapted = {path[-1] for path, part in nnx.iter_modules(decoder) if isinstance(part, LoRA)}
    assert seen == adapted

    plain = models.merged(decoder)
    for key in (key for key in want if key.startswith("merged/")):
        parts, number = where(key)
        got = np.concatenate([of(plain, part, number)("kernel") for part in parts], -1).T
        np.testing.assert_allclose(got, want[key], atol=1e-5)
    got = nnx.jit(lambda m, t: m(t))(plain, tokens)
    np.testing.assert_allclose(got, want["logits"], atol=1e-5 * np.abs(want["logits"]).max())


@pytest.mark.parametrize("name", NAMES)
def test_what_peft_wrote_is_written_again(name, tmp_path):
    theirs = said(name)
    rslora = theirs["use_rslora"]
    source = BASES / theirs["base_model_name_or_path"]
    models.export_peft(read(name), tmp_path, source, base="theirs", rslora=rslora)
    want, got = (load_file(x / "adapter_model.safetensors") for x in (ADAPTERS / name, tmp_path))
    assert {x for x in want if "base_layer" not in x} == got.keys()
    for key, x in got.items():
        np.testing.assert_array_equal(x, want[key])
    ours = json.loads((tmp_path / "adapter_config.json").read_text())
    assert ours["base_model_name_or_path"] == "theirs"
    for key in ("peft_type", "task_type", "bias", "use_dora", "use_rslora"):
        assert ours[key] == theirs[key]
    if not theirs["rank_pattern"] and theirs["layers_to_transform"] is None:
        for key in ("r", "lora_alpha", "target_modules"):
            assert ours[key] == theirs[key]
    # And a scale by another division is the same.
    models.export_peft(read(name), tmp_path, source, rslora=not rslora)
    numbers = nnx.Any(nnx.Param, models.Frozen)
    both = [jax.tree.leaves(nnx.state(read(name, x), numbers)) for x in (None, tmp_path)]
    for x, y in zip(*both, strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5)


def trained(decoder, *, targets="*query|*value", adapt=models.lora, seed=0, **kwargs):
    """Adapters of which neither factor is zero."""
    adapt(models.freeze(decoder), nnx.Rngs(seed), targets, **kwargs)
    for _, part in nnx.iter_modules(decoder):
        if isinstance(part, LoRA):
            drawn = jax.random.normal(jax.random.key(seed), part.lora_b.shape)
            part.lora_b[...] = 0.3 * drawn
    return decoder


def again(decoder, folder, source, **kwargs):
    """`decoder` once written and read, merged, and itself merged."""
    models.export_peft(decoder, folder, source, **kwargs)
    read = models.import_peft(models.freeze(models.load_decoder(source)), folder)
    return [models.merged(nnx.clone(x)) for x in (read, decoder)]


def same(a, b, parts):
    for part in parts:
        x, y = (getattr(m.layers, part).kernel[...] for m in (a, b))
        np.testing.assert_allclose(x, y, atol=1e-6)


def test_layers_that_lie_together_become_one_module_of_all_components(tmp_path):
    source = BASES / "phi3"
    decoder = trained(models.load_decoder(source), targets="*query|*value|*up", rank=2, alpha=3.0)
    decoder.layers.value.lora_scale[...] = jnp.float32([0.5, -2.0, 1.0])
    same(*again(decoder, tmp_path, source), ("query", "key", "value", "gate", "up"))
    key = "base_model.model.model.layers.1.self_attn.qkv_proj.lora_A.weight"
    assert load_file(tmp_path / "adapter_model.safetensors")[key].shape == (4, 32)
    half = trained(models.load_decoder(source), targets="*query", adapt=models.dora, rank=2)
    with pytest.raises(ValueError, match="holds query, key, value, of which query alone have DoRA"):
        models.export_peft(half, tmp_path, source)


def test_ranks_of_their_own_and_layers_without(tmp_path):
    source = BASES / "llama"
    decoder = trained(models.load_decoder(source), rank=3, alpha=4.5)
    query = decoder.layers.query
    query.lora_a[...] = query.lora_a[...].at[0, :, 2].set(0).at[1].set(0)
    query.lora_b[...] = query.lora_b[...].at[0, 2].set(0).at[1].set(0)
    same(*again(decoder, tmp_path, source), ("query", "value"))
    told = json.loads((tmp_path / "adapter_config.json").read_text())
    first = "model.layers.0.self_attn.q_proj"
    assert told["rank_pattern"] == {first: 2} and told["alpha_pattern"] == {first: 3}
    assert (told["r"], told["lora_alpha"]) == (3, 4.5)
    assert f"{first.replace('0', '1')}" not in told["target_modules"] and (
        first in told["target_modules"] and len(told["target_modules"]) == 5
    )


def test_models_of_the_last_layers_and_of_cores_go_out_and_go_on(tmp_path):
    """A `shared` of nested dicts; Fed-SB's core is taken into A; and `tallrec` begins there."""
    source = BASES / "gemma2"
    decoder = models.load_decoder(source)
    tokens = np.load(source / "reference.npz")["tokens"]
    fields = {"tokens": tokens, "length": np.int32([24, 15]), "prompt": np.int32([0, 1])}
    batch = {name: jnp.asarray(x) for name, x in fields.items()}
    model = models.with_core(models.yes_no_above(decoder, (7, 9), fields, layers=2, rank=2))
    shared, private = model.init(jax.random.key(0))
    for part in ("query", "value"):
        core = shared["decoder"]["layers"][part]["lora_core"]
        shared["decoder"]["layers"][part]["lora_core"] = core + jnp.float32([[1, 2], [-1, 3]])
    want = jax.jit(model.predict)(shared, private, batch)
    models.export_peft(shared, tmp_path, source)
    names = load_file(tmp_path / "adapter_model.safetensors")
    assert {name.split(".layers.")[1][0] for name in names} == {"1", "2"}
    begun = models.import_peft(models.freeze(models.load_decoder(source)), tmp_path)
    for again in (
        models.yes_no(begun, (7, 9)), models.yes_no_above(begun, (7, 9), fields, layers=1)
    ):  # fmt: skip
        start = again.init(jax.random.key(1))
        got = jax.jit(again.predict)(*start, batch)
        np.testing.assert_allclose(got, want, rtol=5e-3, atol=5e-3)
        free = {key for key in trees.named(trees.trainable(start[0])) if "lora_" in key}
        assert len(free) == 4


def test_what_clients_keep_is_of_one_of_them(tmp_path):
    source = BASES / "llama"
    shared = models.yes_no(models.load_decoder(source), (7, 9), rank=2).init(jax.random.key(0))[0]
    layers = shared["decoder"]["layers"]
    b = {part: layers[part].pop("lora_b") + i + 1 for i, part in enumerate(("query", "value"))}
    with pytest.raises(ValueError, match="has one factor of two, and clients keep the other"):
        models.export_peft(shared, tmp_path, source)
    own = {"decoder": {"layers": {part: {"lora_b": x} for part, x in b.items()}}}
    models.export_peft(shared, tmp_path, source, own=own)
    held = load_file(tmp_path / "adapter_model.safetensors")
    name = "base_model.model.model.layers.2.self_attn.v_proj.lora_B.weight"
    np.testing.assert_array_equal(held[name], np.asarray(b["value"][2]).T)


def test_another_base_is_refused(tmp_path):
    source = BASES / "llama"
    decoder = trained(models.load_decoder(source), rank=2)
    with pytest.raises(ValueError, match=r"gemma'\) has no layers (query|value) of shape"):
        models.export_peft(decoder, tmp_path, BASES / "gemma")
    decoder.layers.query.kernel[...] += 1e-3
    with pytest.raises(ValueError, match="is another at query; name the base of this model, or a"):
        models.export_peft(decoder, tmp_path, source)
    with pytest.raises(ValueError, match=r"finds no adapter; make it by models.lora"):
        models.export_peft(models.load_decoder(source), tmp_path, source)
    with pytest.raises(ValueError, match=r"lora_[AB]\.weight has shape"):
        models.import_peft(models.load_decoder(BASES / "gemma"), ADAPTERS / "llama")
    with pytest.raises(ValueError, match=r"qkv_proj.lora_[AB].weight has no place in this model"):
        models.import_peft(models.load_decoder(BASES / "olmo2"), ADAPTERS / "phi3")
    with pytest.raises(ValueError, match=r"lm_head.* has no place in this model; give it the base"):
        models.import_peft(models.load_decoder(BASES / "gemma"), ADAPTERS / "llama_head")
    other = models.load_decoder(BASES / "llama")
    other.head.kernel[...] *= 2
    with pytest.raises(ValueError, match=r"lm_head.base_layer.weight is not that of this model"):
        models.import_peft(other, ADAPTERS / "llama_head")
    with pytest.raises(ValueError, match=r"has adapters already; give models.merged"):
        models.import_peft(read("llama"), ADAPTERS / "llama")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bias": "lora_only"}, "has bias='lora_only', which is not computed here"),
        ({"modules_to_save": ["lm_head"]}, r"has modules_to_save=\['lm_head'\], which is not"),
        ({"lora_dropout": 0.1}, r"has lora_dropout=0.1, .*; give rngs=nnx.Rngs\(0\)"),
        ({"peft_type": "IA3"}, "has peft_type='IA3', which is not computed here"),
        ({"init_lora_weights": "pissa"}, "has init_lora_weights='pissa', which is not computed"),
        ({"fan_in_fan_out": True}, "has fan_in_fan_out=True, which is not computed here"),
        ({"lora_bias": True}, "has lora_bias=True"),
        ({"layer_replication": [[0, 2], [1, 3]]}, "has layer_replication="),
        ({"trainable_token_indices": [1]}, r"has trainable_token_indices=\[1\]"),
        ({"of_tomorrow": 3}, "has of_tomorrow=3, which is not computed here"),
        ({"r": 5}, "says rank 5 of model.layers.0.self_attn.q_proj, whose tensors have 4"),
        ({"rank_pattern": {"k_proj": 2}, "r": 4}, None),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_keys_that_are_not_honoured_are_refused(tmp_path, changes, message):
    shutil.copytree(ADAPTERS / "llama", tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**said("llama"), **changes}))
    decoder = models.load_decoder(BASES / "llama")
    if message is None:
        models.import_peft(decoder, path.parent)
        return
    with pytest.raises(ValueError, match=message) as told:
        models.import_peft(decoder, path.parent)
    assert "\n" not in str(told.value)


def test_tensors_that_are_not_honoured_are_refused(tmp_path):
    shutil.copytree(ADAPTERS / "llama", tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_model.safetensors"
    held, decoder = load_file(path), models.load_decoder(BASES / "llama")
    first = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
    save_file({**held, first.replace("lora_A.weight", "lora_B.bias"): np.ones(32)}, path)
    with pytest.raises(ValueError, match=r"lora_B\.bias has no place in this model"):
        models.import_peft(decoder, path.parent)
    save_file({key: x for key, x in held.items() if key != first}, path)
    with pytest.raises(ValueError, match="q_proj has one of A and B alone"):
        models.import_peft(decoder, path.parent)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"has no adapter_model.safetensors; save the"):
        models.import_peft(decoder, path.parent)
