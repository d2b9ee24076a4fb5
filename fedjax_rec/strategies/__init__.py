"""Federated algorithms: the assembly, and recipes of a few lines."""

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
from .adaptive import fed_adagrad, fed_adam, fed_avg_m, fed_lion, fed_yogi
from .asynchronous import asynchronous, fedasync, fedbuff
from .central import central
from .clock import Clock, lognormal_clock, traced_clock
from .corrected import feddyn, fednova, fedprox, scaffold
from .decentralized import decentralized
from .exchange import Exchange, average, cycle, derangement, gossip, pairs, periodic
from .federated import federated
from .fedrap import annealed_sgd, fedrap
from .fetchsgd import fetch_sgd
from .graph_guided import gpfedrec, graph_guided
from .graphs import (
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
from .inflight import Held, Staleness
from .memory import memory_budget
from .narrow import stochastic_step
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
from .predictions import by_client, by_server, ptf_fedrec
from .pruning import federated_dropout, prune_fl, pruning
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
from .selection import over_selected, over_selection, selecting, selective
from .server import from_optax, scheduled_step, step
from .shared_gradients import fedsgd, fsvrg, mime, mime_lite
from .started import started
from .two_trip import power_sgd
from .user_graph import (
    Neighbours,
    Similarity,
    above_mean,
    cosine_distance_as_released,
    cosine_similarity,
    nearest,
)
from .utility import Utility, by_size, oort, power_of_choice

__all__ = [
    "Clock", "Exchange", "Graph", "Held", "Neighbours", "Similarity", "Staleness", "Utility",
    "above_mean", "annealed_sgd", "apfl", "asynchronous", "average", "by_client", "by_server",
    "by_size", "central", "colr", "complete", "contraction", "cosine_distance_as_released",
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
