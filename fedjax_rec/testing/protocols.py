"""The laws of an evaluation protocol: as many numbers as names, NaN where nothing is held out,
and better scores are better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..evaluate.protocol import AXES, Protocol, case_of
from . import worlds
from .laws import Kind, check, expect, same_bits, traced_once


@dataclass(frozen=True)
class Measuring:
    """values(scores [U, I]) -> float32[U, M]: of all users of the toy, who have a test item."""

    part: Protocol
    cases: Any
    values: Callable


def _bench(protocol: Protocol, *, cases: Any = None) -> Measuring:
    cases = cases or worlds.interactions().test

    def values(scores, targets):
        order = jnp.arange(cases.users.shape[0])
        case = case_of(cases, order, cases.seen_count.max())
        one = lambda mine, case: protocol.measure(lambda items, user: mine[items], case)
        return jax.vmap(one, in_axes=(0, AXES))(scores, _with(case, targets))

    return Measuring(protocol, cases, traced_once(values))


def _with(case, targets):
    return case.__class__(
        **{name: targets if name == "targets" else getattr(case, name)
           for name in case.__dataclass_fields__}
    )  # fmt: skip


def _targets(this: Measuring) -> jax.Array:
    """int32[U, R], padded with -1."""
    return jnp.asarray(np.asarray(this.cases.targets))


def _scores(this: Measuring, sign: float) -> jax.Array:
    """The held-out items highest, or lowest, of all. Where they are ratings: as rated, or not."""
    users, items = this.cases.users.shape[0], worlds.interactions().num_items
    noise = np.random.default_rng(0).uniform(size=(users, items))
    targets, ratings = np.asarray(this.cases.targets), this.cases.ratings
    for u in range(users):
        real = targets[u] >= 0
        wanted = np.full(real.sum(), sign * 10.0)
        if not this.part.larger_is_better and ratings is not None:
            wanted = np.asarray(ratings)[u][real] + (0.0 if sign > 0 else 10.0)
        noise[u, targets[u][real]] = wanted
    return jnp.float32(noise)


def numbers_are_as_many_as_names(this: Measuring) -> None:
    """measure(...) is float32[M] for M names, finite of users with something held out."""
    told = this.values(_scores(this, 1.0), _targets(this))
    expect(
        told.shape == (len(this.cases.users), len(this.part.names)) and told.dtype == jnp.float32,
        f"{told.dtype}{list(told.shape)} for the names {this.part.names}",
    )
    held = (np.asarray(this.cases.targets) >= 0).any(1)
    expect(np.isfinite(np.asarray(told)[held]).all(), f"they are {np.asarray(told)[held][:2]}")


def nothing_held_out_is_nan(this: Measuring) -> None:
    """A user without held-out items has NaN, which summaries leave out."""
    blank = _targets(this).at[0].set(-1)
    told = this.values(_scores(this, 1.0), blank)
    expect(np.isnan(np.asarray(told)[0]).all(), f"it has {told[0]}")
    counts = (blank >= 0).sum(1)
    same_bits(this.part.summarise(told, counts), this.part.summarise(told[1:], counts[1:]))


def better_scores_are_better(this: Measuring) -> None:
    """Scores with the held-out items first are better in the leading number than those with them
    last."""
    counts = this.cases.held_out()
    best, worst = (
        float(this.part.summarise(this.values(_scores(this, s), _targets(this)), counts)[0])
        for s in (1.0, -1.0)
    )
    right = best > worst if this.part.larger_is_better else best < worst
    expect(right, f"it is {best:.4f} with them first and {worst:.4f} with them last")


def summaries_are_as_many_as_names(this: Measuring) -> None:
    """summarise(...) is float32[M'] for the summary names, whatever the order of the users."""
    told = this.values(_scores(this, 1.0), _targets(this))
    counts = this.cases.held_out()
    whole, turned = this.part.summarise(told, counts), this.part.summarise(told[::-1], counts[::-1])
    expect(whole.shape == (len(this.part.summary_names),), f"{list(whole.shape)}")
    np.testing.assert_allclose(turned, whole, rtol=1e-5)


PROTOCOL = Kind(
    "protocol",
    _bench,
    (
        numbers_are_as_many_as_names, nothing_held_out_is_nan, better_scores_are_better,
        summaries_are_as_many_as_names,
    ),
)  # fmt: skip


def check_protocol(protocol: Protocol, *, cases: Any = None) -> None:
    """Holds the laws of protocols against one.

    Args:
        protocol: the part.
        cases: `data.Cases`; None for those of a toy with 211 items, one held out a user.

    Raises:
        AssertionError: a law is broken; the line says which, and what came.

    Example:
        testing.check_protocol(evaluate.full_catalogue([evaluate.hit_ratio(10)], 211))
    """
    check(PROTOCOL, protocol, cases=cases)
