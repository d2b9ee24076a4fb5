"""Exposure of target items, against a loop over users in NumPy."""

import numpy as np
import pytest
from test_protocol import ITEMS, USERS, World

from fedjax_rec import evaluate


def by_hand(world: World, targets, k: int) -> np.ndarray:
    """[U, 2]: ER@k and NDCG@k; ties are against the target, other targets stand by id."""
    scores = world.user @ world.item.T
    out = np.full((USERS, 2), np.nan)
    for u in range(USERS):
        gone = set(world.seen[u].tolist())
        eligible = [t for t in targets if t not in gone and t not in world.held[u]]
        if not eligible:
            continue
        order = sorted(set(range(ITEMS)) - gone, key=lambda i: (-scores[u, i], i in eligible, i))
        places = [order.index(t) + 1 for t in eligible]
        ideal = sum(1 / np.log2(1 + p) for p in range(1, min(k, len(eligible)) + 1))
        gained = sum(1 / np.log2(1 + p) for p in places if p <= k)
        out[u] = sum(p <= k for p in places) / len(eligible), gained / ideal
    return out


@pytest.mark.parametrize("count", [1, 4])
def test_exposure_is_the_loop_over_users(count, compiled_fast):
    world = World()
    # One that user 0 has seen, one that is held out of user 1, and others.
    targets = [int(world.seen[0][0]), int(world.held[1][0]), 17, 230][:count]
    metrics = evaluate.metrics(["er@120", "target_ndcg@120"])
    protocol = evaluate.exposure(metrics, targets, ITEMS)
    values = world.values(protocol)
    wanted = by_hand(world, targets, 120)
    np.testing.assert_allclose(values, wanted, rtol=1e-5)
    assert 0 < np.nanmean(wanted[:, 0]) < 1 and np.isnan(wanted[0, 0]) == (count == 1)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda m: evaluate.exposure(m, [ITEMS], ITEMS), "does not exist; use ids from 0 to 319"),
        (lambda m: evaluate.exposure(m, [], ITEMS), "at least one"),
        (lambda m: evaluate.exposure(evaluate.metrics(["hr@3"]), [1], ITEMS), "of held-out items"),
        (lambda m: evaluate.exposure_ratio(0), "integer k"),
        (lambda m: evaluate.metrics(["er"]), "use 'er@10'"),
    ],
)
def test_wrong_targets_are_one_line(make, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        make(evaluate.metrics(["er@3"]))
    assert "\n" not in str(error.value)
