"""Text encoders against transformers, on tiny random checkpoints that it made (make_encoders.py),
and sentence embeddings as the folders of sentence encoders say."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
import tiny_bert
import tiny_encoders
from write_compatibility import ENCODERS_HAVE

from fedjax_rec import models, weights
from fedjax_rec.models.transformers.distances import buckets
from fedjax_rec.models.transformers.encoders import ENCODERS
from fedjax_rec.models.transformers.reader import outputs
from fedjax_rec.models.transformers.sentences import tokens_of
from fedjax_rec.trees import Frozen

PLACE = Path(__file__).parent / "encoders"
NAMES = sorted(path.name for path in PLACE.iterdir() if path.is_dir())
READ = {"qwen3", "gemma3_text"}  # decoders, of which one reads both ways
TEXTS = ["star wars in space", "king"]
pytestmark = pytest.mark.usefixtures("compiled_fast")


def test_every_kind_has_a_checkpoint():
    found = {weights.config(PLACE / name)["model_type"] for name in NAMES}
    assert found - READ == ENCODERS.keys() and found >= READ


def test_the_page_has_a_row_of_each_as_it_was_measured():
    text = (Path(__file__).parents[2] / "docs" / "compatibility.md").read_text()
    rows = [line.split("|") for line in text.splitlines() if line.count("|") == 5]
    found = {row[2].strip(): float(row[4]) for row in rows if "e-0" in row[4]}
    assert set(NAMES) <= found.keys() and ENCODERS_HAVE.keys() == set(NAMES)
    assert max(found.values()) < 1e-5


@pytest.mark.parametrize("name", NAMES)
def test_states_are_those_of_transformers(name):
    want, encoder = np.load(PLACE / name / "reference.npz"), models.load_encoder(PLACE / name)
    tokens = weights.Tokens(want["tokens"], want["mask"])
    got = outputs(encoder, tokens)
    scale = np.abs(want["states"]).max()
    np.testing.assert_allclose(
        got[tokens.mask], want["states"][tokens.mask], rtol=0, atol=1e-5 * scale
    )


@pytest.mark.parametrize(
    ("name", "targets", "called"),
    [
        ("mpnet", "*query", ["encoder.layer.1.attention.attn.q"]),
        ("distilbert", "*query", ["transformer.layer.1.attention.q_lin"]),
        ("modernbert", "*query|*up", ["layers.1.attn.Wqkv", "layers.0.mlp.Wi"]),
        ("embedding_gemma", "*query|*up", ["layers.1.self_attn.q_proj", "layers.0.mlp.up_proj"]),
        (
            "t5_v1.1",
            "*value|*gate",
            [f"encoder.block.1.layer.{x}" for x in ("0.SelfAttention.v", "1.DenseReluDense.wi_0")],
        ),
    ],
)  # fmt: skip
def test_adapters_of_encoders_go_out_and_come_in(tmp_path, name, targets, called):
    source = shutil.copytree(PLACE / name, tmp_path / "base")
    if name == "embedding_gemma":  # a folder of a decoder that is a sentence encoder
        (source / "modules.json").write_text("[]")
    load = lambda: models.freeze(models.load_encoder(source))
    encoder = models.lora(load(), nnx.Rngs(0), targets, 2)
    rng, ours = np.random.default_rng(0), [x.removeprefix("*") for x in targets.split("|")]
    for part in ours:
        b = getattr(encoder.layers, part).lora_b
        b[...] = rng.normal(size=b.shape).astype(np.float32)
    folder = tmp_path / "adapter"
    models.export_peft(encoder, folder, source)
    held = load_file(folder / "adapter_model.safetensors")
    assert {f"base_model.model.{x}.lora_A.weight" for x in called} <= held.keys()
    assert len(held) == 2 * len(ours) * encoder.layers.query.kernel.shape[0]
    # What is called as ours in the rest of a whole model is no target.
    said = json.loads((folder / "adapter_config.json").read_text())
    assert (len(said["target_modules"]) > 2) == (name == "t5_v1.1") and not said["task_type"]
    again = models.import_peft(load(), folder)
    want = np.load(source / "reference.npz")
    tokens = weights.Tokens(want["tokens"], want["mask"])
    got = outputs(again, tokens)[tokens.mask]
    np.testing.assert_allclose(got, outputs(encoder, tokens)[tokens.mask], atol=1e-5)
    assert np.abs(got - want["states"][tokens.mask]).max() > 0.1


def test_buckets_are_by_distance_and_then_by_its_logarithm():
    near = buckets(200)
    assert near[0, :8].tolist() == [0, *range(17, 24)] and near[7, :8].tolist() == [
        *range(7, -1, -1)
    ]
    assert near[0, 127:].min() == 31 and near[199, 0] == 15 and near[0, 8] == 24
    few = buckets(20, 12, 16)
    assert few[0, :4].tolist() == [0, 7, 8, 9] and few[0, 16:].tolist() == [11] * 4
    assert few[19, 0] == 5 and set(few.flat) == set(range(12)) - {6}


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
        ("bert", {"quantization_config": {"bits": 8}}, "has quantization_config="),
        ("modernbert", {"num_attention_heads": 3}, "num_attention_heads=3.*use a divisor of"),
        ("modernbert", {"norm_bias": True}, r"has no layers\.1\.attn_norm\.bias"),
        ("modernbert", {"layer_types": ["chunked"] * 4}, "has layer_types="),
        ("modernbert", {"num_hidden_layers": 3, "layer_types": None}, r"layers\.3\.\S+ is a part"),
        ("modernbert", {"logit_scale": 2.0}, "has logit_scale=2.0, which is not computed here"),
        ("modernbert_biased", {"mlp_bias": False}, r"layers\.0\.mlp\.Wi\.bias is a part that this"),
        ("t5", {"feed_forward_proj": "gated-gelu"}, "has dense_act_fn='relu', which is not"),
        ("t5", {"feed_forward_proj": "swish"}, "has feed_forward_proj='swish', which is not"),
        (
            "t5",
            {"relative_attention_num_buckets": 32},
            r"has shape \(12, 2\), and config.json asks",
        ),
        ("t5", {"relative_attention_max_distance": 2}, "has relative_attention_num_buckets=12"),
        ("t5", {"d_kv": 8}, r"has shape \(12, 16\), and config.json asks for \(16, 16\)"),
        ("t5_v1.1", {"dense_act_fn": "gelu"}, "has dense_act_fn='gelu'"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_what_is_not_honoured_is_refused(tmp_path, name, changes, message):
    with pytest.raises(ValueError, match=message) as told:
        models.load_encoder(changed(tmp_path / "it", name, **changes))
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
    one, other = (models.load_encoder(x).layers.norm.scale[...] for x in (place, PLACE / "bert"))
    np.testing.assert_array_equal(one, other)
    save_file({**held, "bert.encoder.layer.0.gate": np.ones(2)}, place / "model.safetensors")
    with pytest.raises(ValueError, match=r"encoder\.layer\.0\.gate is a part that this model"):
        models.load_encoder(place)


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
    states = outputs(models.load_encoder(plain), tokens, 3)
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
        ({"pooling_mode": "cls"}, "LSTM", "has a LSTM in place 2, which is not computed here"),
    ],
)
def test_other_ways_to_pool_are_refused(tmp_path, pooling, listed, message):
    place = sentence_folder(tmp_path / "it", pooling, unit=listed is not None)
    if listed:
        path = place / "modules.json"
        path.write_text(path.read_text().replace("models.Normalize", f"models.{listed}"))
    with pytest.raises(ValueError, match=message):
        models.sentences(TEXTS, place)


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(
    ("activation", "act"),
    [("linear.Identity", lambda x: x), ("activation.Tanh", np.tanh),
     ("activation.ReLU", lambda x: np.maximum(x, 0))],
    ids=["identity", "tanh", "relu"],
)  # fmt: skip
def test_layers_behind_the_pooling(tmp_path, activation, act, biased):
    place = sentence_folder(tmp_path / "it", flags("mean_tokens"), unit=True)
    plain = models.sentences(TEXTS, sentence_folder(tmp_path / "plain", flags("mean_tokens")))
    kernel, bias = with_dense(place, activation, biased)
    want = act(plain @ kernel.T + bias)
    want = want / np.linalg.norm(want, axis=1)[:, None]
    np.testing.assert_allclose(models.sentences(TEXTS, place), want, atol=1e-5)


def with_dense(place: Path, activation: str, biased=True, width=12):
    """Puts a Dense of five outputs between the Pooling and the Normalize; (kernel, bias)."""
    rng = np.random.default_rng(0)
    kernel, bias = rng.normal(size=(5, width)), rng.normal(size=5) * biased
    (place / "2_Dense").mkdir()
    said = {
        "in_features": width, "out_features": 5, "bias": biased,
        "activation_function": f"torch.nn.modules.{activation}",
    }  # fmt: skip
    (place / "2_Dense" / "config.json").write_text(json.dumps(said))
    held = {"linear.weight": kernel} | ({"linear.bias": bias} if biased else {})
    save_file(
        {k: x.astype(np.float32) for k, x in held.items()}, place / "2_Dense/model.safetensors"
    )
    listed = json.loads((place / "modules.json").read_text())
    kind = "sentence_transformers.models.Dense"
    listed.insert(2, {"idx": 2, "name": "2", "path": "2_Dense", "type": kind})
    (place / "modules.json").write_text(json.dumps(listed))
    return kernel, bias


def test_layers_behind_are_honoured_or_refused(tmp_path):
    place = sentence_folder(tmp_path / "it", flags("mean_tokens"))
    with_dense(place, "activation.Mish")
    with pytest.raises(ValueError, match=r"has activation_function='torch\S+Mish', which is not"):
        models.sentences(TEXTS, place)
    path = place / "2_Dense" / "config.json"
    path.write_text(path.read_text().replace("Mish", "Tanh").replace("12", "10"))
    with pytest.raises(
        ValueError, match=r"has shape \(5, 12\), and config.json asks for \(5, 10\)"
    ):
        models.sentences(TEXTS, place)
    (place / "2_Dense" / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"2_Dense has no model\.safetensors"):
        models.sentences(TEXTS, place)
    listed = json.loads((place / "modules.json").read_text())
    listed.append({**listed[-1], "type": "sentence_transformers.models.Normalize"})
    (place / "modules.json").write_text(json.dumps([*listed, listed[2]]))
    with pytest.raises(ValueError, match="has a Dense in place 4, which is not computed"):
        models.sentences(TEXTS, place)


def sentence_t5(place: Path, name="t5") -> Path:
    """A folder as Sentence-T5 has it: the mean, a Dense, length 1."""
    sentence_folder(place, flags("mean_tokens"), unit=True)
    with_dense(place, "linear.Identity", biased=False, width=16)
    for file in ("config.json", "model.safetensors"):
        shutil.copy(PLACE / name / file, place)
    return place


@pytest.mark.parametrize("name", ["modernbert", "t5", "embedding_gemma", "dense"])
def test_adapters_begin_at_the_sentences_of_the_folder(tmp_path, name):
    """What is behind the adapted layers is frozen, and each adapter has a gradient."""
    place = sentence_t5(tmp_path / "it") if name == "dense" else Path(tiny_encoders.folder(name))
    titles, items = tiny_bert.titles(12), jnp.arange(12)
    model = models.text_encoder(
        12, titles=titles, weights=str(place), rank=2, components=3, trained_layers=2,
        targets="query|value|up|down",
    )  # fmt: skip
    batch = {"items": items, "labels": jnp.ones(12), "mask": jnp.ones(12)}
    grad = jax.grad(model.loss, allow_int=True)

    @jax.jit
    def begun():
        shared, private = model.init(jax.random.key(0))
        scores = model.score(shared, private, items)
        return shared, private, scores, grad(shared, private, batch, jax.random.key(1))

    shared, private, scores, grads = begun()
    value = lambda x: np.asarray(getattr(x, "value", x))
    white = (models.sentences(titles, place, 16) - value(shared["mean"])) @ value(shared["white"])
    project = shared["project"]["layers"]["0"]
    vector = np.asarray(private["user"][0] + shared["centre"])
    want = (white @ np.asarray(project["kernel"]) + np.asarray(project["bias"])) @ vector
    np.testing.assert_allclose(scores, want, atol=1e-4)
    for part in ("query", "value", "up", "down"):
        assert np.abs(grads["layers"][part]["lora_b"]).max() > 1e-6, part
    trained = {"project", "centre"}
    leaves = jax.tree.leaves_with_path(shared, is_leaf=lambda x: isinstance(x, Frozen))
    for path, leaf in leaves:
        if path[0].key not in trained:
            assert isinstance(leaf, Frozen) != (path[-1].key in ("lora_a", "lora_b")), path


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


@pytest.mark.parametrize("name", ["modernbert", "t5"])
def test_padding_is_not_seen(name):
    place = tiny_encoders.folder(name)
    both, alone = models.sentences(TEXTS, place), models.sentences(TEXTS[1:], place)
    np.testing.assert_allclose(both[1], alone[0], atol=1e-5)


def test_tokens_without_a_row_are_refused(tmp_path):
    place = changed(tmp_path / "it", "bert")
    shutil.copy(Path(tiny_bert.folder()) / "tokenizer.json", place)
    held = load_file(place / "model.safetensors")
    rows = {n: x[:10] for n, x in held.items() if "word_embeddings" in n}
    few = {n: x for n, x in held.items() if not n.startswith("cls.")}
    save_file({**few, **rows}, place / "model.safetensors")
    changes = {**weights.config(place), "vocab_size": 10}
    (place / "config.json").write_text(json.dumps(changes))
    with pytest.raises(ValueError, match="have the token 18, and the encoder's table 10 rows; put"):
        models.sentences(TEXTS, place)


def test_t5_reads_its_table_by_either_name(tmp_path):
    place = changed(tmp_path / "it", "t5")
    held = load_file(place / "model.safetensors")
    rest = {n: x for n, x in held.items() if n not in ("shared.weight",)}
    table, want = held["shared.weight"], models.load_encoder(PLACE / "t5").words[...]
    alone = {"encoder.embed_tokens.weight": table}
    for tables in (alone, {**alone, "shared.weight": table.copy()}):
        save_file(rest | tables, place / "model.safetensors")
        np.testing.assert_array_equal(models.load_encoder(place).words[...], want)
    save_file(rest | {**tables, "shared.weight": table + 1}, place / "model.safetensors")
    with pytest.raises(ValueError, match=r"is another table than shared\.weight; remove the one"):
        models.load_encoder(place)


def test_modernbert_in_the_keys_of_older_files(tmp_path):
    old = {
        "layer_types": None, "rope_parameters": None, "global_attn_every_n_layers": 3,
        "global_rope_theta": 900.0, "local_rope_theta": 60.0, "position_embedding_type": "absolute",
        "reference_compile": False, "layer_norm_eps": 1e-5, "gradient_checkpointing": False,
    }  # fmt: skip
    encoder = models.load_encoder(changed(tmp_path / "it", "modernbert", **old))
    want = np.load(PLACE / "modernbert" / "reference.npz")
    tokens = weights.Tokens(want["tokens"], want["mask"])
    np.testing.assert_allclose(
        outputs(encoder, tokens)[tokens.mask], want["states"][tokens.mask], atol=3e-5
    )


def shown(name: str, change) -> float:
    """How far the states are from the reference once `change(encoder)` took something away."""
    want, encoder = np.load(PLACE / name / "reference.npz"), models.load_encoder(PLACE / name)
    change(encoder)
    tokens = weights.Tokens(want["tokens"], want["mask"])
    return np.abs(outputs(encoder, tokens) - want["states"])[tokens.mask].max()


def seeing(encoder, **changes):
    encoder.sees = replace(encoder.sees, **changes)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("modernbert", lambda e: seeing(e, both=False)),
        ("modernbert", lambda e: e.layers.kind.set_value(0 * e.layers.kind[...])),
        ("modernbert", lambda e: setattr(e, "first", None)),
        ("modernbert", lambda e: setattr(e, "last", None)),
        (
            "modernbert",
            lambda e: e.layers.before_attention.first.set_value(jnp.zeros(4, bool)),
        ),
        ("embedding_gemma", lambda e: seeing(e, both=False)),
        ("embedding_gemma", lambda e: setattr(e, "scale", 1.0)),
        ("qwen3_embedding", lambda e: seeing(e, both=True)),
        ("t5", lambda e: e.sees.table.set_value(0 * e.sees.table[...])),
        ("t5", lambda e: setattr(e.sees, "most", 100)),
        ("t5_v1.1", lambda e: setattr(e.layers, "activation", "relu")),
    ],
)
def test_what_a_family_has_shows(name, change):
    """The references would not be met without it."""
    assert shown(name, change) > 1e-3


def test_tokenizers_of_bytes_and_of_pieces(tmp_path):
    """ModernBERT's tokenizer.json is BPE of bytes, T5's a unigram of pieces."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers import models as kinds

    words = {
        "[PAD]": 0,
        "[CLS]": 1,
        "[SEP]": 2,
        "a": 3,
        "b": 4,
        "\u0120": 5,
        "\u0120a": 6,
        "\u0120ab": 7,
    }
    bpe = Tokenizer(kinds.BPE(words, [("\u0120", "a"), ("\u0120a", "b")]))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)]
    )
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("\u2581a", -1.0), ("b", -2.0),
              ("a", -2.5), ("\u2581ab", -4.0)]  # fmt: skip
    unigram = Tokenizer(kinds.Unigram(pieces, unk_id=2))
    unigram.pre_tokenizer, unigram.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    unigram.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    # a and b have -3 together, which is more than -4 of the longer piece.
    for made, want in ((bpe, [1, 3, 7, 4, 2]), (unigram, [3, 3, 4, 4, 1])):
        made.save(str(tmp_path / "tokenizer.json"))
        got = weights.tokenize(tmp_path, ["a abb", "a"])
        assert got.ids[0].tolist() == want and got.mask.sum(1).tolist() == [
            5,
            1 + (made is bpe) + 1,
        ]


