"""Embeddings of texts, as the folder of a sentence encoder says that they are made.

    e = pool(x_1 .. x_T) over real tokens: their mean, their largest, the first (CLS) or the last

(Reimers & Gurevych, EMNLP 2019), through layers where the folder has some (`dense`), and at length
1 where it has a `Normalize`. What is read: `modules.json`, the `config.json` of its Pooling,
`sentence_bert_config.json` (the longest text) and `config_sentence_transformers.json` (what stands
before texts). A folder without `modules.json` has the mean at length 1.

`T` tokens, `D` width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ... import weights
from ...check import at_least, nearest
from .adapted import encoder_of
from .dense import dense
from .reader import outputs
from .settings import Settings

MODULES = "modules.json"
MODES = ("mean", "cls", "max", "lasttoken")
# Keys of a Pooling that turn a kind on.
FLAGS = {
    "pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max", "pooling_mode_lasttoken": "lasttoken",
}  # fmt: skip
OTHERS = ("pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens")


@dataclass(frozen=True)
class Sentence:
    """mode: one of `MODES`; behind: folders of the layers behind; unit: whether embeddings have
    length 1; longest: tokens of a text, None for any; lower: whether texts lose their capitals;
    prompts: what may stand before a text, by a name; usual: the name of what does, if nothing is
    said."""

    mode: str = "mean"
    behind: tuple[str, ...] = ()
    unit: bool = True
    longest: int | None = None
    lower: bool = False
    prompts: tuple[tuple[str, str], ...] = ()
    usual: str | None = None

    def pooled(
        self, x: jax.Array, mask: jax.Array, layers: Sequence[Callable[[jax.Array], jax.Array]] = ()
    ) -> jax.Array:
        """[..., D] of x [..., T, D], over the tokens of mask [..., T], whose first is real, through
        `layers`."""
        x, real = x.astype(jnp.float32), mask[..., None]
        if self.mode == "mean":
            made = (x * real).sum(-2) / jnp.maximum(real.sum(-2), 1.0)
        elif self.mode == "max":
            made = jnp.where(real, x, -jnp.inf).max(-2)
        elif self.mode == "cls":
            made = x[..., 0, :]
        else:
            last = jnp.maximum(mask.sum(-1, dtype=jnp.int32) - 1, 0)
            made = jnp.take_along_axis(x, last[..., None, None], -2)[..., 0, :]
        for layer in layers:
            made = layer(made)
        if not self.unit:
            return made
        return made / jnp.maximum(jnp.linalg.norm(made, axis=-1, keepdims=True), 1e-12)

    def texts(self, texts: Sequence[str], prefix: str | None, where: Path) -> list[str]:
        """`texts` as they are read. Raises ValueError for a prefix that is the name of none."""
        known = dict(self.prompts)
        name = self.usual if prefix is None else prefix
        before = known.get(name or "", name or "")
        if name and name not in known and name.isidentifier():
            raise ValueError(
                f"{where} has no prompt {name!r}{nearest(name, known)}; use one of "
                f"{', '.join(known) or 'none'}, or the words themselves, as in 'query: '."
            )
        made = [before + text for text in texts]
        return [text.lower() for text in made] if self.lower else made


class Pooler(nnx.Module):
    """[..., E] of x [..., T, D]: what is done with the states of a text. said: how; dense: the
    layers behind."""

    def __init__(self, said: Sentence):
        self.said = said
        self.dense = nnx.List([dense(Path(folder)) for folder in said.behind])

    def __call__(self, x, mask):
        return self.said.pooled(x, mask, tuple(self.dense))


def sentence(folder: Path) -> Sentence:
    """What the files of a sentence encoder say.

    Raises ValueError for what is not honoured.
    """
    found = {"mode": "mean", "unit": True}
    if (folder / MODULES).is_file():
        found = {"unit": False, "mode": None, "behind": ()}
        for number, one in enumerate(weights.read_json(folder / MODULES, list)):
            kind, where = str(one.get("type")).rsplit(".", 1)[-1], folder / str(one.get("path", ""))
            if kind == "Pooling":
                found["mode"] = pooling(where)
            elif kind == "Dense" and found["mode"] and not found["unit"]:
                found["behind"] += (str(where),)
            elif kind == "Normalize" and found["mode"]:
                found["unit"] = True
            elif kind != "Transformer" or number:
                raise ValueError(
                    f"{folder / 'modules.json'} has a {kind} in place {number}, which is not "
                    "computed here; use an encoder of Transformer, Pooling, Dense and Normalize."
                )
        if found["mode"] is None:
            raise ValueError(f"{folder / 'modules.json'} has no Pooling; fetch it again.")
    path = folder / "sentence_bert_config.json"
    if path.is_file():
        said = Settings(weights.read_json(path), f"{path}")
        found["longest"] = said.count("max_seq_length", None)
        found["lower"] = bool(said.take("do_lower_case", False))
        said.only("transformer_task", "feature-extraction")
        said.done()
    path = folder / "config_sentence_transformers.json"
    if path.is_file():
        said = weights.read_json(path)
        found["prompts"] = tuple((said.get("prompts") or {}).items())
        found["usual"] = said.get("default_prompt_name")
    return Sentence(**found)


def pooling(folder: Path) -> str:
    """The mode of the config.json of a Pooling."""
    said = Settings(weights.config(folder), f"{folder / 'config.json'}")
    for name in ("word_embedding_dimension", "embedding_dimension"):
        said.take(name, None)
    said.only("include_prompt", True)
    modes = {mode for flag, mode in FLAGS.items() if said.only(flag, False, True)}
    for name in OTHERS:
        said.only(name, False)
    told = said.take("pooling_mode", None)
    modes |= {told} if isinstance(told, str) else set(told or ())
    said.done()
    if len(modes) != 1 or not modes <= set(MODES):
        raise ValueError(
            f"{said.where} pools by {' and '.join(sorted(map(str, modes))) or 'nothing'}, which is "
            f"not computed here; use an encoder with one of {', '.join(MODES)}."
        )
    return modes.pop()


def tokens_of(
    place: Path, texts: Sequence[str], length: int | None, prefix: str | None = None
) -> weights.Tokens:
    """`texts` as tokens, with what stands before them, at most as long as the folder says."""
    said = sentence(place)
    longest = [x for x in (length, said.longest) if x is not None]
    return weights.tokenize(place, said.texts(texts, prefix, place), min(longest, default=None))


def sentences(
    texts: Sequence[str],
    folder: str | Path = "minilm",
    length: int | None = 128,
    prefix: str | None = None,
) -> np.ndarray:
    """float32[n, D]: the embeddings of `texts`, pooled and scaled as the folder says.

    Args:
        texts: n of them.
        folder: the weights, as in `load_encoder`; or a folder of PEFT, such as
            `LoadedRun.export_peft` writes, whose adapters are put into the weights that it names.
        length: most tokens of a text, special ones and prefix included; longer texts lose their
            end. None for as many as the folder says.
        prefix: what stands before each text, as E5's "query: " and "passage: ", or the name of a
            prompt of the folder; None for the folder's default.

    Raises:
        ValueError: for length < 3, for texts longer than the encoder has positions, for the name of
            no prompt, and for a folder that pools otherwise.

    Example:
        >>> embeddings = models.sentences(["alien", "star wars"], bert_folder)
    """
    if length is not None:
        at_least("sentences", "length", length, 3)
    encoder, place = encoder_of(folder)
    tokens = tokens_of(place, texts, length, prefix)
    states, mask = outputs(encoder, tokens), jnp.asarray(tokens.mask)
    return np.asarray(Pooler(sentence(place))(jnp.asarray(states), mask))
