"""An encoder of a base and adapters beside it, as a folder of PEFT has them.

    W + s B A  in place of W,   read by the base's tokenizer and pooled as the base's folder says

That is the second of two stages by which a decoder learns what its texts mean to users before they
are embedded: adapters trained on titles in the order of histories (`next_title`), then the
embeddings that a sequential model reads (LLM2Rec, He et al., KDD 2025, whose second stage also
trains the encoder by a contrastive loss, which is not done here).
"""

from __future__ import annotations

from pathlib import Path

from flax import nnx

from ... import weights
from .bert import Bert
from .encoders import load_encoder
from .lora import freeze, merged
from .peft_read import import_peft
from .pretrained import load_decoder
from .reader import Reader
from .reading import of_decoder

BASE = "base_model_name_or_path"


def encoder_of(source: str | Path) -> tuple[Bert | Reader, Path]:
    """(encoder, the folder of its tokenizer) of what `load_encoder` takes, or of a folder of PEFT,
    whose base is what it names: known weights or a local folder.

    Raises:
        FileNotFoundError: for what is not there.
        ValueError: as `load_encoder` and `import_peft`, and for adapters whose base is not known
            here.
    """
    place = weights.find(source)
    if not (place / weights.ADAPTER_CONFIG).is_file() or (place / "config.json").is_file():
        return load_encoder(place), place
    said, _ = weights.adapter(place)
    try:
        base = weights.find(str(said.get(BASE)))
    except ValueError as error:
        raise ValueError(
            f"{place / weights.ADAPTER_CONFIG} has {BASE}={said.get(BASE)!r}, which is neither "
            "known weights nor a folder here; write the path of the base there."
        ) from error
    if said.get("task_type") == "CAUSAL_LM":
        decoder = load_decoder(base)
        _put_in(decoder, place)
        return of_decoder(decoder), base
    encoder = load_encoder(base)
    _put_in(encoder, place)
    return encoder, base


def _put_in(module: nnx.Module, place: Path) -> None:
    """Changes the weights of `module` by the adapters of `place`."""
    merged(import_peft(freeze(module), place, nnx.Rngs(0)))
