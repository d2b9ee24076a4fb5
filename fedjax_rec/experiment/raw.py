"""What a configuration file says, before anything of it is read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from ..storage import read_yaml
from .factories import ConfigError
from .overrides import lay
from .shipped import found


def stem(source: str | Path | Mapping | None) -> str:
    """What a run is called where nothing else is said."""
    return Path(source).stem if isinstance(source, str | Path) else "run"


def raw_of(source: str | Path | Mapping | None) -> dict:
    """What a configuration says, before anything of it is read."""
    if source is None or isinstance(source, Mapping):
        given = dict(source or {})
        # Whose keys are dotted, and stay so: a choice overrides a key of a section, and not all.
        kept = {key: given.pop(key) for key in ("sweep", "choices") if key in given}
        return {**lay({}, given), **kept}
    try:
        path = found(source)
    except FileNotFoundError as error:
        raise ConfigError(str(error)) from None
    try:
        raw = read_yaml(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: {' '.join(str(error).split())}; mend the YAML.") from None
    if raw is None:  # nothing, or comments alone: all defaults
        return {}
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: holds no mapping of keys; see configs/quickstart.yaml.")
    for key in ("data", "evaluation"):
        if not isinstance(raw.get(key, {}), dict):
            raise ConfigError(f"{key}={raw[key]} is no mapping; write {key}: {{name: value}}.")
    return raw
