"""Rules by which adapters of many clients become one, and the parts that they are made of."""

from .alternating import alternating
from .components import by_component
from .inexactness import with_inexactness
from .products import by_norm, holders, products
from .ranks import of_rank
from .rules import (
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
)

__all__ = [
    "alternating", "by_component", "by_norm", "fed_sb", "fedex_lora", "fedit", "fedsa_lora",
    "ffa_lora", "flexlora", "flora", "hetlora", "holders", "of_rank", "products", "raflora", "rbla",
    "rolora", "with_inexactness",
]  # fmt: skip
