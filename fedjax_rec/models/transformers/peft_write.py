"""Adapters of a model, or of what a run has learned, as a folder of PEFT.

    layers.query of a stack  ->  base_model.model.model.layers.3.self_attn.q_proj.lora_A.weight,
                                 ....lora_B.weight, and alpha = s r, of layer 3

Layers of ranks of their own have them by `rank_pattern` and `alpha_pattern`. `peft_modules` says
what is written of each.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from safetensors.numpy import save_file

from ... import weights
from ...storage import whole
from ...types import PyTree
from .decoder import KERNELS
from .encoders import ENCODERS, load_encoder
from .peft_modules import both, found, placed
from .peft_names import DECODER, PREFIX, Names, of_module
from .peft_read import A, B, M, Pair
from .pretrained import load_decoder
from .sentences import MODULES


def export_peft(
    adapted: nnx.Module | PyTree,
    folder: str | Path,
    source: str | Path,
    base: str | None = None,
    rslora: bool = False,
    own: PyTree = (),
) -> list[Path]:
    """Writes the adapters of a model to a folder that PEFT reads.

    Args:
        adapted: a decoder or an encoder with adapters, or the `shared` of a model that has one.
        folder: is made where it is missing.
        source: the base, a name or folder as in `load_decoder` or `load_encoder`, by which modules
            are named. A model of the last layers alone has adapters of the last ones of it.
        base: `base_model_name_or_path`, what PEFT loads as the base; default `source`.
        rslora: say s = alpha / sqrt(r), and not alpha / r; s is the same.
        own: what one client keeps, where that holds adapters.

    Returns:
        The files that were written.

    Raises:
        FileNotFoundError: where the base is not there.
        ValueError: where nothing is adapted, for adapters beside other weights than the base's, as
            rules that merge into it leave them, and for DoRA at some of the layers that the base
            holds in one module.

    Example:
        >>> adapted = models.lora(models.freeze(nnx.clone(decoder)), nnx.Rngs(1), rank=2)
        >>> files = models.export_peft(adapted, empty_folder, decoder_folder)
    """
    names, linear = of_source(source)
    adapted = adapted if isinstance(adapted, nnx.Module) else both(adapted, own)
    modules = placed(names, linear, found(adapted), str(source))
    if not modules:
        raise ValueError("export_peft(adapted) has no component that is not zero; train it first.")
    said = config(modules, names, str(base or source), rslora)
    place = Path(folder).expanduser()
    written = [place / weights.ADAPTER_CONFIG, place / weights.ADAPTER]
    with whole(written[0]) as beside:
        beside.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    with whole(written[1]) as beside:
        save_file(tensors(modules), beside, {"format": "pt"})
    return written


def of_source(source: str | Path) -> tuple[Names, dict[str, jax.Array]]:
    """(names, the kernels of our linear layers) of a base. Raises ValueError as `load_decoder`."""
    place = weights.find(source)
    path = weights.gguf_file(place)
    kind = None if path is not None else weights.config(place).get("model_type")
    if kind in ENCODERS or (place / MODULES).is_file():  # what reads is named as it is without head
        encoder = load_encoder(place)
        names = of_module("export_peft", encoder)
        held = {part for parts in names.parts.values() for part in parts}
        return names, {part: getattr(encoder.layers, part).kernel[...] for part in held}
    decoder = load_decoder(source)
    kernels = {part: getattr(decoder.layers, part).kernel[...] for part in KERNELS}
    if decoder.head is not None:
        kernels["head"] = decoder.head.kernel[...]
    return of_module("export_peft", decoder), kernels


def config(modules: Mapping[str, Pair], names: Names, base: str, rslora: bool) -> dict[str, Any]:
    """`adapter_config.json`."""
    ranks = {name: pair.a.shape[1] for name, pair in modules.items()}
    power = 0.5 if rslora else 1.0
    alphas = {name: plain(pair.scale * ranks[name] ** power) for name, pair in modules.items()}
    rank, alpha = (Counter(x.values()).most_common(1)[0][0] for x in (ranks, alphas))
    return {
        "peft_type": "LORA", "task_type": "CAUSAL_LM" if names.layer.startswith(DECODER) else None,
        "base_model_name_or_path": base, "r": rank, "lora_alpha": alpha,
        "rank_pattern": {name: x for name, x in ranks.items() if x != rank},
        "alpha_pattern": {name: x for name, x in alphas.items() if x != alpha},
        "target_modules": targets(modules, names), "bias": "none", "lora_dropout": 0.0,
        "fan_in_fan_out": False, "init_lora_weights": True, "inference_mode": True,
        "modules_to_save": None, "use_rslora": rslora,
        "use_dora": any(pair.m is not None for pair in modules.values()),
    }  # fmt: skip


def plain(x: float) -> float | int:
    """`x` to the six digits that a scale in float32 has."""
    x = float(f"{x:.6g}")
    return int(x) if x.is_integer() else x


def targets(modules: Mapping[str, Pair], names: Names) -> list[str]:
    """The ends of names that PEFT finds these modules and no other by; else the full names."""
    ends = {name.rsplit(".", 1)[-1] for name in modules}
    every = (*names.places(), *names.others)
    meant = {x for x in every if any(x == end or x.endswith(f".{end}") for end in ends)}
    return sorted(ends if meant == modules.keys() else modules)


def tensors(modules: Mapping[str, Pair]) -> dict[str, np.ndarray]:
    out = {}
    for name, pair in modules.items():
        out[f"{PREFIX}{name}{A}"] = np.ascontiguousarray(pair.a.T)
        out[f"{PREFIX}{name}{B}"] = np.ascontiguousarray(pair.b.T)
        if pair.m is not None:
            out[f"{PREFIX}{name}{M}"] = np.ascontiguousarray(pair.m)
    return out
