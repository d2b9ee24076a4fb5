"""What `fedjax-rec watch` sees of run folders at a moment."""

import json
import os

import pytest
import yaml
from rich.console import Console

from fedjax_rec.experiment.main import main
from fedjax_rec.experiment.watch import duration, looked, picture, watch

NOW = 1_800_000_000.0


def folder(path, rounds=100, records=(), done=False, ago=3.0):
    """A run folder whose last record came so many seconds before NOW."""
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(yaml.safe_dump({"rounds": rounds}))
    (path / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    if done:
        (path / "summary.json").write_text("{}")
    for file in path.iterdir():
        os.utime(file, (NOW - ago, NOW - ago))
    return path


def record(round, value, seconds, metric="validation_hr@10"):
    return {"round": round, "seconds": seconds, metric: value, "hr@10": 0.5}


LINES = [record(0, 0.1, 5.0), record(10, 0.3, 25.0), record(20, 0.2, 45.0)]


def look(*folders):
    return looked(folders, clock=lambda: NOW)


def test_rounds_pace_time_left_and_the_best_so_far(tmp_path):
    folder(tmp_path / "a", records=LINES)
    (one,) = look(tmp_path)
    assert (one.state, one.round, one.rounds, one.pace) == ("running", 20, 100, 2.0)
    assert (one.left, one.since) == (80 * 2.0 - 3, 3)
    assert (one.metric, one.best, one.best_round) == ("hr@10", 0.3, 10)


def test_of_errors_the_smallest_is_the_best(tmp_path):
    lines = [record(0, 1.2, 1.0, "validation_rmse"), record(5, 0.9, 2.0, "validation_rmse")]
    (one,) = look(folder(tmp_path / "a", records=[*lines, {**lines[0], "round": 9}]))
    assert (one.best, one.best_round) == (0.9, 5)


def test_who_runs_comes_first_and_silence_is_said(tmp_path):
    folder(tmp_path / "run10", records=LINES, done=True, ago=9000)
    folder(tmp_path / "run9", records=LINES, done=True, ago=9000)
    folder(tmp_path / "stopped", records=LINES, ago=5 * 20 + 1)
    folder(tmp_path / "begun", ago=20)
    folder(tmp_path / "last", records=LINES, ago=5 * 20 - 1)
    seen = look(tmp_path)
    assert [(one.run.rsplit("/", 1)[-1], one.state) for one in seen] == [
        ("begun", "running"), ("last", "running"), ("stopped", "silent"),
        ("run9", "finished"), ("run10", "finished"),
    ]  # fmt: skip
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(picture(seen, 100, 9))
    text = console.export_text()
    assert "2 running, 1 silent, 2 finished; the longest has 1:01 to go" in text
    assert "hr@10 0.3000 in 10" in text and "and 1 more" in text and "run10" not in text
    assert "/stopped" in text


def test_what_is_half_written_is_passed_over(tmp_path):
    one = folder(tmp_path / "a", records=LINES[:2])
    with open(one / "metrics.jsonl", "a") as file:
        file.write('{"round": 20, "sec')
    folder(tmp_path / "b")
    (tmp_path / "b/config.yaml").write_text("rounds: [")
    (found,) = looked([tmp_path])
    assert found.round == 10


def test_the_command(tmp_path, capsys):
    folder(tmp_path / "a", records=LINES, done=True)
    assert main(["watch", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["state"] == "finished"
    assert main(["watch", str(tmp_path), "--once"]) == 0
    assert "1 finished" in capsys.readouterr().out
    assert main(["watch", str(tmp_path / "none")]) == 2
    assert "is no folder; name one with runs in it" in capsys.readouterr().err
    assert main(["watch", str(tmp_path), "--every", "0"]) == 2
    assert "use a number of seconds above 0" in capsys.readouterr().err


def test_it_looks_again(tmp_path):
    folder(tmp_path / "a", records=LINES[:2])
    console = Console(width=100, force_terminal=True, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    watch([tmp_path], every=0.01, looks=2, console=console)
    assert "10/100" in console.export_text()


@pytest.mark.parametrize(("seconds", "told"), [(61, "1:01"), (3723.4, "1:02:03"), (-1, "0:00")])
def test_durations(seconds, told):
    assert duration(seconds) == told
