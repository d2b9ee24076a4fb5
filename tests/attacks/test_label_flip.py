"""Flipped labels: of who lies the opposite, of others every bit; and that it attacks."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_crowd import PER_ROW, averaged, trained
from test_targets import crowd

from fedjax_rec import aggregate, attacks, data

pytestmark = pytest.mark.usefixtures("compiled_fast")
LIAR, HONEST = 3, 4
MALICIOUS = attacks.named([LIAR])


def drawn(batches, client: int):
    rated = replace(crowd(), ratings=(1 + crowd().items % 5).astype(np.float32))
    store = data.pack(data.leave_one_out()(rated), evaluation_negatives=0).store
    seed, q = jnp.array([5, 9], jnp.uint32), jnp.arange(0, 24, 2, dtype=jnp.uint32)
    each = jax.vmap(lambda held: batches.draw(seed, held, q), in_axes=(store.axes(),))
    return {name: x[0] for name, x in each(store.take(jnp.array([client]))).items()}


@pytest.mark.parametrize(
    ("plain", "lowest", "highest"),
    [(data.pointwise(2), 0.0, 1.0), (data.ratings(), 1.0, 5.0), (data.pairwise(2), 0.0, 1.0)],
    ids=["pointwise", "ratings", "pairs"],
)
def test_who_lies_trains_on_the_opposite(plain, lowest, highest):
    flipped = attacks.label_flip(plain, MALICIOUS, lowest, highest)
    for client in (LIAR, HONEST):
        before, after = drawn(plain, client), drawn(flipped, client)
        wanted = {name: np.asarray(x) for name, x in before.items()}
        if client == LIAR and wanted["items"].ndim == 2:
            wanted["items"] = wanted["items"][:, ::-1]
        elif client == LIAR:
            wanted["labels"] = lowest + highest - wanted["labels"]
            assert (np.asarray(after["labels"]) != before["labels"]).any()
        assert before.keys() == after.keys()
        for name, x in wanted.items():
            np.testing.assert_array_equal(after[name], x)


def test_users_are_served_worse():
    few = attacks.label_flip(data.pointwise(1), attacks.named(range(24)))
    found = trained(aggregate.per_row(), None, few, rate=PER_ROW)
    assert found.hits < averaged().hits - 0.1


def test_examples_without_labels_are_refused():
    with pytest.raises(ValueError, match="have no labels; use data"):
        drawn(attacks.label_flip(data.sequences(4), MALICIOUS), LIAR)
    with pytest.raises(ValueError, match="use lowest < highest"):
        attacks.label_flip(data.ratings(), MALICIOUS, 5.0, 1.0)
