"""A model that begins where one of another catalogue ended: layers as they are, item rows by text.

    q_i = sum_j w_ij q'_j,   w_i = softmax_j(cos(e_i, e'_j) / temperature)

q' are the other catalogue's item rows, e and e' the embeddings of the two catalogues' texts. Ids do
not carry over and texts do: an item with the same text there takes that one's row, a new one a
mixture of the rows of those that read alike. All else that the models have in common (layers,
positions) is taken as it is, and everything is then trained like any other.

What UniSRec (Hou et al., KDD 2022) and VQ-Rec (Hou et al., WWW 2023) carry over is a map from texts
to vectors, which a line of text limits; here it is the rows themselves, in which is what no text
says. In a federation both ends are public: the other run's rows are what its server holds, and what
clients send is what they send without it.

`I` items, `J` of the other catalogue, `D` width.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from ... import rows, trees
from ... import weights as pretrained
from ...check import at_least, positive
from ...types import Model
from ..sequential.next_item import ItemLoss
from ..sequential.sasrec import sasrec
from ..transformers.sentences import sentences
from .text_rows import table_of
from .text_tower import described

AT_ONCE = 1024  # items


def transferred(
    model: Model,
    num_items: int,
    catalogue: str,
    titles: Sequence[str] | None = None,
    weights: str = "minilm",
    tokens: int = 128,
    temperature: float = 0.02,
    least: float = -1.0,
    taken: str = "*",
) -> Model:
    """`model` that begins at a run of another catalogue.

    Args:
        model: that shares one table [I, D], such as `sasrec`, `hstu` or `fedmf`, of the sizes of
            the other run's.
        num_items: `I`, the items of the catalogue.
        catalogue: a folder that `fedjax-rec export` wrote of the other run, on data with texts.
        titles: I texts, which a run knows.
        weights: whose embeddings, a name or folder as in `load_encoder`.
        tokens: most tokens of a text.
        temperature: by which cosines are divided; the lower, the more the nearest text is all.
        least: an item begins as it did where no text is as near as this cosine; -1 for none.
        taken: patterns of dotted paths, separated by `|`, of what is taken: "item" for rows alone,
            "layers.*|norm.*|position" for what reads them.

    Raises:
        FileNotFoundError: where the folder lacks a file that `fedjax-rec export` writes.
        ValueError: for a model that shares no table of I rows or several, for other sizes than the
            run's, without a text for each item of both, and where a pattern fits nothing.

    Example:
        >>> model = models.sasrec(num_items, width=4, length=10)
        >>> model = models.transferred(model, num_items, "runs/ml-1m")  # doctest: +SKIP
    """
    positive("transferred", "temperature", temperature)
    at_least("transferred", "tokens", tokens, 3)
    at_least("transferred", "least", least, -1)
    where = f"transferred(catalogue={catalogue!r})"
    table, _ = table_of("transferred", model, num_items)
    values = _read(where, model, catalogue, table, taken)
    near = np.ones(num_items, bool)
    if table in values:
        mine = described("transferred", titles, num_items)
        theirs = pretrained.texts_of_items(where, catalogue)
        if len(theirs) != len(values[table]):
            raise ValueError(
                f"{where} has {len(values[table])} rows of items and {len(theirs)} texts; export "
                "the run anew."
            )
        of_mine, of_theirs = np.split(sentences([*mine, *theirs], weights, tokens), [num_items])
        values[table], cosine = mixtures(of_mine, of_theirs, values[table], temperature)
        near = cosine >= least

    def init(key, common=None):
        shared, private = model.init(key, common)
        drawn = trees.named(shared)[table]
        begun = jnp.where(near[:, None], values.get(table, drawn), drawn)
        return trees.with_values(shared, {**values, table: begun})[0], private

    return replace(model, init=init)


def transferred_sasrec(
    num_items: int,
    catalogue: str,
    members: int = 1,
    titles: Sequence[str] | None = None,
    weights: str = "minilm",
    tokens: int = 128,
    temperature: float = 0.02,
    least: float = -1.0,
    taken: str = "*",
    width: int = 64,
    length: int = 50,
    layers: int = 2,
    heads: int = 1,
    dropout: float = 0.2,
    loss: ItemLoss | None = None,
) -> Model:
    """`transferred` of `sasrec`.

    Arguments that are not named here are those of `sasrec` and `transferred`.

    Raises:
        FileNotFoundError, ValueError: as the two.

    Example:
        >>> model = models.transferred_sasrec(num_items, "runs/ml-1m")  # doctest: +SKIP
    """
    model = sasrec(num_items, members, width, length, layers, heads, dropout, loss)
    return transferred(
        model, num_items, catalogue, titles, weights, tokens, temperature, least, taken
    )


def mixtures(
    mine: np.ndarray, theirs: np.ndarray, table: np.ndarray, temperature: float
) -> tuple[np.ndarray, np.ndarray]:
    """(q float32[I, D], the largest cosine float64[I]) of embeddings mine [I, E] and theirs [J, E]
    and the rows [J, D] of the latter: see the header."""
    # In float64: near a cosine of 1, as of two equal texts, float32 is coarse.
    mine, theirs = (_unit(np.asarray(x, np.float64)) for x in (mine, theirs))
    mixed, nearest = [], []
    for begin in range(0, len(mine), AT_ONCE):
        cosine = mine[begin : begin + AT_ONCE] @ theirs.T
        nearest.append(cosine.max(1))
        weight = np.exp((cosine - nearest[-1][:, None]) / temperature)
        mixed.append(weight @ table / weight.sum(1, keepdims=True))
    return np.concatenate(mixed).astype(np.float32), np.concatenate(nearest)


def _unit(x: np.ndarray) -> np.ndarray:
    return x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _read(where: str, model: Model, catalogue: str, table: str, taken: str) -> dict:
    """The arrays of the folder `catalogue` that `taken` names, by key path of the model's
    parameters. Raises FileNotFoundError and ValueError, in one line."""
    outline = trees.trainable(jax.eval_shape(model.init, jax.random.key(0))[0])
    plain = jax.tree_util.tree_leaves_with_path(rows.dense(outline))
    path = lambda path, mark: jax.tree_util.keystr(path, simple=True, separator=mark)
    of = dict(zip(trees.named(outline), plain, strict=True))
    chosen = set()
    for pattern in taken.split("|"):
        fitting = {name for name, (at, _) in of.items() if fnmatch.fnmatch(path(at, "."), pattern)}
        if not fitting:
            raise ValueError(
                f"{where}: taken={taken!r}: {pattern!r} fits no shared parameter; the model has "
                f"{', '.join(path(at, '.') for at, _ in plain)}."
            )
        chosen |= fitting
    names = [name for name in of if name in chosen]
    stored = [f"shared/{path(of[name][0], '/')}" for name in names]
    found = pretrained.exported(
        where, catalogue, stored, "make the model as that run's, or name less in taken"
    )
    for name, kept, x in zip(names, stored, found, strict=True):
        here = of[name][1].shape
        # Of item rows there may be any number.
        if x.shape[name == table :] != here[name == table :] or x.ndim != len(here):
            raise ValueError(
                f"{where}: {kept} is {list(x.shape)} there and {list(here)} here; give the model "
                "the sizes of that run (width, length, layers)."
            )
    return dict(zip(names, found, strict=True))
