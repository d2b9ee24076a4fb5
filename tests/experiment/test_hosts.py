"""One run over several processes, which are real ones and meet on the loopback address."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from small_data import timeless, write_config, write_folder

from fedjax_rec import simulate
from fedjax_rec.simulate.hosts import VARIABLE


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A configuration, and a cache of what is compiled that its runs share."""
    folder = tmp_path_factory.mktemp("hosts")
    return write_config(folder / "tiny.yaml", write_folder(folder / "tiny"), rounds=6)


def started(tiny: Path, out: Path, hosts: str | None = None, *words: str) -> subprocess.Popen:
    """A process of `fedjax-rec run`."""
    told = {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tiny.parent / "cache")}
    told |= {} if hosts is None else {VARIABLE: hosts}
    command = [sys.executable, "-m", "fedjax_rec", "run", str(tiny), "--out", str(out), *words]
    kept = {k: v for k, v in os.environ.items() if k not in (VARIABLE, "XLA_FLAGS")}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=kept | told, **pipes)


def together(tiny: Path, out: Path, count: int, *words: str) -> list[subprocess.Popen]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    hosts = [f"127.0.0.1:{port},{i}/{count}" for i in range(count)]
    return [started(tiny, out, of, *words) for of in hosts]


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


def test_a_run_of_two_that_is_killed_goes_on_to_the_same_bits(tiny, tmp_path):
    ended(together(tiny, tmp_path / "whole", 2))
    killed = together(tiny, tmp_path / "killed", 2)
    records = tmp_path / "killed" / "metrics.jsonl"
    until = time.monotonic() + 300
    while not simulate.last_saved(records.parent / "checkpoints"):
        assert time.monotonic() < until and killed[0].poll() is None
        time.sleep(0.01)
    for one in killed:
        one.send_signal(signal.SIGKILL)
        one.communicate()
    assert len(records.read_text().splitlines()) < 6
    (_, error), _ = ended(together(tiny, tmp_path / "killed", 2))
    assert "goes on after round" in error
    assert timeless(tmp_path / "killed") == timeless(tmp_path / "whole")


def test_four_processes_agree_with_one(tiny, tmp_path):
    ended([started(tiny, tmp_path / "one", None, "--devices", "4")])
    ended(together(tiny, tmp_path / "four", 4))
    assert timeless(tmp_path / "four") == timeless(tmp_path / "one")


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
    with simulate.folder_of_own(tmp_path / "run") as own:
        assert own == tmp_path / "run" and not own.exists()
