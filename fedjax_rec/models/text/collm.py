"""CoLLM: what others liked, told to a language model as two tokens of its prompt.

    step 1   min over LoRA             of   sum loss(z(text))
    step 2   min over phi, LoRA fixed  of   sum loss(z(text with e_phi(p_u) and e_phi(q_i) in it))

(Zhang et al., "CoLLM: Integrating collaborative embeddings into large language models for
recommendation", TKDE 2025, arXiv 2310.19488.) p_u and q_i are those of a factorization, or of any
model that has a vector for each; e_phi is a `soft_tokens.Projection`. Step 1 is `tallrec`, whose
run step 2 starts from; the clients of step 2 send the mapping alone.

In a federation the vectors of items are public, as they are in federated factorization, and those
of users stay with the client that prompts about them. Here they are one frozen array, which no
client sends and of which one reads its users' rows.

Where the last layers alone are computed (`layers`), soft tokens come in there and not, as in the
paper, at the bottom: what lies below has read the text alone, once.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ... import weights
from ...types import Model
from ..placement import frozen_at
from .answers import asked, prefix_of, yes_no, yes_no_above
from .prompt_states import Dtype
from .soft_tokens import USER, SoftTokens, refuse_other

VECTORS = ("private/user", "shared/item")


def collm(
    fields: Mapping[str, np.ndarray],
    vectors: str,
    source: str = "smollm2",
    layers: int | None = 2,
    hidden: int = 64,
    targets: str = "*query|*value",
    rank: int = 8,
    alpha: float = 16.0,
    answers: tuple[str, str] = (" Yes", " No"),
    dtype: str = "float32",
    keep: str | None = None,
    counts: int = 0,
    adapter: str | None = None,
    states: Dtype = "float16",
    fixed: str | None = "decoder.*",
    names: tuple[str, str] = VECTORS,
    of: str = USER,
    num_items: int | None = None,
) -> Model:
    """`tallrec` that is also given a vector of the user and one of the item it is asked about.

    Arguments that are not named here are those of `tallrec`.

    Args:
        fields: those of `tallrec`, with `user` and `item` int32[n], and `soft` int32[n, 2], where
            vectors stand: `data.yes_no_prompts` has them for words with `{user}` and `{item}`.
        vectors: a folder that `fedjax-rec export` wrote of a run on `data.liked_pairs`, or a file
            of safetensors. They must not have seen what is held out.
        layers: the last ones, into the first of which vectors go; None for all, as in the paper,
            each of which is then computed for every token in every step.
        hidden: width of the mapping's hidden layer.
        fixed: patterns of what is not trained, as in `frozen_at`: "decoder.*" are the adapters,
            which a run takes from one of `tallrec` on the same prompts (`start_from`). None trains
            adapters and mapping together.
        names: of the users' vectors in the file, [U, D] or as clients keep them, and of the items'.
        of: the field of a prompt that says which row is the user's: `user`, or `prompt` for a row a
            prompt.
        num_items: `I` of the data, which a run tells; None to take the file's word for it.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: for vectors of other items or users than the prompts', prompts without a place
            for vectors, patterns that fit nothing, counts beside all layers, and as `tallrec`.

    Example:
        >>> model = models.collm(prompts, "runs/likes/export")  # doctest: +SKIP
    """
    soft = SoftTokens(*weights.exported_vectors("collm", vectors, names), hidden=hidden, of=of)
    refuse_other("collm", soft, fields, num_items)
    decoder, told = asked(source, answers, dtype, adapter)
    if layers is None:
        if counts:
            raise ValueError(f"collm(counts={counts}, layers=None): give layers, or leave counts.")
        first = prefix_of(fields)
        prefix = fields["tokens"][0, :first].tolist() if first else None
        made = yes_no(decoder, told, targets, rank, alpha, prefix, soft)
    else:
        place = None if keep is None else Path(keep).expanduser()
        made = yes_no_above(
            decoder, told, fields, layers, targets, rank, alpha, place, counts, states, soft
        )
    return made if fixed is None else frozen_at(made, fixed)
