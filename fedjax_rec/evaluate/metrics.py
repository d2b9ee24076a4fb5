"""Ranking metrics of one user, from the ranks of the relevant items.

With n relevant items at ranks r_1 < ... < r_n among C candidates:

    hr@k         1 if r_1 <= k, else 0                           (trec_eval: success)
    recall@k     #{r_i <= k} / n
    precision@k  #{r_i <= k} / k
    mrr[@k]      1 / r_1, or 0 where r_1 > k                     (trec_eval: recip_rank)
    map[@k]      sum over r_i <= k of (i / r_i), over n          (trec_eval: map_cut)
    ndcg@k       sum over r_i <= k of 1 / log2(1 + r_i), over the same sum at r_i = i
    er@k, target_ndcg@k   recall@k and ndcg@k of items that attackers push, see `exposure`
    auc          share of (relevant, other) pairs with the relevant item ahead, a tied pair 1/2

Choices where libraries differ: `map@k` divides by n, as trec_eval, ir-measures and ranx do, not
by min(n, k) as RecBole does; `precision@k` divides by k even where fewer items are ranked; gains
are binary; for one relevant item `ndcg@k` is ln 2 / ln(1 + r). Ties are against the model in
ranks; `auc` alone takes half of a tied pair, as scikit-learn does: constant scores have 1/2.

A user without relevant items has no value: every metric is NaN there, and averages over users
leave NaN out (`jnp.nanmean`, and everything in `distribution`). `auc` is NaN, too, where all
candidates are relevant.

Reference: Järvelin and Kekäläinen 2002 (NDCG); Voorhees and Harman 2005, TREC (the others).
"""

import difflib
import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Float32, Int32

from ..types import Array

Ranked = Int32[Array, " R"]
One = Int32[Array, ""]
_ALIASES = {
    "hit": "hr", "hits": "hr", "hit_ratio": "hr", "hit_rate": "hr", "success": "hr",
    "exposure": "er", "exposure_ratio": "er",
    "rr": "mrr", "ap": "map", "mean_average_precision": "map", "p": "precision", "r": "recall",
}  # fmt: skip


@dataclass(frozen=True)
class Metric:
    """A named function of one user's ranking.

    Attributes:
        name: what logs and tables call it, such as `hr@10`.
        compute: (ranks int32[R] with 0 for padding, candidates int32, ties int32[R]), as of
            `Ranks`, -> float32 scalar, NaN for a user without relevant items.
        least: candidates below which the metric says nothing, such as k of HR@k.
        of_targets: whether it is of items that attackers push, see `exposure`, and not of held-out
            ones.
    """

    name: str
    compute: Callable[[Array, Array, Array], Array]
    least: int = 0
    of_targets: bool = False


def hit_ratio(k: int) -> Metric:
    """HR@k: 1 if any relevant item is among the first k, else 0.

    Args:
        k: places from the top, at least 1.

    Raises:
        ValueError: where k is no integer of 1 or more.

    Example:
        >>> protocol = evaluate.full_catalogue([evaluate.hit_ratio(10)], num_items)
    """
    k = _cutoff("hit_ratio", k)

    def compute(ranks: Ranked, candidates: One, ties: Ranked) -> Float32[Array, ""]:
        return _if_any(ranks, jnp.any(_within(ranks, k)).astype(jnp.float32))

    return Metric(f"hr@{k}", compute, k)


def recall(k: int) -> Metric:
    """Recall@k: the share of the relevant items that are among the first k.

    Args:
        k: as in `hit_ratio`.

    Raises:
        ValueError: as `hit_ratio`.

    Example:
        >>> protocol = evaluate.full_catalogue([evaluate.recall(10)], num_items)
    """
    k = _cutoff("recall", k)

    def compute(ranks: Ranked, candidates: One, ties: Ranked) -> Float32[Array, ""]:
        return jnp.sum(_within(ranks, k), dtype=jnp.float32) / _relevant(ranks)

    return Metric(f"recall@{k}", compute, k)


def precision(k: int) -> Metric:
    """Precision@k: the share of the first k places that hold a relevant item.

    Args:
        k: as in `hit_ratio`.

    Raises:
        ValueError: as `hit_ratio`.

    Example:
        >>> protocol = evaluate.full_catalogue([evaluate.precision(10)], num_items)
    """
    k = _cutoff("precision", k)

    def compute(ranks: Ranked, candidates: One, ties: Ranked) -> Float32[Array, ""]:
        return _if_any(ranks, jnp.sum(_within(ranks, k), dtype=jnp.float32) / k)

    return Metric(f"precision@{k}", compute, k)


