"""A folder as `fedjax-rec export` writes one, of a SASRec on a catalogue of its own."""

import functools
import json
import tempfile
from pathlib import Path

import jax
import numpy as np
import tiny_bert
from safetensors.numpy import save_file

from fedjax_rec import models, rows

ITEMS = 11


@functools.cache
def folder(width: int = 6, length: int = 6, texts: bool = True) -> str:
    """One for the whole test run; every number is drawn, none is what a model begins with."""
    place, rng = Path(tempfile.mkdtemp(prefix="other-catalogue-")), np.random.default_rng(3)
    model = models.sasrec(ITEMS, width=width, length=length, layers=1)
    shared = {"shared": rows.dense(jax.eval_shape(model.init, jax.random.key(0))[0])}
    name = lambda path: jax.tree_util.keystr(path, simple=True, separator="/")
    leaves = jax.tree_util.tree_leaves_with_path(shared)
    found = {name(at): np.float32(0.3 * rng.standard_normal(x.shape)) for at, x in leaves}
    save_file(found, place / "weights.safetensors")
    told = {"items": [f"i{i}" for i in range(ITEMS)], "texts": titles() if texts else None}
    (place / "items.json").write_text(json.dumps(told))
    return str(place)


def titles() -> list[str]:
    """Texts of the other catalogue, some of which are also those of `tiny_bert.titles`."""
    shared = tiny_bert.titles(3)
    return [*shared, *(f"{a} {b}" for a in ("alien", "love") for b in tiny_bert.WORDS[:4])]
