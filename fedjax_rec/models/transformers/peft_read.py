"""Adapters of PEFT, put beside the linear layers of a decoder or an encoder.

A folder of PEFT (Mangrulkar et al. 2022) has A [r, in] and B [out, r] for some linear layers, and
for DoRA m [out]; its `adapter_config.json` says r and alpha, of all or of some by a pattern:

    y = x W^T + s B A x,   s = alpha / r, or alpha / sqrt(r) (rsLoRA, Kalajdzievski 2023)

Ranks that differ from layer to layer become one stack: components beyond the rank of a layer are
zero, have no gradient and stay zero. So do adapters of layers that the folder has none of.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ... import weights
from .layers import Linear
from .lora import DoRA, LoRA
from .peft_names import PREFIX, Names, Place, of_module
from .products import weight
from .settings import Settings

# Keys that say how an adapter came about, or where it lies, which its tensors say too.
HARMLESS = frozenset([
    "auto_mapping", "base_model_name_or_path", "eva_config", "exclude_modules", "inference_mode",
    "layers_pattern", "layers_to_transform", "megatron_core", "peft_version", "qalora_group_size",
    "revision", "target_modules", "task_type",
])  # fmt: skip
# Ways to begin that leave the base as it is; others (PiSSA, OLoRA, LoftQ, CorDA) put the rest of a
# kernel in its place, beside which alone the adapter is right.
BEGUN = (True, False, "gaussian", "eva", "orthogonal")
A, B, M = ".lora_A.weight", ".lora_B.weight", ".lora_magnitude_vector"
BASE = ".base_layer.weight"


def import_peft(
    module: nnx.Module,
    folder: str | Path,
    rngs: nnx.Rngs | None = None,
    a: type[nnx.Variable] = nnx.Param,
    b: type[nnx.Variable] = nnx.Param,
) -> nnx.Module:
    """Puts the adapters of a PEFT folder beside the linear layers of `module`.

    LoRA, rsLoRA and DoRA, with ranks and alphas by pattern, of any of the linear layers. Modules
    that hold several of ours (`qkv_proj` of Phi-3) become one adapter each, with the same A.

    Args:
        module: a decoder or an encoder, the base that the adapters were trained on; it is changed
            in place; freeze it first, see `freeze`.
        folder: with `adapter_config.json` and `adapter_model.safetensors`.
        rngs: of dropout, where the folder says that there is one.
        a: what A is, as in `lora`.
        b: what B is, as in `lora`.

    Returns:
        `module`.

    Raises:
        FileNotFoundError: where a file is not there.
        ValueError: for an adapter of another base, by the names of its modules or their shapes, for
            a key of the configuration or a tensor that is not honoured, and for a module that has
            adapters already.

    Example:
        >>> adapted = models.lora(models.freeze(nnx.clone(decoder)), nnx.Rngs(1), rank=2)
        >>> written = models.export_peft(adapted, empty_folder, decoder_folder)
        >>> base = models.freeze(models.load_decoder(decoder_folder))
        >>> again = models.import_peft(base, empty_folder)
    """
    place = Path(folder).expanduser()
    names = of_module("import_peft", module)
    if any(isinstance(part, LoRA) for _, part in nnx.iter_modules(module)):
        raise ValueError("import_peft(module) has adapters already; give models.merged(module).")
    said, tensors = weights.adapter(place)
    settings = honoured(said, place)
    rate = settings.number("lora_dropout", 0.0)
    if rate and rngs is None:
        settings.refuse("lora_dropout", "give rngs=nnx.Rngs(0), or set it to 0 there")
    layer = DoRA if settings.only("use_dora", False, True) else LoRA
    scale = scales(settings)
    settings.done(HARMLESS)
    holder = lambda part: module if part == "head" else module.layers  # pyright: ignore
    linear = {part: getattr(holder(part), part) for parts in names.parts.values() for part in parts}
    if names.head is not None:
        linear["head"] = module.head  # pyright: ignore
    for part, inside in by_part(names, tensors, linear, place, scale).items():
        drop = nnx.Dropout(rate, rngs=rngs) if rate else None
        setattr(holder(part), part, stacked(linear[part], inside, layer, a, b, drop))
    return module


def honoured(said: Mapping[str, Any], place: Path) -> Settings:
    """The keys of an `adapter_config.json`. What is false or empty asks for nothing.

    Raises ValueError for those that are not honoured.
    """
    given = {name: x for name, x in said.items() if x not in (None, False, [], {})}
    settings = Settings(given, f"{place / weights.ADAPTER_CONFIG}")
    settings.only("peft_type", "LORA")
    settings.only("bias", "none")
    settings.only("init_lora_weights", *BEGUN)
    if "modules_to_save" in given:
        settings.refuse("modules_to_save", "save an adapter without trained modules beside it")
    return settings


def scales(settings: Settings):
    """s(name of a module, its rank), by the patterns of alpha. Raises ValueError, as it is called,
    for another rank than the file says."""
    rank, alpha = settings.count("r"), settings.number("lora_alpha", 8)
    ranks, alphas = settings.take("rank_pattern", {}), settings.take("alpha_pattern", {})
    power = 0.5 if settings.only("use_rslora", False, True) else 1.0

    def scale(name: str, held: int) -> float:
        if fitting(ranks, name, rank) != held:
            raise ValueError(
                f"{settings.where} says rank {fitting(ranks, name, rank)} of {name}, whose tensors "
                f"have {held}; save the adapter again."
            )
        return fitting(alphas, name, alpha) / held**power

    return scale


def fitting(patterns: Mapping[str, Any], name: str, absent: Any) -> Any:
    """The value of the first pattern that the end of `name` fits, as PEFT finds it."""
    found = (x for key, x in patterns.items() if re.match(rf"(.*\.)?({key})$", name))
    return next(found, absent)


class Pair(NamedTuple):
    """a: [in, r]; b: [r, out]; m: [out], or None; scale: s."""

    a: np.ndarray
    b: np.ndarray
    m: np.ndarray | None
    scale: float


def by_part(
    names: Names,
    tensors: Mapping[str, np.ndarray],
    linear: Mapping[str, Linear],
    place: Path,
    scale: Callable[[str, int], float],
) -> dict[str, dict[int | None, Pair]]:
    """{our linear layer: {number of the layer: what it has beside it}}, modules that hold several
    of `linear` cut into them.

    Raises ValueError for a tensor that has no place there, or another shape than that.
    """
    known = names.places()
    found: dict[str, dict[str, np.ndarray]] = {}
    for name, x in tensors.items():
        end = next((end for end in (A, B, M, BASE) if name.endswith(end)), None)
        at = None if end is None else located(known, names, name.removesuffix(end))
        if end is None or at is None:
            raise ValueError(
                f"{place}: {name} has no place in this model; give it the base that the adapter "
                "was trained on."
            )
        found.setdefault(at, {})[end] = np.asarray(x, np.float32)
    out: dict[str, dict[int | None, Pair]] = {}
    for name, one in found.items():
        parts, number = known[name]
        if A not in one or B not in one:
            raise ValueError(f"{place}: {name} has one of A and B alone; save the adapter again.")
        inputs, widths = shape_of(linear, parts)
        rank = len(one[A])
        for end, shape in ((A, (rank, inputs)), (B, (sum(widths), rank)), (M, (sum(widths),))):
            if end in one and one[end].shape != shape:
                raise ValueError(
                    f"{place}: {name}{end} has shape {one[end].shape}, and the linear layer there "
                    f"asks for {shape}; give it the base that the adapter was trained on."
                )
        if BASE in one:
            same_base(linear, parts, number, one[BASE], f"{place}: {name}{BASE}")
        bs = np.split(one[B], np.cumsum(widths)[:-1])
        ms = np.split(one[M], np.cumsum(widths)[:-1]) if M in one else [None] * len(parts)
        for part, b, m in zip(parts, bs, ms, strict=True):
            out.setdefault(part, {})[number] = Pair(one[A].T, b.T, m, scale(name, rank))
    return out


def shape_of(linear: Mapping[str, Linear], parts: Sequence[str]) -> tuple[int, list[int]]:
    """(inputs, outputs of each part) of a module that holds `parts`."""
    shapes = [linear[part].kernel.shape for part in parts]
    return shapes[0][-2], [shape[-1] for shape in shapes]


def same_base(linear, parts, number: int | None, x: np.ndarray, where: str) -> None:
    """Raises ValueError where `x`, which PEFT saves of an adapted head, is not the base's."""
    kernel = weight(linear[parts[0]].kernel, jnp.float32)
    if not np.array_equal(kernel if number is None else kernel[number], x.T):
        raise ValueError(
            f"{where} is not that of this model; give it the base that the adapter was trained on."
        )


