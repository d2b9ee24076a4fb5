"""Negatives that stay: the same in all rounds, others for each client and each seed."""

from dataclasses import replace

import numpy as np
import pytest
from test_batches import SILOS, SINGLE, epoch

from fedjax_rec.data import batches
from fedjax_rec.data.drawn_once import drawn_once


def test_examples_are_the_same_in_all_rounds():
    """And those of the same interactions as where they are drawn anew."""
    plain, dataset = batches.pointwise(3), SILOS[0]
    first, later = (epoch(drawn_once(plain), dataset, seed) for seed in (0, 1))
    other, anew = epoch(drawn_once(plain, seed=5), dataset), epoch(plain, dataset, 1)
    for k, batch in enumerate(first):
        for name, x in anew[k].items():
            np.testing.assert_array_equal(batch[name], later[k][name])
            if name != "items":
                np.testing.assert_array_equal(batch[name], x)
        has = batch["labels"] == 1
        np.testing.assert_array_equal(batch["items"][has], anew[k]["items"][has])
    joined = lambda found: np.concatenate([x["items"] for x in found])
    assert (joined(first) != joined(other)).any() and (joined(first) != joined(anew)).any()


def test_clients_draw_apart():
    told = replace(batches.pairwise(), draw=lambda seed, data, q: {"items": q[:, None] * 0 + seed})
    seeds = [x["items"][0].tolist() for x in epoch(drawn_once(told), SINGLE[0])[:-1]]
    assert len({tuple(x) for x in seeds}) == len(seeds) > 5


def test_a_seed_is_one():
    with pytest.raises(ValueError, match="is no seed"):
        drawn_once(batches.pairwise(), seed=-1)