def test_decoders_read_with_or_without_a_head_and_its_prefix(tmp_path):
    name = "qwen3_embedding"
    want, place = models.load_encoder(PLACE / name), changed(tmp_path / "it", name)
    held = load_file(place / "model.safetensors")
    head = {"lm_head.weight": np.ones((40, 16), np.float16)}
    save_file({f"model.{n}": x for n, x in held.items()} | head, place / "model.safetensors")
    got, ids = models.load_encoder(place), jnp.int32([[5, 9, 7]])
    mask = jnp.ones((1, 3), bool)
    np.testing.assert_array_equal(got(ids, mask), want(ids, mask))
    save_file(held | {"layers.0.gate": np.ones(2)}, place / "model.safetensors")
    with pytest.raises(ValueError, match=r"model\.layers\.0\.gate is a part that this model"):
        models.load_encoder(place)
    with pytest.raises(ValueError, match=r"has use_mrope=True, which is not computed here"):
        models.load_encoder(changed(tmp_path / "other", name, use_mrope=True))
    with pytest.raises(ValueError, match=r"bidirectional_attention=True, .* models\.load_encoder"):
        models.load_decoder(PLACE / "embedding_gemma")


def test_the_last_token_of_a_decoder_is_its_sentence(tmp_path):
    place = sentence_folder(tmp_path / "it", flags("lasttoken"), unit=True)
    for file in ("config.json", "model.safetensors"):
        shutil.copy(PLACE / "qwen3_embedding" / file, place)
    tokens = weights.tokenize(place, TEXTS)
    states = outputs(models.load_encoder(PLACE / "qwen3_embedding"), tokens)
    want = np.stack([x[mask.sum() - 1] for x, mask in zip(states, tokens.mask, strict=True)])
    want = want / np.linalg.norm(want, axis=1)[:, None]
    np.testing.assert_allclose(models.sentences(TEXTS, place), want, atol=1e-6)
