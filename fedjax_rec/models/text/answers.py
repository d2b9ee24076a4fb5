"""Recommendation by a language model that is asked: would the user like this, yes or no?

    z = logit(" Yes" | prompt) - logit(" No" | prompt),   loss = log(1 + e^-z) for yes, ... for no

(TALLRec, Bao et al., RecSys 2023: the base frozen, LoRA at query and value; there the loss runs
over the whole vocabulary, here over the two answers that are compared). Adapters in the last layers
alone train on states of the prompts that are computed once, see `prompt_states`. What all prompts
begin with is read once a step, not once a prompt; several prompts may share a sequence, see
`transformers.packed`.

`B` prompts, `T` most tokens of one, `P` of what all begin with, `D` width; where they are packed,
`B` sequences of `S` tokens and at most `K` prompts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ... import weights
from ...check import at_least, one_of
from ...types import Model
from ..objectives import Objective, bce
from ..roles import Frozen, from_nnx
from ..transformers.decoder import Decoder
from ..transformers.generate import check_tokens
from ..transformers.layers import Linear
from ..transformers.lora import LoRA, freeze, lora
from ..transformers.packed import Packing, ends, read
from ..transformers.peft_read import import_peft
from ..transformers.pretrained import load_decoder
from .prompt_states import Dtype, beginning, divided
from .prompt_states import states as prompt_states
from .soft_tokens import Projection, SoftTokens, refuse_other, typical

SOME = 256  # prompts that tell how large a typical state is


class YesNo(nnx.Module):
    """decoder: with adapters; answers: int[2], the tokens of yes and no.

    states: float[n, T - P, D], what goes into the layers, by `batch["prompt"]` int32[B]; None where
    it is the embedded `batch["tokens"]` int32[B, T]. `batch["length"]` int32[B] counts real tokens.
    counts: features `batch["dense"]` float32[B, counts] of which a line is added, from zero; 0 for
    none. prefix: what all prompts begin with, tokens int[P], or float[P, D] where there are states;
    None for nothing.

    soft: what stands in each prompt besides text, by `batch["soft"]`, see `soft_tokens`; None for
    nothing.

    A batch with `texts` is packed (`data.packed_prompts`): fields of prompts are [B, K, ...], those
    of tokens [B, S], without the prefix.
    """

    def __init__(
        self, decoder: Decoder, answers, states=None, objective: Objective | None = None, counts=0,
        prefix=None, soft: Projection | None = None,
    ):  # fmt: skip
        self.decoder, self.answers = decoder, tuple(answers)
        self.states = None if states is None else Frozen(states)
        self.objective = objective or bce()
        self.line = Linear(jnp.zeros((counts, 1)), jnp.zeros(1)) if counts else None
        self.prefix = None if prefix is None else Frozen(jnp.asarray(prefix))
        self.soft = soft

    def loss(self, batch, key):
        z = self.predict(batch)
        if "texts" in batch:
            batch = {**batch, "mask": batch["mask"][:, None] * batch["real"]}
        return self.objective(z, batch)

    def predict(self, batch):
        """float32[B], of packed prompts [B, K]: the logit of yes over no."""
        packed, decoder = "texts" in batch, self.decoder
        if packed and (self.prefix is None) == ("prefix" in batch):
            have, does = ("no", "reads one") if "prefix" not in batch else ("a", "reads none")
            raise ValueError(
                f"prompts were packed with {have} prefix left out, and the model {does}; give the "
                "fields of data.with_prefix to both."
            )
        first = 0 if self.prefix is None else self.prefix.shape[0]
        x, at = self.inputs(batch, first), batch["ends"] if packed else batch["length"][:, None] - 1
        packing = reading = None
        if packed:
            packing = Packing(batch["places"] - first, batch["texts"])
        if self.prefix is not None:
            begun = self.prefix[...]
            begun = decoder.embed(begun) if self.states is None else begun.astype(x.dtype)
            reading = read(decoder, begun)[1]
        if self.soft is not None:
            x, packing = self.soft.beside(batch, x, packing, first)
        x = ends(decoder, x, at if packed else at - first, packing, reading)
        yes, no = jnp.moveaxis(decoder.logits(x, jnp.array(self.answers)), -1, 0)
        z = yes - no if packed else (yes - no)[:, 0]
        return z if self.line is None else z + self.line(batch["dense"])[..., 0]

    def inputs(self, batch, first: int):
        """[B, T - P, D], or [B, S, D]: what goes into the layers."""
        packed = "texts" in batch
        if self.states is None:
            return self.decoder.embed(batch["tokens"] if packed else batch["tokens"][:, first:])
        prompt = batch["prompt"]
        if packed:
            of_token = jnp.take_along_axis(prompt, jnp.maximum(batch["texts"], 0), 1)
            x = self.states[...][of_token, jnp.maximum(batch["places"] - first, 0)]
        else:
            x = self.states[...][prompt]
        return x.astype(self.decoder.tokens.dtype)


def yes_no(
    decoder: Decoder,
    answers: tuple[int, int],
    targets: str = "*query|*value",
    rank: int = 8,
    alpha: float = 16.0,
    prefix: Sequence[int] | None = None,
    soft: SoftTokens | None = None,
) -> Model:
    """`decoder` frozen, with LoRA at `targets` of all its layers, on prompts of tokens.

    Args:
        decoder: what is asked; it stays as it is. Adapters that it has, as `import_peft` puts them,
            are what is trained, and targets, rank and alpha say nothing.
        answers: the tokens of yes and of no.
        targets: as in `lora`.
        rank: as in `lora`.
        alpha: as in `lora`.
        prefix: tokens that all prompts begin with, and more follow in each: a client reads them
            once a step, with its adapters, and its prompts go on from there. None for none.
        soft: vectors that are mapped to tokens and go into the first layer among those of the text,
            where the field `soft` of a prompt says (`data.prompt_template`). None for none.

    Raises:
        ValueError: for an empty prefix, for tokens that the decoder does not know, as `lora`, and
            when it learns, for prompts without a place for the vectors that there are.

    Example:
        >>> model = models.yes_no(decoder, answers=(1, 2), rank=2)
        >>> strategy = strategies.fedavg(model, data.examples())
    """
    if prefix is not None:
        at_least("yes_no", "len(prefix)", len(prefix), 1)
        check_tokens("yes_no", "prefix", [prefix], decoder)
    tokens = None if prefix is None else jnp.asarray(prefix, jnp.int32)
    scale = 1.0 if soft is None else typical(decoder.tokens[...]) * decoder.size.embedding

    def build(rngs):
        made = adapted(decoder, rngs, targets, rank, alpha)
        mapped = None if soft is None else Projection(soft, made.size.width, scale, rngs)
        return YesNo(made, answers, prefix=tokens, soft=mapped)

    return from_nnx(build)


def yes_no_above(
    decoder: Decoder,
    answers: tuple[int, int],
    fields: Mapping[str, np.ndarray],
    layers: int = 4,
    targets: str = "*query|*value",
    rank: int = 8,
    alpha: float = 16.0,
    keep: Path | None = None,
    counts: int = 0,
    states: Dtype = "float16",
    soft: SoftTokens | None = None,
) -> Model:
    """`yes_no` with LoRA in the last `layers` alone, for the prompts of `fields`.

    Of the rest of the decoder nothing but the two answers is kept.
    Arguments that are not named here are those of `yes_no`.

    Args:
        fields: `tokens` int32[n, T], `length` int32[n] and `prompt`, 0 to n - 1. Where there is a
            `prefix` int32[n] (`data.with_prefix`), so many tokens are the same in all: their states
            are held once, and a client reads them once a step.
        layers: the last ones, that are adapted; fewer than there are.
        keep: a folder for the states of prompts, which another run on some of the same prompts then
            reads; None for none.
        counts: P, features of a prompt, `dense` float32[B, P] of its batch, of which a line is
            added to the logit and learned beside the adapters; 0 for none.
        states: of what goes into the adapted layers, n (T - P) D numbers. "float32" gives what the
            whole decoder gives; "float16" takes half, for 1e-3 of the states.
        soft: as in `yes_no`, but into the first of the last `layers`: those below read the text
            alone, so that its states are those of any vectors.

    Raises:
        ValueError: for counts < 0, for prompts without a place for the vectors that there are, or
            about whom there is none, for prompts that do not begin alike where they are said to,
            for tokens that the decoder does not know, unless some layers are adapted and some are
            not, and as `lora`.

    Example:
        >>> model = models.yes_no_above(decoder, (1, 2), prompts, layers=1, rank=2)
    """
    at_least("yes_no_above", "counts", counts, 0)
    for name, texts in (("answers", [answers]), ("fields", fields["tokens"])):
        check_tokens("yes_no_above", name, texts, decoder)
    one_of("yes_no_above", "states", states, get_args(Dtype))
    if soft is not None:
        refuse_other("yes_no_above", soft, fields)
    first = prefix_of(fields)
    below, above = divided(decoder, layers)
    texts, length = fields["tokens"], fields["length"]
    made = jnp.asarray(prompt_states(below, texts, length, keep, None, states, first))
    prefix = beginning(below, texts[0, :first], states) if first else None
    two = jnp.array(answers)
    tokens = decoder.tokens[...]
    two = tokens[two] if decoder.head is None else decoder.head.whole(two).T.astype(tokens.dtype)
    small = Decoder(above.size, two, above.layers, above.norm)
    scale = 1.0 if soft is None else typical(made[:SOME])

    def build(rngs):
        inside = adapted(small, rngs, targets, rank, alpha)
        mapped = None if soft is None else Projection(soft, small.size.width, scale, rngs)
        return YesNo(inside, (0, 1), made, counts=counts, prefix=prefix, soft=mapped)

    return from_nnx(build)


def prefix_of(fields: Mapping[str, np.ndarray]) -> int:
    """P, of prompts with a field `prefix`; else 0. Raises ValueError where prompts differ there."""
    if "prefix" not in fields:
        return 0
    first = int(fields["prefix"][0])
    most = weights.common_start(fields["tokens"], fields["length"])
    if (fields["prefix"] != first).any() or not 1 <= first <= most:
        raise ValueError(
            f"yes_no_above(fields): prefix says {first}, and {most} tokens are the first of all "
            "prompts, with more behind; use data.with_prefix."
        )
    return first


def tallrec(
    fields: Mapping[str, np.ndarray],
    source: str = "smollm2",
    layers: int = 4,
    targets: str = "*query|*value",
    rank: int = 8,
    alpha: float = 16.0,
    answers: tuple[str, str] = (" Yes", " No"),
    dtype: str = "float32",
    keep: str | None = None,
    counts: int = 0,
    adapter: str | None = None,
    states: Dtype = "float16",
    soft: SoftTokens | None = None,
) -> Model:
    """`yes_no_above` of known weights or a local folder, for the `fields` of the run's examples.

    Arguments that are not named here are those of `yes_no_above`.

    Args:
        source: as in `load_decoder`.
        answers: a token each.
        dtype: as in `load_decoder`.
        adapter: a folder of PEFT, whose adapters go on in place of new ones, see `import_peft`; in
            the layers below they stay as they are.

    Raises:
        ValueError: for an answer of several tokens, a tokenizer of another model, and as
            `yes_no_above` and `import_peft`.

    Example:
        >>> model = models.tallrec(prompts, decoder_folder, layers=1, rank=2, answers=("7", "8"))
    """
    decoder, told = asked(source, answers, dtype, adapter)
    place = None if keep is None else Path(keep).expanduser()
    return yes_no_above(
        decoder, told, fields, layers, targets, rank, alpha, place, counts, states, soft
    )


def asked(
    source: str, answers: tuple[str, str], dtype: str, adapter: str | None
) -> tuple[Decoder, tuple[int, int]]:
    """(the decoder of known weights, the tokens of its answers), as in `tallrec`."""
    made = weights.tokenizer(weights.find(source))
    ids = [made.encode(answer, add_special_tokens=False).ids for answer in answers]
    for answer, some in zip(answers, ids, strict=True):
        if len(some) != 1:
            raise ValueError(f"tallrec(answers={answer!r}) has {len(some)} tokens; use one of one.")
    decoder, (yes, no) = begun(source, dtype, adapter), (one[0] for one in ids)
    weights.fitting(made, decoder.size.vocabulary, source)
    return decoder, (yes, no)


def begun(source: str, dtype: str, adapter: str | None) -> Decoder:
    """The decoder of known weights, with the adapters of a folder of PEFT if need be."""
    decoder = load_decoder(source, dtype)
    if adapter is None:
        return decoder
    return import_peft(freeze(decoder), adapter, nnx.Rngs(0))  # pyright: ignore


def adapted(decoder: Decoder, rngs, targets: str, rank: int, alpha: float) -> Decoder:
    """`decoder` with its arrays frozen, and LoRA at `targets`, or the adapters that it has, as
    `models.import_peft` puts them; the argument stays as it is."""
    made = nnx.merge(*nnx.split(decoder))
    there = [part for _, part in nnx.iter_modules(made) if isinstance(part, LoRA)]
    if not there:
        return lora(freeze(made), rngs, targets, rank, alpha)  # pyright: ignore
    trained = [
        (part, name, value)
        for part in there
        for name, value in vars(part).items()
        if name.startswith("lora_")
    ]
    freeze(made)
    for part, name, value in trained:
        setattr(part, name, value)
    return made
