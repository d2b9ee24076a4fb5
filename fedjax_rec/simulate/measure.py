"""Which model is measured after a round: the aggregated one, or each client's own.

A measure maps (state, info of the last round) to `{part: float32[U, M]}`, one row a user, NaN
where a user was not measured, and what they come to over all users, `{part: float32[M']}`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import jax
import jax.numpy as jnp

from .. import keys
from ..evaluate import Protocol, evaluate_users, labelled, predict_examples
from ..evaluate.labelled import measures
from ..made import part
from ..rounds.chunks import in_chunks, put
from ..rounds.cohort import now_of, over_clients
from ..types import Client, Cohort, Model, RoundInfo, State

USER, LOGITS = "user", "{}_logits"  # of examples, and of a part among the values


@part
class Measure:
    """values(state, info, ids) -> ({part: float32[U, M]}, {part: float32[M']}): of each user, and
    over all; protocol: what the numbers are. cases: part -> `data.Cases` or `data.HeldOut`, whose
    users the rows are."""

    values: Callable[..., tuple[dict[str, jax.Array], dict[str, jax.Array]]]
    protocol: Protocol
    cases: Mapping


def aggregated(model: Model, protocol: Protocol, parts: Mapping, users_per_chunk: int = 32):
    """Every user's client scores with the server's model and its own private state.

    Args:
        model: that of the strategy, `strategy.model`.
        protocol: what is measured, such as `evaluate.full_catalogue(metrics, I)`.
        parts: name -> `data.Cases`. The numbers of "test" have no prefix.
        users_per_chunk: users scored at once, which bounds the memory.

    Returns:
        A `Measure`.

    Example:
        >>> protocol = evaluate.full_catalogue(evaluate.metrics(["hr@10"]), num_items)
        >>> measure = simulate.aggregated(model, protocol, {"test": dataset.test})
    """

    def values(state: State, info: RoundInfo, ids: jax.Array):
        of_users = {
            name: evaluate_users(
                model, protocol, state.shared, state.private, cases, users_per_chunk
            )
            for name, cases in parts.items()
        }
        return of_users, _summaries(protocol, parts, of_users)

    return Measure(values, protocol, dict(parts))


def fitted(measure: Measure, client: Client, store, ids, key: jax.Array, chunk: int = 16):
    """`measure` of a state in which some clients first train on `store`, as new clients do that
    join a trained model: what they keep afterwards is theirs, what they would upload is dropped.

    Nothing of it stays: the next round goes on from the state as it was.

    Args:
        measure: of the state after that.
        client: what they do; for the private part alone `local_training` with
            `groups({"private": ...})`, which leaves `shared` frozen.
        store: what they train on.
        ids: int32[c], who does.
        key: of their draws, the same in every measurement.
        chunk: how many at once.

    Returns:
        A `Measure`.

    Example:
        >>> protocol = evaluate.full_catalogue(evaluate.metrics(["hr@10"]), num_items)
        >>> measure = simulate.aggregated(model, protocol, {"test": dataset.test})
        >>> own = clients.groups({"private": clients.sgd(0.1)})
        >>> client = clients.local_training(model, data.pointwise(1), own)
        >>> joined = simulate.fitted(measure, client, dataset.store, [3, 5], key)
    """
    cohort = Cohort(jnp.asarray(ids, jnp.int32), store)

    def values(state: State, info: RoundInfo, of_round: jax.Array):
        now = now_of(state.round, state.shared, cohort)

        def one(id, mine, data):
            return client.update(keys.for_client(key, id), mine, state.shared, data, now(id))[0]

        everyone = over_clients(one, state.private, cohort)
        step = lambda held, ids: (put(held, ids, (everyone(ids, held[0]),)), (), (), ())
        (private,) = in_chunks(step, (state.private,), cohort, min(chunk, cohort.ids.size)).held
        return measure.values(replace(state, private=private), info, of_round)

    return replace(measure, values=values)


def on_examples(model: Model, parts: Mapping, users_per_chunk: int = 32):
    """The server's model with each client's private state predicts its held-out examples; see
    `evaluate.labelled`. Of examples with a field `user` the values of part p have the logits too,
    float32[n], as `p_logits`: what is needed to draw users anew.

    Args:
        model: `strategy.model`.
        parts: name -> `data.HeldOut`.
        users_per_chunk: tiles of examples at once.

    Returns:
        A `Measure`.

    Example:
        >>> measure = simulate.on_examples(click_model, {"test": clicked.test})
    """

    def values(state: State, info: RoundInfo, ids: jax.Array):
        said = {
            name: predict_examples(model, state.shared, state.private, held, users_per_chunk)
            for name, held in parts.items()
        }
        both = {name: measures(said[name], held) for name, held in parts.items()}
        of_clients, over_all = ({name: x[i] for name, x in both.items()} for i in (0, 1))
        kept = {
            LOGITS.format(name): said[name] for name, held in parts.items() if USER in held.fields
        }
        return of_clients | kept, over_all

    by_user = all(USER in held.fields for held in parts.values())
    return Measure(values, labelled(by_user), dict(parts))


def _summaries(protocol: Protocol, parts: Mapping, of_users: dict) -> dict[str, jax.Array]:
    return {name: protocol.summarise(x, parts[name].held_out()) for name, x in of_users.items()}


def personal(protocol: Protocol, parts: Mapping):
    """What `evaluate.probe_clients` saw of each client's own model in the last round; users whose
    client was not in the cohort are NaN.

    Args:
        protocol: that of the probe.
        parts: those of the probe, name -> `data.Cases`.

    Returns:
        A `Measure`.

    Example:
        >>> protocol = evaluate.full_catalogue(evaluate.metrics(["hr@10"]), num_items)
        >>> probe = evaluate.probe_clients(protocol, {"test": dataset.test})
        >>> strategy = strategies.fedavg(model, data.pointwise(1), probe)
        >>> measure = simulate.personal(protocol, {"test": dataset.test})
    """

    def values(state: State, info: RoundInfo, ids: jax.Array):
        out = {}
        for name, cases in parts.items():
            seen = jnp.full((cases.users.shape[0], len(protocol.names)), jnp.nan)
            row = cases.rows.at[ids].get(mode="fill", fill_value=-1)
            row = jnp.where(row < 0, seen.shape[0], row)
            out[name] = seen.at[row].set(info.metrics[name], mode="drop")
        return out, _summaries(protocol, parts, out)

    return Measure(values, protocol, dict(parts))
