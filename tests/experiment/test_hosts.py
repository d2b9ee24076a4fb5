"""One run over several processes, which are real ones and meet on the loopback address."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from small_data import timeless, write_config, write_folder

from fedjax_rec import load_run, simulate
from fedjax_rec.simulate.hosts import VARIABLE


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A configuration of 61 clients, and a cache of what is compiled that its runs share."""
    folder = tmp_path_factory.mktemp("hosts")
    return write_config(folder / "tiny.yaml", write_folder(folder / "tiny", users=61), rounds=6)


@pytest.fixture(scope="module")
def whole(tiny):
    """A run of two processes that nobody killed."""
    ended(together(tiny, tiny.parent / "whole", 2))
    return tiny.parent / "whole"


def numbers(folder: Path) -> list[list[float]]:
    """The numbers of metrics.jsonl."""
    return [[x for x in line.values() if isinstance(x, int | float)] for line in timeless(folder)]


BLIND = """
import os, sys
from fedjax_rec.experiment.main import main
exists = os.path.exists
os.path.exists = lambda path: ".fedjax_rec-" not in str(path) and exists(path)
sys.exit(main(sys.argv[1:]))
"""


def started(
    tiny: Path, out: Path, hosts: str | None = None, *words: str, blind: bool = False
) -> subprocess.Popen:
    """A process of `fedjax-rec run`. blind: it does not see what others leave on the disk."""
    told = {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tiny.parent / "cache")}
    told |= {} if hosts is None else {VARIABLE: hosts}
    program = ["-c", BLIND] if blind else ["-m", "fedjax_rec"]
    command = [sys.executable, *program, "run", str(tiny), "--out", str(out), *words]
    kept = {k: v for k, v in os.environ.items() if k not in (VARIABLE, "XLA_FLAGS")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=kept | told, **pipes)


def together(
    tiny: Path, out: Path, count: int, *words: str, apart: bool = False
) -> list[subprocess.Popen]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    hosts = [f"127.0.0.1:{port},{i}/{count}" for i in range(count)]
    return [started(tiny, out, of, *words, blind=apart and i > 0) for i, of in enumerate(hosts)]


def ended(processes: list[subprocess.Popen]) -> list[tuple[str, str]]:
    """What each printed; fails where one failed."""
    said = []
    try:
        for one in processes:
            out, error = one.communicate(timeout=400)
            assert one.returncode == 0, error[-2000:]
            said.append((out, error))
    finally:
        for one in processes:
            one.kill()
    return said


def test_two_processes_are_two_devices_of_one(tiny, tmp_path):
    """To the bit, and the first alone writes and speaks."""
    ended([started(tiny, tmp_path / "one", None, "--devices", "2")])
    (first, _), (second, _) = ended(together(tiny, tmp_path / "two", 2, "--json", "true"))
    assert json.loads(first)["totals"]["rounds"] == 6 and not second
    assert timeless(tmp_path / "two") == timeless(tmp_path / "one")
    assert (tmp_path / "two" / "summary.json").is_file()


def test_a_run_of_two_that_is_killed_goes_on_to_the_same_bits(tiny, whole, tmp_path):
    """At a random moment after a random round, which may be in the midst of a checkpoint."""
    killed = together(tiny, tmp_path / "killed", 2)
    folder = tmp_path / "killed"
    until, moment = time.monotonic() + 300, random.random() / 5
    after = random.randrange(2, 5)
    while simulate.last_saved(folder / "checkpoints") < 2 or len(timeless(folder)) < after:
        assert time.monotonic() < until and killed[0].poll() is None
        time.sleep(0.005)
    time.sleep(moment)
    for one in killed:
        one.send_signal(signal.SIGKILL)
        one.communicate()
    saved = simulate.last_saved(folder / "checkpoints")
    told = f"killed {moment:.3f} s after round {after}, at the checkpoint of round {saved}"
    (_, error), _ = ended(together(tiny, folder, 2))
    assert f"goes on after round {saved} of 6" in error or saved == 6, told
    assert timeless(folder) == timeless(whole), told
    for place in ("checkpoints", "best"):
        files = sorted((whole / place).rglob("*.npy"))
        assert len(files) >= 2
        for file in files:
            again = folder / file.relative_to(whole)
            assert file.read_bytes() == again.read_bytes(), told


