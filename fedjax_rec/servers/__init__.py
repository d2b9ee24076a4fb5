"""How the aggregated update changes the server's model."""

from .adaptive import fed_adagrad, fed_adam, fed_avg_m, fed_lion, fed_yogi
from .step import from_optax, scheduled_step, step
from .stochastic import stochastic_step

__all__ = [
    "fed_adagrad", "fed_adam", "fed_avg_m", "fed_lion", "fed_yogi", "from_optax", "scheduled_step",
    "step", "stochastic_step",
]  # fmt: skip
