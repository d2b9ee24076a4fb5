"""The product of what ships: strategies by compressors, aggregators, cohorts and table layouts.

For each: the loss falls, one trace serves every round, a run goes on from its state to the same
bits, who is not in the cohort is untouched, and bytes are counted for who sent and nobody else.

The fast tests take each strategy with one compressor, aggregator and table layout of its own, and
of the product a share that is another with every commit, see `rotating`; `make slow` runs the rest.
"""

import itertools
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rotating import in_turn, marks
from strategies_registry import STRATEGIES
from worlds import KEY, USERS, compiled, mean_loss, named, same

from fedjax_rec import aggregate, compress, rows
from fedjax_rec.data import pointwise
from fedjax_rec.types import Cohort, Stage

UPLINKS = {
    "none": lambda: None,
    "error_feedback(top_k)": lambda: compress.error_feedback(compress.top_k(0.3)),
    "eden": lambda: compress.eden(4, block=64),
}
AGGREGATORS = {
    "default": lambda: None,
    "mean": aggregate.mean,
    "uniform": aggregate.uniform,
    "per_row": aggregate.per_row,
}
LAYOUTS = ("whole", "compact")
# Uploads are on their way in a round that nobody starts.
ARRIVING = {"asynchronous(constant clock)", "fedbuff(23)", "fedasync(23)"}
# Another of like kind stands for them in the fast tests.
LIKE_OTHERS = {
    "federated(local_training)", "fedavg(adam, scheduled)", "fedavg(fed_adam)", "fedmf()",
    "fedncf()", "pfedrec()", "colr(2)", "federated_dropout(0.5)", "power_sgd(2)", "fedper()",
    "fine_tuned_fedavg()", "reptile(0.7)", "mime(0.5)", "over_selected(8)", "fedasync(23)",
    "model_swapping()", "gossip_sgd()", "selecting(by_size)", "gpfedrec()",
    "asynchronous(constant clock)", "fedit()", "ffa_lora()", "fed_sb()", "flexlora(ranks)",
    "hetlora(ranks)", "rolora()", "fedex_lora()", "fedsa_lora()", "fedrep()", "mime_lite(0.5)",
    "started(fedavg)",
}  # fmt: skip


