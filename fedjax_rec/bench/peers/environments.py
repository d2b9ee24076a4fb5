"""Virtual environments of other libraries, made once into the cache; commands that run there."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...data.sources import sources

FEDJAX = "fedjax==0.0.17"
TORCH = "torch==2.13.0+cpu"


def own_jax() -> str:
    """jax with the version and CUDA plugin of this process, so that both sides share one XLA."""
    installed = {(dist.metadata["Name"] or "") for dist in importlib.metadata.distributions()}
    plugins = [cuda for cuda in ("cuda13", "cuda12") if f"jax-{cuda}-plugin" in installed]
    extra = f"[{plugins[0]}]" if plugins else ""
    return f"jax{extra}=={importlib.metadata.version('jax')}"


def place(name: str) -> Path:
    """Where the environment of a peer lies."""
    return sources.cache() / "peers" / name


def prepare(folder: str | Path, packages: Sequence[str], without: Sequence[str] = ()) -> Path:
    """Make the environment in `folder` unless it is there; returns its Python executable.

    Args:
        folder: new, empty, or an environment, which is made anew where it has other packages or an
            earlier attempt broke off: a file `ready` in it names what was installed.
        packages: what pip installs. It honours PIP_INDEX_URL, PIP_EXTRA_INDEX_URL and
            PIP_FIND_LINKS.
        without: what is removed again of what came with them.

    Raises:
        ValueError: `folder` holds something other than a virtual environment.
        RuntimeError: pip cannot install, as without a network.
    """
    folder = Path(folder).absolute()
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    gone = [f"-{name}" for name in without]
    marker, wanted = folder / "ready", " ".join([sys.version.split()[0], *packages, *gone])
    if python.exists() and marker.exists() and marker.read_text().strip() == wanted:
        return python
    where = f"prepare(folder={str(folder)!r})"
    other = folder.is_file() or (folder.is_dir() and any(folder.iterdir()))
    if other and not (folder / "pyvenv.cfg").exists():  # `venv --clear` would empty it
        raise ValueError(f"{where} is no virtual environment; name a new or an empty folder.")
    index = "PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu"
    remedy = f"{packages[0]} comes from a package index: connect, or set PIP_INDEX_URL"
    remedy += f" or {index}." if TORCH in packages else " or PIP_FIND_LINKS."
    output([sys.executable, "-m", "venv", "--clear", str(folder)], where, remedy)
    pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check"]
    output([*pip, "install", "--retries", "1", "--timeout", "20", *packages], where, remedy)
    if without:
        output([*pip, "uninstall", "--yes", *without], where, remedy)
    marker.write_text(wanted + "\n")
    return python


def output(
    command: Sequence[str],
    what: str,
    remedy: str,
    timeout: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Standard output of a command, with whose end all ends that it has started; RuntimeError of
    one line, with its last error, if it fails."""
    pipe, there = subprocess.PIPE, environment and dict(environment)
    try:
        running = subprocess.Popen(
            command, stdout=pipe, stderr=pipe, text=True, env=there, start_new_session=True
        )
    except OSError as error:
        raise RuntimeError(f"{what} could not start: {error}; {remedy}") from None
    try:
        out, err = running.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        raise RuntimeError(
            f"{what} outlasted timeout={timeout} s; allow more or ask for less."
        ) from None
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    if running.returncode:
        said = (err or out).strip().splitlines() or [f"exit {running.returncode}"]
        cause = next((line for line in reversed(said) if "error" in line.lower()), said[-1])
        raise RuntimeError(f"{what} failed: {cause.strip()}; {remedy}")
    return out
