"""What surrounds a round and ships, by the call that makes it, with what it claims; as
`registry.py`. Entries of clients take a model; values are (thunk, claims)."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import optax

from fedjax_rec import clients, data, evaluate, models, simulate, strategies
from fedjax_rec.testing import worlds


class Entry(NamedTuple):
    """make() is the part, or what its check takes; claims go to the check."""

    make: Callable[[], Any]
    claims: dict = {}  # noqa: RUF012


def trained(model):
    return clients.local_training(model, data.pointwise(4), clients.sgd(0.5), batch_size=8)


def from_model(make, **kwargs) -> Entry:
    """A client of a model, examples and an optimizer."""
    return Entry(
        lambda: partial(make, batches=data.pointwise(4), optimizer=clients.sgd(0.5), **kwargs)
    )


CLIENTS = {
    "local_training(sgd)": Entry(lambda: trained),
    "local_training(adam, 2 steps)": Entry(
        lambda: (
            lambda model: clients.local_training(
                model, data.pointwise(4), optax.adam(0.1), steps=2, batch_size=8
            )
        )
    ),
    "proximal(0.1)": from_model(strategies.proximal, mu=0.1),
    "ditto_client()": from_model(strategies.ditto_client),
    "apfl_client()": from_model(strategies.apfl_client),
    "pfedme_client()": from_model(strategies.pfedme_client, personal=clients.sgd(0.1)),
    "maml()": from_model(strategies.maml),
    "full_gradient()": Entry(
        lambda: (
            lambda model: strategies.full_gradient(
                model, data.pointwise(4), private=clients.sgd(0.5)
            )
        )
    ),
    "keeping(momentum)": Entry(
        lambda: (
            lambda model: clients.keeping(
                model, data.pointwise(4), optax.sgd(0.1, momentum=0.9), clients.Passes(1, None, 8)
            )
        )
    ),
    "reporting(steps)": Entry(lambda: lambda model: clients.reporting(trained(model), ["steps"])),
    "sending_user()": Entry(lambda: lambda model: strategies.sending_user(trained(model))),
    "in_sequence(2)": Entry(
        lambda: lambda model: strategies.in_sequence([trained(model), trained(model)])
    ),
    "fine_tuned()": Entry(
        lambda: lambda model: strategies.fine_tuned(trained(model), trained(model))
    ),
    "anew()": Entry(lambda: lambda model: strategies.anew(trained(model))),
}
# Clients of a server that holds more than a model, or of a model with roles: the laws of their
# strategies hold them.
OF_THEIR_STRATEGY = {"controlled", "dynamic", "of_rank", "submodel"}

CLOCKS = {
    "lognormal_clock()": Entry(strategies.lognormal_clock),
    "lognormal_clock(jitter)": Entry(lambda: strategies.lognormal_clock(jitter=0.3, epochs=2.0)),
    "traced_clock(6)": Entry(
        lambda: strategies.traced_clock([1, 2, 3, 4, 5, 6.0], 1e3, 1e2, latency=0.1)
    ),
}

UTILITIES = {
    "by_size()": Entry(strategies.by_size),
    "power_of_choice()": Entry(strategies.power_of_choice),
    "evenly()": Entry(strategies.evenly),
    "evenly(3 groups)": Entry(lambda: strategies.evenly([k % 3 for k in range(worlds.USERS)])),
    "in_proportion()": Entry(strategies.in_proportion),
    "in_proportion(2 groups)": Entry(
        lambda: strategies.in_proportion([k // 4 for k in range(worlds.USERS)])
    ),
    "oort()": Entry(strategies.oort),
    "oort(2 seconds)": Entry(lambda: strategies.oort(2.0)),
}

EXCHANGES = {
    "derangement()": Entry(strategies.derangement),
    "cycle()": Entry(strategies.cycle),
    "pairs()": Entry(strategies.pairs),
    "gossip(ring)": Entry(lambda: strategies.gossip(strategies.ring())),
    "gossip(exponential)": Entry(lambda: strategies.gossip(strategies.exponential())),
    "average()": Entry(strategies.average),
    "periodic(average, derangement)": Entry(
        lambda: strategies.periodic([strategies.average(), strategies.derangement()], [3, 1])
    ),
}

GRAPHS = {
    "ring()": Entry(strategies.ring),
    "torus()": Entry(strategies.torus),
    "erdos_renyi(0.5)": Entry(lambda: strategies.erdos_renyi(0.5)),
    "exponential()": Entry(strategies.exponential, {"symmetric": False}),
    "complete()": Entry(strategies.complete),
    "from_matrix(2)": Entry(
        lambda: strategies.from_matrix([[0.75, 0.25], [0.25, 0.75]]), {"clients": (2,)}
    ),
}

COHORTS = {
    "full()": Entry(simulate.full),
    "fixed(2)": Entry(lambda: simulate.fixed([0, 2])),
    "uniform(4)": Entry(lambda: simulate.uniform(4), {"random": True}),
    "in_turns(4)": Entry(lambda: simulate.in_turns(4), {"random": True}),
    "poisson(0.5)": Entry(lambda: simulate.poisson(0.5), {"random": True}),
    "available(0.5, 4)": Entry(lambda: simulate.available([0.5] * 6, 4), {"random": True}),
    "dropout(full, 0.5)": Entry(lambda: simulate.dropout(simulate.full(), 0.5), {"random": True}),
    "without(uniform, 2)": Entry(
        lambda: simulate.without(simulate.uniform(4), [1, 3]), {"random": True}
    ),
}


def ranked():
    return evaluate.metrics(["ndcg@10", "hr@10"])


def catalogue():
    return evaluate.full_catalogue(ranked(), worlds.interactions().num_items)


def exposed(targets):
    chosen = evaluate.metrics(["er@10", "target_ndcg@10"])
    return evaluate.exposure(chosen, targets, worlds.interactions().num_items)


def nobody_holds():
    """Counts of items of which but one is cold, and that one nobody has held out."""
    found = worlds.interactions()
    free = np.setdiff1d(np.arange(found.num_items), np.asarray(found.test.targets))
    return (np.arange(found.num_items) == free[0]).astype(int)


PROTOCOLS = {
    "full_catalogue()": Entry(catalogue),
    "sampled()": Entry(lambda: evaluate.sampled(ranked())),
    "beside(full_catalogue, sampled)": Entry(
        lambda: evaluate.beside(catalogue(), evaluate.sampled(ranked()), "sampled_")
    ),
    # It measures no held-out item and leads in no run, so that it stands behind what does.
    "exposure(beside full_catalogue)": Entry(
        lambda: evaluate.beside(catalogue(), exposed([3, 17, 40, 60]), "")
    ),
    # Of groups that some users hold nothing of, those have no value: here all hold cold items.
    "item_groups(cold)": Entry(
        lambda: evaluate.item_groups(ranked(), catalogue(), nobody_holds(), ["cold"])
    ),
    "rating_error()": Entry(evaluate.rating_error),
}
# It names what is measured of labelled examples, and measures no user.
OF_EXAMPLES = {"labelled"}

FUSIONS = {
    "weighted_scores()": Entry(models.weighted_scores),
    "reciprocal_ranks()": Entry(models.reciprocal_ranks),
    "reciprocal_ranks(0)": Entry(lambda: models.reciprocal_ranks(0.0)),
}


def judging(make, **words):
    """A judge by a tiny decoder, whose words are numbers, of eight items."""
    import tiny_llama

    titles = [f"{7 * i % 11 + 20} {i + 40}" for i in range(7)] + ["90"]
    return make(titles, source=tiny_llama.folder(), opening="499", most=18, **words)


JUDGES = {
    "title_likelihood()": Entry(lambda: judging(models.title_likelihood, item="{title} 3")),
    "title_answers()": Entry(
        lambda: judging(models.title_answers, item="{title} 7", ask="{title}", answers=("7", "8"))
    ),
}

QUANTISERS = {
    "rq_vae()": Entry(lambda: models.rq_vae(width=4, hidden=(8,), steps=200)),
}
