"""Two processes are two devices of one, for every strategy that can be dealt out.

To float tolerance; and to the bit where they go on from what both wrote together, which is read
here by one. The processes are real ones and meet on the loopback address. 23 clients are 12 and 11,
and with blocks of rows each process has half of every table.
"""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from compiling import fast
from processes import COHORTS, MEMORY, leaves
from rotating import marks
from strategies_registry import STRATEGIES
from test_devices import ON_ONE, steady
from test_row_blocks import ROW_BY_ROW
from worlds import KEY

from fedjax_rec import simulate

HERE = Path(__file__).parent
START = """
import sys, jax
jax.distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))  # before anything is computed
from processes import main
main(*sys.argv[3:])
"""
AT_ONCE = 2  # strategies of one pair of processes
DEALT = [name for name in STRATEGIES if name not in ON_ONE]
ROWS = [name for name in DEALT if name in ROW_BY_ROW]


def both(out: Path, row_devices: int, names: list[str]) -> None:
    """Plays them in two processes."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    out.mkdir(exist_ok=True)
    path = os.pathsep.join([str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-c", START, f"127.0.0.1:{port}"]
    rest = [str(out), str(row_devices), *names]
    pair = [
        subprocess.Popen(
            [*command, str(i), *rest], env={**os.environ, "PYTHONPATH": path},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for i in range(2)
    ]  # fmt: skip
    try:
        for one in pair:
            said, _ = one.communicate(timeout=300)
            assert one.returncode == 0, said[-3000:]
    finally:
        for one in pair:
            one.kill()


def here(name: str, row_devices: int):
    """(the last `Progress` of the same run on two devices of this process, the outline)."""
    strategy, packed = steady(name)
    mesh = simulate.clients_mesh(2, row_devices)
    calls = simulate.program(lambda _: simulate.Parts(strategy, COHORTS), mesh).of(KEY)
    with fast():
        (*_, end) = simulate.simulate(strategy, packed.store, 4, KEY, COHORTS, every=2, calls=calls)
    return end, jax.eval_shape(lambda: strategy.init(KEY, packed.num_clients))


def compare(out: Path, number: int, name: str, row_devices: int) -> None:
    end, like = here(name, row_devices)
    found = np.load(out / f"{number}.npz")
    mine = leaves(end.state)
    saved = leaves(simulate.load_state(out / str(number) / "checkpoints", 4, like))
    for key, x in mine.items():
        whole, again = found[f"whole{key}"], found[f"again{key}"]
        assert (whole.shape, whole.dtype) == (x.shape, x.dtype)
        wide = (np.asarray(a, np.float64) for a in (whole, x))
        np.testing.assert_allclose(*wide, rtol=1e-4, atol=2e-5, err_msg=f"{name} {key}")
        np.testing.assert_array_equal(again, whole, err_msg=f"{name} {key} again")
        np.testing.assert_array_equal(saved[key], whole, err_msg=f"{name} {key} saved")
    told = {k: v for k, v in end.metrics.items() if k != "seconds"}
    np.testing.assert_allclose(found["metrics"], [told[k] for k in sorted(told)], rtol=1e-4)


@pytest.mark.parametrize("row_devices", [1, 2])
def test_each_process_has_its_clients_and_its_rows(row_devices, tmp_path):
    name = "fedmf()"
    both(tmp_path, row_devices, [name])
    compare(tmp_path, 0, name, row_devices)
    checkpoints = tmp_path / "0" / "checkpoints"
    sizes = {
        process: sorted(
            np.load(file).shape[0] for file in (checkpoints / "blocks" / "4" / process).iterdir()
        )
        for process in ("0", "1")
    }
    rows = [200] if row_devices == 2 else []
    assert sizes == {"0": [12, *rows], "1": [11, *rows]}


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="memory of Linux")
def test_no_process_takes_the_state_of_all_to_write_it(tmp_path):
    """Which is what gathering it takes, and more."""
    both(tmp_path, 1, [MEMORY])
    for index in range(2):
        told = json.loads((tmp_path / f"memory.{index}.json").read_text())
        assert told["held"] < told["all"] / 4, told
        assert told["gathered"] > told["all"] / 2, told
    assert told["all"] > 35


def groups(names: list[str], row_devices: int) -> list:
    many = [names[i : i + AT_ONCE] for i in range(0, len(names), AT_ONCE)]
    return [
        pytest.param(
            row_devices, some, marks=marks(f"processes/{row_devices}/{some[0]}", 96),
            id=f"{row_devices}-{some[0]}",
        )
        for some in many
    ]  # fmt: skip


@pytest.mark.parametrize(("row_devices", "names"), [*groups(DEALT, 1), *groups(ROWS, 2)])
def test_every_strategy_in_two_processes(row_devices, names, tmp_path):
    names = [name for name in names if steady(name)[0].chunk is not None]
    if not names:
        pytest.skip("they play their clients all at once")
    both(tmp_path, row_devices, names)
    for number, name in enumerate(names):
        compare(tmp_path, number, name, row_devices)
