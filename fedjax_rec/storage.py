"""Where files outside the package lie (data sets, pretrained weights) and how they get there whole.

A file is whole or not there: it is written beside its place and moved in one step. Files that a
wheel of the package index bundles are downloaded by pip, checked by sha256 and unpacked; nothing of
the wheel is installed or run, and none of what it depends on is fetched.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml


def read_yaml(text: str) -> Any:
    """What YAML says, by the parser in C where PyYAML has it, which takes a tenth of the time.

    Raises yaml.YAMLError.
    """
    return yaml.load(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def roots() -> list[Path]:
    """Folders that are searched, in order: `$FEDJAX_REC_DATA` where it is set, and the cache."""
    given = os.environ.get("FEDJAX_REC_DATA")
    return [*([Path(given).expanduser()] if given else []), cache()]


def cache() -> Path:
    """The user's cache folder of this package (`$XDG_CACHE_HOME` moves it)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fedjax_rec"


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to, which takes its place where the block ends well, and is
    gone where it does not. Makes the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield beside
        os.umask(mask := os.umask(0))
        os.chmod(beside, 0o666 & ~mask)  # as of any new file; some libraries write for one alone
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def unpack(
    requirement: str, inside: str, files: Mapping[str, str], scratch: Path, target: Path,
    seconds: float = 120,
) -> None:  # fmt: skip
    """Put `files` {name: sha256} of the folder `inside` of a wheel into the folder `target`.

    requirement: what pip downloads into `scratch`, e.g. "recbole==1.2.1". seconds: patience.
    Raises ConnectionError where the wheel is not to be had, ValueError where a file is another.
    """
    with zipfile.ZipFile(download(requirement, scratch, seconds)) as wheel:
        for file, expected in files.items():
            try:
                member = wheel.open(f"{inside}/{file}")
            except KeyError:
                raise ValueError(f"{requirement} holds no {inside}/{file}") from None
            with member, open(target / file, "wb") as out:
                while block := member.read(1 << 20):
                    out.write(block)
            if sha256(target / file) != expected:
                raise ValueError(f"{file} of {requirement} has another sha256 than {expected}")


def download(requirement: str, scratch: Path, seconds: float = 120) -> Path:
    """The wheel of `requirement`, downloaded into `scratch`. Raises ConnectionError."""
    command = [sys.executable, "-m", "pip", "download", requirement, "--no-deps"]
    command += ["--only-binary=:all:", "--quiet", "--disable-pip-version-check"]
    command += ["--retries", "1", "--timeout", "10", "--dest", str(scratch)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise ConnectionError(
            f"pip download {requirement} took over {error.timeout:g} s"
        ) from error
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ConnectionError(f"pip download {requirement} failed ({reason})")
    return wheels[0]


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def move(ready: Path, target: Path, whole: Callable[[Path], bool]) -> None:
    """Put the finished folder `ready` in place in one step; another process may have been faster,
    which is well where what it left is `whole`."""
    try:
        os.replace(ready, target)
    except OSError:
        if not whole(target):
            raise
