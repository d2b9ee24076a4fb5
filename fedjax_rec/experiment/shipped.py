"""Configurations that come with the library, found from any folder by name: `quickstart`,
`compression/fedmf`, `configs/strategies/scaffold.yaml`."""

from __future__ import annotations

from pathlib import Path

from ..check import nearest

HOME = Path(__file__).resolve().parents[1]
# In a wheel they lie in the package, in a clone beside it.
PLACES = (HOME / "configs", HOME.parent / "configs")
LISTS = ("runs/", "ledgers/")  # many runs in a file


def shipped() -> dict[str, Path]:
    """Name -> file, without those that list many runs."""
    root = next((place for place in PLACES if place.is_dir()), None)
    files = [] if root is None else sorted(root.rglob("*.yaml"))
    named = {file.relative_to(root).with_suffix("").as_posix(): file for file in files if root}
    return {name: file for name, file in named.items() if not name.startswith(LISTS)}


def found(source: str | Path) -> Path:
    """`source` where it is a file, else the shipped configuration of that name.

    Raises FileNotFoundError, with the nearest name.
    """
    path = Path(source)
    if path.is_file():
        return path
    known = shipped()
    name = path.with_suffix("").as_posix().removeprefix("configs/")
    if name in known:
        return known[name]
    if path.is_dir():
        raise FileNotFoundError(f"{path}: is a folder; name the configuration file in it.")
    raise FileNotFoundError(
        f"{path}: there is no such configuration file{nearest(name, known)}; check the path, or "
        "see `fedjax-rec list configs`."
    )
