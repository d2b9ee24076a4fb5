"""The laws of a fusion: what is not shown is not read, and who has the whole share decides."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from ..models import Fusion
from .laws import Kind, check, expect, same_bits, traced_once

MODELS, ITEMS = 3, 29
SHARES = np.array([0.5, 0.3, 0.2], np.float32)


@dataclass(frozen=True)
class Fusing:
    fuse: Callable  # of numbers of NumPy: float[I] of what is shown
    raw: Callable
    scores: np.ndarray
    shown: np.ndarray


def _bench(fusion: Fusion) -> Fusing:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(MODELS, ITEMS)) * [[1.0], [50.0], [0.01]] + [[0.0], [-300.0], [2.0]]
    shown = rng.random(ITEMS) < 0.7
    raw = traced_once(fusion.fuse)
    fuse = lambda scores, shares=SHARES, shown=shown: np.asarray(
        raw(jnp.float32(scores), jnp.float32(shares), jnp.asarray(shown))
    )
    return Fusing(fuse, raw, scores.astype(np.float32), shown)


def _shares(model: int) -> np.ndarray:
    return np.eye(MODELS, dtype=np.float32)[model]


def _same_order(a: np.ndarray, b: np.ndarray) -> bool:
    """Whether no two items stand one way round by `a` and the other by `b`."""
    apart = lambda x: np.sign(x[:, None] - x)
    return not (apart(a) * apart(b) < 0).any()


def scores_are_one_an_item(this: Fusing) -> None:
    """fuse(...) is float32[I], finite for what is shown, also where scores are not."""
    for hole in (0.0, np.nan, -np.inf):
        scores = this.scores.copy()
        scores[0, np.flatnonzero(this.shown)[:2]] = hole
        got = this.fuse(scores)
        expect(got.shape == (ITEMS,) and got.dtype == np.float32, f"{got.dtype}{list(got.shape)}")
        expect(np.isfinite(got[this.shown]).all(), f"with {hole} among them: {got[this.shown]}")


def what_is_not_shown_is_not_read(this: Fusing) -> None:
    """Scores of items that may not be shown, whatever they are, change nothing of the others."""
    plain = this.fuse(this.scores)[this.shown]
    for other in (1e6, -1e6, np.nan):
        got = this.fuse(np.where(this.shown, this.scores, np.float32(other)))[this.shown]
        same_bits(got, plain)


def who_has_the_whole_share_decides(this: Fusing) -> None:
    """With a share of one for a model and none for the others, items stand in its order."""
    for model, own in enumerate(this.scores):
        got = this.fuse(this.scores, _shares(model))
        expect(_same_order(got[this.shown], own[this.shown]), f"model {model}: {got[this.shown]}")


def only_the_proportion_of_shares_counts(this: Fusing) -> None:
    """Shares that are all twice as large give the same order."""
    once, twice = this.fuse(this.scores), this.fuse(this.scores, 2 * SHARES)
    expect(_same_order(once[this.shown], twice[this.shown]), f"{once} and {twice}")


def models_have_no_order(this: Fusing) -> None:
    """Models in another order, with their shares, give the same numbers."""
    got, plain = this.fuse(this.scores[::-1], SHARES[::-1]), this.fuse(this.scores)
    np.testing.assert_allclose(got[this.shown], plain[this.shown], rtol=1e-5, atol=1e-6)


def scores_follow_the_item(this: Fusing) -> None:
    """Items in another order have the same scores."""
    turned = np.random.default_rng(1).permutation(ITEMS)
    got = this.fuse(this.scores[:, turned], SHARES, this.shown[turned])
    there = this.shown[turned]
    plain = this.fuse(this.scores)[turned]
    np.testing.assert_allclose(got[there], plain[there], rtol=1e-4, atol=1e-5)


def a_score_that_is_no_number_is_last(this: Fusing) -> None:
    """No item of the model is below one that it has no finite score of."""
    scores, first = this.scores.copy(), np.flatnonzero(this.shown)[0]
    scores[0, first] = np.nan
    got = this.fuse(scores, _shares(0))
    expect(got[first] <= got[this.shown].min(), f"{got[first]} among {got[this.shown]}")


def users_are_apart(this: Fusing) -> None:
    """Many users under `vmap` have what each has alone."""
    many = jnp.stack([jnp.float32(this.scores), jnp.float32(this.scores[:, ::-1])])
    shown = jnp.stack([jnp.asarray(this.shown), jnp.asarray(this.shown[::-1])])
    got = jax.vmap(this.raw, (0, None, 0))(many, jnp.float32(SHARES), shown)
    for u in range(2):
        alone = this.fuse(many[u], SHARES, np.asarray(shown[u]))
        there = np.asarray(shown[u])
        np.testing.assert_allclose(np.asarray(got[u])[there], alone[there], rtol=1e-5, atol=1e-6)


FUSION = Kind(
    "fusion",
    _bench,
    (
        scores_are_one_an_item, what_is_not_shown_is_not_read, who_has_the_whole_share_decides,
        only_the_proportion_of_shares_counts, models_have_no_order, scores_follow_the_item,
        a_score_that_is_no_number_is_last, users_are_apart,
    ),
)  # fmt: skip


def check_fusion(fusion: Fusion) -> None:
    """Holds the laws of fusions against one, on scores of three models of 29 items.

    Args:
        fusion: the part.

    Raises:
        AssertionError: a law is broken; the line says which, and what came.

    Example:
        testing.check_fusion(models.reciprocal_ranks())
    """
    check(FUSION, fusion)
