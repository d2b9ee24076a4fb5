"""Every strategy that ships, on small batches: the laws of `test_strategies.py` run over them.

A name opens with the factory. Entries take a model of the data, what an example is, and the parts
that `takes` names; `test_registry.py` fails when a public factory stands in none.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import optax
from adapted import adapted
from worlds import USERS, world

from fedjax_rec import clients, models, strategies
from fedjax_rec.types import Model, Strategy

SMALL = dict(batch_size=16, clients_per_chunk=4)
BOTH = ("uplink", "aggregator")


def fedmf(num_items: int) -> Model:
    return models.fedmf(num_items, width=6, scale=0.3)


def prunable(num_items: int) -> Model:
    return models.prunable(fedmf(num_items))


def about() -> np.ndarray:
    """Features of the one user that each client is."""
    return np.random.default_rng(0).normal(size=(USERS, 1, 3)).astype(np.float32)


def halves() -> np.ndarray:
    """Which of two groups the one user of each client is in."""
    return np.eye(2, dtype=np.float32)[np.arange(USERS) % 2][:, None]


def featured(num_items: int) -> Model:
    return models.feature_mf(num_items, width=6, scale=0.3, user_features=about())


def with_layers(num_items: int) -> Model:
    return models.mlp(num_items, width=6, layers=(6, 3))


@dataclass(frozen=True)
class Recipe:
    """make(model, examples, **parts) -> Strategy. model(num_items). takes: parts it can be given.
    rounds: after which the loss has fallen."""

    make: Callable[..., Strategy]
    model: Callable[[int], Model] = fedmf
    takes: tuple[str, ...] = BOTH
    rounds: int = 8


def rate(value: float = 1.0):
    return clients.sgd(value)


def assembled(model, examples, **parts) -> Strategy:
    client, start = client_of(model, examples), model
    return strategies.federated(client, start, clients_per_chunk=4, **parts)


def told(model, examples, **parts) -> Strategy:
    """Whose clients send the vector of their user."""
    client = strategies.sending_user(client_of(model, examples))
    return strategies.federated(client, model, clients_per_chunk=4, **parts)


def in_the_batch(batch):
    """A token an example."""
    return batch["mask"] > 0


def trusted():
    """What a server of `fltrust` has: four users of the first 20 items."""
    return world(4, 20, 8).store


def with_server(server):
    def make(model, examples, **parts):
        return strategies.fedavg(model, examples, optimizer=rate(), server=server, **SMALL, **parts)

    return Recipe(make)


def swapped(recipe, **settings):
    settings = {"optimizer": rate(), **SMALL, **settings}
    make = lambda model, examples, **parts: recipe(model, examples, **settings, **parts)
    return Recipe(make, takes=())


def plain(recipe, rounds=8, **settings):
    """A recipe with the local optimizer sgd(1)."""
    settings = {"optimizer": rate(), **SMALL, **settings}
    make = lambda model, examples, **parts: recipe(model, examples, **settings, **parts)
    return Recipe(make, rounds=rounds)


def adapter_rule(recipe, settings, model, examples, **parts) -> Strategy:
    return recipe(model, examples, optimizer=rate(), **SMALL, **settings, **parts)


def client_of(model, examples):
    return clients.local_training(model, examples, rate(), batch_size=16)


STRATEGIES = {
    "federated(local_training)": Recipe(assembled),
    "fedavg(sgd)": plain(strategies.fedavg),
    "fedavg(adam, scheduled)": plain(
        strategies.fedavg,
        optimizer=clients.scheduled(optax.adam, optax.linear_schedule(0.05, 0.01, 10)),
        server=strategies.scheduled_step(optax.linear_schedule(1.0, 0.5, 10)),
    ),
    "fedavg_keeping(momentum)": plain(
        strategies.fedavg_keeping, optimizer=optax.sgd(0.5, momentum=0.8)
    ),
    "fedavg(fed_adam)": with_server(strategies.fed_adam(0.03)),
    "fedmf()": Recipe(
        lambda m, e, **parts: strategies.fedmf(
            m, e, user_learning_rate=1.0, item_learning_rate=1.0, **SMALL, **parts
        )
    ),
    "fedncf()": Recipe(
        lambda m, e, **parts: strategies.fedncf(m, e, **SMALL, **parts), model=with_layers
    ),
    "pfedrec()": Recipe(
        lambda m, e, **parts: strategies.pfedrec(
            m, e, learning_rate=0.5, item_learning_rate=2.0, **SMALL, **parts
        ),
        model=lambda n: models.pfedrec(n, width=6),
    ),
    "colr(2)": Recipe(
        lambda m, e, **parts: strategies.colr(m, e, rank=2, **SMALL, **parts),
        takes=("aggregator",),  # of uplinks those without memory
    ),
    "prune_fl(0.5)": Recipe(
        lambda m, e, **parts: strategies.prune_fl(
            m, e, optimizer=rate(), fraction=0.5, every=4, **SMALL, **parts
        ),
        model=prunable,
        takes=("aggregator",),
    ),
    "federated_dropout(0.5)": Recipe(
        lambda m, e, **parts: strategies.federated_dropout(
            m, e, optimizer=rate(), **SMALL, **parts
        ),
        model=prunable,
        takes=("aggregator",),
    ),
    "power_sgd(2)": Recipe(
        lambda m, e, **parts: strategies.power_sgd(client_of(m, e), m, 2, **parts), takes=()
    ),
    "fetch_sgd()": Recipe(
        lambda m, e, **parts: strategies.fetch_sgd(
            m,
            e,
            optimizer=rate(),
            keep=150,
            columns=100,
            momentum=0.5,
            learning_rate=0.2,
            **SMALL,
            **parts,
        ),
        takes=(),
    ),
    "decentralized(cycle)": Recipe(
        lambda m, e, **parts: strategies.decentralized(
            client_of(m, e), m, strategies.cycle(), clients_per_chunk=4, **parts
        ),
        takes=(),
    ),
    "model_swapping()": swapped(strategies.model_swapping, average_every=3),
    "gossip_sgd()": swapped(strategies.gossip_sgd),
    # drift
    "fedprox(0.1)": plain(strategies.fedprox, mu=0.1),
    "fednova()": Recipe(
        lambda m, e, **parts: strategies.fednova(m, e, optimizer=rate(), **SMALL, **parts),
        takes=("uplink",),
    ),
    "scaffold()": plain(strategies.scaffold),
    "feddyn(0.1)": plain(strategies.feddyn, alpha=0.1),
    # gradients
    "fedsgd()": Recipe(
        lambda m, e, **parts: strategies.fedsgd(
            m, e, private=rate(), server=strategies.step(3.0), **SMALL, **parts
        )
    ),
    "fsvrg()": plain(strategies.fsvrg),
    "mime(0.5)": plain(strategies.mime, beta=0.5),
    "mime_lite(0.5)": plain(strategies.mime_lite, beta=0.5),
    # system effects and selection
    "asynchronous(constant clock)": Recipe(
        lambda m, e, **parts: strategies.asynchronous(
            client_of(m, e),
            m,
            strategies.lognormal_clock(),
            USERS,
            clients_per_chunk=4,
            **parts,
        ),
        rounds=12,
    ),
    "fedbuff(23)": Recipe(
        lambda m, e, **parts: strategies.fedbuff(
            m, e, concurrency=USERS, optimizer=rate(), **SMALL, **parts
        ),
        rounds=12,
    ),
    "fedasync(23)": Recipe(
        lambda m, e, **parts: strategies.fedasync(
            m, e, concurrency=USERS, optimizer=rate(5.0), **SMALL, **parts
        ),
        rounds=16,
    ),
    "fedavg(deadline)": plain(strategies.fedavg, clock=strategies.lognormal_clock(), deadline=2.0),
    "selecting(by_size)": Recipe(
        lambda m, e, **parts: strategies.selecting(
            assembled(m, e, **parts), strategies.by_size(), 8
        )
    ),
    "selective(oort)": plain(strategies.selective, clients=8, utility=strategies.oort()),
    "selecting(evenly)": Recipe(
        lambda m, e, **parts: strategies.selecting(assembled(m, e, **parts), strategies.evenly(), 8)
    ),
    # clusters of users
    "from_clusters(8)": Recipe(
        lambda m, e, **parts: strategies.from_clusters(told(m, e, **parts), 8, clusters=3)
    ),
    "propagating(3)": Recipe(
        lambda m, e, **parts: strategies.propagating(told(m, e, **parts), clusters=3)
    ),
    "fedfast(8)": Recipe(
        lambda m, e, **parts: strategies.fedfast(
            m, e, clients=8, clusters=3, turns=3, **SMALL, **parts
        )
    ),
    "over_selection(8)": Recipe(
        lambda m, e, **parts: strategies.over_selection(
            assembled(m, e, clock=strategies.lognormal_clock(), **parts), 8
        )
    ),
    "over_selected(8)": plain(strategies.over_selected, clients=8),
    # against attackers
    "fltrust()": Recipe(
        lambda m, e, **parts: strategies.fltrust(
            m, e, root=trusted(), optimizer=rate(), server=strategies.step(4.0), **SMALL, **parts
        ),
        takes=("uplink",),
        rounds=12,
    ),
    "guarded()": Recipe(
        lambda m, e, **parts: strategies.guarded(
            m, e, popular=3, alignment=0.01, separation=0.01, **SMALL, **parts
        )
    ),
    "kept_apart(0.01)": Recipe(
        lambda m, e, **parts: strategies.kept_apart(
            m, e, weight=0.01, negatives=3, **SMALL, **parts
        )
    ),
    # knowledge without parameters
    "fedavg(fedkd)": Recipe(
        lambda m, e, **parts: strategies.fedavg(m, e, optimizer=rate(0.5), **SMALL, **parts),
        model=lambda n: models.fedkd(n, width=6, shared_width=3, scale=0.3),
    ),
    "ptf_fedrec()": Recipe(
        lambda m, e, **parts: strategies.ptf_fedrec(
            m, e, server_model=m, optimizer=rate(), sent=5, epochs=2, **SMALL, **parts
        ),
        takes=(),
    ),
    # graphs at home
    "fedpergnn(2)": Recipe(
        lambda m, e, **parts: strategies.fedpergnn(m, e, every=2, **SMALL, **parts),
        model=lambda n: models.fedpergnn(n, width=6, scale=0.3),
    ),
    # tables of clients that a server mixes
    "cofedrec(3)": Recipe(
        lambda m, e, **parts: strategies.cofedrec(
            m,
            e,
            categories=3,
            anchors=5,
            learning_rate=0.5,
            item_learning_rate=2.0,
            epochs=1,
            **SMALL,
            **parts,
        ),
        model=lambda n: models.pfedrec(n, width=6),
        takes=("uplink",),
    ),
    "cofedrec(no term)": Recipe(
        lambda m, e, **parts: strategies.cofedrec(
            m,
            e,
            categories=3,
            strength=None,
            learning_rate=0.5,
            item_learning_rate=2.0,
            **SMALL,
            **parts,
        ),
        model=lambda n: models.pfedrec(n, width=6),
        takes=("uplink",),
    ),
    "fedca(2)": Recipe(
        lambda m, e, **parts: strategies.fedca(
            m, e, one_in=3, axes=2, learning_rate=0.05, epochs=1, **SMALL, **parts
        ),
        model=lambda n: models.fedmf(n, width=6, scale=1.0),
        takes=("uplink",),
    ),
    "fellrec(softmax)": Recipe(
        lambda m, e, **parts: strategies.fellrec(
            m, e, temperature=0.1, optimizer=rate(0.5), **SMALL, **parts
        ),
        model=adapted,
        takes=("uplink",),
    ),
    # a decoder in two places
    "split(fellrec)": Recipe(
        lambda m, e, **parts: strategies.split(
            m,
            e,
            recipe=strategies.fellrec,
            layers=4,
            width=6,
            tokens=in_the_batch,
            optimizer=rate(0.5),
            **SMALL,
            **parts,
        ),
        model=adapted,
        takes=("uplink",),
    ),
    # bits
    "lightfr()": Recipe(
        lambda m, e, **parts: strategies.lightfr(m, e, **SMALL, **parts),
        model=lambda n: models.lightfr(n, width=6),
        takes=(),
    ),
    # several widths
    "hetefedrec(10)": Recipe(
        lambda m, e, **parts: strategies.hetefedrec(
            m, e, up_to=(10,), distilled=5, distillation_rate=0.1, **SMALL, **parts
        ),
        model=lambda n: models.hetefedrec(n, widths=(3, 6), decorrelation=0.1, scale=0.3),
        takes=("uplink",),
    ),
    # fair to groups
    "f2mf(0.3)": Recipe(
        lambda m, e, **parts: strategies.f2mf(m, e, lam=0.3, active_above=9.0, **SMALL, **parts)
    ),
    "f2mf(noise)": Recipe(
        lambda m, e, **parts: strategies.described(
            strategies.f2mf(m, e, lam=0.3, noise=0.1, **SMALL, **parts), halves()
        ),
        model=lambda n: models.f2mf(n, width=6, scale=0.3, user_features=halves()),
    ),
    # new items
    "ifedrec(2)": Recipe(
        lambda m, e, **parts: strategies.ifedrec(
            m, e, user_learning_rate=0.5, item_learning_rate=1.0, network_steps=2, **SMALL, **parts
        ),
        model=lambda n: models.ifedrec(n, 1, 6, (5,), item_features=np.eye(n, 4)),
    ),
    # no federation
    "central(ials)": Recipe(
        lambda m, e: strategies.central(m, e, fit=models.ials(0.1, 0.01)), takes=()
    ),
    "central(lightgcn)": Recipe(
        lambda m, e: strategies.central(m, e, fit=models.lightgcn(2, batch_size=64)), takes=()
    ),
    # in closed form
    "fcf()": Recipe(
        lambda m, e, **parts: strategies.fcf(
            m, e, regularization=0.01, clients_per_chunk=4, **parts
        ),
        takes=(),
    ),
    # personal
    "fedper()": plain(strategies.fedper),
    "fedrep()": Recipe(
        lambda m, e, **parts: strategies.fedrep(
            m, e, head_optimizer=rate(), optimizer=rate(), **SMALL, **parts
        )
    ),
    "fine_tuned_fedavg()": plain(strategies.fine_tuned_fedavg),
    "ditto(0.1)": plain(strategies.ditto),
    "pfedme()": plain(strategies.pfedme, rounds=12),
    "apfl()": plain(strategies.apfl),
    "reptile(0.7)": plain(strategies.reptile),
    "per_fedavg()": plain(strategies.per_fedavg),
    "fedrecon()": plain(
        strategies.fedrecon, rounds=12, private_optimizer=rate(2.0), private_epochs=3
    ),
    "ifca(2)": plain(strategies.ifca, clusters=2),
    "fedrap()": Recipe(
        lambda m, e, **parts: strategies.fedrap(
            m, e, learning_rate=0.1, item_learning_rate=20.0, epochs=2, **SMALL, **parts
        ),
        model=lambda n: models.fedrap(n, width=6),
    ),
    "graph_guided(cosine_similarity)": Recipe(
        lambda m, e, **parts: strategies.graph_guided(
            client_of(models.guided(m, 0.1), e),
            m,
            strategies.cosine_similarity(),
            clients_per_chunk=4,
            **parts,
        ),
        takes=("uplink",),
    ),
    "gpfedrec()": Recipe(
        lambda m, e, **parts: strategies.gpfedrec(
            m,
            e,
            strength=0.1,
            learning_rate=0.5,
            user_learning_rate=1.0,
            item_learning_rate=2.0,
            **SMALL,
            **parts,
        ),
        model=lambda n: models.gpfedrec(n, width=6),
        takes=("uplink",),
    ),
    # adapters
    **{
        name: Recipe(
            partial(adapter_rule, getattr(strategies, name.split("(")[0]), settings),
            model=adapted,
            takes=("uplink",),
        )
        for name, settings in {
            "fedit()": {},
            "ffa_lora()": {},
            "rolora()": {},
            "fedsa_lora()": {},
            "flora(ranks)": {"ranks": (1, 2)},
            "fedex_lora()": {},
            "flexlora(ranks)": {"ranks": (2, 1)},
            "hetlora(ranks)": {"ranks": (1, 2)},
            "raflora(ranks)": {"ranks": (1, 2)},
            "rbla(ranks)": {"ranks": (2, 1)},
            "fed_sb()": {},
        }.items()
    },
    "with_inexactness(flora)": Recipe(
        partial(
            adapter_rule,
            strategies.with_inexactness,
            {"recipe": strategies.flora, "settings": {"ranks": (1, 2)}, "every": 2},
        ),
        model=adapted,
        takes=("uplink",),
    ),
    "described(fedavg)": Recipe(
        lambda m, e, **parts: strategies.described(
            strategies.fedavg(m, e, optimizer=rate(0.5), **SMALL, **parts), about()
        ),
        model=featured,
    ),
    "started(fedavg)": Recipe(
        lambda m, e, **parts: strategies.started(
            strategies.fedavg(m, e, optimizer=rate(), **SMALL, **parts), {}
        )
    ),
}