def mrr(k: int | None = None) -> Metric:
    """Reciprocal rank of the first relevant item, 0 where it lies beyond k.

    Args:
        k: as in `hit_ratio`; None for all places.

    Raises:
        ValueError: as `hit_ratio`.

    Example:
        >>> protocol = evaluate.full_catalogue([evaluate.mrr()], num_items)
    """
    k = None if k is None else _cutoff("mrr", k)

    def compute(ranks: Ranked, candidates: One, ties: Ranked) -> Float32[Array, ""]:
        within = _within(ranks, k)
        return _if_any(ranks, jnp.max(jnp.where(within, _reciprocal(ranks), 0.0), initial=0.0))

    return Metric(_name("mrr", k), compute, k or 0)


def mean_average_precision(k: int | None = None) -> Metric:
    """AP@k of one user (MAP once averaged), divided by the number of relevant items.

    Args:
        k: as in `hit_ratio`; None for all places.

    Raises:
        ValueError: as `hit_ratio`.

    Example:
        >>> protocol = evaluate.full_catalogue([evaluate.mean_average_precision(10)], num_items)
    """
    k = None if k is None else _cutoff("mean_average_precision", k)

    def compute(ranks: Ranked, candidates: One, ties: Ranked) -> Float32[Array, ""]:
        # Padding sorts first; the i-th relevant item then sits `padding` places further on.
        ordered = jnp.sort(ranks)
        padding = jnp.sum(ranks <= 0, dtype=jnp.float32)
        found = jnp.arange(1, ranks.shape[0] + 1, dtype=jnp.float32) - padding
        terms = jnp.where(_within(ordered, k), found * _reciprocal(ordered), 0.0)
        return jnp.sum(terms) / _relevant(ranks)

    return Metric(_name("map", k), compute, k or 0)


def ndcg(k: int) -> Metric:
    """NDCG@k with binary gains and the log2 discount; ln 2 / ln(1 + rank) for one item.

    Args:
        k: as in `hit_ratio`.

    Raises:
        ValueError: as `hit_ratio`.

    Example:
        >>> protocol = evaluate.full_catalogue([evaluate.ndcg(10)], num_items)
    """
    k = _cutoff("ndcg", k)

    def compute(ranks: Ranked, candidates: One, ties: Ranked) -> Float32[Array, ""]:
        gained = jnp.sum(jnp.where(_within(ranks, k), _discount(ranks), 0.0))
        places = jnp.arange(1, ranks.shape[0] + 1)
        reachable = (places <= _relevant(ranks)) & (places <= k)
        # With no relevant item both sums are 0, and 0 / 0 is the NaN wanted.
        return gained / jnp.sum(jnp.where(reachable, _discount(places), 0.0))

    return Metric(f"ndcg@{k}", compute, k)


def auc() -> Metric:
    """AUC: the share of (relevant, other) pairs with the relevant item ahead, ties counted half.

    Example:
        >>> protocol = evaluate.full_catalogue([evaluate.auc()], num_items)
    """

    def compute(ranks: Ranked, candidates: One, ties: Ranked) -> Float32[Array, ""]:
        relevant = _relevant(ranks)
        others = candidates - relevant
        # The i-th relevant item has r_i - i others ahead of it. Their mean stays near C, where a
        # plain sum of ranks would lose float32 digits.
        ahead = jnp.sum((ranks - 0.5 * ties) / relevant, dtype=jnp.float32) - (relevant + 1) / 2
        return jnp.where((relevant > 0) & (others > 0), 1.0 - ahead / others, jnp.nan)

    return Metric("auc", compute)


def exposure_ratio(k: int) -> Metric:
    """ER@k: the share of the eligible targets that are among the first k.

    Args:
        k: places from the top, at least 1.

    Raises:
        ValueError: where k is no integer of 1 or more.

    Example:
        >>> protocol = evaluate.exposure([evaluate.exposure_ratio(10)], [7], num_items)
    """
    k = _cutoff("exposure_ratio", k)
    return Metric(f"er@{k}", recall(k).compute, k, of_targets=True)


def target_ndcg(k: int) -> Metric:
    """NDCG@k of the eligible targets.

    Args:
        k: as in `exposure_ratio`.

    Raises:
        ValueError: as `exposure_ratio`.

    Example:
        >>> protocol = evaluate.exposure([evaluate.target_ndcg(10)], [7], num_items)
    """
    k = _cutoff("target_ndcg", k)
    return Metric(f"target_ndcg@{k}", ndcg(k).compute, k, of_targets=True)


