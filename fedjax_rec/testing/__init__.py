"""The laws as a library: what must be true of any part of its kind, for parts of your own.

One line of a test runs all of them::

    testing.check_compressor(eight_bits(), unbiased=True)

and `testing.laws("compressor")` gives them one by one, for `pytest.mark.parametrize`. What laws
cannot know (a closed form on a small case, the authors' code) is for tests of your own.
"""

from collections.abc import Callable

from .aggregators import AGGREGATOR, check_aggregator
from .clients import CLIENT, check_client
from .clocks import CLOCK, check_clock
from .cohorts import COHORTS, check_cohorts
from .compressors import COMPRESSOR, check_compressor
from .exchanges import EXCHANGE, GRAPH, check_exchange, check_graph
from .fusions import FUSION, check_fusion
from .judges import JUDGE, check_judge
from .laws import apart
from .models import MODEL, check_model
from .protocols import PROTOCOL, check_protocol
from .quantisers import QUANTISER, check_quantiser
from .stages import STAGE, check_stage
from .strategies import STRATEGY, check_strategy
from .utilities import UTILITY, check_utility

__all__ = [
    "check_aggregator", "check_client", "check_clock", "check_cohorts", "check_compressor",
    "check_exchange", "check_fusion", "check_graph", "check_judge", "check_model",
    "check_protocol", "check_quantiser", "check_stage", "check_strategy", "check_utility", "laws",
]  # fmt: skip

KINDS = {
    kind.name: kind
    for kind in (
        AGGREGATOR, CLIENT, CLOCK, COHORTS, COMPRESSOR, EXCHANGE, FUSION, GRAPH, JUDGE, MODEL,
        PROTOCOL, QUANTISER, STAGE, STRATEGY, UTILITY,
    )
}  # fmt: skip


def laws(kind: str) -> tuple[Callable[..., None], ...]:
    """The laws of a kind of part, each a function law(part, **claims) of that name.

    Args:
        kind: "compressor", "aggregator", "model", "client", "stage", "strategy", "clock",
            "utility", "exchange", "graph", "cohorts", "protocol", "fusion", "judge" or
            "quantiser".

    Returns:
        Functions that return nothing and raise AssertionError, in one line. They take what
        `check_...` takes; what they share is compiled once for laws that follow one another on
        the same part.

    Raises:
        ValueError: there is no such kind.

    Example:
        @pytest.mark.parametrize("law", testing.laws("compressor"))
        def test_each(law):
            law(eight_bits(), unbiased=True)
    """
    if kind not in KINDS:
        raise ValueError(f"laws(kind={kind!r}) is none of {', '.join(KINDS)}; use one of them.")
    return apart(KINDS[kind])
