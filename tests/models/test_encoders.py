"""Text encoders against transformers, on tiny random checkpoints that it made (make_encoders.py),
and sentence embeddings as the folders of sentence encoders say."""

import json
import shutil
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
import tiny_bert

from fedjax_rec import models, weights
from fedjax_rec.models.transformers.bert import buckets, outputs
from fedjax_rec.models.transformers.encoders import ENCODERS
from fedjax_rec.models.transformers.sentences import tokens_of

PLACE = Path(__file__).parent / "encoders"
NAMES = sorted(path.name for path in PLACE.iterdir() if path.is_dir())
TEXTS = ["star wars in space", "king"]
pytestmark = pytest.mark.usefixtures("compiled_fast")


def test_every_kind_has_a_checkpoint():
    assert {weights.config(PLACE / name)["model_type"] for name in NAMES} == ENCODERS.keys()


@pytest.mark.parametrize("name", NAMES)
def test_states_are_those_of_transformers(name):
    want, encoder = np.load(PLACE / name / "reference.npz"), models.bert(PLACE / name)
    tokens = weights.Tokens(want["tokens"], want["mask"])
    got = outputs(encoder, tokens, encoder.layers.query.kernel.shape[0])
    scale = np.abs(want["states"]).max()
    np.testing.assert_allclose(
        got[tokens.mask], want["states"][tokens.mask], rtol=0, atol=1e-5 * scale
    )


def test_adapters_of_encoders_go_out_and_come_in(tmp_path):
    for name, called in (("mpnet", "encoder.layer.1.attention.attn.q"),
                         ("distilbert", "transformer.layer.1.attention.q_lin")):  # fmt: skip
        encoder = models.lora(models.freeze(models.bert(PLACE / name)), nnx.Rngs(0), "*query", 2)
        models.export_peft(encoder, tmp_path / name, PLACE / name)
        held = load_file(tmp_path / name / "adapter_model.safetensors")
        assert f"base_model.model.{called}.lora_A.weight" in held and len(held) == 4
        again = models.import_peft(models.freeze(models.bert(PLACE / name)), tmp_path / name)
        np.testing.assert_array_equal(
            again.layers.query.lora_a[...], encoder.layers.query.lora_a[...]
        )


def test_buckets_are_by_distance_and_then_by_its_logarithm():
    near = buckets(200)
    assert near[0, :8].tolist() == [0, *range(17, 24)] and near[7, :8].tolist() == [
        *range(7, -1, -1)
    ]
    assert near[0, 127:].min() == 31 and near[199, 0] == 15 and near[0, 8] == 24


def changed(place: Path, name="bert", **config) -> Path:
    shutil.copytree(PLACE / name, place)
    (place / "config.json").write_text(json.dumps({**weights.config(PLACE / name), **config}))
    return place


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("bert", {"is_decoder": True}, "has is_decoder=True, which is not computed here"),
        ("bert", {"add_cross_attention": True}, "has add_cross_attention=True"),
        ("bert", {"use_rope": True}, "has use_rope=True, which is not computed here; remove"),
        ("bert", {"pruned_heads": {"0": [1]}}, "has pruned_heads="),
        ("mpnet", {"relative_attention_num_buckets": 64}, "has relative_attention_num_buckets=64"),
        ("electra", {"embedding_size": 16}, r"has shape \(8,\), and config.json asks for \(16,\)"),
        ("roberta", {"num_hidden_layers": 1}, r"encoder\.layer\.1\.\S+ is a part that this model"),
        ("bert", {"num_attention_heads": 3}, "is no multiple of 3 heads"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_what_is_not_honoured_is_refused(tmp_path, name, changes, message):
    with pytest.raises(ValueError, match=message) as told:
        models.bert(changed(tmp_path / "it", name, **changes))
    assert "\n" not in str(told.value)


def test_old_names_of_norms_and_tensors_without_a_place(tmp_path):
    place = changed(tmp_path / "old")
    held = load_file(place / "model.safetensors")
    old = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
            "LayerNorm.bias", "LayerNorm.beta"
        ): x
        for name, x in held.items()
    }
    save_file(old, place / "model.safetensors")
    one, other = (models.bert(x).layers.norm.scale[...] for x in (place, PLACE / "bert"))
    np.testing.assert_array_equal(one, other)
    save_file({**held, "bert.encoder.layer.0.gate": np.ones(2)}, place / "model.safetensors")
    with pytest.raises(ValueError, match=r"encoder\.layer\.0\.gate is a part that this model"):
        models.bert(place)


