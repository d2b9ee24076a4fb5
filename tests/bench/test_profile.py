"""FLOPs and bytes with loops counted out, against closed forms, and a round under the profiler."""

import gzip
import json

import jax
import jax.numpy as jnp
import pytest

from fedjax_rec import data, models, strategies
from fedjax_rec.bench import profile
from fedjax_rec.bench.hlo_cost import Cost, cost_of
from fedjax_rec.bench.main import BENCHES
from fedjax_rec.bench.tables import store
from fedjax_rec.bench.traced_runs import traced_runs
from fedjax_rec.experiment.main import main

N, LENGTH = 48, 7
PRODUCT = 2 * N**3  # FLOPs of one product of two [N, N]


def loops(x, turns):
    """A scan of products, and two nested loops whose trips are data: turns (turns - 1) / 2."""
    x = jax.lax.scan(lambda c, _: (jnp.tanh(c @ c), None), x, None, length=LENGTH)[0]
    inner = lambda i, c: jax.lax.fori_loop(0, i, lambda j, d: d @ d * 0.01, c)
    return jax.lax.fori_loop(0, turns, inner, x)


@pytest.fixture(scope="module")
def compiled():
    return jax.jit(loops).lower(jnp.zeros((N, N)), 5).compile()


def test_a_scan_is_counted_by_its_length(compiled):
    once = compiled.cost_analysis()
    assert 2 * PRODUCT < once["flops"] < 2.1 * PRODUCT  # XLA's own: a product for each loop
    found = cost_of(compiled)
    least = (LENGTH + 1) * PRODUCT  # the trips of the others are data
    assert least <= found.flops < 1.02 * least and len(found.unknown) == 2
    assert found.transcendentals == LENGTH * N * N
    # A product reads an array and writes one, and so does tanh.
    assert found.bytes >= LENGTH * 4 * N * N * 4


def test_trips_that_are_data_are_those_of_a_trace(compiled, tmp_path):
    x, turns, times = jnp.full((N, N), 0.01), 6, 3
    with jax.profiler.trace(str(tmp_path)):
        for _ in range(times):
            compiled(x, turns).block_until_ready()
    runs = traced_runs(tmp_path, "jit_loops", times)
    found = cost_of(compiled, runs)
    expected = (LENGTH + turns * (turns - 1) // 2) * PRODUCT
    assert expected <= found.flops < 1.02 * expected and found.unknown == ()
    assert traced_runs(tmp_path, "jit_other", times) == {}


def test_a_loop_within_what_is_called_more_than_once_counts_each_time():
    @jax.jit
    def powers(x):
        return jax.lax.fori_loop(0, 3, lambda i, c: c @ c, x)

    def twice(x, last):
        y = powers(powers(x) * 0.5)
        return jax.lax.cond(last, lambda y: powers(y * 2.0), lambda y: y, y)

    program = jax.jit(twice).lower(jnp.zeros((N, N)), True).compile()
    assert 9 * PRODUCT <= cost_of(program).flops < 9.2 * PRODUCT


def test_a_round_under_the_profiler(tmp_path, monkeypatch):
    """PFedRec of D = 64 on E examples in eight batches: each example is scored twice (2 D each),
    and gives a gradient of the scorer (2 D) and of its row (D), at least 7 D E; all else is less
    than eight times that."""
    clients, each, negatives, width = 16, 16, 4, 64
    examples = clients * each * (1 + negatives)
    strategy = strategies.pfedrec(
        models.pfedrec(200, width=width), data.pointwise(negatives), None,
        learning_rate=0.1, item_learning_rate=1.0, batch_size=10,
    )  # fmt: skip
    monkeypatch.setattr(profile, "TIMED", 1)
    best = profile.Ceilings(1e10, 1e10)
    rows = list(profile.profiled("mine", (strategy, store(clients, 200, each)), tmp_path, best))
    value = {row.what.removeprefix("mine: "): row.value for row in rows}
    flops = value["GFLOP a round"] * 1e9
    assert 7 * width * examples <= flops < 60 * width * examples
    assert value["FLOPs over those with each loop counted once"] > 1.5
    assert not any("at least" in row.goal for row in rows)
    seconds = value["CPU ms a round"] / 1e3
    assert value["achieved GFLOP/s"] == pytest.approx(flops / seconds / 1e9)
    (trace,) = tmp_path.rglob("perfetto_trace.json.gz")
    events = json.loads(gzip.decompress(trace.read_bytes()))
    events = events["traceEvents"] if isinstance(events, dict) else events
    assert sum(str(one.get("name")).startswith("round") for one in events) >= profile.TRACED
    assert list(tmp_path.rglob("*.xplane.pb"))  # what TensorBoard reads


def test_rows_say_which_ceiling_binds():
    best = profile.Ceilings(1e11, 2e10)
    rows = list(profile.rows("a", Cost(4e9, 1e9, 0.0, ("body",)), 0.1, best))
    found = {row.what: (row.value, row.goal) for row in rows}
    assert found["a: GFLOP a round"] == (4.0, "at least: 1 loop is counted once")
    assert found["a: achieved GFLOP/s"][0] == pytest.approx(40)
    assert found["a: achieved GB/s"][0] == pytest.approx(10)
    assert found["a: share of the 100 GFLOP/s of a product"][0] == pytest.approx(40)
    share, told = found["a: share of the 20 GB/s of a copy"]
    assert share == pytest.approx(50) and told == "bound by memory"
    assert profile.binds(0.6, 0.5) == "bound by arithmetic"
    assert profile.binds(0.01, 0.02).startswith("neither binds")
    assert profile.binds(0.01, 2.9) == "bound by memory: more than a copy, from the cache"


def test_ceilings_are_finite_rates():
    found = profile.ceilings(megabytes=4, n=128)
    assert 1e7 < found.flops < 1e15 and 1e7 < found.bytes < 1e14


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["robust", "--profile", "traces"], "bench robust --profile: no bench of a round"),
        (["cohrt", "--profile", "traces"], "did you mean 'cohort'"),
        (["cohort", "--profile", "a_file"], "is no folder"),
        (["cohort", "--profile", "a_file/below"], "is no folder"),
        (["cohort", "--profile", ""], "is no folder"),
    ],
)
def test_bad_input_ends_in_one_line(words, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a_file").write_text("")
    assert main(["bench", *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert told in line and not (tmp_path / "traces").exists()


def test_profiled_benches_are_benches():
    assert set(profile.PROFILED) <= set(BENCHES)
