"""Other libraries beside ours: all do the work of a NumPy loop; what fails costs only its line."""

import json
import os
import runpy
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fedjax_rec.bench.peers import answer, command, compared, environments, played, workloads
from fedjax_rec.bench.peers.page import figure, page
from fedjax_rec.bench.peers.played import Answer, Script

RATE = 0.5


def small(name: str, batch: int = 64) -> workloads.Workload:
    """Twelve clients with 5 to 40 samples, which fit in a batch unless it is smaller."""
    draw = np.random.default_rng(1)
    if name == "dense":
        made = workloads.dense(12)
        sizes = np.minimum(np.diff(made.offsets), 40)
        kept = np.concatenate([a + np.arange(n) for a, n in zip(made.offsets, sizes, strict=False)])
        x, y, start = made.x[kept], made.y[kept], made.start
    else:
        sizes = draw.integers(5, 41, 12)
        x = draw.integers(0, 30, sizes.sum()).astype(np.int32)
        y = (draw.random(len(x)) < 0.2 + 0.6 * (x % 2)).astype(np.float32)
        start = {"items": draw.normal(size=(30, 8)), "w": draw.normal(size=8), "b": np.zeros(())}
        start = {key: np.float32(value) for key, value in start.items()}
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    return workloads.Workload(name, name, name, x, y, offsets, start, batch, RATE)


def gradient(p, x, y):
    """Of the mean cross-entropy, by hand, in float64."""
    z = answer.scores(p, x)
    d = (1 / (1 + np.exp(-z)) - y) / len(y)
    if "items" in p:
        table = np.zeros_like(p["items"])
        np.add.at(table, x, np.outer(d, p["w"]))
        return {"items": table, "w": p["items"][x].T @ d, "b": d.sum()}
    one = np.maximum(x @ p["w1"] + p["b1"], 0)
    two = np.maximum(one @ p["w2"] + p["b2"], 0)
    of_two = np.outer(d, p["w3"]) * (two > 0)
    of_one = (of_two @ p["w2"].T) * (one > 0)
    return {
        "w1": x.T @ of_one, "b1": of_one.sum(0), "w2": one.T @ of_two, "b2": of_two.sum(0),
        "w3": two.T @ d, "b3": d.sum(),
    }  # fmt: skip


def by_numpy(work, rounds: int) -> list[float]:
    """Losses after each round of the loop that all peers stand for."""
    draw = np.random.default_rng(7)
    p = {name: value.astype(np.float64) for name, value in work.start.items()}
    arrays = work.x, work.y, work.offsets, work.start
    given = answer.Given("", *arrays, work.batch, work.rate, rounds)
    losses = []
    for _ in range(rounds):
        total = {name: 0.0 for name in p}
        for x, y in given.clients:
            own, order = p, draw.permutation(len(y))
            for begin in range(0, len(y), work.batch):
                at = order[begin : begin + work.batch]
                step = gradient(own, x[at], y[at])
                own = {name: own[name] - work.rate * step[name] for name in own}
            total = {n: total[n] + len(y) / len(work.y) * (own[n] - p[n]) for n in p}
        p = {name: p[name] + total[name] for name in p}
        losses.append(answer.loss(given, p))
    return losses


def told(script: str, work, rounds: int, place: Path, monkeypatch, capsys) -> Answer:
    """What a script answers in this process."""
    work.save(place / "work.npz")
    words = [script, "--npz", str(place / "work.npz"), "--rounds", str(rounds)]
    monkeypatch.setattr(sys, "argv", words)
    monkeypatch.syspath_prepend(str(played.HERE))
    runpy.run_path(str(played.HERE / script), run_name="__main__")
    return played.read(capsys.readouterr().out, script, rounds)


@pytest.mark.parametrize("name", ["items", "dense"])
@pytest.mark.parametrize("script", ["ours_workload.py", "vmap_workload.py"])
def test_of_one_batch_a_client_it_is_the_loop(name, script, tmp_path, monkeypatch, capsys):
    """Nothing is left to chance."""
    work = small(name)
    found = told(script, work, 3, tmp_path, monkeypatch, capsys)
    expected = by_numpy(work, 3)
    assert expected[-1] < expected[0] - 1e-3
    np.testing.assert_allclose(found.losses, expected[-len(found.losses) :], rtol=2e-6)
    assert found.rounds == 3 and found.cpu > 0 and found.peak_bytes > 2**20


