"""Hugging Face folders of a tiny random ModernBERT and T5, with the tokenizer of `tiny_bert`."""

import functools
import shutil
import tempfile
from pathlib import Path

import tiny_bert

PLACE = Path(__file__).parents[1] / "models" / "encoders"


@functools.cache
def folder(name: str) -> str:
    """The checkpoint `name` of make_encoders.py as one that reads texts, one for the whole run."""
    place = Path(tempfile.mkdtemp(prefix=f"tiny-{name}-"))
    for file in ("config.json", "model.safetensors"):
        shutil.copy(PLACE / name / file, place)
    shutil.copy(Path(tiny_bert.folder()) / "tokenizer.json", place)
    return str(place)
