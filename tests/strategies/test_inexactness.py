"""How far rules are from the mean of the products, as rounds tell it, against NumPy over clients
that trained alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_adapter_rules import (
    LAYERS,
    RANKS,
    alone,
    compiled,
    layer,
    made,
    model,
    of_ranks,
    play,
    weight,
)
from worlds import close

from fedjax_rec import clients, models, strategies
from fedjax_rec.data import pointwise
from fedjax_rec.strategies.adapters.inexactness import measured
from fedjax_rec.trees import Frozen, told
from fedjax_rec.types import Model

pytestmark = pytest.mark.usefixtures("compiled_fast")


def looking(name, every=1, **settings):
    """(strategy, its round, compiled) of a rule that is looked at."""
    strategy = strategies.with_inexactness(
        model(settings.pop("rank", 3)), pointwise(2), recipe=getattr(strategies, name), every=every,
        optimizer=clients.sgd(0.3), steps=2, batch_size=8, clients_per_chunk=4, settings=settings,
    )  # fmt: skip
    return strategy, compiled(strategy.round)


def all_of(shared) -> np.ndarray:
    return np.concatenate([weight(layer(shared, part)).ravel() for part in LAYERS])


def by_hand(before, after, trained) -> dict[str, float]:
    """trained: [(examples, weights of all layers)] of each client."""
    total, start = sum(n for n, _ in trained), all_of(before)
    wanted = sum(n / total * x for n, x in trained) - start
    size = np.linalg.norm(wanted)
    squares = sum(n / total * np.linalg.norm(x - start) ** 2 for n, x in trained)
    missed = np.linalg.norm(all_of(after) - start - wanted)
    return {"inexactness": missed / size, "drift": np.sqrt(squares) / size}


@pytest.mark.parametrize(
    ("name", "single"), [("fedit", "fedit"), ("flora", "fedit"), ("fed_sb", "fed_sb")]
)
def test_a_round_tells_what_numpy_finds_of_clients_that_trained_alone(name, single):
    before, _ = play(made(name), rounds=2)
    trained = [(n, all_of(shared)) for n, shared in alone(made(single), before)]
    start, _ = play(looking(name), rounds=2)
    after, _ = play(looking(name), start)
    want, got = by_hand(before.shared, after.shared, trained), told(after.server)
    np.testing.assert_allclose(got["drift"], want["drift"], rtol=1e-4)
    np.testing.assert_allclose(got["inexactness"], want["inexactness"], rtol=1e-3, atol=1e-5)
    assert got["drift"] > 1.001
    assert (got["inexactness"] > 1e-3) == (name == "fedit")


def test_clients_of_some_rank_have_their_own_products():
    before, after, trained, _ = of_ranks("flexlora")
    weights = [
        (n, np.concatenate([weight(layers[part]).ravel() for part in LAYERS]))
        for n, _, layers in trained
    ]
    start, _ = play(looking("flexlora", rank=4, ranks=RANKS), rounds=2)
    end, _ = play(looking("flexlora", rank=4, ranks=RANKS), start)
    want, got = by_hand(before.shared, after.shared, weights), told(end.server)
    np.testing.assert_allclose(got["inexactness"], want["inexactness"], rtol=1e-3)
    np.testing.assert_allclose(got["drift"], want["drift"], rtol=1e-3)


def test_what_is_trained_is_that_of_the_rule_and_the_last_look_is_told():
    plain, _ = play(made("fedit"), rounds=3)
    seen = [told(play(looking("fedit", every=2), rounds=i)[0].server) for i in (1, 2, 3)]
    state, _ = play(looking("fedit", every=2), rounds=3)
    close(state.shared, plain.shared)
    assert np.isnan(seen[0]["inexactness"])
    assert seen[1]["inexactness"] > 0
    assert seen[2] == seen[1]


def test_a_round_of_nobody_has_nothing_to_tell():
    layers = {"kernel": Frozen(jnp.ones((3, 4))), "lora_scale": Frozen(jnp.float32(1.0))}
    layers |= {"lora_a": jnp.ones((3, 2)), "lora_b": jnp.ones((2, 4))}
    sent = {"kernel": Frozen(None), "lora_scale": Frozen(None)}
    sent |= {"lora_a": jnp.full((2, 3, 2), jnp.nan), "lora_b": jnp.zeros((2, 2, 4))}
    nobody = measured(layers, layers, sent, jnp.zeros(2))
    assert np.isnan(nobody["inexactness"]) and np.isnan(nobody["drift"])


@pytest.mark.parametrize(
    ("made_of", "said"),
    [
        (lambda: model(3), "shares both"),
        (lambda: Model(lambda key, common=None: ({"head": jnp.ones(3)}, {}), None), "models.lora"),
    ],
)
def test_models_without_shared_adapters_are_refused(made_of, said):
    given = made_of()
    if "layers" in jax.eval_shape(given.init, jax.random.key(0))[0]:
        given = models.private_at(given, "*lora_b")
    strategy = strategies.with_inexactness(given, pointwise(2))
    with pytest.raises(ValueError, match=said):
        strategy.init(jax.random.key(0), 3)


def test_every_is_a_number_of_rounds():
    with pytest.raises(ValueError, match="every=0"):
        strategies.with_inexactness(model(3), pointwise(2), every=0)
