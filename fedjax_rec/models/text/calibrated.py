"""Answers with what the model says to less taken off: a correction by its prior.

    z = z(prompt) - z(prior prompt)

The second prompt of each is that of `data.with_prior`: the same history with a title that says
nothing (contextual calibration, Zhao et al., ICML 2021, whose W = diag(p)^-1 is this difference of
two logits), or the same title with no history (PMI, Holtzman et al., EMNLP 2021). Both prompts are
read by the same adapters; what is trained is the difference.

`n` prompts, `m` different ones beside them, `T` most tokens of one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from ...types import Model
from ..objectives import bce
from .answers import tallrec
from .prompt_states import Dtype

TOKENS, LENGTH = "prior_tokens", "prior_length"


def calibrated(
    fields: Mapping[str, np.ndarray],
    source: str = "smollm2",
    layers: int = 4,
    targets: str = "*query|*value",
    rank: int = 8,
    alpha: float = 16.0,
    answers: tuple[str, str] = (" Yes", " No"),
    dtype: str = "float32",
    keep: str | None = None,
    adapter: str | None = None,
    states: Dtype = "float16",
) -> Model:
    """`tallrec` less its answer to the prompt beside each.

    Arguments that are not named here are those of `tallrec`.

    Args:
        fields: those of `tallrec`, with `prior_tokens` int32[n, T] and `prior_length` int32[n], as
            `data.with_prior` gives them. Prompts beside that are alike are read once.

    Raises:
        ValueError: without these fields, for prompts that are packed or have a prefix, and as
            `tallrec`.

    Example:
        >>> beside = {"prior_tokens": prompts["tokens"], "prior_length": prompts["length"]}
        >>> model = models.calibrated(prompts | beside, decoder_folder, 1, answers=("7", "8"))
    """
    for name in (TOKENS, LENGTH):
        if name not in fields:
            raise ValueError(
                f"calibrated(fields) has no {name!r}, the prompts beside; use data.with_prior."
            )
    if "prefix" in fields:
        raise ValueError(
            "calibrated(fields): prompts have a prefix, which those beside do not begin with; "
            "leave data.with_prefix out."
        )
    both, which = joined(fields)
    model = tallrec(
        both, source, layers, targets, rank, alpha, answers, dtype, keep, 0, adapter, states
    )
    predict = model.predict
    assert predict is not None

    def less_prior(shared, private, batch):
        if "texts" in batch:
            raise ValueError(
                "calibrated: prompts are packed, and those beside are not; leave "
                "data.packed_prompts out."
            )
        beside = {**batch, "length": batch[LENGTH], "prompt": jnp.asarray(which)[batch["prompt"]]}
        return predict(shared, private, batch) - predict(shared, private, beside)

    def loss(shared, private, batch, key):
        return bce()(less_prior(shared, private, batch), batch)

    return replace(model, predict=less_prior, loss=loss)


def joined(fields: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """(`tokens`, `length` and `prompt` of the n prompts and of the m different ones beside them,
    int32[n]: the place of the prompt beside each)."""
    tokens, beside = fields["tokens"], fields[TOKENS]
    width = max(tokens.shape[1], beside.shape[1])
    wide = lambda x: np.pad(x, [(0, 0), (0, width - x.shape[1])])
    sized = np.concatenate([fields[LENGTH][:, None], wide(beside)], 1)
    different, which = np.unique(sized, axis=0, return_inverse=True)
    both = {
        "tokens": np.concatenate([wide(tokens), different[:, 1:]]).astype(np.int32),
        "length": np.concatenate([fields["length"], different[:, 0]]).astype(np.int32),
    }
    count = len(tokens)
    both["prompt"] = np.arange(len(both["tokens"]), dtype=np.int32)
    return both, (count + which.reshape(-1)).astype(np.int32)
