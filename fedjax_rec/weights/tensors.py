"""Reading a Hugging Face folder: `config.json`, and `model.safetensors` whole or in shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

WHOLE, SHARDS = "model.safetensors", "model.safetensors.index.json"


def config(folder: Path) -> dict[str, Any]:
    """`config.json`.

    Raises:
        FileNotFoundError: where the folder has none.
        ValueError: where it cannot be read.
    """
    return _json(folder / "config.json")


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """{name: array} in the stored dtypes; bfloat16 as `ml_dtypes.bfloat16`, which jax takes.

    Raises:
        FileNotFoundError: where the folder has no safetensors.
        ValueError: where they are broken.
    """
    if (folder / WHOLE).is_file():
        files = [WHOLE]
    elif (folder / SHARDS).is_file():
        listed = _json(folder / SHARDS).get("weight_map")
        if not isinstance(listed, dict):
            raise ValueError(f"{folder / SHARDS} has no weight_map; fetch it again.")
        files = sorted(set(listed.values()))
    else:
        raise FileNotFoundError(
            f"{folder} has no {WHOLE}; give a Hugging Face folder with weights in safetensors."
        )
    out = {}
    for file in files:
        try:
            with safe_open(folder / file, "numpy") as opened:
                for name in opened.keys():  # noqa: SIM118, it is no mapping
                    out[name] = opened.get_tensor(name)
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{folder / file} cannot be read as safetensors ({error}); fetch it again."
            ) from error
    return out


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path.parent} has no {path.name}; give a Hugging Face folder."
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON ({error}); fetch it again.") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} is no object of JSON; fetch it again.")
    return found
