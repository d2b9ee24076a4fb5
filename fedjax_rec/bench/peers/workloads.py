"""The work that all peers do: an item table with an affine scorer, and a small dense network.

Both are federated averaging of all clients, one local epoch of SGD, cross-entropy of labels 0 and
1, from parameters that NumPy has drawn; the models are written in `answer`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ... import data
from ...data.splits import TRAIN

WIDTH = 32
FEATURES, HIDDEN = 32, (64, 32)


@dataclass(frozen=True)
class Workload:
    """title, about: for readers; x: item ids int32[n] or features float32[n, F]; y: float32[n], 0
    or 1; offsets: int64[N + 1], where each client begins; start: parameters by name; batch, rate:
    of local SGD."""

    name: str
    title: str
    about: str
    x: np.ndarray
    y: np.ndarray
    offsets: np.ndarray
    start: dict[str, np.ndarray]
    batch: int
    rate: float = 0.1

    @property
    def clients(self) -> int:
        return len(self.offsets) - 1

    @property
    def steps(self) -> int:
        """Local steps of a round."""
        return int(np.sum(-(-np.diff(self.offsets) // self.batch)))

    def first(self, clients: int | None) -> Workload:
        """The same of its first clients; None: of all."""
        if clients is None or clients >= self.clients:
            return self
        last = self.offsets[clients]
        offsets = self.offsets[: clients + 1]
        return replace(self, x=self.x[:last], y=self.y[:last], offsets=offsets)

    def save(self, path: Path) -> None:
        """Everything of the work, as `answer.read` reads it."""
        start: dict[str, Any] = {f"start_{name}": value for name, value in self.start.items()}
        arrays = {"x": self.x, "y": self.y, "offsets": self.offsets, **start}
        np.savez(path, batch=self.batch, rate=self.rate, **arrays)


def items(source: str) -> Workload:
    """An item table and a shared affine scorer on the training part of `source`, each interaction
    with four uniform items beside it."""
    split = data.leave_one_out()(data.implicit(data.load(source)))
    found = split.interactions
    train = split.part == TRAIN
    users, positive = found.users[train], found.items[train]
    drawn = np.random.default_rng(0).integers(0, found.num_items, (len(positive), 4))
    x = np.concatenate([positive[:, None], drawn], 1).reshape(-1).astype(np.int32)
    y = np.tile(np.array([1, 0, 0, 0, 0], np.float32), len(positive))
    offsets = np.concatenate([[0], np.cumsum(np.bincount(users) * 5)]).astype(np.int64)
    draw = np.random.default_rng(0)
    start = {
        "items": 0.1 * draw.standard_normal((found.num_items, WIDTH)),
        "w": 0.1 * draw.standard_normal(WIDTH),
        "b": np.zeros(()),
    }
    named = f"MovieLens-{source[3:].upper()}" if source.startswith("ml-") else source
    about = f"{named}, item vectors of width {WIDTH} and one affine scorer"
    return Workload("items", "item table", about, x, y, offsets, _float32(start), 256)


def dense(clients: int = 500) -> Workload:
    """A network of two hidden layers, all of whose numbers every client touches. Labels are drawn
    by another network of that form; clients have 16 to 512 samples, about their own means."""
    draw = np.random.default_rng(0)
    sizes = np.clip(draw.lognormal(np.log(128), 0.6, clients), 16, 512).astype(np.int64)
    offsets = np.concatenate([[0], np.cumsum(sizes)])
    centres = np.repeat(0.3 * draw.standard_normal((clients, FEATURES)), sizes, 0)
    x = (centres + draw.standard_normal(centres.shape)).astype(np.float32)
    teacher, start = _network(draw), _network(draw)
    hidden = np.maximum(x @ teacher["w1"], 0)
    logits = 3 * np.maximum(hidden @ teacher["w2"], 0) @ teacher["w3"]
    y = (draw.random(len(x)) < 1 / (1 + np.exp(np.mean(logits) - logits))).astype(np.float32)
    one, two = HIDDEN
    about = f"Synthetic data, a network {FEATURES}-{one}-{two}-1"
    return Workload("dense", "dense network", about, x, y, offsets, _float32(start), 32)


def _network(draw: np.random.Generator) -> dict[str, np.ndarray]:
    """By He et al. (2015), biases 0."""
    one, two = HIDDEN
    matrix = lambda *shape: np.sqrt(2 / shape[0]) * draw.standard_normal(shape)
    return {
        "w1": matrix(FEATURES, one), "b1": np.zeros(one), "w2": matrix(one, two),
        "b2": np.zeros(two), "w3": matrix(two), "b3": np.zeros(()),
    }  # fmt: skip


def _float32(start: dict) -> dict[str, np.ndarray]:
    return {name: np.asarray(value, np.float32) for name, value in start.items()}
