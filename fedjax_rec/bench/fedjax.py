"""FedJAX in an environment of its own, so that `fedjax-rec bench` can time it beside this library.

FedJAX 0.0.17 (Ro, Suresh and Wu, 2021, arXiv:2108.02117) is not a dependency: `prepare` makes a
virtual environment with it and with the jax that runs here, so that both sides share one XLA;
`measure` runs `fedjax_workload.py` there and reads its answer, `measure_compressors` does so with
`fedjax_compressors.py`.

    python = prepare(cache / "fedjax")
    theirs = measure(items, labels, offsets, num_items, python=python)
    theirs["cpu_seconds"], theirs["loss"]
    coded = measure_compressors(python, clients=64, coordinates=2**17)
    coded["methods"]["structured_drive_quantizer"]["forms"]["map"]["cpu_seconds"]
"""

import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

FEDJAX = "fedjax==0.0.17"
WORKLOAD = Path(__file__).with_name("fedjax_workload.py")
COMPRESSORS = Path(__file__).with_name("fedjax_compressors.py")


def requirements() -> list[str]:
    """What pip installs: FedJAX, and jax with the version and CUDA plugin of this process."""
    installed = {(dist.metadata["Name"] or "") for dist in importlib.metadata.distributions()}
    plugins = [cuda for cuda in ("cuda13", "cuda12") if f"jax-{cuda}-plugin" in installed]
    extra = f"[{plugins[0]}]" if plugins else ""
    return [FEDJAX, f"jax{extra}=={importlib.metadata.version('jax')}"]


def prepare(folder: str | Path, packages: Sequence[str] | None = None) -> Path:
    """Make the environment in `folder` unless it is there; returns its Python executable.

    packages: what pip installs; None for `requirements()`.

    A file `ready` in it names what was installed: the environment is made anew when that is not
    what is wanted now, or when an earlier attempt broke off. pip honours PIP_INDEX_URL and
    PIP_FIND_LINKS.

    Raises:
        ValueError: `folder` holds something other than a virtual environment.
        RuntimeError: pip cannot install, as without a network.
    """
    folder = Path(folder).absolute()
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    packages = requirements() if packages is None else list(packages)
    marker, wanted = folder / "ready", " ".join([sys.version.split()[0], *packages])
    if python.exists() and marker.exists() and marker.read_text().strip() == wanted:
        return python
    where = f"prepare(folder={str(folder)!r})"
    other = folder.is_file() or (folder.is_dir() and any(folder.iterdir()))
    if other and not (folder / "pyvenv.cfg").exists():  # `venv --clear` would empty it
        raise ValueError(f"{where} is no virtual environment; name a new or an empty folder.")
    what = "FedJAX" if FEDJAX in packages else packages[0]
    remedy = f"{what} comes from a package index: connect, or set PIP_INDEX_URL or PIP_FIND_LINKS."
    output([sys.executable, "-m", "venv", "--clear", str(folder)], where, remedy)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    pip += ["--retries", "1", "--timeout", "20", *packages]
    output(pip, where, remedy)
    marker.write_text(wanted + "\n")
    return python


