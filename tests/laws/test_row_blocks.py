"""A model whose tables lie in blocks of rows on several devices is the model on one.

Four devices: two that hold each table together and play clients, twice. Cohorts of 11 of 23 clients
are drawn, which train on touched rows of 400 items. Strategies take turns, see `rotating`.
"""

import functools

import jax
import numpy as np
import optax
import pytest
from compiling import fast
from rotating import marks
from strategies_registry import STRATEGIES, fedmf
from test_devices import as_numpy, steady
from worlds import KEY, federated, named

from fedjax_rec import aggregate, compress, data, evaluate, models, privacy, simulate, strategies
from fedjax_rec.rounds.plan import peak_bytes
from fedjax_rec.types import State

COHORTS = simulate.uniform(11)
# Who is played row by row; all others are refused in one line.
ROW_BY_ROW = {
    "federated(local_training)", "fedavg(sgd)", "fedavg(adam, scheduled)", "fedavg(fed_adam)",
    "fedavg_keeping(momentum)", "fedmf()", "fedncf()", "pfedrec()", "colr(2)", "prune_fl(0.5)",
    "federated_dropout(0.5)", "fetch_sgd()", "fedprox(0.1)", "fednova()", "feddyn(0.1)", "fedsgd()",
    "fsvrg()", "mime(0.5)", "mime_lite(0.5)", "fedavg(deadline)", "selecting(by_size)",
    "selective(oort)", "selecting(evenly)", "from_clusters(8)", "propagating(3)", "fedfast(8)",
    "over_selection(8)", "over_selected(8)", "fltrust()", "guarded()", "kept_apart(0.01)",
    "fedavg(fedkd)", "fedpergnn(2)", "lightfr()", "hetefedrec(10)", "f2mf(0.3)", "f2mf(noise)",
    "ifedrec(2)", "fedper()", "fedrep()", "fine_tuned_fedavg()", "pfedme()", "reptile(0.7)",
    "per_fedavg()", "fedrecon()", "fedrap()", "described(fedavg)", "started(fedavg)",
}  # fmt: skip


def played(
    strategy, packed, devices: int, row_devices: int, rounds: int = 2, cohorts=COHORTS, **rest
):
    """The last `Progress` of a run whose tables lie on so many of the devices."""
    parts = simulate.Parts(strategy, cohorts, rest.get("measure"))
    calls = simulate.program(lambda _: parts, simulate.clients_mesh(devices, row_devices)).of(KEY)
    with fast():
        (*_, end) = simulate.simulate(
            strategy, packed.store, rounds, KEY, cohorts, every=2, calls=calls, **rest
        )
    return end


@functools.cache
def plainly_on_one():
    return played(plain(), named("compact"), 1, 1)


def same_numbers(one, many, exactly: bool = False, since_then: bool = True):
    """since_then: whether both have measured the same rounds last."""
    assert jax.tree.structure(one.state) == jax.tree.structure(many.state)
    pairs = zip(jax.tree.leaves(one.state), jax.tree.leaves(many.state), strict=True)
    for x, y in pairs:
        x, y = (np.asarray(as_numpy(a), np.float64) for a in (x, y))
        assert x.shape == y.shape
        if exactly:
            np.testing.assert_array_equal(x, y)
        else:
            np.testing.assert_allclose(x, y, rtol=1e-4, atol=2e-5)
    for name in one.metrics.keys() - {"seconds"} if since_then else ():
        np.testing.assert_allclose(
            many.metrics[name], one.metrics[name], rtol=1e-4, atol=1e-6, err_msg=name
        )


def in_blocks(state: State, row_devices: int) -> list[tuple[int, ...]]:
    """Shapes of the leaves that lie so."""

    def blocked(x):
        return x.addressable_shards[0].data.shape[:1] == (x.shape[0] // row_devices,)

    return [x.shape for x in jax.tree.leaves(state) if x.ndim and blocked(x)]


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=marks(f"row_blocks/{x}", 24)) for x in STRATEGIES]
)
def test_every_strategy_is_that_on_one_device_or_is_refused(name):
    strategy, packed = steady(name)
    if name not in ROW_BY_ROW:
        with pytest.raises(ValueError, match=r"use (row_)?devices=1"):
            played(strategy, packed, 4, 2)
        return
    same_numbers(played(strategy, packed, 1, 1), played(strategy, packed, 4, 2))


def plain(server=None, aggregator=None, **parts):
    packed = named("compact")
    return federated(packed, fedmf(packed.num_items), server=server, aggregator=aggregator, **parts)


@pytest.mark.parametrize("row_devices", [2, 4])
def test_touched_rows_on_four_devices(row_devices):
    """To the bit the same again on the same mesh; and what lies in blocks is the table alone."""
    packed, strategy = named("compact"), plain()
    many = played(strategy, packed, 4, row_devices)
    again = played(strategy, packed, 4, row_devices)
    same_numbers(plainly_on_one(), many)
    same_numbers(many, again, exactly=True)
    assert in_blocks(many.state, row_devices) == [(400, 6)]