def stacked(old: Linear, inside: Mapping[int | None, Pair], layer: type[LoRA], a, b, drop) -> LoRA:
    """The layers of `inside` beside `old`, which is a stack, or one layer."""
    *lead, inputs, outputs = old.kernel.shape
    rank = max(pair.a.shape[1] for pair in inside.values())
    left, right = np.zeros((*lead, inputs, rank), np.float32), np.zeros((*lead, rank, outputs))
    scale = np.zeros(lead, np.float32)
    for i, pair in inside.items():
        here, held = () if i is None else i, pair.a.shape[1]
        left[here][:, :held], right[here][:held], scale[here] = pair.a, pair.b, pair.scale
    pairs = a(jnp.asarray(left)), b(jnp.asarray(right, jnp.float32))
    made = layer(old, *pairs, jnp.asarray(scale), drop)
    if isinstance(made, DoRA):
        m = np.array(made.lora_m[...])
        for i, pair in inside.items():
            m[() if i is None else i] = pair.m
        made.lora_m = nnx.Param(jnp.asarray(m))
    return made


def located(known: Mapping[str, Place], names: Names, name: str) -> str | None:
    """The full name of the module `name`, as a tensor spells it; None where there is none."""
    inside = name.removeprefix(PREFIX)
    spelt = (inside, names.prefix + inside, inside.removeprefix(names.prefix))
    return next((x for x in spelt if inside != name and x in known), None)
