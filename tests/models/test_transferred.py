"""A model that begins at a run of another catalogue, against NumPy."""

import functools
import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from fedjax_rec import models, trees, weights
from fedjax_rec.models.text.transferred import mixtures

sys.path.insert(0, str(Path(__file__).parents[1] / "laws"))
import other_catalogue
import tiny_bert

ITEMS, KEY = 20, jax.random.key(0)
TITLES = tiny_bert.titles(ITEMS)
# These tests compile for longer than they run.
compiled = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def sasrec(items, width=6, length=6, layers=1, **kwargs):
    return models.sasrec(items, width=width, length=length, layers=layers, **kwargs)


def made(model=None, items=ITEMS, titles=TITLES, folder=None, **kwargs):
    place = folder or other_catalogue.folder()
    base = str(tiny_bert.folder())
    return models.transferred(model or sasrec(items), items, place, titles, base, **kwargs)


def begun(model):
    """The shared parameters, by their name in an exported folder."""
    found = trees.named(compiled(model.init)(KEY)[0])
    plain = lambda name: name.removesuffix(".values").strip("[']").replace("']['", "/")
    return {f"shared/{plain(name)}": np.asarray(x) for name, x in found.items()}


@functools.cache
def all_taken():
    return begun(made())


def theirs():
    return load_file(Path(other_catalogue.folder()) / "weights.safetensors")


def cosines(mine, others):
    """float64[I, J]."""
    a, b = (models.sentences(x, tiny_bert.folder()).astype(np.float64) for x in (mine, others))
    return (a @ b.T) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)


@pytest.mark.parametrize("loss", [None, models.full_softmax()], ids=["rows", "dense"])
def test_rows_are_mixtures_by_text_and_the_rest_is_taken(loss):
    found, other = begun(made(sasrec(ITEMS, loss=loss), temperature=0.3)), theirs()
    weight = np.exp(cosines(TITLES, other_catalogue.titles()) / 0.3)
    expected = (weight / weight.sum(1, keepdims=True)) @ other["shared/item"]
    np.testing.assert_allclose(found["shared/item"], expected, atol=1e-5)
    assert found.keys() == other.keys()
    for name in found.keys() - {"shared/item"}:
        np.testing.assert_array_equal(found[name], other[name], name)


def test_the_same_catalogue_gives_its_rows_back():
    """As the temperature goes to 0, the texts being different."""
    texts, other = other_catalogue.titles(), theirs()["shared/item"]
    place = (3 * np.arange(len(texts))) % len(texts)  # another order
    assert len(set(texts)) == len(texts)
    model = made(items=len(texts), titles=[texts[i] for i in place], temperature=1e-6)
    np.testing.assert_allclose(begun(model)["shared/item"], other[place], atol=1e-5)


def test_many_items_are_mixed_as_few_are(monkeypatch):
    rng = np.random.default_rng(0)
    e, f, table = (np.float32(rng.standard_normal(s)) for s in ((7, 3), (5, 3), (5, 2)))
    whole = mixtures(e, f, table, 0.1)
    monkeypatch.setattr("fedjax_rec.models.text.transferred.AT_ONCE", 3)
    for a, b in zip(whole, mixtures(e, f, table, 0.1), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_items_like_none_begin_as_drawn():
    drawn, all_near = begun(sasrec(ITEMS))["shared/item"], all_taken()["shared/item"]
    nearest = cosines(TITLES, other_catalogue.titles()).max(1)
    least = float(np.sort(nearest)[8:10].mean())
    found = begun(made(least=least))["shared/item"]
    expected = np.where((nearest >= least)[:, None], all_near, drawn)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    rows = np.array([title in other_catalogue.titles() for title in TITLES])
    assert 3 <= rows.sum() < ITEMS and nearest[rows].min() > nearest[~rows].max()
    same = begun(made(least=float(nearest[~rows].max() + 1) / 2))["shared/item"]
    np.testing.assert_array_equal((same != drawn).any(1), rows)


def test_parts_of_the_run_may_be_left():
    drawn, other = begun(sasrec(ITEMS)), theirs()
    layers = begun(made(taken="layers.*|norm.*|position", titles=None))  # which reads no text
    alone = begun(made(taken="item"))
    np.testing.assert_array_equal(alone["shared/item"], all_taken()["shared/item"])
    np.testing.assert_array_equal(layers["shared/item"], drawn["shared/item"])
    for name in drawn.keys() - {"shared/item"}:
        np.testing.assert_array_equal(alone[name], drawn[name])
        np.testing.assert_array_equal(layers[name], other[name])


def test_a_factorization_takes_the_rows():
    model = made(models.fedmf(ITEMS, width=6))
    np.testing.assert_array_equal(begun(model)["shared/item"], all_taken()["shared/item"])
    short = models.transferred_sasrec(
        ITEMS, other_catalogue.folder(), 1, TITLES, tiny_bert.folder(), width=6, length=6, layers=1
    )
    np.testing.assert_array_equal(begun(short)["shared/item"], all_taken()["shared/item"])


def test_what_cannot_be_taken_is_said(tmp_path):
    other = other_catalogue.folder()
    with pytest.raises(FileNotFoundError, match=r"transferred\(catalogue='nowhere'\): there is no"):
        made(folder="nowhere")
    for sizes in ({"width": 4}, {"length": 5}, {"layers": 2}):
        with pytest.raises(ValueError, match=r"there and \[.*\] here; give the model the sizes of"):
            made(sasrec(ITEMS, **sizes))
    with pytest.raises(ValueError, match=r"has no shared/layers/.*; make the model as that run's"):
        made(models.gru4rec(ITEMS, width=6))
    with pytest.raises(ValueError, match="'layer' fits no shared parameter; the model has item, "):
        made(taken="item|layer")
    with pytest.raises(ValueError, match=r"transferred\(model\) has no table of 20 rows"):
        made(models.sasrec(ITEMS + 1, width=6))
    with pytest.raises(ValueError, match="transferred needs titles"):
        made(titles=None)
    for name, value in (("temperature", 0), ("tokens", 2), ("least", -2)):
        with pytest.raises(ValueError, match=f"transferred.*{name}"):
            made(**{name: value})
    with pytest.raises(ValueError, match=r"items.json has no texts of items; use a run on data"):
        made(folder=other_catalogue.folder(texts=False))
    shutil.copy(f"{other}/weights.safetensors", tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no .*items.json; write it by `fedjax-rec exp"):
        made(folder=str(tmp_path))
    (tmp_path / weights.ITEMS).write_text(json.dumps({"texts": ["alien"]}))
    with pytest.raises(ValueError, match="has 11 rows of items and 1 texts; export the run anew"):
        made(folder=str(tmp_path))
    save_file({"shared/item": np.ones(3, np.float32)}, tmp_path / "weights.safetensors")
    with pytest.raises(ValueError, match=r"has no shared/layers/.*, but shared/item; make the mod"):
        made(folder=str(tmp_path))
    with pytest.raises(ValueError, match=r"shared/item is \[3\] there and \[20, 6\] here"):
        made(taken="item", folder=str(tmp_path))