@pytest.mark.parametrize(
    "parts",
    [
        {"server": optax.adam(0.01)},
        {"aggregator": aggregate.per_row()},
        {"aggregator": aggregate.uniform(), "server": strategies.fed_avg_m(0.5)},
        {"uplink": compress.error_feedback(compress.top_k(0.2))},
        {"downlink": compress.cast()},
        {"aggregator": aggregate.trimmed_mean(1)},
        {"stages": [privacy.local_laplace(0.1, 5.0)]},
    ],
    ids=["adam", "per_row", "uniform, momentum", "top_k", "downlink", "trimmed_mean", "clip"],
)
def test_parts_of_a_strategy(parts):
    packed, strategy = named("compact"), plain(**parts)
    many = played(strategy, packed, 4, 2)
    same_numbers(played(strategy, packed, 1, 1), many)
    like_a_table = [x for x in jax.tree.leaves(many.state.server) if x.shape == (400, 6)]
    assert in_blocks(many.state, 2).count((400, 6)) == 1 + len(like_a_table)


def test_a_short_list_of_rows_goes_to_all_owners():
    """Two clients touch fewer rows than a device owns, which are not laid out."""
    packed, few = named("compact"), simulate.fixed([3, 20])
    one, many = (
        played(plain(chunk=1), packed, devices, devices, cohorts=few) for devices in (1, 2)
    )
    same_numbers(one, many)


def test_full_ranking_of_a_table_in_blocks():
    packed, strategy = named("compact"), plain()
    protocol = evaluate.full_catalogue(evaluate.metrics(["hr@100", "ndcg@100"]), packed.num_items)
    measure = simulate.aggregated(strategy.model, protocol, {"test": packed.test})
    one, many = (played(strategy, packed, devices, devices, measure=measure) for devices in (1, 4))
    same_numbers(one, many)
    np.testing.assert_allclose(many.values["test"], one.values["test"], atol=1e-6)
    assert one.metrics["hr@100"] > 0


@pytest.mark.parametrize("before, after", [((4, 2), (1, 1)), ((1, 1), (4, 4))])
def test_a_run_goes_on_on_another_mesh(before, after, tmp_path):
    packed, strategy = named("compact"), plain(server=optax.adam(0.01))
    first = played(strategy, packed, *before, rounds=1)
    folder = simulate.Checkpoints(tmp_path, "it")
    folder.save(1, first.state)
    like = jax.eval_shape(lambda: strategy.init(KEY, packed.num_clients))
    restored = folder.restore(like)
    folder.close()
    assert restored is not None
    gone_on = played(strategy, packed, *after, state=restored[1])
    same_numbers(played(strategy, packed, 1, 1), gone_on, since_then=False)


def test_a_device_is_foreseen_to_hold_its_rows_alone():
    packed = named("compact")
    model = models.fedmf(packed.num_items, width=4096)  # 6.3 MiB
    strategy = federated(packed, model, server=optax.adam(0.1), chunk=1)
    like = jax.eval_shape(lambda: strategy.init(KEY, packed.num_clients))
    found = []
    for row_devices in (1, 4):
        mesh = simulate.clients_mesh(4, row_devices)
        calls = simulate.program(lambda _: simulate.Parts(strategy, simulate.fixed([3])), mesh)
        with fast():
            compiled = calls.of(KEY).compiled(like, packed.store, 1, 1)
        found.append(simulate.forecast(compiled, like))
        assert found[-1].peak == peak_bytes(compiled.memory())
    copies, blocks = found
    assert blocks.model == copies.model // 4
    assert copies.state - blocks.state >= 2 * 3 * copies.model // 4  # two moments
    assert blocks.peak < 0.5 * copies.peak


@pytest.mark.parametrize(
    "strategy, row_devices, line",
    [
        (lambda: plain(), 3, r"row_devices=3 does not divide a table of 400 rows; use "
         r"row_devices=2, or a table of 402 rows"),
        (lambda: plain(aggregator=privacy.secure_aggregation(1.0, 11)), 2, "under a seal"),
        (lambda: strategies.scaffold(fedmf(400), data.pointwise(4)), 2, "reads a table whole"),
        (lambda: strategies.fedmf(models.fedmf(400), data.pointwise(99)), 2, "reads a table whole"),
        (lambda: STRATEGIES["gossip_sgd()"].make(fedmf(400), data.pointwise(4)), 2,
         "has each device hold whole tables"),
    ],
    ids=["undivided", "seal", "scaffold", "whole", "gossip"],
)  # fmt: skip
def test_what_cannot_be_is_said_in_one_line(strategy, row_devices, line):
    """Before anything runs."""
    packed, made = named("compact"), strategy()
    like = jax.eval_shape(lambda: made.init(KEY, packed.num_clients))
    mesh = simulate.clients_mesh(row_devices, row_devices)
    calls = simulate.program(lambda _: simulate.Parts(made, COHORTS), mesh).of(KEY)
    with pytest.raises(ValueError, match=line) as error:
        calls.compiled(like, packed.store, 1, 1)
    assert "\n" not in str(error.value).split("\n---")[0]


def test_metrics_of_the_own_model_need_the_whole_catalogue():
    packed, model = named("compact"), fedmf(400)
    protocol = evaluate.full_catalogue(evaluate.metrics(["hr@10"]), packed.num_items)
    probe = evaluate.probe_clients(protocol, {"test": packed.test})
    strategy = strategies.fedavg(model, data.pointwise(4), probe)
    with pytest.raises(ValueError, match=r"its metrics need them all; use row_devices=1"):
        played(strategy, packed, 2, 2)


def test_devices_and_those_that_hold_rows():
    with pytest.raises(ValueError, match=r"row_devices=3 does not divide devices=4, .*devices=6"):
        simulate.clients_mesh(4, 3)
    with pytest.raises(ValueError, match="row_devices=0"):
        simulate.clients_mesh(4, 0)
    mesh = simulate.clients_mesh(4, 2)
    assert mesh is not None and dict(mesh.shape) == {"clients": 2, "rows": 2}
