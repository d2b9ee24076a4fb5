"""Spattack: sums are taken back, and directions are kept, against NumPy; and items stand still."""

import numpy as np
import pytest
from small_crowd import PER_ROW, averaged, trained
from test_forged import ABSENT, HERE, ITEMS, LIES, flat, seen_by_the_rule

from fedjax_rec import aggregate, attacks

pytestmark = pytest.mark.usefixtures("compiled_fast")
TABLE = slice(0, ITEMS * 3)
KERNEL = slice(ITEMS * 3, ITEMS * 3 + 4)


@pytest.mark.parametrize("layout", ["whole", "ids"])
@pytest.mark.parametrize("rows", [None, 6])
def test_what_the_honest_say_of_an_item_is_taken_back(rows, layout):
    came, seen = seen_by_the_rule(attacks.spattack_o(rows, strength=1.5), layout)
    (before, said), (after, named) = flat(came), flat(seen)
    np.testing.assert_array_equal(after[~LIES], before[~LIES])
    np.testing.assert_array_equal(named[~LIES], said[~LIES])
    honest = np.where(said, before, 0)[~LIES].sum(0)
    count = named[LIES].sum(0)
    wanted = np.where(named[LIES], -1.5 * honest / np.maximum(count, 1), 0)
    where = slice(0, KERNEL.stop)  # whole numbers stay
    np.testing.assert_allclose(after[LIES][:, where], wanted[:, where], rtol=1e-4, atol=1e-5)
    each = named[LIES][:, TABLE].sum(1) // 3
    assert each.tolist() == [ITEMS if rows is None else rows] * LIES.sum()
    taken = np.where(count[TABLE] > 0, -0.5, 1.0)  # of the sum of all, where a liar was
    np.testing.assert_allclose(
        np.where(named, after, 0).sum(0)[TABLE], taken * honest[TABLE], rtol=1e-4, atol=1e-5
    )


def test_rows_are_drawn_by_who_touches_them():
    """Nobody touches the last four of twenty rows, so that they are drawn last."""
    came, seen = seen_by_the_rule(attacks.spattack_o(rows=16), "ids")
    named = flat(seen)[1][LIES][:, TABLE]
    touched = flat(came)[1][~LIES][:, TABLE].any(0)
    assert touched.sum() // 3 == 16
    np.testing.assert_array_equal(named, np.broadcast_to(touched, named.shape))


@pytest.mark.parametrize("rows", [None, 6])
def test_a_direction_is_the_same_for_all_and_always(rows):
    push = attacks.spattack_l(scale=0.2, rows=rows, seed=4)
    seen = [seen_by_the_rule(push, layout)[1] for layout in ("ids", "whole")]
    kernels = np.concatenate([flat(x)[0][LIES, KERNEL] for x in seen])
    np.testing.assert_array_equal(kernels, np.broadcast_to(kernels[0], kernels.shape))
    numbers = []
    for x in seen:
        values, named = (y[LIES][:, TABLE] for y in flat(x))
        numbers.append(np.where(named, values, np.nan))
    numbers = np.concatenate(numbers)
    said = numbers[:, ~np.isnan(numbers).all(0)]
    np.testing.assert_array_equal(np.nanmax(said, 0), np.nanmin(said, 0))
    if rows is None:
        assert 0.13 < numbers[0].std() < 0.27 and len(np.unique(numbers[0])) == ITEMS * 3
        other = flat(seen_by_the_rule(attacks.spattack_l(0.2, seed=5), "ids")[1])[0][LIES][0]
        assert not np.isclose(other[TABLE], numbers[0]).any()


def attacked(push, liars):
    rule = attacks.attacked(aggregate.per_row(), push, attacks.named(liars))
    return trained(rule, rate=PER_ROW)


def test_one_liar_is_enough_to_keep_all_items_where_they_are():
    plain, stood = averaged(), attacked(attacks.spattack_o(), [7])
    moved = lambda found: np.abs(found.items - found.first).max()
    assert moved(plain) > 0.5 and moved(stood) < 1e-4
    assert stood.hits < plain.hits - 0.3


def test_noise_that_is_kept_up_drowns_what_is_learned():
    assert attacked(attacks.spattack_l(scale=0.5), [7, 8, 9]).hits < averaged().hits - 0.2


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: attacks.spattack_o(rows=0), "use rows >= 1"),
        (lambda: attacks.spattack_o(strength=0.0), "use strength > 0"),
        (lambda: attacks.spattack_l(scale=-1.0), "use scale > 0"),
        (lambda: attacks.spattack_l(seed=-1), "is no seed"),
        (lambda: seen_by_the_rule(attacks.spattack_l(rows=21), "ids"), "use rows <= 20"),
    ],
)
def test_wrong_arguments_are_one_line(make, complaint):
    with pytest.raises(ValueError, match=complaint) as error:
        make()
    assert "\n" not in str(error.value)


def test_who_is_not_there_names_nothing():
    liars = attacks.named([HERE[1], ABSENT])
    _, seen = seen_by_the_rule(attacks.spattack_o(), "ids", liars)
    live = np.asarray(seen.update["item"].live)
    assert live[HERE[1]].all() and not live[ABSENT].all()
    assert np.isfinite(np.asarray(seen.update["item"].values)[HERE[1]]).all()
