"""The bench of a device: all its parts run, and a part that fails costs the others nothing."""

import json
import math
import resource
from pathlib import Path

import pytest

from fedjax_rec.bench import device
from fedjax_rec.bench.device_parts import PARTS

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
# What a lent machine may lack: nothing of it is needed.
ABSENT = ("jsonargparse", "beartype", "optuna", "tokenizers", "qwix")


def test_every_part_has_its_seconds():
    assert list(device.SECONDS) == list(PARTS)
    assert device.LIMIT < 8 * 60


@pytest.mark.slow
def test_all_parts_run_at_toy_size_on_a_bare_machine(tmp_path, monkeypatch):
    for name in ABSENT:
        (tmp_path / f"{name}.py").write_text(f"raise ImportError('{name} is not here')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.setenv("FEDJAX_REC_DATA", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert device.main(["--out", str(tmp_path / "out"), "--tiny"]) == 0
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 60
    found = json.loads((tmp_path / "out/device.json").read_text())
    assert [part["name"] for part in found["parts"]] == list(PARTS)
    for part in found["parts"]:
        assert part["state"] == "done" and part["rows"]
        assert all(math.isfinite(row["value"]) and row["value"] > 0 for row in part["rows"])
    page = (tmp_path / "out/device.md").read_text()
    assert page.startswith(f"# {found['machine']['device']}\n") and "nothing of speed" in page


def test_a_part_that_fails_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", f"{HERE}:{ROOT}")
    budgets = {"good": 30, "raises": 30, "dies": 30, "hangs": 0.5, "last": 30}
    measured = device.measure(budgets, tmp_path, "toy", tiny=True, module="device_faults")
    assert {part.name: (part.state, part.why) for part in measured.parts} == {
        "good": ("done", ""),
        "raises": ("failed", "RuntimeError: out of memory | and luck"),
        "dies": ("failed", "the process ended with status 3"),
        "hangs": ("failed", "it took longer than 0.5 s"),
        "last": ("done", ""),
    }
    for part in json.loads((tmp_path / "device.json").read_text())["parts"]:
        assert [row["value"] for row in part["rows"]] == [1.5]
    page = (tmp_path / "device.md").read_text()
    assert "| raises | failed: RuntimeError: out of memory / and luck |" in page
    assert page.count("| before | 1.5 s |") == 5


def test_what_finds_no_time_is_named(tmp_path):
    measured = device.measure({"good": 9, "never": 9}, tmp_path, "toy", limit=0.0)
    assert [(p.state, p.why) for p in measured.parts] == [("left out", "no time left of 0 s")] * 2


def test_an_unknown_part_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"'ml-1n' is unknown \(did you mean 'ml-1m'\?\)"):
        device.main(["--out", str(tmp_path), "ml-1n"])