def sentence_folder(place: Path, pooling: dict, unit=False, **files) -> Path:
    """The tiny BERT as a folder of sentence-transformers."""
    shutil.copytree(tiny_bert.folder(), place)
    kinds = ["Transformer", "Pooling", *["Normalize"] * unit]
    listed = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "",
         "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]  # fmt: skip
    (place / "1_Pooling").mkdir()
    (place / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    for name, said in {"modules": listed, **files}.items():
        (place / f"{name}.json").write_text(json.dumps(said))
    return place


def flags(mode: str) -> dict:
    names = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "lasttoken")
    return {"word_embedding_dimension": 12} | {f"pooling_mode_{x}": x == mode for x in names}


@pytest.mark.parametrize(
    ("said", "pool"),
    [
        (flags("cls_token"), lambda x: x[0]),
        (flags("mean_tokens"), lambda x: x.mean(0)),
        (flags("max_tokens"), lambda x: x.max(0)),
        (flags("lasttoken"), lambda x: x[-1]),
        ({"embedding_dimension": 12, "pooling_mode": "cls"}, lambda x: x[0]),
    ],
    ids=["cls", "mean", "max", "last", "spelt anew"],
)
def test_sentences_are_pooled_as_the_folder_says(tmp_path, said, pool):
    plain = Path(tiny_bert.folder())
    tokens = weights.tokenize(plain, TEXTS)
    states = outputs(models.bert(plain), tokens, 3)
    want = np.stack([pool(x[mask]) for x, mask in zip(states, tokens.mask, strict=True)])
    got = models.sentences(TEXTS, sentence_folder(tmp_path / "long", said))
    np.testing.assert_allclose(got, want, atol=1e-5)
    got = models.sentences(TEXTS, sentence_folder(tmp_path / "unit", said, unit=True))
    np.testing.assert_allclose(got, want / np.linalg.norm(want, axis=1)[:, None], atol=1e-5)


def test_prefixes_lengths_and_capitals(tmp_path):
    prompts = {"prompts": {"query": "toy "}, "default_prompt_name": None}
    read = {"max_seq_length": 5, "do_lower_case": True}
    place = sentence_folder(
        tmp_path / "it", flags("cls_token"), sentence_bert_config=read,
        config_sentence_transformers=prompts,
    )  # fmt: skip
    ids = lambda texts, length=None, prefix=None: tokens_of(place, texts, length, prefix).ids
    np.testing.assert_array_equal(ids(["Star"], None, "query"), ids(["toy star"]))
    np.testing.assert_array_equal(ids(["star"], None, "king "), ids(["king star"]))
    assert ids(["toy star wars in space"]).shape == (1, 5)
    assert ids(["toy star wars in space"], 4).shape == (1, 4)
    assert ids(["toy star wars in space"], 9).shape == (1, 5)
    with pytest.raises(ValueError, match="has no prompt 'passage'; use one of query, or the words"):
        ids(["star"], None, "passage")
    path = place / "config_sentence_transformers.json"
    path.write_text(json.dumps({**prompts, "default_prompt_name": "query"}))
    np.testing.assert_array_equal(ids(["star"]), ids(["star"], None, "query"))
    np.testing.assert_array_equal(ids(["toy star"], None, ""), ids(["star"]))


@pytest.mark.parametrize(
    ("pooling", "listed", "message"),
    [
        (flags("mean_sqrt_len_tokens"), None, "has pooling_mode_mean_sqrt_len_tokens=True"),
        ({"pooling_mode": ["cls", "mean"]}, None, "pools by cls and mean, which is not computed"),
        ({}, None, "pools by nothing"),
        ({"pooling_mode": "cls", "beta": 2}, None, "has beta=2, which is not computed here"),
        ({"pooling_mode": "cls"}, "Dense", "has a Dense in place 2, which is not computed here"),
    ],
)
def test_other_ways_to_pool_are_refused(tmp_path, pooling, listed, message):
    place = sentence_folder(tmp_path / "it", pooling, unit=listed is not None)
    if listed:
        path = place / "modules.json"
        path.write_text(path.read_text().replace("models.Normalize", f"models.{listed}"))
    with pytest.raises(ValueError, match=message):
        models.sentences(TEXTS, place)


def test_an_adapted_encoder_pools_as_its_folder_says(tmp_path):
    titles = tiny_bert.titles(12)
    places = [sentence_folder(tmp_path / x, flags(x)) for x in ("cls_token", "mean_tokens")]
    for place in places:
        model = models.text_encoder(12, titles=titles, weights=str(place), rank=2, components=3)
        shared, private = model.init(jax.random.key(0))
        white = np.asarray(shared["white"].value)
        want = (models.sentences(titles, place, 16) - np.asarray(shared["mean"].value)) @ white
        kernel, bias = (np.asarray(shared["project"]["layers"]["0"][x]) for x in ("kernel", "bias"))
        vector = np.asarray(private["user"][0] + shared["centre"])
        got = model.score(shared, private, jnp.arange(12))
        np.testing.assert_allclose(got, (want @ kernel + bias) @ vector, atol=1e-4)
