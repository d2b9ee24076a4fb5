"""Parts of a round in which a client sends several messages: in each they draw for themselves.

`Now.trip` says which message it is, so that what both ends draw from a seed is another in each; and
keys of one client and round are divided by its number.
"""

from __future__ import annotations

from dataclasses import replace

from .. import keys
from ..types import Compressor, Now, Stage


def compressor_of_trip(compressor: Compressor, trip: int) -> Compressor:
    """`compressor` with draws of its own in this trip of a round."""

    def encode(key, memory, update, now):
        return compressor.encode(_key(key, trip), memory, update, _now(now, trip))

    def decode(packet, like, now):
        return compressor.decode(packet, like, _now(now, trip))

    return replace(compressor, encode=encode, decode=decode)


def stage_of_trip(stage: Stage, trip: int) -> Stage:
    """`stage` with draws of its own in this trip of a round."""

    def send(key, memory, upload, now):
        return stage.send(_key(key, trip), memory, upload, _now(now, trip))

    def receive(key, update, now):
        return stage.receive(_key(key, trip), update, _now(now, trip))

    return replace(stage, send=send, receive=receive)


def _key(key, trip: int):
    return keys.stream(key, f"trip {trip}")


def _now(now: Now, trip: int) -> Now:
    return replace(now, trip=trip)
