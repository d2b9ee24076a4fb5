"""A decoder of which clients hold the first and the last layers, and the server those between.

    client k:  h_1 = layers 1..k of its prompts          h_1 ->      server: layers k+1..L-m
                                                      <- h_2
               loss of layers L-m+1..L and the head    dl/dh_2 ->    back through its layers
                                                      <- dl/dh_1

(FELLRec's flexible storage, Zhao et al., "A federated framework for LLM-based recommendation",
NAACL 2025 findings, arXiv 2402.09959; split learning, Vepakomma et al., 2018.) Tokens, answers and
the loss stay with the client: what could be read of a prompt are its states. Cut in two places the
network computes what it does whole, so training is that of the strategy within, to the bit; what
the cuts cost is counted here, and what they save is `models.sides`.

A gradient crosses a cut where something below it is trained: with adapters in the client's last m
layers alone neither does. The states then are the same in every round, and a client that keeps them
gets them once; that is not what is counted.

`L` layers, `k` of them the client's first, `m` its last, `D` width, `B` prompts of a batch, `T`
most tokens of one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from .. import factors, rows, wire
from ..check import at_least, one_of
from ..clients import Local, Passes
from ..clients.batches import turns_of
from ..data import Batches
from ..models.transformers.sides import refuse_no_middle
from ..rounds.cohort import client_keys, over_clients, vmapped
from ..types import Cohort, Compressor, Model, Packet, Stage, State, Strategy, Transform
from .adapters import fedit

States = Literal["float32", "bfloat16", "float16"]
MOST = 2**32 - 2**16  # bytes of a client's round, as the ledger counts them


def prompt_tokens(batch) -> jax.Array:
    """Which places of a batch of prompts hold a token that the layers read, bool[B, T].

    Padding is none, neither within a prompt nor of the batch. What all prompts begin with
    (`data.with_prefix`) is read once a batch.

    Args:
        batch: of `data.yes_no_prompts`, packed or not.

    Raises:
        ValueError: for batches without prompts, and for packed ones with a shared beginning.

    Example:
        >>> batch = {"tokens": jnp.zeros((2, 4), int), "length": jnp.array([3, 4])}
        >>> int(strategies.prompt_tokens({**batch, "mask": jnp.array([1.0, 0.0])}).sum())
        3
    """
    for name in ("tokens", "length"):
        if name not in batch:
            raise ValueError(
                f"split: batches have no field {name!r}, and count no tokens; use prompts, as "
                "those of data.yes_no_prompts, or give tokens=."
            )
    real = batch["mask"][:, None] > 0
    if "texts" in batch:
        if "prefix" in batch:
            raise ValueError(
                "split: packed prompts with a beginning of their own length (prefix) are not "
                "counted; leave out data.with_prefix, or data.packed_prompts."
            )
        return real & (batch["texts"] >= 0)
    place = jnp.arange(batch["tokens"].shape[1])
    real = real & (place < batch["length"][:, None])
    if "prefix" in batch:
        first = jnp.arange(real.shape[0]) == jnp.argmax(batch["mask"] > 0)
        real = real & (first[:, None] | (place >= batch["prefix"][:, None]))
    return real


def split(
    model: Model,
    examples: Batches,
    probe=None,
    *,
    layers: int,
    first: int = 1,
    last: int = 1,
    recipe: Callable[..., Strategy] = fedit,
    width: int | None = None,
    states: States = "float32",
    tokens: Callable[..., jax.Array] = prompt_tokens,
    settings: Mapping[str, Any] | None = None,
    optimizer: Local | Sequence[Local] | Transform | None = None,
    epochs: int = 1,
    steps: int | None = None,
    batch_size: int = 256,
    uplink: Compressor | None = None,
    clients_per_chunk: int | str | None = None,
    stages: Sequence[Stage] = (),
) -> Strategy:
    """`recipe`, in whose ledger the states and gradients at both cuts of the decoder stand.

    Of every batch of a client that is heard: up the states at the first cut and the gradients at
    the second, down the states at the second and the gradients at the first, of real tokens alone,
    D numbers each, beside the messages of `recipe`. These hold all adapters, though those of the
    server's layers need not leave it. Measuring is not counted, as nowhere. Metrics: those of
    `recipe`, and `tokens`, how many of a client crossed.
    Arguments that are not named here are those of `fedavg`.

    Args:
        model: a decoder with adapters, such as `models.tallrec`, in all of its layers or in its
            last ones.
        layers: L, of the whole decoder: the model may hold the last ones alone.
        first: k, of the client, above the table of tokens.
        last: m, of the client, below the head.
        recipe: a synchronous one, whose clients take their batches by `epochs`, `steps` and
            `batch_size` once a round: `fedavg`, the rules of adapters, `fellrec`.
        width: D; default that of the model's decoder.
        states: in what states and gradients are sent.
        tokens: tokens(batch) -> bool[B, ...], which places of a batch cross.
        settings: further arguments of `recipe`, by name.

    Raises:
        ValueError: for numbers below 1, where no layer is left to the server, for a model without
            adapters or without a width, for vectors among the tokens (`models.collm`), for a
            recipe whose uploads arrive later, and in the round, where a client's states are more
            than 4 GiB.

    Example:
        >>> count = lambda batch: batch["mask"] > 0
        >>> strategy = strategies.split(
        ...     adapted, data.pointwise(4), layers=4, width=6, tokens=count
        ... )
    """
    refuse_no_middle("split", layers, first, last)
    one_of("split", "states", states, get_args(States))
    outline = jax.eval_shape(model.init, jax.random.key(0))
    trained = adapted_layers(outline)
    if trained > layers:
        raise ValueError(f"split(layers={layers}): the model has adapters in {trained}; say more.")
    width = _width(outline[0]) if width is None else width
    at_least("split", "width", width, 1)
    back = {"up": trained > last, "down": trained > layers - first}
    passes = Passes(epochs, steps, batch_size)
    inner = recipe(
        model, examples, probe, optimizer=optimizer, epochs=epochs, steps=steps,
        batch_size=batch_size, uplink=uplink, clients_per_chunk=clients_per_chunk, stages=stages,
        **settings or {},
    )  # fmt: skip
    if inner.delayed:
        raise ValueError("split(recipe=...) counts what a round trains; use a synchronous recipe.")
    sends: Any = inner.packets

    def crossed(key, state: State, cohort: Cohort):
        """(int32[C], most): tokens of the clients of the cohort in this round."""
        of_clients = client_keys(key, state.round)
        most = _most(examples, passes, tokens, cohort)
        nbytes = (
            (2 if back["up"] or back["down"] else 1) * most * width * jnp.dtype(states).itemsize
        )
        if nbytes > MOST:
            raise ValueError(
                f"split: the states of a client's round may take {nbytes / 2**30:.1f} GiB, and the "
                "ledger counts to 4; train fewer steps or epochs a round, or send float16."
            )

        def one(id, _, data):
            turns = turns_of(examples, passes, of_clients.train(id), data)
            count = lambda draw, t, n: n + tokens(draw(t)).sum(dtype=jnp.int32)
            return turns.loop(count, jnp.int32(0))

        return over_clients(one, state.private, cohort)(cohort.ids, state.private), most

    def message(count, most: int, gradients: bool) -> Packet:
        """Of one client. What is in it comes and goes with each step: its length alone counts."""
        live = jnp.arange(most) < count
        sent = wire.Live(jnp.zeros((most, width), states), live)
        return Packet({"states": sent, "gradients": sent} if gradients else {"states": sent})

    def nbytes_of(count, most: int, way: str):
        one = lambda n: wire.nbytes(message(n, most, back[way]))
        return vmapped(one, count)(count)

    def round(key, state: State, cohort: Cohort, chunk: int | None = None):
        after, info = inner.round(key, state, cohort, chunk)
        count, most = crossed(key, state, cohort)
        heard = info.weight > 0
        up, down = (jnp.where(heard, nbytes_of(count, most, way), 0) for way in ("up", "down"))
        metrics = {**info.metrics, "tokens": jnp.where(heard, count, 0).astype(jnp.float32)}
        return after, replace(
            info, metrics=metrics, bytes_up=info.bytes_up + up, bytes_down=info.bytes_down + down
        )

    def packets(key, state: State, cohort: Cohort):
        sent, nbytes = sends(key, state, cohort)
        count, most = crossed(key, state, cohort)
        one = lambda n: message(n, most, back["up"])
        made = vmapped(one, count)(count)
        sent = sent if isinstance(sent, tuple) else (sent,)
        return (*sent, made), nbytes + nbytes_of(count, most, "up")

    opens: Any = inner.opened

    def opened(state: State, messages: Any, *args):
        """The adapters of `recipe`; states and gradients are in none of its messages."""
        own = messages[:-1]
        return opens(state, own if len(own) > 1 else own[0], *args)

    return replace(
        inner, round=round, packets=packets if sends else None, opened=opened if opens else None
    )


def adapted_layers(outline) -> int:
    """How many layers of a model (shared, private) have adapters: the leading axis of their stack.

    Raises ValueError for a model without adapters, and for one that puts vectors among tokens.
    """
    shared, private = outline
    stacks = [
        x.shape[0] if len(x.shape) > 2 else 1
        for tree in (shared, private)
        for path, x in rows.nodes_with_path(tree)
        if getattr(path[-1], "key", None) in (factors.A, factors.B, factors.CORE)
        and hasattr(x, "shape")
    ]
    if not stacks:
        raise ValueError(
            "split(model) has no adapters, and a decoder that is trained whole is not split; use "
            "models.tallrec, or models.lora."
        )
    if isinstance(shared, dict) and "soft" in shared:
        raise ValueError(
            "split(model) has vectors among its tokens, which are not counted; use models.tallrec."
        )
    return max(stacks)


def _most(examples: Batches, passes: Passes, tokens: Callable, cohort: Cohort) -> int:
    """Tokens that a client of the cohort can have in a round, if nothing is padding."""
    store = cohort.data
    places = jax.eval_shape(
        jax.vmap(
            lambda key, data: tokens(turns_of(examples, passes, key, data).draw(0)),
            in_axes=(None, store.axes()),
        ),
        jax.random.key(0),
        jax.eval_shape(store.take, cohort.ids[:1]),
    ).size
    most = examples.most(store)
    each = passes.epochs * -(-most // min(passes.batch_size, max(most, 1)))
    return places * (each if passes.steps is None else passes.steps)


def _width(shared) -> int:
    norm = shared.get("decoder", {}).get("norm") if isinstance(shared, dict) else None
    found = [x for x in jax.tree.leaves(norm) if len(getattr(x, "shape", ())) == 1]
    if not found:
        raise ValueError(
            "split(model) has no decoder, whose width is that of its states; give width=."
        )
    return found[0].shape[0]
