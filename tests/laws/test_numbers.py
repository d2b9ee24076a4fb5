"""Parts that are made anew of the numbers of a configuration are the parts that it names."""

import jax
import pytest
from worlds import named

from fedjax_rec.experiment import config as configuration
from fedjax_rec.experiment.numbers import numbers_of, outline_of, remade
from fedjax_rec.types import Cohort


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("strategies/fedprox.yaml", []),
        ("strategies/fedavg.yaml", ["--choose=fed_adam"]),
        ("compression/fedmf.yaml", ["--choose=hundredfold"]),
        ("strategies/oort.yaml", ["--strategy.clients=4"]),
    ],
)
def test_parts_made_anew_are_those_of_the_configuration(file, words):
    """The same state, and a round of the same operations, from numbers written in anew."""
    config = configuration.read(f"configs/{file}", words)
    numbers = numbers_of(config)
    assert numbers and outline_of(config) == outline_of(remade(config, numbers))
    dataset = named("whole")
    programs = []
    for one in (config, remade(config, numbers)):
        model = one.make_model(num_items=dataset.num_items, members=dataset.members, titles=None)
        strategy = one.make_strategy(model, one.examples, None)

        def whole(key, strategy=strategy, one=one):
            state = strategy.init(key, dataset.num_clients)
            ids = jax.numpy.arange(12)
            return strategy.round(key, state, Cohort(ids, dataset.store), 4)

        programs.append(jax.jit(whole).lower(jax.random.key(0)).as_text())
    assert programs[0] == programs[1]
    changed = remade(config, {**numbers, next(iter(numbers)): 0.123})
    assert changed is not config
