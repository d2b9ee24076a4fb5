"""The product of what ships: strategies by compressors, aggregators and table layouts, each held
to the laws of `fedjax_rec.testing`.

The fast tests take strategies with one compressor, aggregator and table layout of their own, and of
the product a share, others with every commit, see `rotating`; `make slow` runs the rest.
"""

import itertools
from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rotating import in_turn, marks
from strategies_registry import STRATEGIES
from worlds import KEY, USERS, compiled, named

from fedjax_rec import aggregate, compress, rows, testing
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
# Their messages go to several others.
SEVERAL = {"gossip_sgd()", "decentralized(cycle)"}
FOLLOW = {"propagating(3)", "fedfast(8)"}
# Another of like kind stands for them more often than not.
LIKE_OTHERS = {
    "federated(local_training)", "fedavg(adam, scheduled)", "fedavg(fed_adam)", "fedmf()",
    "fedncf()", "pfedrec()", "colr(2)", "federated_dropout(0.5)", "power_sgd(2)", "fedper()",
    "fine_tuned_fedavg()", "reptile(0.7)", "mime(0.5)", "over_selected(8)", "fedasync(23)",
    "model_swapping()", "gossip_sgd()", "selecting(by_size)", "gpfedrec()",
    "asynchronous(constant clock)", "fedit()", "ffa_lora()", "fed_sb()", "flexlora(ranks)",
    "hetlora(ranks)", "raflora(ranks)", "rbla(ranks)", "rolora()", "fedex_lora()", "fedsa_lora()",
    "fedrep()", "mime_lite(0.5)",
    "started(fedavg)", "described(fedavg)",
}  # fmt: skip


def one_each():
    """Every strategy once, with parts that differ from one to the next."""
    for i, name in enumerate(STRATEGIES):
        uplink, aggregator = list(UPLINKS)[i % 3], list(AGGREGATORS)[i % 4]
        turns = marks(name, 48 if name in LIKE_OTHERS else 16)
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


@pytest.mark.parametrize(("name", "uplink", "aggregator", "layout"), [*one_each(), *all_others()])
def test_every_strategy_keeps_its_laws_with_every_part(name, uplink, aggregator, layout):
    recipe, data = STRATEGIES[name], named(layout)
    parts = {"uplink": UPLINKS[uplink](), "aggregator": AGGREGATORS[aggregator]()}
    parts = {
        part: made for part, made in parts.items() if part in recipe.takes and made is not None
    }
    testing.check_strategy(
        partial(recipe.make, **parts), model=recipe.model(data.num_items), dataset=data,
        rounds=recipe.rounds, several=name in SEVERAL, follows=name in FOLLOW,
    )  # fmt: skip


def _is_key(x):
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def counted(held: int) -> Stage:
    """Leaves uploads as they are, counts those of a client, and holds one client back."""

    def send(key, memory, upload, now):
        weight = jnp.where(now.client == held, 0.0, upload.weight)
        same = rows.scale(upload.update, 1.0)
        return {"uploads": memory["uploads"] + 1}, replace(upload, update=same, weight=weight)

    return Stage(send, lambda update: {"uploads": jnp.int32(0)})


@pytest.mark.parametrize("name", in_turn([n for n in STRATEGIES if "central(" not in n], 24))
def test_every_strategy_takes_stages(name):
    """Whom they hold back weighs nothing and sends nothing; memory follows those that count."""
    recipe, data, held = STRATEGIES[name], named("compact"), 7
    made = lambda **kw: recipe.make(recipe.model(data.num_items), pointwise(4), **kw)
    strategy = made(stages=[counted(held)])
    step, state = compiled(strategy.round), strategy.init(KEY, USERS)
    counts = np.zeros(USERS, int)
    for ids in cohorts(4):
        state, info = step(KEY, state, Cohort(ids, data.store))
        ids, weight = np.asarray(ids), np.asarray(info.weight)
        kept = True if info.verdicts is None else np.asarray(info.verdicts) > 0
        counts[ids[(weight > 0) & kept]] += 1
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
