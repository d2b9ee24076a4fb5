"""Mutual distillation of a large local and a small shared model: what FedKD trains on a client.

With the scores t of the teacher, which is wholly the client's, and s of the student, which is
shared, on the same batch, and what each loses, l(t) and l(s):

    loss = l(t) + l(s) + w [ KL(s || t) + KL(t || s) ] / (l(t) + l(s))

The first term of the bracket moves the teacher alone and the second the student alone: what each
is compared with, and the denominator, are constants to the gradient. So they teach one another the
more, the better they are ("adaptive mutual distillation"). KL is between Bernoulli distributions
of logits t and s, since FedKD compares predicted distributions; pairs are their difference.
FedKD's losses between hidden states are left out: two recommenders need not have layers alike.

Wu et al., "Communication-efficient federated learning via knowledge distillation", Nature
Communications 2022. FedKD sends the student's updates by singular values, of which it keeps a
growing share of the energy: give the strategy `uplink=compress.truncated_svd(...)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import jax

from ... import trees
from ...check import at_least, one_of, positive
from ...types import Model
from ..objectives import Objective, bce, masked_mean, softplus
from .mf import fedmf


def mutual(
    local: Callable[..., Model],
    shared: Callable[..., Model],
    distillation: float = 1.0,
    objective: Objective | None = None,
    scored_by: str = "teacher",
) -> Model:
    """The model of which clients keep `local`, the teacher, and share `shared`, the student.

    What is private is {"teacher": its shared and private part, "student": the student's private
    part}; item tables of the teacher are private tables, of which a step costs the rows of its
    batch, memory N tables. What is shared is {"student": what travels, "frozen": what neither
    trains of the teacher}. Teachers start alike on all clients but for what is drawn by client.

    Args:
        local: called with `objective=...` alone, as `functools.partial(neumf, num_items)`; any
            factory whose loss is what its objective makes of the scores, as all of this library but
            `prunable` and a penalised `fedrap`.
        shared: called likewise.
        distillation: w >= 0.
        objective: l, `bce()` (default) or `bpr()`, whose scores are logits.
        scored_by: who scores and predicts: `teacher`, as in FedKD, or `student`, whose tables have
            seen everybody's items.

    Raises:
        ValueError: for distillation < 0 and an unknown `scored_by`.

    Example:
        >>> teacher, student = partial(models.neumf, num_items), partial(models.fedmf, num_items)
        >>> model = models.mutual(teacher, student, distillation=0.5)
    """
    at_least("mutual", "distillation", distillation, 0)
    one_of("mutual", "scored_by", scored_by, ("teacher", "student"))
    objective = objective or bce()
    # With this objective the loss of a model is the vector of its scores.
    teacher, student = local(objective=_scores), shared(objective=_scores)

    def init(key, common=None):
        own_key, mine_key = jax.random.split(key)
        # What all have alike of either model, and the shared part of the teacher.
        split = (None, None, None) if common is None else jax.random.split(common, 3)
        everybody, of_teacher, of_student = split
        large, own = teacher.init(own_key, of_teacher)
        small, mine = student.init(mine_key, of_student)
        if everybody is not None:
            large = teacher.init(everybody)[0]
        private = {"teacher": {"shared": trees.trainable(large), "private": own}, "student": mine}
        return {"student": small, "frozen": trees.frozen(large)}, private

    def parts(shared, private):
        kept = private["teacher"]
        whole = trees.with_frozen(kept["shared"], shared["frozen"])
        return (whole, kept["private"]), (shared["student"], private["student"])

    def loss(shared, private, batch, key):
        of_teacher, of_student = parts(shared, private)
        first, second = jax.random.split(key)
        t = teacher.loss(*of_teacher, batch, first)
        s = student.loss(*of_student, batch, second)
        task = objective(t, batch) + objective(s, batch)
        # Without an example all terms are 0, and so must the quotient be.
        share = distillation / jax.lax.stop_gradient(task + (task == 0))
        between = divergence(_logits(t), _logits(s)) + divergence(_logits(s), _logits(t))
        return task + share * masked_mean(between, batch["mask"])

    measured, which = (teacher, 0) if scored_by == "teacher" else (student, 1)
    seen = measured.through(lambda shared, private: parts(shared, private)[which], init)
    return replace(seen, loss=loss)


def fedkd(
    num_items: int,
    members: int = 1,
    width: int = 32,
    shared_width: int = 8,
    scale: float = 0.1,
    distillation: float = 1.0,
    objective: Objective | None = None,
    scored_by: str = "teacher",
) -> Model:
    """`mutual` of two matrix factorizations, as FedKD's two models are of one family: a teacher of
    `width`, a student of `shared_width`.

    Of N clients the teachers' tables are N * num_items * width floats. Arguments that are not named
    here are those of `mutual` and `fedmf`.

    Args:
        width: of the teacher's vectors.
        shared_width: of the student's vectors.

    Raises:
        ValueError: for widths that are not positive, and as `mutual`.

    Example:
        >>> model = models.fedkd(num_items, width=16, shared_width=4)
        >>> uplink = compress.error_feedback(compress.truncated_svd(2))
        >>> strategy = strategies.fedavg(model, data.pointwise(4), uplink=uplink)
    """
    for name, value in (("width", width), ("shared_width", shared_width)):
        positive("fedkd", name, value)
    teacher = partial(fedmf, num_items, members, width, scale)
    student = partial(fedmf, num_items, members, shared_width, scale)
    return mutual(teacher, student, distillation, objective, scored_by)


def divergence(logits: jax.Array, target: jax.Array) -> jax.Array:
    """KL(p || q) of Bernoulli distributions with p = s(target), a constant to the gradient, and
    q = s(logits), elementwise: p (target - logits) + log(1 + e^logits) - log(1 + e^target)."""
    target = jax.lax.stop_gradient(target)
    p = jax.nn.sigmoid(target)
    return p * (target - logits) + softplus(logits) - softplus(target)


def _scores(scores, batch):
    return scores


def _logits(scores: jax.Array) -> jax.Array:
    """float[B]: of pairs [B, 2], the logit that the first one is the better."""
    return scores if scores.ndim == 1 else scores[:, 0] - scores[:, 1]
