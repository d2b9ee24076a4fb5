"""Runs under a memory budget: what they say, what they refuse, and that nothing else changes."""

import json
import logging
import re

import jax
import pytest
from small_data import write_config, write_folder

from fedjax_rec.experiment.main import main

pytestmark = pytest.mark.usefixtures("compiled_fast")


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("FEDJAX_REC_MEMORY", raising=False)
    write_config(tmp_path / "tiny.yaml", write_folder(tmp_path / "tiny"), rounds=2)
    return tmp_path


def run(place, out, *words) -> int:
    return main(["run", str(place / "tiny.yaml"), "--out", str(place / out), *words])


def losses(folder) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").open()]


def test_a_run_says_what_it_holds_and_compiles_its_round_once(place, capsys, caplog):
    few = ["--evaluation.users_per_chunk", "2"]  # the round takes more than they do
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        assert run(place, "loud", *few) == 0
    blocks = [r for r in caplog.messages if r.startswith("Compiling jit(block)")]
    assert len(blocks) == 1
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("memory: ")]
    assert "(16 clients at a time, at most" in line
    peak = int(re.search(r"; peak (\d+) KiB of ", line)[1])
    # A budget changes the chunks and nothing else; the same folder goes on with another one.
    assert run(place, "tight", *few, "--memory_budget", f"{peak - 5}KiB") == 0
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("memory: ")]
    assert f" of {peak - 5} KiB allowed" in line and "16 clients" not in line
    assert losses(place / "tight") == pytest.approx(losses(place / "loud"), rel=1e-5)
    assert run(place, "tight", *few, "--quiet", "--rounds=3") == 0
    assert capsys.readouterr().err == "" and len(losses(place / "tight")) == 3


@pytest.mark.parametrize("by", ["option", pytest.param("environment", marks=pytest.mark.slow)])
def test_what_cannot_fit_is_one_line_and_writes_nothing(place, capsys, monkeypatch, by):
    words = ["--memory_budget", "40KiB"] if by == "option" else []
    if not words:
        monkeypatch.setenv("FEDJAX_REC_MEMORY", "40KiB")
    assert run(place, "out", *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("fedjax-rec: the run would take ") and "more than the 40 KiB" in line
    assert "; use " in line or "; the evaluation takes it" in line
    assert not (place / "out").exists()


def test_a_budget_that_is_none(place, capsys):
    assert run(place, "out", "--memory_budget", "plenty") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "memory_budget='plenty' is no size of memory; use one like 512MiB or 2GiB" in line
