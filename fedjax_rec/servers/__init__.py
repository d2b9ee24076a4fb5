"""How the aggregated update changes the server's model."""

from .adaptive import fed_adagrad, fed_adam, fed_avg_m, fed_lion, fed_yogi
from .step import as_server, by_part, from_optax, scheduled_step, step
from .stochastic import stochastic_step

__all__ = [
    "as_server", "by_part", "fed_adagrad", "fed_adam", "fed_avg_m", "fed_lion", "fed_yogi",
    "from_optax", "scheduled_step", "step", "stochastic_step",
]  # fmt: skip
