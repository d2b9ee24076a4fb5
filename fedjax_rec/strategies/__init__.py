"""Federated algorithms: the assembly, and recipes of a few lines."""

from ..rounds import (
    Clock,
    Exchange,
    Graph,
    Held,
    Neighbours,
    Similarity,
    Staleness,
    Utility,
    above_mean,
    asynchronous,
    average,
    by_size,
    complete,
    contraction,
    cosine_distance_as_released,
    cosine_similarity,
    cycle,
    decentralized,
    derangement,
    erdos_renyi,
    evenly,
    exponential,
    federated,
    from_clusters,
    from_matrix,
    gossip,
    graph_guided,
    in_proportion,
    lognormal_clock,
    memory_budget,
    metropolis,
    nearest,
    oort,
    over_selection,
    pairs,
    periodic,
    power_of_choice,
    power_sgd,
    propagating,
    ring,
    selecting,
    torus,
    traced_clock,
)  # fmt: skip
from ..servers import (
    fed_adagrad,
    fed_adam,
    fed_avg_m,
    fed_lion,
    fed_yogi,
    from_optax,
    scheduled_step,
    step,
    stochastic_step,
)  # fmt: skip
from .adapters import (
    fed_sb,
    fedex_lora,
    fedit,
    fedsa_lora,
    ffa_lora,
    flexlora,
    flora,
    hetlora,
    raflora,
    rbla,
    rolora,
    with_inexactness,
)
from .apfl import apfl, apfl_client
from .central import central
from .cofedrec import cofedrec
from .colr import colr
from .described import described
from .ditto import ditto, ditto_client
from .f2mf import f2mf
from .fcf import fcf
from .fedavg import fedavg, fedavg_keeping, fedmf, fedncf, fedper, pfedrec
from .fedbuff import fedasync, fedbuff
from .fedca import fedca
from .feddyn import dynamic, feddyn
from .fedfast import fedfast, sending_user
from .fednova import fednova
from .fedpergnn import fedpergnn
from .fedprox import fedprox, proximal
from .fedrap import annealed_sgd, fedrap
from .fedsgd import fedsgd, full_gradient
from .fellrec import fellrec
from .fetchsgd import fetch_sgd
from .fltrust import fltrust, root_of
from .gossip_sgd import gossip_sgd, model_swapping
from .gpfedrec import gpfedrec
from .guarded import guarded, kept_apart
from .hetefedrec import hetefedrec
from .ifca import ifca
from .ifedrec import attributing, ifedrec
from .lightfr import lightfr
from .mime import fsvrg, mime, mime_lite
from .mining import mining
from .per_fedavg import maml, per_fedavg, reptile
from .pfedme import pfedme, pfedme_client
from .pruning import federated_dropout, prune_fl, pruning, submodel
from .ptf_fedrec import by_client, by_server, ptf_fedrec
from .reconstruction import anew, fedrecon, fedrep, fine_tuned, fine_tuned_fedavg, in_sequence
from .scaffold import controlled, scaffold
from .selective import over_selected, selective
from .split import prompt_tokens, split
from .started import started

__all__ = [
    "Clock", "Exchange", "Graph", "Held", "Neighbours", "Similarity", "Staleness", "Utility",
    "above_mean", "anew", "annealed_sgd", "apfl", "apfl_client", "asynchronous", "attributing",
    "average", "by_client", "by_server", "by_size", "central", "cofedrec", "colr", "complete",
    "contraction", "controlled", "cosine_distance_as_released", "cosine_similarity", "cycle",
    "decentralized", "derangement", "described", "ditto", "ditto_client", "dynamic", "erdos_renyi",
    "evenly", "exponential", "f2mf", "fcf", "fed_adagrad", "fed_adam", "fed_avg_m", "fed_lion",
    "fed_sb", "fed_yogi", "fedasync", "fedavg", "fedavg_keeping", "fedbuff", "fedca", "feddyn",
    "federated", "federated_dropout", "fedex_lora", "fedfast", "fedit", "fedmf", "fedncf",
    "fednova", "fedper", "fedpergnn", "fedprox", "fedrap", "fedrecon", "fedrep", "fedsa_lora",
    "fedsgd", "fellrec", "fetch_sgd", "ffa_lora", "fine_tuned", "fine_tuned_fedavg", "flexlora",
    "flora", "fltrust", "from_clusters", "from_matrix", "from_optax", "fsvrg", "full_gradient",
    "gossip", "gossip_sgd", "gpfedrec", "graph_guided", "guarded", "hetefedrec", "hetlora", "ifca",
    "ifedrec", "in_proportion", "in_sequence", "kept_apart", "lightfr", "lognormal_clock", "maml",
    "memory_budget", "metropolis", "mime", "mime_lite", "mining", "model_swapping", "nearest",
    "oort", "over_selected", "over_selection", "pairs", "per_fedavg", "periodic", "pfedme",
    "pfedme_client", "pfedrec", "power_of_choice", "power_sgd", "prompt_tokens", "propagating",
    "proximal", "prune_fl", "pruning", "ptf_fedrec", "raflora", "rbla", "reptile", "ring", "rolora",
    "root_of", "scaffold", "scheduled_step", "selecting", "selective", "sending_user", "split",
    "started", "step", "stochastic_step", "submodel", "torus", "traced_clock", "with_inexactness",
]  # fmt: skip
