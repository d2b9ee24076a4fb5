"""Reading a Hugging Face folder: `config.json`, and `model.safetensors` whole or in shards; and one
of PEFT, `adapter_config.json` and `adapter_model.safetensors`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

WHOLE, SHARDS = "model.safetensors", "model.safetensors.index.json"
EXPORTED = "weights.safetensors"  # what `fedjax-rec export` writes of a run
ITEMS = "items.json"  # beside it: whose rows those of item tables are
ADAPTER_CONFIG, ADAPTER = "adapter_config.json", "adapter_model.safetensors"


def config(folder: Path) -> dict[str, Any]:
    """`config.json`.

    Raises:
        FileNotFoundError: where the folder has none.
        ValueError: where it cannot be read.
    """
    return read_json(folder / "config.json")


def adapter(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """(`adapter_config.json`, {name: array}) of a folder of PEFT.

    Raises:
        FileNotFoundError: where it has no such file, or weights in another format.
        ValueError: where one cannot be read.
    """
    said = read_json(folder / ADAPTER_CONFIG)
    if not (folder / ADAPTER).is_file():
        raise FileNotFoundError(
            f"{folder} has no {ADAPTER}; save the adapter by PEFT's save_pretrained, which writes "
            "safetensors."
        )
    return said, opened(folder / ADAPTER)


def tensors(folder: Path) -> dict[str, np.ndarray]:
    """{name: array} in the stored dtypes; bfloat16 as `ml_dtypes.bfloat16`, which jax takes.

    Raises:
        FileNotFoundError: where the folder has no safetensors.
        ValueError: where they are broken.
    """
    if (folder / WHOLE).is_file():
        files = [WHOLE]
    elif (folder / SHARDS).is_file():
        listed = read_json(folder / SHARDS).get("weight_map")
        if not isinstance(listed, dict):
            raise ValueError(f"{folder / SHARDS} has no weight_map; fetch it again.")
        files = sorted(set(listed.values()))
    else:
        raise FileNotFoundError(
            f"{folder} has no {WHOLE}; give a Hugging Face folder with weights in safetensors."
        )
    out = {}
    for file in files:
        out |= opened(folder / file)
    return out


def opened(path: Path) -> dict[str, np.ndarray]:
    """{name: array} of the file `path` of safetensors.

    Raises:
        ValueError: where it is broken.
    """
    try:
        with safe_open(path, "numpy") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no mapping
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} cannot be read as safetensors ({error}); fetch it again."
        ) from error


def exported(where: str, place: str | Path, names: Sequence[str], remedy: str) -> list[np.ndarray]:
    """The arrays of these names of a folder that `fedjax-rec export` wrote, or of a file.

    Args:
        where: who asks, with its argument, as messages begin.
        place: a folder, or a file of safetensors.
        names: of the arrays.
        remedy: what to do where a name is not there.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where it is broken, or lacks a name.
    """
    place = Path(place).expanduser()
    file = place / EXPORTED if place.is_dir() else place
    if not file.is_file():
        raise FileNotFoundError(
            f"{where}: there is no {file}; write it by `fedjax-rec export RUN --out DIR`."
        )
    found = opened(file)
    for name in names:
        if name not in found:
            raise ValueError(f"{where} has no {name}, but {', '.join(sorted(found))}; {remedy}.")
    return [found[name] for name in names]


def exported_vectors(
    who: str, place: str | Path, names: tuple[str, str]
) -> tuple[np.ndarray, np.ndarray]:
    """(users [U, D], items [I, D]), float32, of a folder that `fedjax-rec export` wrote, or of a
    file, by their `names` in it.

    Of arrays [N, 1, D] or [1, U, D], as clients keep them, the axis of one is left out.

    Args:
        who: asks, by its argument `vectors`, as messages begin.
        place: a folder, or a file of safetensors.
        names: of the users' array and of the items'.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where it is broken, lacks a name, or has more than a vector each.
    """
    where, remedy = f"{who}(vectors={str(place)!r})", "say names=[of the users', of the items']"
    found = exported(where, place, names, remedy)
    users, items = (_flat(where, name, x) for name, x in zip(names, found, strict=True))
    return users, items


def _flat(where: str, name: str, x: np.ndarray) -> np.ndarray:
    x = np.asarray(x, np.float32)
    if x.ndim == 3 and 1 in x.shape[:2]:
        return x.reshape(-1, x.shape[-1])
    if x.ndim != 2:
        raise ValueError(
            f"{where}: {name} is {list(x.shape)}; give one vector each, [n, D], as of a "
            "run whose clients are one user each."
        )
    return x


def texts_of_items(where: str, folder: str | Path) -> list[str]:
    """The texts of the items of a run, in the order of their rows, as `fedjax-rec export` wrote
    them into its folder. where: who asks, with its argument, as messages begin.

    Raises:
        FileNotFoundError: where there is no such file.
        ValueError: where it is broken, or the run's data had no texts.
    """
    file = Path(folder).expanduser() / ITEMS
    if not file.is_file():
        raise FileNotFoundError(
            f"{where}: there is no {file}; write it by `fedjax-rec export RUN --out DIR`."
        )
    texts = read_json(file).get("texts")
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(
            f"{where}: {file} has no texts of items; use a run on data that describes them, such "
            "as ml-1m."
        )
    return texts


def read_json(path: Path, kind: type = dict) -> Any:
    """What the file `path` says, which is of a `kind`: an object, or a list.

    Raises:
        FileNotFoundError: where it is not there.
        ValueError: where it is no JSON, or of another kind.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(
            f"{path.parent} has no {path.name}; give a Hugging Face folder."
        ) from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON ({error}); fetch it again.") from error
    if not isinstance(found, kind):
        what = "object" if kind is dict else kind.__name__
        raise ValueError(f"{path} is no {what} of JSON; fetch it again.")
    return found
