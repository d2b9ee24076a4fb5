"""What one of several real processes plays, for `test_processes.py`.

Of each strategy four rounds at once, and two that are saved and two that go on from there. The
first process writes OUT/NUMBER.npz: metrics, and the leaves of the state after four rounds either
way.
"""

import gc
import json
from pathlib import Path

import jax
import numpy as np
from compiling import fast
from test_devices import as_numpy, steady
from worlds import KEY, federated, world

from fedjax_rec import models, simulate

MEMORY = "memory"  # in place of names
COHORTS = simulate.uniform(11)


def played(strategy, store, mesh, rounds: int, state=None):
    """The last `Progress`."""
    calls = simulate.program(lambda _: simulate.Parts(strategy, COHORTS), mesh).of(KEY)
    (*_, end) = simulate.simulate(
        strategy, store, rounds, KEY, COHORTS, every=2, state=state, calls=calls
    )
    return end


def leaves(state) -> dict[str, np.ndarray]:
    whole = jax.tree.leaves(simulate.gathered(state))
    return {f"{i:03}": as_numpy(x) for i, x in enumerate(whole)}


def one(name: str, number: int, out: Path, mesh) -> None:
    strategy, packed = steady(name)
    like = jax.eval_shape(lambda: strategy.init(KEY, packed.num_clients))
    with fast():
        end = played(strategy, packed.store, mesh, 4)
        half = played(strategy, packed.store, mesh, 2)
        folder = simulate.Checkpoints(out / str(number) / "checkpoints", name)
        folder.save(2, half.running)
        _, state, _ = folder.restore(like)
        again = played(strategy, packed.store, mesh, 4, state)
        folder.save(4, again.running)
        folder.close()
    whole, resumed = leaves(end.running), leaves(again.running)
    if simulate.is_first():
        told = {k: v for k, v in end.metrics.items() if k != "seconds"}
        np.savez(
            out / f"{number}.npz",
            metrics=np.array([told[k] for k in sorted(told)]),
            **{f"whole{k}": x for k, x in whole.items()},
            **{f"again{k}": x for k, x in resumed.items()},
        )


def memory(out: Path) -> None:
    """Writes OUT/memory.INDEX.json: MiB of what 20,000 clients keep, and by how much more than
    before this process took at its peak when it was written, by those who hold it and gathered."""
    packed = world(20_000, 40, 4)
    strategy = federated(packed, models.fedmf(packed.num_items, width=512))
    with fast():
        end = played(strategy, packed.store, simulate.clients_mesh(1), 1)
    told: dict[str, float] = {"all": packed.num_clients * 512 * 4 / 2**20}
    for how in (simulate.held, simulate.gathered):
        gc.collect()
        folder = simulate.Checkpoints(out / how.__name__, "it")
        Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
        before = resident("VmRSS")
        folder.save(1, how(end.running))
        told[how.__name__] = resident("VmHWM") - before
        folder.close()
    (out / f"memory.{jax.process_index()}.json").write_text(json.dumps(told))


def resident(what: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(what)) / 2**10


def main(out: str, row_devices: str, *names: str) -> None:
    if names == (MEMORY,):
        return memory(Path(out))
    mesh = simulate.clients_mesh(1, int(row_devices))
    for number, name in enumerate(names):
        one(name, number, Path(out), mesh)
