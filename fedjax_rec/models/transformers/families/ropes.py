"""Rotary angles as a config.json says them, in both spellings.

    "rope_theta": 5e5, "rope_scaling": {"rope_type": "llama3", ...}     or "type" in place of it
    "rope_parameters": {"rope_theta": 5e5, "rope_type": "llama3", ...}  since transformers 5

What depends on how long a text is holds up to the length where it begins to (`Rope.most`): angles
`dynamic` are plain ones up to `max_position_embeddings`, those of `longrope` have their short
factors up to `original_max_position_embeddings`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ..rope import Each, Linear, Llama3, Rope, Yarn
from ..settings import Settings
from .architecture import FULL, SLIDING

TYPES = ("default", "linear", "dynamic", "llama3", "yarn", "longrope")


def rope(
    said: Settings,
    width: int,
    theta: float = 10_000.0,
    types: tuple[str, ...] = TYPES,
    original: int | None = None,
) -> Rope:
    """The rotary angles of heads of `width`.

    theta, original: where the file has no `rope_theta` and `original_max_position_embeddings`.
    types: which kinds of scaling the family knows.
    """
    found = said.take("rope_scaling", None) or {}
    parameters = said.take("rope_parameters", None) or {}
    if found and parameters:
        said.refuse("rope_scaling", "keep it or rope_parameters, not both")
    theta = said.number("rope_theta", theta)
    longest = said.number("max_position_embeddings", None)
    original = said.number("original_max_position_embeddings", original)
    lengths = {"longest": longest, "original": original}
    found = {"partial_rotary_factor": said.number("partial_rotary_factor", 1.0)} | (
        found or parameters
    )
    return scaled(found, f"{said.where} rope", width, theta, lengths, types)


def of_kinds(said: Settings, width: int, whole: float, near: float) -> tuple[Rope, Rope]:
    """The angles of layers that see everything, and of those that see a window, by one dict of
    `rope_parameters` each.

    whole, near: theta, where a dict has none.
    """
    if said.take("rope_scaling", None):
        said.refuse("rope_scaling", "keep it or rope_parameters, not both")
    parameters = said.take("rope_parameters", None) or {}
    theta = {FULL: whole, SLIDING: near}
    if set(parameters) - theta.keys():
        said.refuse("rope_parameters", f"use a model with {FULL} and {SLIDING} alone")
    lengths = {"longest": said.number("max_position_embeddings", None), "original": None}
    one, other = (
        scaled(parameters.get(kind) or {}, f"{said.where} {kind}", width, theta[kind], lengths)
        for kind in (FULL, SLIDING)
    )
    return one, other


def scaled(
    found: Mapping[str, Any],
    where: str,
    width: int,
    theta: float,
    lengths: Mapping[str, int | None],
    types: tuple[str, ...] = TYPES,
) -> Rope:
    """The angles of one dict of `rope_parameters`.

    theta: where it does not say. lengths: `longest`, `max_position_embeddings` of the model, and
    `original`, of the training before it was stretched, which counts above what the dict says.
    """
    said = Settings(found, where)
    old = said.take("type", "default")
    kind = said.take("rope_type", old)
    kind = "longrope" if kind == "su" else kind
    if kind not in types:
        name = "rope_type" if "rope_type" in found else "type"
        said.refuse(name, f"use a model with one of {', '.join(types)}")
    theta = float(said.number("rope_theta", theta))
    width = int(width * said.number("partial_rotary_factor", 1.0))
    if width % 2 or width < 2:
        raise ValueError(
            f"{where} turns {width} numbers of a head, which are no pairs; correct it."
        )
    plain = Rope(theta, width)
    if kind == "default":
        # A file written anew without scaling may keep what it was scaled by.
        said.done(("factor", "original_max_position_embeddings"))
        return plain
    if kind == "dynamic":
        said.take("factor")
        said.done(("original_max_position_embeddings",))
        if lengths["longest"] is None:
            raise ValueError(f"{where} is dynamic without max_position_embeddings; add it.")
        return replace(plain, most=lengths["longest"])
    if kind == "linear":
        made = replace(plain, scaling=Linear(float(said.number("factor"))))
        said.done(("original_max_position_embeddings",))
        return made
    written = said.number("original_max_position_embeddings", lengths["longest"])
    original = lengths["original"] or written
    if original is None:
        raise ValueError(f"{where} is {kind} without original_max_position_embeddings; add it.")
    if kind == "llama3":
        low, high = said.number("low_freq_factor"), said.number("high_freq_factor")
        made = replace(plain, scaling=Llama3(float(said.number("factor")), low, high, original))
    elif kind == "yarn":
        made = yarn(said, plain, original)
    else:
        made = longrope(said, plain, original, lengths["longest"])
    said.done()
    return made


def yarn(said: Settings, plain: Rope, original: int) -> Rope:
    factor = float(said.number("factor"))
    mscale, over = said.number("mscale", 0), said.number("mscale_all_dim", 0)
    louder = lambda m: 1.0 if factor <= 1 else 0.1 * m * math.log(factor) + 1.0
    size = louder(mscale) / louder(over) if mscale and over else louder(1)
    scaling = Yarn(
        factor,
        original,
        fast=said.number("beta_fast", 0) or 32,
        slow=said.number("beta_slow", 0) or 1,
        whole=bool(said.take("truncate", True)),
    )
    return replace(plain, scaling=scaling, size=float(said.number("attention_factor", size)))


def longrope(said: Settings, plain: Rope, original: int, longest: int | None) -> Rope:
    said.take("long_factor", ())  # of texts longer than `original`, which are refused
    factors = tuple(said.take("short_factor"))
    if len(factors) != plain.width // 2:
        said.refuse("short_factor", f"give {plain.width // 2} factors, one a pair")
    factor = said.number("factor", (longest or original) / original)
    size = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(original))
    size = float(said.number("attention_factor", size))
    return replace(plain, scaling=Each(factors), size=size, most=original)
