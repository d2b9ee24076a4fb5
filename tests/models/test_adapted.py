"""Embeddings by a folder of PEFT against those of a folder whose weights have the products in."""

import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from fedjax_rec import models

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
import tiny_bert
import tiny_llama

TEXTS, WHOLE = ["1 2 3", "44 5", "6"], "model.safetensors"
pytestmark = pytest.mark.usefixtures("compiled_fast")


def adapters(load, source: str, targets: str, place: Path) -> Path:
    """A folder of PEFT with random adapters of rank 2 beside `targets` of `source`."""
    module = models.lora(models.freeze(load(source)), nnx.Rngs(1), targets, rank=2, alpha=6.0)
    for path, value in nnx.iter_graph(module):
        if isinstance(value, nnx.Param) and path[-1] == "lora_b":
            value.set_value(jax.random.normal(jax.random.key(2), value.shape))
    models.export_peft(module, place, source)
    return place


def with_products(source: str, peft: Path, place: Path) -> Path:
    """A copy of `source` with W + 3 B A, by the names of the tensors alone."""
    shutil.copytree(source, place)
    held, found = load_file(place / WHOLE), load_file(peft / "adapter_model.safetensors")
    changed = 0
    for name in [name for name in found if name.endswith(".lora_A.weight")]:
        a, b = found[name], found[name.replace("lora_A", "lora_B")]
        module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        (theirs,) = [key for key in held if key.endswith(f"{module}.weight")]
        held[theirs] = held[theirs] + 6 / 2 * b @ a
        changed += 1
    assert changed
    save_file(held, place / WHOLE)
    return place


@pytest.mark.parametrize(
    ("load", "folder", "texts"),
    [
        (models.load_decoder, tiny_llama.folder, TEXTS),
        (models.load_encoder, tiny_bert.folder, tiny_bert.titles(3)),
    ],
    ids=["decoder", "encoder"],
)
def test_adapters_are_put_into_the_base_that_they_name(load, folder, texts, tmp_path):
    peft = adapters(load, folder(), "*query|*value", tmp_path / "peft")
    got = models.sentences(texts, peft)
    want = models.sentences(texts, with_products(folder(), peft, tmp_path / "whole"))
    np.testing.assert_allclose(got, want, atol=1e-5)
    assert np.abs(got - models.sentences(texts, folder())).max() > 0.01
    texted = models.text_sasrec(3, titles=texts, weights=str(peft), width=4, length=4, components=2)
    text = np.asarray(jax.tree.leaves(texted.init(jax.random.key(0))[0])[0])
    assert np.isfinite(text).all()


def test_a_base_that_is_not_here_is_named(tmp_path):
    peft = adapters(models.load_decoder, tiny_llama.folder(), "*query", tmp_path / "peft")
    config = peft / "adapter_config.json"
    config.write_text(
        json.dumps(json.loads(config.read_text()) | {"base_model_name_or_path": "up"})
    )
    with pytest.raises(ValueError, match="base_model_name_or_path='up', which is neither"):
        models.sentences(TEXTS, peft)
