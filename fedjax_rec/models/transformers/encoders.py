"""Text encoders of Hugging Face folders, and decoders that read texts as encoders do.

What is read is computed or the folder is refused: each key of config.json (see `settings`), and
each tensor but those of heads, which take no part in what comes out of the last layer.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from ... import weights
from .bert import Bert
from .families import berts, modernbert, t5
from .families.architecture import Architecture
from .pretrained import FAMILIES, load_decoder
from .reader import Reader
from .reading import of_decoder, reader
from .settings import Settings, family

# By the `model_type` of a config.json, beside those of decoders.
ENCODERS: dict[str, Callable[[Settings, Path], Bert | Reader]] = {
    "bert": partial(berts.encoder, family=berts.as_bert),
    "roberta": partial(berts.encoder, family=berts.as_roberta),
    "xlm-roberta": partial(berts.encoder, family=berts.as_roberta),
    "distilbert": partial(berts.encoder, family=berts.as_distilbert),
    "mpnet": partial(berts.encoder, family=berts.as_mpnet),
    "electra": partial(berts.encoder, family=berts.as_electra),
    "modernbert": modernbert.encoder,
    "t5": t5.encoder,
    "mt5": t5.encoder,
}


def load_encoder(source: str | Path) -> Bert | Reader:
    """The encoder of a known name or a local folder, in float32. Nothing is downloaded.

    Args:
        source: `minilm`, or any local Hugging Face folder of BERT, RoBERTa, XLM-R, DistilBERT,
            MPNet, ELECTRA, ModernBERT, T5 or mT5, with config.json and safetensors; or a decoder,
            as in `load_decoder`, which then reads: without its head, as Qwen3-Embedding and
            EmbeddingGemma are.

    Raises:
        FileNotFoundError: for what is not there.
        ValueError: for another kind of model, and for a key of its configuration or a tensor that
            is not computed here.

    Example:
        >>> encoder = models.load_encoder(bert_folder)
    """
    place = weights.find(source)
    if weights.gguf_file(place) is not None:
        return of_decoder(load_decoder(source))
    said = Settings(weights.config(place), f"{place / 'config.json'}")
    for name in ("pruned_heads", "quantization_config"):
        if said.take(name, None):
            said.refuse(name, "use a whole model, in floats")
    kinds = {kind: partial(decoding, made) for kind, made in FAMILIES.items()} | ENCODERS
    return family(said, {kind: lambda x, made=made: made(x, place) for kind, made in kinds.items()})


def decoding(
    architecture: Callable[[Settings], Architecture], said: Settings, place: Path
) -> Reader:
    """The decoder of `place` as an encoder."""
    made = architecture(said)
    said.done()
    return reader(made, place)


def bert(folder: str | Path) -> Bert | Reader:
    """`load_encoder`, by the name from when BERT was the only family.

    Args:
        folder: as `source` of `load_encoder`.

    Raises:
        FileNotFoundError: as `load_encoder`.
        ValueError: as `load_encoder`.

    Example:
        >>> encoder = models.bert(bert_folder)
    """
    return load_encoder(folder)
