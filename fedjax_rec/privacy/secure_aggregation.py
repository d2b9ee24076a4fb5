"""Secure aggregation: the mean of uploads of which the server sees no single one.

    y_k = q(clip(u_k)) + masks_k  (mod 2^b),     x = s / n  centred( sum_k y_k - masks left )

What a client sends is uniform modulo 2^b to whoever lacks its masks, and the sum of what arrives is
that of the uploads in fixed point, to the bit, whoever was away (`masks`, `fixed_point`). Who masks
with whom, and what it costs, a protocol says: `secagg`, `secagg_plus`, `light_secagg`. Clients may
add noise before they mask, so that the sum itself is private: `skellam`, `discrete_gaussian`.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from .. import check, keys, wire
from ..types import Aggregator, Now, Packet, PyTree, Seal, Upload
from .fixed_point import grid_of
from .masks import circle, hiding, left
from .protocol import Protocol
from .secagg import secagg
from .shares import Shares, grid_with, with_noise


def secure_aggregation(
    bound: float,
    clients: int,
    bits: int = 32,
    step: float | None = None,
    protocol: Protocol | None = None,
    seed: int = 0,
    noise: Shares | None = None,
) -> Aggregator:
    """The mean of uploads under masks that cancel, simulated to the bit.

    Each client counts once, whatever it weighs. What it sends are whole tables: which rows it
    touched, and asked for, would tell what it holds. An uplink goes with it if it is linear and
    both ends draw it from a seed, such as `seeded_rows`. Bytes of all phases are in the ledger, up
    as parts of one message and down; of `clients` parties in every round, and as if each stayed to
    the end.

    Guarantee: that of the protocol, with parties that are honest but curious; in a simulation there
    is no secret, since one seed makes all masks. A sum tells what a sum tells: of one client, all.
    Empty places of a cohort are parties that are away. Equal to the plain mean of what is clipped
    to `bound` within one step, and unbiased. A round whose sum cannot be right (a mask was left
    out), or of which too few are there, changes nothing: its verdicts are 0.

    With `noise` the sum is differentially private, as `epsilon_of_shares` says, of rounds of which
    `noise.there` clients stay; of fewer nothing is opened. Clients clip to `noise.clip` too, and
    the metric `shortened` says which did. That noise wraps around modulo 2^b, or is taken for a
    fault, has a probability below 1e-12 for each number; it is no matter of privacy.

    Args:
        bound: B, to which every coordinate is clipped; the share that was is the metric `clipped`.
            Positive; may be traced where there is no noise.
        clients: places of a cohort, for which the modulus and the bytes are. At least 1.
        bits: b of the modulus 2^b, of every number that is sent. 2 to 32.
        step: of the fixed point; None for the finest that fits, B / floor((2^(b-2) - 1) / clients),
            and no finer than B / 2^22; with noise, of which a share has 2^12 steps at most.
        protocol: None for `secagg()`.
        seed: of all masks.
        noise: what each client adds, of `skellam` or `discrete_gaussian`; None for none.

    Returns:
        An `Aggregator` with a seal, for engines that know one: `federated` and what is made of it.

    Raises:
        ValueError: for a bound that is not positive; a modulus too small, with the smallest that
            fits; noise in more shares than clients; and, when a round is traced, for cohorts of
            other places, for clients that send something besides updates, and in engines that know
            no seal.

    Example:
        >>> from fedjax_rec import privacy
        >>> hidden = privacy.secure_aggregation(bound=1.0, clients=64, bits=24)
        >>> strategy = strategies.fedavg(model, data.pointwise(4), aggregator=hidden)
    """
    where, room = "secure_aggregation", 0
    if noise is None:
        grid = grid_of(where, bound, clients, bits, step)
    else:
        grid, room = grid_with(where, bound, clients, bits, step, noise)
    check.seed("secure_aggregation", seed)
    rule = protocol or secagg()
    neighbours, least = rule.neighbours(clients), rule.least(clients)

    def _of(places: int) -> str:
        return (
            f"secure_aggregation(clients={clients}) meets a cohort of {places} places; use "
            f"clients={places}."
        )

    def around(now: Now):
        if now.cohort is None:
            raise ValueError(
                "secure_aggregation: masks are of a round's clients, and here nobody knows them; "
                "use an engine of rounds, such as federated."
            )
        if now.cohort.shape[0] > clients:
            raise ValueError(_of(now.cohort.shape[0]))
        return circle(seed, now, neighbours)

    def send(key, body: PyTree, now: Now):
        leaves, structure = jax.tree.flatten(body)
        numbers = jnp.concatenate([x.reshape(-1).astype(jnp.float32) for x in leaves])
        if noise is None:
            words = keys.words(key, 2)
            coded = lambda index, x: grid.rounded_by(keys.counted(words, index), x)
            hidden, beyond = hiding(around(now), now.client, coded, numbers)
            told = {"clipped": beyond / numbers.size}
        else:
            codes, beyond, told = with_noise(noise, grid, key, numbers)
            as_it_is = lambda index, x: (x, jnp.zeros(x.shape, bool))
            hidden, _ = hiding(around(now), now.client, as_it_is, codes)
            told = {"clipped": beyond.mean(), **told}
        hidden = hidden & grid.last
        sent = structure.unflatten(wire.Codes(x, 2**bits) for x in _parted(hidden, leaves))
        phases = rule.up(clients, numbers.size, bits)
        side = {phase: jnp.zeros(size, jnp.uint8) for phase, size in phases.items()}
        return Packet(sent, side), told

    def down(numbers: int) -> int:
        return sum(rule.down(clients, numbers, bits).values())

    def reduce(state, uploads: Upload, now: Now):
        _refuse(uploads)
        assert now.cohort is not None and now.client is not None
        if now.cohort.shape[0] < clients:
            raise ValueError(_of(now.cohort.shape[0]))
        there = uploads.weight > 0
        total = jax.tree.map(lambda x: _sum(x, there), uploads.update)
        seats = ((now.cohort[:, None] == now.client) & there).any(1)
        return {"total": total, "there": seats, "each": there}

    def finish(key, state, summary, now: Now):
        round_of = around(now)
        there = summary["there"][round_of.order]
        leaves, structure = jax.tree.flatten(wire.map_nodes(lambda x: x.symbols, summary["total"]))
        sums = jnp.concatenate([x.reshape(-1) for x in leaves])
        total = grid.signed(sums - left(round_of, there, sums.size))
        count = there.sum()
        enough = _present(round_of, there).min() >= least
        if noise is not None:
            enough = enough & (count >= noise.there)
        sound = enough & (count > 0) & grid.within(total, count, room)
        mean = total * (grid.step / jnp.maximum(count, 1))
        mean = jnp.where(sound, mean, 0.0)
        verdicts = (sound & summary["each"]).astype(jnp.float32)
        return state, structure.unflatten(_parted(mean, leaves)), verdicts

    def _present(round_of, there):
        """int32[C] or int32[1]: who can help to open what each has: its neighbours."""
        if len(round_of.steps) >= there.size - 1 or not neighbours:
            return there.sum()[None]
        return there[round_of.neighbours(jnp.arange(there.size))].sum(1)

    parts = {"total": True, "there": True, "each": False}
    added = None if noise is None else (noise, float(grid.step))
    return Aggregator(lambda shared: (), reduce, finish, parts, seal=Seal(send, down, noise=added))


def _sum(x: jax.Array, there: jax.Array) -> jax.Array:
    """uint32[...], modulo 2^32, of uint32[c, ...] of those who are there."""
    add = lambda i, total: total + jnp.where(there[i], x[i], 0)
    return jax.lax.fori_loop(0, x.shape[0], add, jnp.zeros_like(x[0]))


def _parted(flat: jax.Array, leaves: list) -> list[jax.Array]:
    """`flat` in the shapes of `leaves`."""
    ends = [0]
    for x in leaves:
        ends.append(ends[-1] + math.prod(x.shape))
    return [flat[a:b].reshape(x.shape) for a, b, x in zip(ends, ends[1:], leaves, strict=False)]


def _refuse(uploads: Upload) -> None:
    sealed = [isinstance(x, wire.Codes) for x in wire.nodes(uploads.update)]
    if not all(sealed):
        raise ValueError(
            "secure_aggregation: these uploads are not masked, the engine or a rule around this "
            "one knows no seal; use it by itself as the aggregator of federated rounds (fedavg, "
            "fedmf, pfedrec, ...)."
        )
    more = [*sorted(uploads.aux), *sorted(uploads.known)]
    if more:
        raise ValueError(
            f"secure_aggregation: clients send {more[0]!r} beside their update, which nothing "
            "hides; use a strategy whose clients send updates alone, such as fedavg."
        )
