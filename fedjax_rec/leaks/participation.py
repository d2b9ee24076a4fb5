"""Whether a user took part in a training: how much better the model fits them than another does.

    score_u = min_phi l(Q', phi; D_u) - min_phi l(Q, phi; D_u),   D_u positives and drawn negatives

of the shared parameters Q and those Q' of a training of the same kind without the user, as the
likelihood ratio of Carlini et al. ("Membership inference attacks from first principles", S&P 2022)
has it of one reference model. The private part phi is fitted to each, since whoever sees the server
alone does not have it. An AUC below .5 tells as much as one above.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..check import at_least, positive
from ..types import Model, PyTree
from .overheard import positives
from .scores import DRAWS, SEED, Interval, auc

TOGETHER = 32  # users of one compiled step


def participation(
    model: Model,
    shared: PyTree,
    reference: PyTree,
    store,
    clients: Sequence[int],
    negatives: int = 4,
    steps: int = 200,
    learning_rate: float = 0.05,
    seed: int = 0,
) -> np.ndarray:
    """How much better `shared` fits the data of each client than `reference` does.

    Args:
        model: what was trained, as its clients have it.
        shared: the server's part after the training in question.
        reference: the same after another one, with another seed, that had none of `clients`.
        store: the clients' data.
        clients: who is asked about.
        negatives: items drawn for each positive, of those that the client does not have.
        steps: of Adam, of the private part, which begins at zero.
        learning_rate: of Adam.
        seed: of the negatives, which are the same of both models.

    Returns:
        float[len(clients)], higher for those who likelier took part.

    Raises:
        ValueError: for numbers out of range, and clients without data.

    Example:
        >>> from fedjax_rec import leaks
        >>> mine, other = (model.init(jax.random.key(k))[0] for k in (0, 1))
        >>> told = leaks.participation(model, mine, other, dataset.store, [0, 1], steps=2)
        >>> told.shape
        (2,)
    """
    for name, value in (("negatives", negatives), ("steps", steps)):
        at_least("participation", name, value, 1)
    positive("participation", "learning_rate", learning_rate)
    own = positives(store, [int(c) for c in clients])
    if len(own) < len(clients):
        nobody = next(int(c) for c in clients if int(c) not in own)
        raise ValueError(f"participation(clients): client {nobody} has no data; leave it out.")
    asked = [_examples(own[int(c)], store.num_items, negatives, [seed, int(c)]) for c in clients]
    most = max(len(batch["items"]) for batch in asked)
    padded = lambda x: np.pad(x, (0, most - len(x)))
    batches = {
        name: jnp.asarray(np.stack([padded(batch[name]) for batch in asked])) for name in asked[0]
    }
    fit = jax.jit(_fitted(model, steps, learning_rate))
    return np.asarray(fit(reference, batches), np.float64) - np.asarray(fit(shared, batches))


def told_apart(some: np.ndarray, others: np.ndarray) -> Interval:
    """The AUC of scores of some users against those of others, with its 95% interval by the
    bootstrap over both.

    Args:
        some: float[n], of those who are to be found.
        others: float[m].

    Example:
        >>> from fedjax_rec import leaks
        >>> leaks.told_apart(np.array([3.0, 2.0]), np.array([1.0, 0.0])).low
        1.0
    """
    true = np.repeat([True, False], [len(some), len(others)])
    score, rng = np.concatenate([some, others]), np.random.default_rng(SEED)
    draws = []
    for _ in range(DRAWS):
        first, then = (
            rng.integers(0, len(some), len(some)),
            rng.integers(0, len(others), len(others)),
        )
        draws.append(auc(np.concatenate([some[first], others[then]]), true))
    low, high = np.nanquantile(draws, (0.025, 0.975))
    return Interval(auc(score, true), float(low), float(high))


def _examples(own: np.ndarray, num_items: int, negatives: int, seed) -> dict[str, np.ndarray]:
    other = np.setdiff1d(np.arange(num_items), own)
    drawn = np.random.default_rng(seed).choice(
        other, min(len(other), negatives * len(own)), replace=False
    )
    items = np.concatenate([own, drawn]).astype(np.int32)
    labels = (np.arange(len(items)) < len(own)).astype(np.float32)
    return {"items": items, "labels": labels, "mask": np.ones(len(items), np.float32)}


def _fitted(model: Model, steps: int, learning_rate: float):
    """fit(shared, batches [n, ...]) -> float[n]: the loss of each after its private part is fit."""
    adam = optax.adam(learning_rate)
    outline = jax.eval_shape(model.init, jax.random.key(0))[1]

    def one(shared, batch):
        loss = lambda private: model.loss(shared, private, batch, jax.random.key(0))

        def step(carry, _):
            private, moments = carry
            change, moments = adam.update(jax.grad(loss)(private), moments, private)
            return (optax.apply_updates(private, change), moments), None

        start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), outline)
        (private, _), _ = jax.lax.scan(step, (start, adam.init(start)), length=steps)
        return loss(private)

    def fit(shared, batches):
        return jax.lax.map(lambda batch: one(shared, batch), batches, batch_size=TOGETHER)

    return fit
