"""What a run tells while it goes on, on terminals of any width and in logs."""

import io
from types import SimpleNamespace

import pytest
from rich.console import Console

from fedjax_rec.experiment.progress import EVERY, Bar

CONFIG = SimpleNamespace(name="quickstart", rounds=1070)


def record(round):
    return {
        "round": round, "seconds": round * 0.05, "loss": 0.4321, "hr@10": 0.1234,
        "bytes_up": 2**27, "bytes_down": 2**20, "bytes_up_per_client": 3250.2,
    }  # fmt: skip


def told(bar, rounds):
    records = [record(r) for r in range(1, rounds + 1)]
    bar(SimpleNamespace(metrics=records[-1], rejected={}, records=records))


@pytest.mark.parametrize("width", [80, 200])
def test_a_narrow_terminal_loses_the_bytes_first(width):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, color_system=None)
    bar = Bar(CONFIG, [], "validation_hr@10", True, console)
    told(bar, 75)
    console.print(bar.progress.get_renderable())
    line = out.getvalue()
    assert "75/1070" in line and "20.0/s" in line and "left" in line and "hr@10 0.12" in line
    assert ("128 MiB" in line and "MB" not in line) == (width == 200)


def test_a_log_gets_a_line_now_and_then_and_the_last(capsys):
    now = [0.0]
    bar = Bar(CONFIG, [], "hr@10", True, Console(file=io.StringIO()), clock=lambda: now[0])
    for round, seconds in ((2, 0.1), (3, 0.2), (500, EVERY + 1), (501, EVERY + 1.1)):
        now[0] = seconds
        told(bar, round)
    now[0] += 1
    told(bar, 1070)
    first, second, last = capsys.readouterr().err.splitlines()
    assert first.startswith("quickstart: 2/1070") and second.startswith("quickstart: 500/1070")
    assert "20.0/s  0:00:11 so far  0:00:28 left  hr@10 0.1234  loss 0.4321  up" in second
    assert last.startswith("quickstart: 1070/1070")


def test_quiet_is_quiet(capsys):
    bar = Bar(CONFIG, [], "hr@10", False, Console(file=io.StringIO()))
    with bar:
        told(bar, 1070)
        bar.say("nothing")
    assert capsys.readouterr() == ("", "")