def one_each():
    """Every strategy once, with parts that differ from one to the next."""
    for i, name in enumerate(STRATEGIES):
        uplink, aggregator = list(UPLINKS)[i % 3], list(AGGREGATORS)[i % 4]
        turns = marks(name, 10) if name in LIKE_OTHERS else []
        yield pytest.param(name, uplink, aggregator, LAYOUTS[i // 2 % 2], id=name, marks=turns)


def all_others():
    done = {tuple(p.values) for p in one_each()}
    for name, uplink, aggregator, layout in itertools.product(
        STRATEGIES, UPLINKS, AGGREGATORS, LAYOUTS
    ):
        takes = STRATEGIES[name].takes
        fits = ("uplink" in takes or uplink == "none") and (
            "aggregator" in takes or aggregator == "default"
        )
        if fits and (name, uplink, aggregator, layout) not in done:
            values = name, uplink, aggregator, layout
            yield pytest.param(*values, marks=marks("/".join(values), 300))


def cohorts(rounds: int):
    """int32[rounds, USERS]: everybody, then a half in some order with padding, by turns."""
    draw = np.random.default_rng(0)
    for t in range(rounds):
        ids = draw.permutation(USERS)
        if t % 2:
            ids[USERS // 2 :] = USERS
        yield jnp.asarray(ids, jnp.int32)


def untouched(before, after, ids):
    """Slices [N, ...] of clients outside `ids` are the same bits."""
    others = np.setdiff1d(np.arange(USERS), ids)
    for x, y in zip(
        *(jax.tree.leaves((s.private, s.memory)) for s in (before, after)), strict=True
    ):
        if x.ndim and x.shape[0] == USERS:
            x, y = (np.asarray(jax.random.key_data(z) if _is_key(z) else z) for z in (x, y))
            np.testing.assert_array_equal(x[others], y[others])


def _is_key(x):
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


@pytest.mark.parametrize(("name", "uplink", "aggregator", "layout"), [*one_each(), *all_others()])
def test_every_strategy_with_every_part(name, uplink, aggregator, layout):
    recipe, data = STRATEGIES[name], named(layout)
    parts = {"uplink": UPLINKS[uplink](), "aggregator": AGGREGATORS[aggregator]()}
    parts = {
        part: made for part, made in parts.items() if part in recipe.takes and made is not None
    }
    strategy = recipe.make(recipe.model(data.num_items), pointwise(4), **parts)
    traces = []

    def counted(key, state, cohort):
        traces.append(1)
        return strategy.round(key, state, cohort)

    step = compiled(counted)
    state, losses, saved, ids_seen = strategy.init(KEY, USERS), [], None, []
    for t, ids in enumerate(cohorts(recipe.rounds)):
        before = state
        state, info = step(KEY, state, Cohort(ids, data.store))
        ids_seen.append(ids)
        untouched(before, state, np.asarray(ids))
        sent, there = np.asarray(info.bytes_up), np.asarray(info.weight) > 0
        assert not sent[np.asarray(ids) == USERS].any()
        assert not np.asarray(info.bytes_down)[np.asarray(ids) == USERS].any()
        if there.any():
            losses.append((t, mean_loss(info)))
        if t == recipe.rounds - 4:
            # As a checkpoint has it: through NumPy.
            saved = jax.tree.map(
                lambda x: x if _is_key(x) else jnp.array(np.array(x, copy=True)), state
            )
    assert len(traces) == 1
    full = [loss for t, loss in losses if t % 2 == 0]
    assert all(np.isfinite(loss) for loss in full) and full[-1] < full[0]
    assert saved is not None
    for ids in ids_seen[recipe.rounds - 3 :]:
        saved, _ = step(KEY, saved, Cohort(ids, data.store))
    same(saved, state)
    before = state
    state, info = step(KEY, state, Cohort(jnp.full(USERS, USERS, jnp.int32), data.store))
    if name not in ARRIVING:
        # Nobody takes part, and nothing moves.
        assert not np.asarray(info.weight).any()
        held = lambda state: (state.shared, state.private, state.memory, state.server)
        same(held(state), held(before))
    assert len(traces) == 1


def counted(held: int) -> Stage:
    """Leaves uploads as they are, counts those of a client, and holds one client back."""

    def send(key, memory, upload, now):
        weight = jnp.where(now.client == held, 0.0, upload.weight)
        same = rows.scale(upload.update, 1.0)
        return {"uploads": memory["uploads"] + 1}, replace(upload, update=same, weight=weight)

    return Stage(send, lambda update: {"uploads": jnp.int32(0)})


@pytest.mark.parametrize("name", in_turn([n for n in STRATEGIES if n != "central(ials)"], 15))
def test_every_strategy_takes_stages(name):
    """Whom they hold back weighs nothing and sends nothing; memory follows those that weigh."""
    recipe, data, held = STRATEGIES[name], named("compact"), 7
    made = lambda **kw: recipe.make(recipe.model(data.num_items), pointwise(4), **kw)
    strategy = made(stages=[counted(held)])
    step, state = compiled(strategy.round), strategy.init(KEY, USERS)
    counts = np.zeros(USERS, int)
    for ids in cohorts(4):
        state, info = step(KEY, state, Cohort(ids, data.store))
        ids, weight = np.asarray(ids), np.asarray(info.weight)
        counts[ids[weight > 0]] += 1
        assert held not in ids[weight > 0]
        if name not in ARRIVING:  # bytes there are in the order of arrival
            assert not np.asarray(info.bytes_up)[ids == held].any()
    paths = jax.tree_util.tree_leaves_with_path(state.memory)
    kept = [x for path, x in paths if getattr(path[-1], "key", None) == "uploads"]
    assert kept and counts.any()
    for uploads in kept:
        np.testing.assert_array_equal(uploads, counts)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((state.shared, state.private))
               if not _is_key(x))  # fmt: skip