def metrics(names: Iterable[str]) -> list[Metric]:
    """Metrics from names such as `["hr@10", "ndcg@10", "mrr", "auc"]`.

    Args:
        names: `hr`, `ndcg`, `recall` and `precision` need `@k`; `mrr` and `map` may have it; `auc`
            has none. `er` and `target_ndcg`, of `exposure`, need it.

    Raises:
        ValueError: a name is unknown, lacks its `@k`, has one it should not, or k is below 1.

    Example:
        >>> protocol = evaluate.full_catalogue(evaluate.metrics(["hr@10", "ndcg@10"]), num_items)
    """
    if isinstance(names, str):
        raise ValueError(f"metrics(names={names!r}) is one string; use a list: [{names!r}].")
    return [_parse(name) for name in names]


def evaluate_user(
    chosen: Sequence[Metric], ranks: Ranked, candidates: One, ties: Ranked
) -> Float32[Array, " M"]:
    """float32[M]: the M chosen metrics of one user; NaN for a user without relevant items.

    Args:
        chosen: M metrics.
        ranks: int32[R], as of `Ranks`, with 0 for padding.
        candidates: int32[], how many items were ranked.
        ties: int32[R], items that are not relevant and tie with each.

    Example:
        >>> found = evaluate.ranks(jnp.array([0.3, 0.9, 0.1]), jnp.array([0]))
        >>> values = jax.jit(partial(evaluate.evaluate_user, evaluate.metrics(["hr@1", "mrr"])))
        >>> values(*found).tolist()
        [0.0, 0.5]
    """
    if not chosen:
        return jnp.zeros(0, jnp.float32)
    values = [metric.compute(ranks, candidates, ties) for metric in chosen]
    return jnp.stack([jnp.asarray(value, jnp.float32) for value in values])


def _parse(name: str) -> Metric:
    cut = {"hr": hit_ratio, "ndcg": ndcg, "recall": recall, "precision": precision}
    cut |= {"er": exposure_ratio, "target_ndcg": target_ndcg}
    optional = {"mrr": mrr, "map": mean_average_precision}
    known = [*cut, *optional, "auc"]
    family, at, depth = str(name).partition("@")
    if family not in known:
        lowered = family.strip().lower()
        near = difflib.get_close_matches(lowered, [*known, *_ALIASES], n=1, cutoff=0.5)
        advice = f"use one of {', '.join(known)}"
        if near:
            advice = f"did you mean '{_ALIASES.get(near[0], near[0])}{at}{depth}'?"
        raise ValueError(f"metrics(name={name!r}) is unknown; {advice}")
    if family == "auc":
        if at:
            raise ValueError(f"metrics(name={name!r}): auc takes no cutoff; use 'auc'.")
        return auc()
    if not at:
        if family in cut:
            raise ValueError(f"metrics(name={name!r}) needs a cutoff; use '{family}@10'.")
        return optional[family]()
    if not depth.isdecimal() or int(depth) < 1:
        raise ValueError(
            f"metrics(name={name!r}) has cutoff {depth!r}; use an integer of 1 or more, "
            f"such as '{family}@10'."
        )
    return {**cut, **optional}[family](int(depth))


def _cutoff(function: str, k: int) -> int:
    try:
        whole = operator.index(k)
    except TypeError:
        whole = 0
    if whole < 1:
        raise ValueError(f"{function}(k={k!r}) ranks nothing; use an integer k of 1 or more.")
    return whole


def _name(family: str, k: int | None) -> str:
    return family if k is None else f"{family}@{k}"


def _within(ranks: Array, k: int | None) -> Array:
    return (ranks > 0) if k is None else (ranks > 0) & (ranks <= k)


def _relevant(ranks: Array) -> Array:
    return jnp.sum(ranks > 0, dtype=jnp.float32)


def _if_any(ranks: Array, value: Array) -> Array:
    return jnp.where(jnp.any(ranks > 0), value, jnp.nan)


def _reciprocal(ranks: Array) -> Array:
    return 1.0 / jnp.maximum(ranks, 1).astype(jnp.float32)


def _discount(ranks: Array) -> Array:
    return jnp.log(2.0) / jnp.log1p(jnp.maximum(ranks, 1).astype(jnp.float32))
