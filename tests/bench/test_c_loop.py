"""The C loop beside which a round is measured learns what our round learns; else there is no row."""

import shutil

import numpy as np
import pytest

from fedjax_rec import data
from fedjax_rec.bench import c_loop, rounds

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@pytest.fixture(scope="module")
def packed():
    made = data.synthetic(200, 400, interactions_per_user=40, spread=0.5, seed=1)
    return data.pack(data.leave_one_out()(made), negatives="paper")


@needs_cc
def test_the_c_loop_learns_what_our_round_learns(packed):
    """From the same numbers on the same data, with other draws: by 40,000 examples a round."""
    many = 4
    ours = rounds.Ours(packed, many)
    theirs = c_loop.c_rounds(c_loop.compiled(), packed, ours.begin(), 4, 0.1, ours.item_rate)
    mine = [ours() for _ in range(many)]
    seen = np.array([theirs() for _ in range(many)])
    losses = [m["loss"] for m in mine]
    assert losses[-1] < 0.8 * losses[0]  # there is something to learn
    assert c_loop.apart(losses, seen[:, 0]) < rounds.ALIKE
    names = ("validation_hr@10", "validation_ndcg@10", "hr@10", "ndcg@10")
    measured = np.array([[m[name] for name in names] for m in mine])
    # The first two by the same candidates; later ones by models of other draws.
    assert np.abs(measured - seen[:, 1:]).max() < 0.05
    assert np.abs(measured - seen[:, 1:]).mean() < 0.02


@needs_cc
def test_a_model_of_another_width_is_refused(packed):
    shared, private = rounds.Ours(packed, 1).begin()
    private = {**private, "weight": private["weight"][..., :16]}
    with pytest.raises(ValueError, match="use width 32"):
        c_loop.c_rounds(c_loop.compiled(), packed, (shared, private), 4, 0.1, 1.0)


def test_without_a_compiler_the_row_says_so(monkeypatch, packed):
    monkeypatch.setenv("PATH", "")
    (row,) = rounds.over_c("toy", packed, 1)
    assert row.value is None and row.shown() == "not measured"
    assert "no cc on the path" in row.goal


@pytest.mark.parametrize(
    ("theirs", "ratio"), [(0.504, None), (0.506, 1.5), (0.514, 1.5), (float("nan"), None)]
)
def test_losses_that_differ_by_more_than_one_percent_give_no_ratio(
    monkeypatch, packed, theirs, ratio
):
    found = {"ours": [2.0, 3.0, 4.0], "c": [1.0, 2.0, 4.0], "losses": [(0.7, 0.7), (0.51, theirs)]}
    monkeypatch.setattr(rounds, "in_turns", lambda packed, many: found)
    rows = {row.what: row for row in rounds.over_c("toy", packed, 3)}
    found = rows["PFedRec toy, CPU over a C loop's"]
    assert found.value == ratio
    assert found.goal.startswith("<= 0.9") and ("refused" in found.goal) == (ratio is None)
