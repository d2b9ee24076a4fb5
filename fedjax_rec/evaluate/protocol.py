"""What a user's held-out items are ranked against, and the evaluation of many users in one call.

- `full_catalogue()`: all items but those the user has already seen. The default.
- `sampled()`: the user's fixed sampled negatives, to compare with papers that use 99 of them.
  Sampled metrics are not estimates of full ones (Krichene & Rendle, KDD 2020).
- `beside(...)`: two of them in one pass.
- `rating_error()`: no ranking; the squared and absolute error of predicted ratings.

A protocol looks at one user through `score(items, user)`, so it serves the aggregated model
(`evaluate_users`) as well as a client's own model after training (`probe_clients`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Float32, Int32, Integer

from ..check import at_least, is_traced
from ..made import part
from ..types import Array, Model, PyTree, record
from .metrics import Metric, evaluate_user
from .ranks import Ranks, ranks, sampled_ranks

_TILE = 256


@record
class Case:
    """One user of an evaluation: `targets` int32[R] padded with -1, its `negatives` int32[n], and
    its seen items at `start` .. `start + count` of `seen`. longest: the largest count around.
    history: int32[H], or None."""

    member: Array
    targets: Array
    ratings: Array | None
    negatives: Array | None
    seen: Array
    start: Array
    count: Array
    longest: Array
    history: Array | None = None


AXES = Case(0, 0, 0, 0, None, 0, 0, None, 0)


@part
class Protocol:
    """How one user is measured.

    measure(score, case) -> float32[M], NaN where the user has nothing held out.
    names: what the M numbers of a user are called. label: what tables call the protocol.
    summarise(values [U, M], counts [U]) -> float32[M']: over users with `counts` held-out items;
    summary_names: what those are called.
    larger_is_better: how the best round is chosen.
    rank(score, case) -> `Ranks` of the held-out items, of protocols that rank them.
    """

    names: tuple[str, ...]
    measure: Callable[..., jax.Array]
    label: str
    summarise: Callable[..., jax.Array]
    summary_names: tuple[str, ...]
    larger_is_better: bool = True
    rank: Callable[..., Ranks] | None = None


def averaged(metrics: Sequence[Metric], measure, label: str) -> Protocol:
    """The protocol of measure(score, case), whose numbers are averaged over users."""
    names = tuple(m.name for m in metrics)
    return Protocol(names, measure, label, lambda values, counts: jnp.nanmean(values, 0), names)


def _of_ranks(metrics: Sequence[Metric], rank: Callable[..., Ranks], label: str) -> Protocol:
    """The protocol of metrics of rank(score, case)."""
    measure = lambda score, case: evaluate_user(metrics, *rank(score, case))
    return replace(averaged(metrics, measure, label), rank=rank)


def full_catalogue(metrics: Sequence[Metric], num_items: int) -> Protocol:
    """Ranks among all items that the user has not seen. Warns of metrics that look at as many
    places as there are items, which are high of any model.

    Args:
        metrics: what is measured of the ranks of held-out items.
        num_items: `I`, the items of the data.

    Raises:
        ValueError: when it measures, where the model scores another number of items.

    Example:
        >>> protocol = evaluate.full_catalogue(evaluate.metrics(["hr@10"]), num_items)
    """
    for metric in metrics:
        if metric.least >= num_items:
            warnings.warn(
                f"full_catalogue(num_items={num_items}): {metric.name} looks at {metric.least} "
                "places, so it is high of any model; use fewer.",
                stacklevel=2,
            )
    return of_catalogue(metrics, num_items)


def of_catalogue(metrics: Sequence[Metric], num_items: int) -> Protocol:
    """`full_catalogue` without its warning, for who counts each user's candidates."""

    def rank(score, case):
        scores, seen = unseen(score, case, num_items)
        return ranks(scores, case.targets, seen)

    return _of_ranks(metrics, rank, "full catalogue")


def unseen(score: Callable, case: Case, num_items: int) -> tuple[jax.Array, jax.Array]:
    """(scores float[I], bool[I] of what the user has seen by then, and is not to be shown)."""
    scores = score(slice(None), case.member)
    if scores.shape[0] != num_items:
        raise ValueError(
            f"full_catalogue(num_items={num_items}): the model scored {scores.shape[0]} items; "
            "give the number of items of the data."
        )

    def mark(t, seen):
        place = t * _TILE + jnp.arange(_TILE)
        items = case.seen.at[case.start + place].get(mode="clip")
        return seen.at[jnp.where(place < case.count, items, num_items)].set(True, mode="drop")

    turns = -(-case.longest // _TILE)
    return scores, jax.lax.fori_loop(0, turns, mark, jnp.zeros(num_items, bool))


def sampled(metrics: Sequence[Metric]) -> Protocol:
    """Ranks among the user's fixed negatives, all held-out items against the same ones.

    Args:
        metrics: what is measured of the ranks.

    Raises:
        ValueError: when it measures, where the data were packed without evaluation negatives.

    Example:
        >>> protocol = evaluate.sampled(evaluate.metrics(["hr@10", "ndcg@10"]))
    """

    def rank(score, case):
        if case.negatives is None:
            raise ValueError(
                "sampled(): the data was packed without evaluation negatives; "
                "use pack(evaluation_negatives=99), or fewer of a small catalogue."
            )
        size = case.targets.shape[0]
        items = jnp.concatenate([jnp.maximum(case.targets, 0), case.negatives])
        scores = score(items, case.member)
        return sampled_ranks(scores[:size], scores[size:], case.targets >= 0)

    return _of_ranks(metrics, rank, "sampled negatives")


def beside(first: Protocol, second: Protocol, prefix: str) -> Protocol:
    """Both protocols in one pass. The first metric of `first` leads.

    Args:
        first: whose names stay.
        second: whose names get `prefix`; one without a label measures the first way more closely.
        prefix: such as "sampled ".

    Example:
        >>> chosen = evaluate.metrics(["hr@10"])
        >>> full, few = evaluate.full_catalogue(chosen, num_items), evaluate.sampled(chosen)
        >>> protocol = evaluate.beside(full, few, "sampled ")
    """

    def measure(score, case):
        return jnp.concatenate([first.measure(score, case), second.measure(score, case)])

    def summarise(values, counts):
        mine = len(first.names)
        parts = (first, values[:, :mine]), (second, values[:, mine:])
        return jnp.concatenate([protocol.summarise(part, counts) for protocol, part in parts])

    named = lambda a, b: (*a, *(prefix + name for name in b))
    label = " and ".join(filter(None, (first.label, second.label)))
    return Protocol(
        named(first.names, second.names), measure, label, summarise,
        named(first.summary_names, second.summary_names), first.larger_is_better,
    )  # fmt: skip


def rating_error() -> Protocol:
    """Mean squared and absolute error over the user's held-out ratings. A prediction that is NaN
    is infinitely wrong: left out, it would make a broken model the better one.

    Raises:
        ValueError: when it measures, where the data have no ratings.

    Example:
        >>> protocol = evaluate.rating_error()
    """

    def measure(score, case):
        if case.ratings is None:
            raise ValueError("rating_error(): the data has no ratings; evaluate a ranking instead.")
        real = case.targets >= 0
        error = jnp.abs(score(jnp.maximum(case.targets, 0), case.member) - case.ratings)
        error = jnp.where(jnp.isnan(error), jnp.inf, error)
        error = jnp.where(real, error, 0.0)  # padding may hold anything
        count = real.sum()
        means = jnp.stack([(error**2).sum(), error.sum()]) / count
        return jnp.where(count > 0, means, jnp.nan)

    def summarise(values, counts):
        """RMSE and MAE over all held-out ratings."""
        measured = ~jnp.isnan(values[:, :1])
        weights = jnp.where(measured, counts[:, None].astype(jnp.float32), 0.0)
        mse, mae = jnp.where(measured, weights * values, 0.0).sum(0) / weights.sum()
        return jnp.stack([jnp.sqrt(mse), mae])

    return Protocol(("mse", "mae"), measure, "rating error", summarise, ("rmse", "mae"), False)


def case_of(cases, rows: Int32[Array, "*c"], longest: Integer[Array, ""] | int) -> Case:
    """The cases at `rows` (int32[] or int32[c]) of a `data.Cases`."""

    def at(x):
        return None if x is None else x[rows]

    return Case(
        at(cases.members), at(cases.targets), at(cases.ratings), at(cases.negatives),
        cases.seen, at(cases.seen_start), at(cases.seen_count), longest, at(cases.history),
    )  # fmt: skip


def evaluate_users(
    model: Model,
    protocol: Protocol,
    shared: PyTree,
    private: PyTree,
    cases,
    users_per_chunk: int = 32,
) -> Float32[Array, "U M"]:
    """float32[U, M]: the aggregated model with each client's private part, on all users of `cases`.

    The model's catalogue is made once, unless it depends on what clients keep. Users go through in
    chunks, so that scores take c * I numbers.

    Args:
        model: one with a ranking.
        protocol: how one user is measured.
        shared: the server's pytree.
        private: leaves [N, ...].
        cases: `data.Cases`, such as `dataset.test`.
        users_per_chunk: c, users measured at once.

    Raises:
        ValueError: for a model without a ranking, and for users_per_chunk < 1.

    Example:
        >>> protocol = evaluate.full_catalogue(evaluate.metrics(["hr@10"]), num_items)
        >>> values = evaluate.evaluate_users(model, protocol, *parameters, dataset.test)
    """
    at_least("evaluate_users", "users_per_chunk", users_per_chunk, 1)
    total = cases.users.shape[0]
    c = min(users_per_chunk, total)
    # Users with histories of like length share a chunk, whose longest one sets its loop.
    order = jnp.argsort(-cases.seen_count, stable=True).astype(jnp.int32)
    padded = jnp.concatenate([order, jnp.full(-total % c, order[-1])]).reshape(-1, c)

    catalogue = catalogue_of_all(model, shared, private)

    def one(client, case):
        mine = jax.tree.map(lambda x: x[client], private)
        return protocol.measure(model.scorer(shared, mine, catalogue)(case.history), case)

    def chunk(rows):
        case = case_of(cases, rows, cases.seen_count[rows].max())
        return jax.vmap(one, in_axes=(0, AXES))(cases.clients[rows], case)

    values = jax.lax.map(chunk, padded).reshape(-1, len(protocol.names))[:total]
    return jnp.zeros_like(values).at[order].set(values)


def catalogue_of_all(model: Model, shared: PyTree, private: PyTree) -> PyTree | None:
    """The catalogue of `model` that serves all clients; None where it depends on what they keep,
    private: leaves [N, ...], and where there is none, as `Model.scorer` will say."""
    ranking = model.ranking
    if ranking is None:
        return None

    def of_client(client):
        return ranking.catalogue(shared, jax.tree.map(lambda x: x[client], private))

    # vmap refuses to give a result once for all where it depends on the client.
    alike = jax.vmap(of_client, out_axes=None)
    try:
        jax.eval_shape(alike, jnp.zeros(1, jnp.int32))
    except ValueError:
        return None
    return of_client(0)


def probe_clients(protocol: Protocol, parts: dict):
    """A probe for `clients.local_training`: the client's own model right after training, which is
    how PFedRec is evaluated.

    Args:
        protocol: how one user is measured.
        parts: name -> `data.Cases`, of clients that are one user each.

    Returns:
        probe(scorer, data) -> metrics, with scorer(history) -> score(items, user) as of
        `Model.scorer`: float32[M] per part, NaN where the client has nothing held out.

    Raises:
        ValueError: where a client holds several users.

    Example:
        >>> protocol = evaluate.full_catalogue(evaluate.metrics(["hr@10"]), num_items)
        >>> probe = evaluate.probe_clients(protocol, {"test": dataset.test})
    """
    for name, cases in parts.items():
        if is_traced(cases.clients):  # of a run whose cases were looked at before it was compiled
            continue
        if cases.users.shape[0] != len(set(cases.clients.tolist())):
            raise ValueError(
                f"probe_clients({name}): clients hold several users; evaluate the aggregated "
                "model, or make each user a client."
            )

    def probe(scorer, data):
        out = {}
        for name, cases in parts.items():
            row = cases.rows.at[data.id].get(mode="clip")
            # What was seen by then is of other parts too, and no length of training bounds it.
            case = case_of(cases, jnp.maximum(row, 0), cases.seen_count.max())
            values = protocol.measure(scorer(case.history), case)
            out[name] = jnp.where(row >= 0, values, jnp.nan)
        return out

    return probe
