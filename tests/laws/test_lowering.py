"""What ships is lowered for NVIDIA GPUs and TPUs, on any machine: a round of every strategy, and
every compressor and aggregator.

Lowering finds operations that a device does not know and targets that only a CPU has, before such a
device is at hand. How it computes there is another matter: `make device-check`.
"""

import jax
import jax.numpy as jnp
import pytest
from compressors_registry import COMPRESSORS
from registry import AGGREGATORS
from rotating import in_turn
from rounds import FIRST
from strategies_registry import STRATEGIES
from worlds import KEY, USERS, named

from fedjax_rec.data import pointwise
from fedjax_rec.testing.updates import model_of, update
from fedjax_rec.testing.uploads import LAYOUTS, aggregated, uploads
from fedjax_rec.types import Cohort

PLATFORMS = ("cuda", "tpu")


def lowered(f, *inputs) -> None:
    """Lowers f(*inputs) for each of PLATFORMS; raises where one cannot have it."""
    found = jax.export.export(jax.jit(f), platforms=PLATFORMS)(*inputs)
    assert found.platforms == PLATFORMS and found.mlir_module_serialized


@pytest.mark.parametrize("name", in_turn(STRATEGIES, 24))
def test_a_round_of_every_strategy_is_lowered(name):
    recipe, data = STRATEGIES[name], named("compact")
    strategy = recipe.make(recipe.model(data.num_items), pointwise(4))
    state = jax.eval_shape(lambda: strategy.init(KEY, USERS))
    everyone = jnp.arange(USERS, dtype=jnp.int32)
    lowered(strategy.round, KEY, state, Cohort(everyone, data.store))


@pytest.mark.parametrize("name", in_turn(COMPRESSORS, 12))
def test_every_compressor_is_lowered(name):
    compressor, x = COMPRESSORS[name].make(), update()

    def there_and_back(key, memory, x, now):
        memory, packet = compressor.encode(key, memory, x, now)
        return memory, packet, compressor.decode(packet, x, now)

    lowered(there_and_back, KEY, compressor.init(model_of(x)), x, FIRST)


@pytest.mark.parametrize("name", in_turn(AGGREGATORS, 12))
def test_every_aggregator_is_lowered(name):
    aggregator = AGGREGATORS[name]()
    for layout in LAYOUTS:
        lowered(lambda key, upload: aggregated(aggregator, upload, key=key), KEY, uploads(layout))


def test_what_only_a_cpu_has_is_caught():
    x = jnp.eye(3)
    lowered(jnp.linalg.eigvalsh, x)
    with pytest.raises(NotImplementedError, match="eig"):
        lowered(jnp.linalg.eigvals, x)