@pytest.mark.parametrize("script", ["ours_workload.py", "vmap_workload.py"])
def test_of_several_batches_it_is_the_loop_by_chance(script, tmp_path, monkeypatch, capsys):
    work = small("items", batch=8)
    found = told(script, work, 3, tmp_path, monkeypatch, capsys)
    expected = by_numpy(work, 3)[-1]
    assert abs(by_numpy(work, 1)[-1] / expected - 1) > compared.ALIKE
    assert abs(found.losses[-1] / expected - 1) < compared.ALIKE


@pytest.mark.slow
@pytest.mark.parametrize("name", ["items", "dense"])
@pytest.mark.parametrize("peer", compared.PEERS, ids=lambda peer: peer.name)
def test_a_peer_does_the_work_of_the_loop(peer, name):
    """In its own environment, where `fedjax-rec bench peers` has made that."""
    there = environments.place(peer.shares or peer.name) / "ready"
    if peer.packages is not None and not there.exists():
        pytest.skip(f"the environment of {peer.title} is not here; fedjax-rec bench peers")
    work = small(name)
    found = played.play(replace(peer, threads=("",)), work, 2)
    # FedJAX fills the only batch from a second pass.
    rtol = 0.01 if peer.name == "fedjax" else 1e-5
    np.testing.assert_allclose(found.losses[-1], by_numpy(work, 2)[-1], rtol=rtol)


def test_the_work_of_a_file_is_what_was_laid_in_it(tmp_path):
    work = workloads.dense(30)
    sizes = np.diff(work.offsets)
    assert sizes.min() >= 16 and sizes.max() <= 512 and 0.3 < work.y.mean() < 0.7
    assert work.first(40) is work and work.first(None) is work
    few = work.first(4)
    few.save(tmp_path / "a.npz")
    read = answer.read(tmp_path / "a.npz", 2)
    assert [len(y) for _, y in read.clients] == sizes[:4].tolist() and not read.has_items
    np.testing.assert_array_equal(read.x, work.x[: sizes[:4].sum()])
    assert (read.batch, read.rate) == (32, np.float32(0.1)) or read.rate == 0.1
    assert few.steps == sum(-(-n // 32) for n in sizes[:4])


def of(cpu: float, losses=(0.6, 0.5), rounds: int = 2, version: str = "1.0") -> Answer:
    seconds = (9.0,) + (cpu,) * (rounds - 1)
    return Answer(version, seconds, seconds, losses, 5)


@pytest.mark.parametrize(
    ("loss", "refused"), [(0.5049, 0), (0.4951, 0), (0.506, 1), (0.494, 1), (float("nan"), 1)]
)
def test_a_loss_that_differs_by_more_than_one_percent_is_refused(loss, refused):
    ours = of(1.0, losses=(0.6, 0.5, 0.4), rounds=3)
    said = compared.refusal(of(2.0, losses=(loss,)), ours)
    assert said.startswith("refused: loss") == bool(refused) and bool(said) == bool(refused)


def scripts() -> list[Script]:
    names = ("torch", "fedjax", "pfl", "fluke")
    return [replace(p, rounds={"items": 2, "toy": 2}) for p in compared.PEERS if p.name in names]


def fake(script, work, rounds):
    """PyTorch is quick, FedJAX raises, pfl learns something else, fluke is slow."""
    if script.name == "fedjax":
        raise RuntimeError("FedJAX failed: no matching\n distribution; connect.")
    if script.name == "ours":
        return of(1.0, losses=(0.6, 0.5))
    loss = 0.6 if script.name == "pfl" else 0.501
    return of({"torch": 4.0, "fluke": 150.0}.get(script.name, 2.0), losses=(loss,))


@pytest.fixture
def found() -> compared.Compared:
    work = replace(small("items"), title="item table", about="Toy data")
    return compared.compared(work, scripts(), playing=fake)


def test_a_peer_that_fails_or_differs_loses_only_its_line(found):
    assert [line.script.name for line in found.lines] == ["torch", "fedjax", "pfl", "fluke"]
    assert [found.ratio(line) for line in found.lines] == [4.0, None, None, 150.0]
    assert found.lines[1].why == "FedJAX failed: no matching distribution; connect."
    assert found.lines[2].why == "refused: loss 0.6 after 2 rounds, ours is 0.5"
    assert len(found.ours) == 3
    rows = {row.what: row for row in found.rows()}
    assert rows["item table: CPU time of fluke 1.0 over ours"].goal == ">= 100"
    missing = rows["item table: CPU time of FedJAX over ours"]
    assert missing.value is None and missing.goal.startswith(">= 30 (FedJAX failed")


def test_where_ours_fails_nothing_is_compared():
    def playing(script, work, rounds):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        compared.compared(small("items"), scripts(), playing=playing)


def test_the_page_says_what_was_missed_and_what_was_refused(found):
    text = page([found], ["dense network: no memory"], {"cpu": "toy"}, "a command", "images/p.png")
    row = lambda title: next(x for x in text.splitlines() if x.startswith(f"| {title}"))
    assert row("PyTorch by hand").endswith("| 4 | >= 10, missed |")
    assert row("fluke").endswith("| 150 | >= 100, reached |")
    assert row("FedJAX").endswith("| not measured | >= 30 |")
    assert row("pfl").endswith("| refused | >= 50 |")
    assert "- pfl 1.0: refused: loss 0.6" in text and "- dense network: no memory" in text
    assert "![" in text and "Toy data: 12 clients" in text


def test_the_picture_draws_what_counts(found):
    (ax,) = figure([found]).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "fluke 1.0, 150x",
        "PyTorch by hand 1.0, 4x",
    ]
    assert [bar.get_x() + bar.get_width() for bar in ax.patches] == [150.0, 4.0]


def test_the_command_writes_a_page_a_picture_and_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        command, "turns", lambda work, peers, say: compared.turns(work, peers, say, fake)
    )

    def absent():
        raise FileNotFoundError("ml-100k is not here")

    monkeypatch.setattr(command, "WORK", {"item table": absent, "toy": lambda: small("items")})
    words = ["torch", "fedjax", "--clients", "3", "--json", str(tmp_path / "a.json")]
    assert command.main([*words, "--markdown", str(tmp_path / "a.md")]) == 0
    kept = json.loads((tmp_path / "a.json").read_text())
    assert kept["left_out"] == ["item table: ml-100k is not here"]
    assert kept["answers"][0]["clients"] == 3
    assert [peer["peer"] for peer in kept["answers"][0]["peers"]] == ["torch", "fedjax"]
    assert (tmp_path / "images" / "peers.png").read_bytes()[1:4] == b"PNG"
    assert "images/peers.png" in (tmp_path / "a.md").read_text()
    assert "over ours" in capsys.readouterr().out


