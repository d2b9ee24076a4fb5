"""The C loop beside which a round is measured learns what our round does; else there is no row."""

import shutil

import numpy as np
import pytest

from fedjax_rec import data
from fedjax_rec.bench import c_loop, rounds

pytestmark = pytest.mark.usefixtures("compiled_fast")
needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")


@pytest.fixture(scope="module")
def packed():
    made = data.synthetic(200, 400, interactions_per_user=40, spread=0.5, seed=1)
    return data.pack(data.leave_one_out()(made), negatives="paper")


@pytest.fixture(scope="module")
def library():
    return c_loop.compiled()


NAMES = ("loss", "validation_hr@10", "validation_ndcg@10", "hr@10", "ndcg@10")


def played(library, packed, many=4, rate=0.1, negatives=4):
    """float64[many, 5] twice: what our rounds measure, and what the C loop's do."""
    ours = rounds.Ours(packed, many, rate, negatives)
    theirs = c_loop.c_rounds(library, packed, ours.begin(), negatives, rate, ours.item_rate)
    mine = [ours() for _ in range(many)]
    return np.array([[m[n] for n in NAMES] for m in mine]), np.array([theirs() for _ in mine])


@needs_cc
def test_without_draws_the_c_loop_is_our_round(library, packed):
    """No negatives, and all that a client has in one batch: nothing is left to chance."""
    assert 64 < packed.store.longest <= 256
    mine, theirs = played(library, packed, rate=5.0, negatives=0)
    assert mine[-1, 0] < 0.5 * mine[0, 0] and np.ptp(mine[:, 1]) > 0.01
    np.testing.assert_allclose(theirs[:, 0], mine[:, 0], rtol=1e-4)
    np.testing.assert_allclose(theirs[:, 1:], mine[:, 1:], atol=1e-6)


@needs_cc
def test_with_draws_of_its_own_it_learns_alike(library, packed):
    """By 40,000 examples a round, of which a client has several batches."""
    mine, theirs = played(library, packed)
    assert mine[-1, 0] < 0.8 * mine[0, 0]
    assert c_loop.apart(mine[:, 0], theirs[:, 0]) < rounds.ALIKE
    # Candidates are the same, models are of other draws.
    assert np.abs(mine - theirs)[:, 1:].max() < 0.05


@needs_cc
def test_a_model_of_another_width_is_refused(library, packed):
    shared, private = rounds.Ours(packed, 1).begin()
    private = {**private, "weight": private["weight"][..., :16]}
    with pytest.raises(ValueError, match="use width 32"):
        c_loop.c_rounds(library, packed, (shared, private), 4, 0.1, 1.0)


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
