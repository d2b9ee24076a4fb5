"""What a run will hold: XLA's account of its first call, in a line, and what helps where it does
not fit."""

from dataclasses import replace

import jax
import pytest
from crowd import KEY, crowd, walk

from fedjax_rec import simulate, trees
from fedjax_rec.rounds.memory import size
from fedjax_rec.rounds.plan import Chunk
from fedjax_rec.simulate.forecast import Forecast
from fedjax_rec.strategies import memory_budget

MIB = 2**20
FITS = Forecast(
    base=90 * MIB, model=1 * MIB, state=2 * MIB, data=3 * MIB, work=64 * MIB, peak=160 * MIB,
    chunk=Chunk(8, 96 * MIB + 1, 8 * MIB), allowed=200 * MIB, device=2**30,
)  # fmt: skip


def refused(**changes) -> str:
    with pytest.raises(MemoryError) as error:
        replace(FITS, **changes).refuse()
    return str(error.value)


def test_the_line_says_all():
    assert FITS.line() == (
        "memory: model 1.0 MiB on a base of 90 MiB, state 2.0 MiB, data 3.0 MiB, temporary 64 MiB "
        "(8 clients at a time, 8.0 MiB each); peak 160 MiB of 200 MiB allowed, device 1.0 GiB"
    )
    one = replace(FITS, base=0, chunk=Chunk(1))
    assert "model 1.0 MiB, state" in one.line()
    assert "1 client at a time, at most 64 MiB each" in one.line()
    FITS.refuse()
    replace(FITS, allowed=FITS.peak).refuse()


def test_what_does_not_fit_says_by_how_much_and_which_knob_helps():
    told = refused(allowed=150 * MIB)
    assert "would take 160 MiB at its peak, 10 MiB more than the 150 MiB it may" in told
    assert "base 90 MiB, temporary 64 MiB; use clients_per_chunk=6" in told
    # Not analysed: the share of each is a bound.
    assert "clients_per_chunk=6" in refused(allowed=150 * MIB, chunk=Chunk(8))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"allowed": 50 * MIB}, "use a quantised or bfloat16 base"),
        ({"state": 900 * MIB, "peak": 1060 * MIB, "chunk": Chunk(8)}, "data.by_hash"),
        ({"model": 900 * MIB, "peak": 1060 * MIB, "chunk": Chunk(8)}, "use a smaller width"),
        ({"data": 900 * MIB, "peak": 1060 * MIB, "chunk": Chunk(8)}, "use less data"),
        ({"work": 900 * MIB, "peak": 996 * MIB, "chunk": Chunk(1, 96 * MIB, 900 * MIB)},
         "use a smaller batch_size, remat=true in the model, or a smaller cohort"),
        ({"work": 900 * MIB, "peak": 996 * MIB},
         "the evaluation takes it, use a smaller evaluation.users_per_chunk"),
    ],
)  # fmt: skip
def test_the_knob_is_that_of_the_largest_part(changes, told):
    assert told in refused(**changes)


@pytest.mark.parametrize(
    ("nbytes", "told"),
    [(300, "300 B"), (5120, "5 KiB"), (1.25 * MIB, "1.2 MiB"), (2000 * MIB, "2.0 GiB")],
)
def test_sizes(nbytes, told):
    assert size(nbytes) == told


def test_a_forecast_is_that_of_the_call_that_runs():
    """One trace for the outline and the run; the parts add up to the peak."""
    traces: list = []
    strategy, store = walk(traces), crowd()
    calls = simulate.program(lambda _: simulate.Parts(strategy)).of(KEY)
    like = jax.eval_shape(lambda: strategy.init(KEY, store.num_clients))
    with memory_budget("1GiB"):
        found = simulate.forecast(calls.compiled(like, store, *simulate.block_of(0, 3, 1)), like)
    before = len(traces)
    steps = list(simulate.simulate(strategy, store, 3, KEY, calls=calls))
    assert len(traces) == before > 0 and [s.round for s in steps] == [1, 2, 3]
    plain = list(simulate.simulate(walk(), store, 3, KEY))
    assert [s.metrics["loss"] for s in steps] == [s.metrics["loss"] for s in plain]
    state = plain[-1].state
    assert found.model == trees.nbytes(state.shared) and found.allowed == 2**30
    assert found.state == trees.nbytes(replace(state, shared=()))
    assert found.base + found.model + found.state + found.data + found.work == found.peak
    # Of the store the walk reads what its clients hold, and the key; `m` of its state, which
    # nothing reads or changes, is no argument.
    assert found.data == 4 * 9 + 8 - 8