def test_what_was_measured_before_a_stop_is_written(tmp_path, monkeypatch):
    def stopped(script, work, rounds):
        if script.name == "fluke":
            raise KeyboardInterrupt
        return fake(script, work, rounds)

    monkeypatch.setattr(
        command, "turns", lambda work, peers, say: compared.turns(work, peers, say, stopped)
    )
    monkeypatch.setattr(command, "WORK", {"toy": lambda: small("items")})
    with pytest.raises(KeyboardInterrupt):
        command.main(["torch", "pfl", "fluke", "--json", str(tmp_path / "a.json")])
    (kept,) = json.loads((tmp_path / "a.json").read_text())["answers"]
    assert [peer["peer"] for peer in kept["peers"]] == ["torch", "pfl"]


def test_a_workload_that_was_measured_is_kept(tmp_path, monkeypatch):
    played_for = []

    def playing(script, work, rounds):
        played_for.append(work.name)
        return fake(script, work, rounds)

    turns = lambda work, peers, say: compared.turns(work, peers, say, playing)
    monkeypatch.setattr(command, "turns", turns)
    toy = replace(small("items"), name="toy", title="toy")
    words = ["torch", "fedjax", "--json", str(tmp_path / "a.json")]
    monkeypatch.setattr(command, "WORK", {"items": lambda: small("items")})
    assert command.main(words) == 0
    first = json.loads((tmp_path / "a.json").read_text())["answers"]
    monkeypatch.setattr(command, "WORK", {"items": lambda: small("items"), "toy": lambda: toy})
    played_for.clear()
    assert command.main([*words, "--go-on"]) == 0
    both = json.loads((tmp_path / "a.json").read_text())["answers"]
    assert both[:1] == first and both[1]["workload"] == "toy" and set(played_for) == {"toy"}
    with pytest.raises(ValueError, match="--go-on"):
        command.main(["--go-on", "--json", str(tmp_path / "absent")])


def test_bad_input_is_one_line():
    with pytest.raises(ValueError, match=r"peer 'flover' is unknown \(did you mean 'flower'\?\)"):
        command.main(["flover"])
    with pytest.raises(ValueError, match="clients=0"):
        command.main(["--clients", "0"])


GOOD = {"version": "1", "walls": [1, 2], "cpus": [1, 2], "losses": [0.5], "peak_bytes": 7}