def test_what_two_wrote_one_reads_and_goes_on_from(tiny, whole, tmp_path):
    """And two again from what one wrote."""
    ended([started(tiny, tmp_path / "one", None, "--devices", "2")])
    shutil.copytree(whole, tmp_path / "two")
    one, two = (load_run(tmp_path / name) for name in ("one", "two"))
    for which in ("best", "last"):
        states = (jax.tree.leaves(run.state_of(which)) for run in (one, two))
        for x, y in zip(*states, strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-5)
    shown = two.recommend(user="u60", k=3)
    np.testing.assert_allclose(shown["score"], one.recommend(user="u60", k=3)["score"], rtol=1e-4)
    ended([started(tiny, tmp_path / "one", None, "--devices", "2", "--rounds", "9")])
    ended([started(tiny, tmp_path / "two", None, "--rounds", "7")])
    assert not (tmp_path / "two" / "best" / "blocks" / "7").exists()
    ended(together(tiny, tmp_path / "two", 2, "--rounds", "9"))
    both = zip(numbers(tmp_path / "one"), numbers(tmp_path / "two"), strict=True)
    for x, y in both:
        np.testing.assert_allclose(x, y, rtol=1e-4)


def test_on_disks_of_their_own_the_first_writes_all(tiny, whole, tmp_path):
    """The second finds nothing where the first is: here it looks at another place."""
    (first, second) = together(tiny, tmp_path / "run", 2, apart=True)
    (_, told), _ = ended([first, second])
    assert "not every process sees this folder, so the first gathers all states" in told
    assert timeless(tmp_path / "run") == timeless(whole)
    assert not list((tmp_path / "run").rglob("*.npy"))


def test_four_processes_agree_with_one(tiny, tmp_path):
    ended([started(tiny, tmp_path / "one", None, "--devices", "4")])
    ended(together(tiny, tmp_path / "four", 4))
    assert timeless(tmp_path / "four") == timeless(tmp_path / "one")


def test_tables_in_blocks_of_rows_over_two_processes(tmp_path):
    """Four items of 240 a user; the frozen base alone is for the devices of one process."""
    (tmp_path / "own").mkdir()
    lines = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    lines += [f"u{k // 4}\ti{k}\t5\t{k}" for k in range(240)]
    (tmp_path / "own" / "own.inter").write_text("\n".join(lines) + "\n")
    config = write_config(tmp_path / "own.yaml", tmp_path / "own", rounds=4)
    ended([started(config, tmp_path / "one", None, "--devices", "2", "--row_devices", "2")])
    ended(together(config, tmp_path / "two", 2, "--row_devices", "2", "--rounds", "2"))
    ended(together(config, tmp_path / "two", 2, "--row_devices", "2"))
    for x, y in zip(numbers(tmp_path / "one"), numbers(tmp_path / "two"), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4)
    sizes = {np.load(x).shape for x in (tmp_path / "two" / "checkpoints").rglob("*.npy")}
    assert sizes == {(30, 1, 4), (120, 4)}
    for one in together(config, tmp_path / "base", 2, "--base_devices", "2"):
        _, error = one.communicate(timeout=400)
        assert one.returncode and "base_devices=2: each of 2 processes holds a whole base" in error


@pytest.mark.parametrize(
    ("told", "devices", "message"),
    [
        ("me", 1, "FEDJAX_REC_HOSTS='me' is no process of several; use ADDRESS:PORT,INDEX/COUNT"),
        ("10.0.0.5:99,2/2", 1, "is no process of several"),
        ("10.0.0.5:99,0/3", 4, "devices=4 are not shared evenly by 3 processes"),
        ("slurm", 1, "outside a job of Slurm: SLURM_NTASKS is not set; use srun"),
    ],
)
def test_hosts_that_are_none_are_refused(told, devices, message, monkeypatch):
    monkeypatch.setenv(VARIABLE, told)
    monkeypatch.delenv("SLURM_NTASKS", raising=False)
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        simulate.join(devices)


def test_alone_everything_is_ones_own(monkeypatch, tmp_path):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert simulate.join(3) == 3 and simulate.is_first()
    assert simulate.from_first(lambda: "x") == "x"
    tree = {"x": object()}
    assert simulate.gathered(tree) is tree
    assert simulate.held(tree) is tree
    assert simulate.in_step(lambda: "y") == "y"
    with simulate.folder_of_own(tmp_path / "run") as (own, of_all):
        assert own == tmp_path / "run" and not own.exists() and of_all is None
