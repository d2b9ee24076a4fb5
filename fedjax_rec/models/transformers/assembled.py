"""A `Decoder` of named tensors, of which none is missing and none is passed over."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from ... import factors, pieces
from .decoder import KERNELS, NORMS, Block, Decoder
from .families.architecture import Architecture
from .layers import Linear

FLOATS = ("float32", "bfloat16", "float16", "float64")
# What is in files of old and takes no part: the rates of rotary angles, which config.json says too.
HARMLESS = ("rotary_emb.inv_freq",)
# Ends of the names of what a library of quantised weights stores beside them.
QUANTISED = (".SCB", ".weight_format", ".absmax", ".quant_map", ".qweight", ".qzeros", ".scales")


def assembled(
    made: Architecture, found: Iterable[tuple[str, np.ndarray]], where: str, dtype
) -> Decoder:
    """The decoder of the tensors `found`, kernels as [out, in].

    Raises ValueError for a tensor that is missing, of another shape than the sizes say or of
    integers, and for one that nothing here takes.
    """
    full, place = empty(made, dtype), places(made)
    spare = f"{made.ends['head']}.weight" if made.tied else ""
    again = None
    for name, x in apart(made, found):
        if name.endswith(HARMLESS):
            continue
        if name.endswith(QUANTISED) or x.dtype.name not in FLOATS:
            raise ValueError(
                f"{where}: {name} is {x.dtype}, of quantised weights, which are not read; give "
                "floats, and quantise them by models.quantised."
            )
        if name == spare:
            again = x
            continue
        if name not in place:
            raise ValueError(
                f"{where}: {name} is a part that this model, by its config.json, does not have; "
                "use a checkpoint whose config.json says it."
            )
        ours, i = place.pop(name)
        target = full[ours] if i is None else full[ours][i]
        x = x.T if ours in KERNELS or ours == "head" else x
        if x.shape != target.shape:
            raise ValueError(
                f"{where}: {name} has shape {x.shape[::-1]}, and the sizes given there ask for "
                f"{target.shape[::-1]}; fetch it again."
            )
        target[...] = x
    if place:
        raise ValueError(f"{where} lacks {', '.join(sorted(place)[:3])}; fetch it again.")
    if again is not None and not np.array_equal(again.astype(dtype), full["tokens"]):
        raise ValueError(
            f"{where}: {spare} is not the table of tokens, which config.json says it is; set "
            "tie_word_embeddings to false there."
        )
    return put_together(made, {ours: _on_device(ours, x) for ours, x in full.items()})


def _on_device(name: str, x: np.ndarray):
    """A kernel may lie in pieces; the table of tokens too."""
    linear = name in KERNELS or name == "head"
    return pieces.loaded((name, factors.KERNEL) if linear else (name,), x)


def put_together(made: Architecture, x) -> Decoder:
    """The decoder of arrays by our names."""
    size, eps = made.size, made.eps
    biases = {name: x.get(f"{name}.bias") for name in KERNELS}
    kernels = {name: Linear(x[name], biases[name]) for name in KERNELS}
    norms = {name: made.norm(x[name], eps) for name in made.norms}
    block = Block(size, kernels, norms, made.kinds())
    head = None if made.tied else Linear(x["head"])
    decoder = Decoder(size, x["tokens"], block, made.norm(x["norm"], eps), head)
    decoder.fused = tuple(made.fused.items())
    return decoder


def empty(made: Architecture, dtype) -> dict[str, np.ndarray]:
    """Arrays by our names; kernels are [L, in, out]."""
    size, lead = made.size, (made.size.layers,)
    of = lambda *names: tuple(getattr(size, name) for name in names)
    shapes = {name: (*lead, *of(*ends)) for name, ends in KERNELS.items()}
    shapes |= {f"{name}.bias": (*lead, *of(KERNELS[name][1])) for name in made.biases}
    shapes |= {name: (*lead, *of(NORMS[name])) for name in made.norms}
    shapes |= {"tokens": of("vocabulary", "width"), "norm": of("width")}
    shapes |= {} if made.tied else {"head": of("width", "vocabulary")}
    return {name: np.empty(shape, dtype) for name, shape in shapes.items()}


def places(made: Architecture) -> dict[str, tuple[str, int | None]]:
    """{name in the file: (our name, layer)} of every tensor."""
    ends = {n: theirs for n, theirs in made.ends.items() if n != "head" or not made.tied}
    place: dict[str, tuple[str, int | None]] = {
        f"{theirs}.weight": (ours, None) for ours, theirs in ends.items()
    }
    for i in range(made.size.layers):
        for ours, theirs in {**made.kernels, **made.norms}.items():
            place[f"{made.layer.format(i, theirs)}.weight"] = ours, i
        for ours in made.biases:
            place[f"{made.layer.format(i, made.kernels[ours])}.bias"] = f"{ours}.bias", i
    return place


def apart(
    made: Architecture, found: Iterable[tuple[str, np.ndarray]]
) -> Iterator[tuple[str, np.ndarray]]:
    """`found`, with tensors that are several of ours, one after another, cut into them."""
    for name, x in found:
        inside = next((n for n in made.fused if name.endswith(f".{n}.weight")), None)
        if inside is None:
            yield name, x
            continue
        ours = made.fused[inside]
        widths = [getattr(made.size, KERNELS[one][1]) for one in ours]
        if x.ndim != 2 or len(x) != sum(widths):
            widths = [len(x)]  # of the first one, whose shape is then refused
        for one, part in zip(ours, np.split(x, np.cumsum(widths)[:-1]), strict=False):
            yield name.replace(inside, made.kernels[one]), part