def test_an_answer_is_read_from_the_last_line():
    found = played.read("a\nround 1\n" + json.dumps(GOOD) + "\n", "pfl", 2)
    assert found == Answer("1", (1.0, 2.0), (1.0, 2.0), (0.5,), 7)
    assert (found.cpu, found.rounds) == (2.0, 2)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "no answer but ''"),
        ("Segmentation fault", "no answer but 'Segmentation fault'"),
        ("[1, 2]", "no answer"),
        (json.dumps({**GOOD, "walls": None}), "no answer"),
        (json.dumps({k: v for k, v in GOOD.items() if k != "losses"}), "no answer"),
        (json.dumps({**GOOD, "walls": [1], "cpus": [1]}), "1 rounds of 2"),
        (json.dumps({**GOOD, "losses": []}), "rounds of 2"),
        (json.dumps({**GOOD, "cpus": [1, float("nan")]}), "seconds that are none"),
    ],
)
def test_what_is_no_answer_is_refused(text, complaint):
    with pytest.raises(RuntimeError, match=complaint):
        played.read(text, "pfl", 2)


SOURCE = '''"""Two lines
of a docstring."""

import numpy  # counts

# a comment


class Timed:  # clock
    def start(self):
        return 1


def loss(x):
    """One."""
    text = """of
    two"""
    return (
        x
    )
'''


def test_lines_of_code_are_counted():
    assert played.lines_of_code(SOURCE) == 7
    by = {peer.name: peer.lines() for peer in compared.PEERS}
    assert by["torch"] == by["autograd"] and all(20 < n < 150 for n in by.values())


def test_a_command_that_fails_or_hangs_is_one_line_and_leaves_nothing(tmp_path):
    run = lambda text, **more: environments.output([sys.executable, "-c", text], "it", "x", **more)
    assert run("print(5)") == "5\n"
    with pytest.raises(RuntimeError, match="it failed: ValueError: bad; x"):
        run("raise ValueError('bad')")
    with pytest.raises(RuntimeError, match="could not start"):
        environments.output([str(tmp_path / "absent")], "it", "x")
    child = f"import time; time.sleep(1.5); open({str(tmp_path / 'late')!r}, 'w')"
    text = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with pytest.raises(RuntimeError, match=r"outlasted timeout=0\.5 s"):
        run(text, timeout=0.5)
    time.sleep(1.6)
    assert not (tmp_path / "late").exists()


def test_a_bench_that_is_ended_leaves_nothing_running(tmp_path):
    """SIGTERM, as a queue of jobs sends it."""
    child = f"open({str(tmp_path / 'began')!r}, 'w'); import time; time.sleep(2); "
    child += f"open({str(tmp_path / 'late')!r}, 'w')"
    text = (
        "import signal, sys\nfrom fedjax_rec.bench import main\n"
        "from fedjax_rec.bench.peers import environments\n"
        "def played(words):\n"
        f"    environments.output([sys.executable, '-c', {child!r}], 'it', 'x')\n"
        "main.peers = played\nsys.exit(main.main(['peers']))"
    )
    running = subprocess.Popen([sys.executable, "-c", text])
    while not (tmp_path / "began").exists():
        time.sleep(0.05)
    running.terminate()
    assert running.wait(timeout=60) == 130
    time.sleep(2.2)
    assert not (tmp_path / "late").exists()


def test_a_folder_with_something_else_is_not_emptied(tmp_path):
    (tmp_path / "mine").write_text("kept")
    with pytest.raises(ValueError, match="no virtual environment"):
        environments.prepare(tmp_path, ["numpy"])
    assert (tmp_path / "mine").read_text() == "kept"


def test_what_cannot_be_installed_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    wanted = ["no_such_package==1.0", environments.TORCH]
    with pytest.raises(RuntimeError, match=r"no_such_package==1.0.*PIP_EXTRA_INDEX_URL") as caught:
        environments.prepare(tmp_path / "there", wanted)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "there" / "ready").exists()


@pytest.mark.skipif(not os.path.exists("/proc/self/smaps_rollup"), reason="there is no /proc")
def test_a_clock_of_a_tree_counts_its_children():
    alone, tree = answer.Clock(), answer.Clock(tree=True)
    work = "sum(i * i for i in range(6_000_000))"
    with alone, tree:
        environments.output([sys.executable, "-c", work], "it", "x")
    assert tree.cpus[0] - alone.cpus[0] > 0.1
    assert tree.peak > 2**20 and alone.peak > 2**20
