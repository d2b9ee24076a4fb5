"""Federated algorithms: the assembly, and recipes of a few lines."""

from ..rounds.asynchronous import asynchronous
from ..rounds.clock import Clock, lognormal_clock, traced_clock
from ..rounds.decentralized import decentralized
from ..rounds.exchange import Exchange, average, cycle, derangement, gossip, pairs, periodic
from ..rounds.federated import federated
from ..rounds.graph_guided import graph_guided
from ..rounds.graphs import (
    Graph,
    complete,
    contraction,
    erdos_renyi,
    exponential,
    from_matrix,
    metropolis,
    ring,
    torus,
)
from ..rounds.inflight import Held, Staleness
from ..rounds.memory import memory_budget
from ..rounds.selection import over_selection, selecting
from ..rounds.two_trip import power_sgd
from ..rounds.user_graph import (
    Neighbours,
    Similarity,
    above_mean,
    cosine_distance_as_released,
    cosine_similarity,
    nearest,
)
from ..rounds.utility import Utility, by_size, oort, power_of_choice
from ..servers.adaptive import fed_adagrad, fed_adam, fed_avg_m, fed_lion, fed_yogi
from ..servers.step import from_optax, scheduled_step, step
from ..servers.stochastic import stochastic_step
from .adapters import (
    fed_sb,
    fedex_lora,
    fedit,
    fedsa_lora,
    ffa_lora,
    flexlora,
    flora,
    hetlora,
    rolora,
)
from .corrected import feddyn, fednova, fedprox, scaffold
from .fedbuff import fedasync, fedbuff
from .fedrap import annealed_sgd, fedrap
from .fetchsgd import fetch_sgd
from .gpfedrec import gpfedrec
from .personal import (
    apfl,
    ditto,
    fedper,
    fedrecon,
    fedrep,
    fine_tuned_fedavg,
    ifca,
    per_fedavg,
    pfedme,
    reptile,
)
from .pruning import federated_dropout, prune_fl, pruning
from .ptf_fedrec import by_client, by_server, ptf_fedrec
from .recipes import (
    colr,
    fedavg,
    fedavg_keeping,
    fedmf,
    fedncf,
    gossip_sgd,
    model_swapping,
    pfedrec,
)
from .selective import over_selected, selective
from .shared_gradients import fedsgd, fsvrg, mime, mime_lite
from .started import started

__all__ = [
    "Clock", "Exchange", "Graph", "Held", "Neighbours", "Similarity", "Staleness", "Utility",
    "above_mean", "annealed_sgd", "apfl", "asynchronous", "average", "by_client", "by_server",
    "by_size", "colr", "complete", "contraction", "cosine_distance_as_released",
    "cosine_similarity", "cycle", "decentralized", "derangement", "ditto", "erdos_renyi",
    "exponential", "fed_adagrad", "fed_adam", "fed_avg_m", "fed_lion", "fed_sb", "fed_yogi",
    "fedasync", "fedavg", "fedavg_keeping", "fedbuff", "feddyn", "federated",
    "federated_dropout", "fedex_lora", "fedit", "fedmf", "fedncf", "fednova", "fedper",
    "fedprox", "fedrap", "fedrecon", "fedrep", "fedsa_lora", "fedsgd", "fetch_sgd", "ffa_lora",
    "fine_tuned_fedavg", "flexlora", "flora", "from_matrix", "from_optax", "fsvrg", "gossip",
    "gossip_sgd", "gpfedrec", "graph_guided", "hetlora", "ifca", "lognormal_clock",
    "memory_budget", "metropolis", "mime", "mime_lite", "model_swapping", "nearest", "oort",
    "over_selected", "over_selection", "pairs", "per_fedavg", "periodic", "pfedme", "pfedrec",
    "power_of_choice", "power_sgd", "prune_fl", "pruning", "ptf_fedrec", "reptile", "ring",
    "rolora", "scaffold", "scheduled_step", "selecting", "selective", "started", "step",
    "stochastic_step", "torus", "traced_clock",
]  # fmt: skip