def measure(
    items: np.ndarray,
    labels: np.ndarray,
    offsets: np.ndarray,
    num_items: int,
    *,
    python: str | Path,
    width: int = 32,
    batch: int = 256,
    learning_rate: float = 0.1,
    rounds: int = 5,
    seed: int = 0,
    backend: str = "jit",
    shuffle: bool = True,
    timeout: float = 3600.0,
) -> dict:
    """Time FedJAX's federated averaging of a factorization model, all clients each round.

    Args:
        items: int32[nnz] item of each sample, clients back to back, negatives included.
        labels: float32[nnz] 1 for a positive, 0 for a negative.
        offsets: int64[clients + 1] where each client begins.
        num_items: size I of the catalogue.
        python: what `prepare` returned.
        width: D of the item vectors.
        batch: samples a local step.
        learning_rate: of local SGD; the server's is 1.
        rounds: in all, at least 2; the first, which compiles, is timed apart.
        seed: of the start parameters and of the shuffles.
        backend: of FedJAX's `for_each_client`: "jit", its default, or "debug", 45 times slower.
        shuffle: False keeps the order given, so that another implementation can be compared.
        timeout: seconds until the run is given up.

    Returns:
        first_round_seconds; wall_seconds and cpu_seconds, medians of the later rounds; rounds,
        steps_per_round, loss, backend, jax, fedjax, device; and `params`, the final items [I, D],
        w [D] and b [] as numpy arrays.

    Raises:
        ValueError: fewer than two rounds.
        RuntimeError: the run failed or outlasted `timeout`.
    """
    if rounds < 2:
        raise ValueError(f"measure(rounds={rounds}) leaves none to time; use 2 or more.")
    with tempfile.TemporaryDirectory() as scratch:
        source, out = Path(scratch, "samples.npz"), Path(scratch, "params.npz")
        np.savez(
            source,
            items=np.asarray(items, np.int32),
            labels=np.asarray(labels, np.float32),
            offsets=np.asarray(offsets, np.int64),
            num_items=num_items,
        )
        command = [str(python), str(WORKLOAD), "--npz", str(source), "--out", str(out)]
        command += ["--width", str(width), "--batch", str(batch), "--rounds", str(rounds)]
        command += ["--learning-rate", str(learning_rate), "--seed", str(seed)]
        command += ["--backend", backend, *([] if shuffle else ["--no-shuffle"])]
        remedy = "make the environment anew with prepare, or leave FedJAX out."
        answer = output(command, f"measure(python={str(python)!r})", remedy, timeout)
        with np.load(out) as params:
            return {**json.loads(answer.splitlines()[-1]), "params": dict(params)}


def measure_compressors(
    python: str | Path,
    clients: int,
    coordinates: int,
    repeats: int = 5,
    *,
    seed: int = 0,
    timeout: float = 3600.0,
) -> dict:
    """Time FedJAX's compressors, decoding included, on `clients` vectors of N(0, 1) float32.

    The data are numpy.random.default_rng(seed).standard_normal([clients, coordinates], float32).

    Args:
        python: what `prepare` returned.
        clients: vectors, C.
        coordinates: d of each; rotations pad it to a power of two.
        repeats: calls to take the median of, after one that compiles.
        seed: of the data and of the compressors' keys.
        timeout: seconds until the run is given up.

    Returns:
        clients, coordinates, repeats, jax, fedjax, device, and `methods`: of each of FedJAX's
        `uniform_stochastic_quantizer`, `rotated_uniform_stochastic_quantizer` (16 levels each) and
        `structured_drive_quantizer` the bits it claims a client, squared_error (mean of
        |C(x) - x|^2 / |x|^2) and `forms`: "apply", "vmap" and "map" (see
        `fedjax_compressors.py`), each with first_seconds, cpu_seconds, wall_seconds,
        cpu_nanoseconds and wall_nanoseconds (a coordinate), the latter two forms with
        temporary_bytes.

    Raises:
        ValueError: clients, coordinates or repeats below 1.
        RuntimeError: the run failed or outlasted `timeout`.
    """
    for name, value in (("clients", clients), ("coordinates", coordinates), ("repeats", repeats)):
        if value < 1:
            raise ValueError(f"measure_compressors({name}={value}) times nothing; use 1 or more.")
    command = [str(python), str(COMPRESSORS), "--clients", str(clients), "--seed", str(seed)]
    command += ["--coordinates", str(coordinates), "--repeats", str(repeats)]
    remedy = "make the environment anew with prepare, or leave FedJAX out."
    answer = output(command, f"measure_compressors(python={str(python)!r})", remedy, timeout)
    return json.loads(answer.splitlines()[-1])


def output(command: list[str], what: str, remedy: str, timeout: float | None = None) -> str:
    """Standard output of a command; RuntimeError of one line, with its last error, if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise RuntimeError(
            f"{what} outlasted timeout={timeout} s; allow more or ask for less."
        ) from None
    except OSError as error:
        raise RuntimeError(f"{what} could not start: {error}; {remedy}") from None
    if done.returncode:
        said = (done.stderr or done.stdout).strip().splitlines() or [f"exit {done.returncode}"]
        cause = next((line for line in reversed(said) if "error" in line.lower()), said[-1])
        raise RuntimeError(f"{what} failed: {cause.strip()}; {remedy}")
    return done.stdout
