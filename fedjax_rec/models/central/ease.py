"""EASE, a linear autoencoder in closed form (Steck, "Embarrassingly Shallow Autoencoders for
Sparse Data", WWW 2019).

    min_W |X - X W'|_F^2 + l2 |W|_F^2   with diag(W) = 0
    P = (X'X + l2 I)^-1,   W_ij = -P_ij / P_ii,   W_ii = 0

The minimum is sum_i (1 / P_ii - l2), since 1 / P_ii is what the other columns leave of column i.
"""

from __future__ import annotations

import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve

from ...check import positive
from .fit import Fit, by_user, together, users_in


def ease(l2: float = 300.0) -> Fit:
    """Fits `item_weights` by EASE.

    One solve of I equations, O(I^3) time and O(I^2) memory, in float32.

    Args:
        l2: the weight of the squared entries of W, in users; larger is smoother.

    Returns:
        A `Fit` of the model `item_weights`. Its loss is the minimum above, a user.

    Raises:
        ValueError: `l2` is not positive.

    Example:
        >>> strategy = strategies.central(models.item_weights(num_items), fit=models.ease(l2=300.0))
    """
    positive("ease", "l2", l2)

    def solve(history, shared, private):
        matrix = by_user(history)
        eye = jnp.eye(matrix.shape[1])
        inverse = cho_solve(cho_factor(together(matrix) + l2 * eye), eye)
        diagonal = jnp.diag(inverse)
        weights = jnp.where(eye > 0, 0.0, -inverse / diagonal[:, None])
        loss = (1 / diagonal - l2).sum() / users_in(matrix)
        return {"weights": weights}, {"history": history.astype(jnp.bfloat16)}, loss

    return Fit.of(solve)
