"""iALS, matrix factorization of implicit feedback by alternating least squares (Hu, Koren &
Volinsky, ICDM 2008), with the regularization by frequency of Rendle et al., "Revisiting the
Performance of iALS on Item Recommendation Benchmarks", RecSys 2022.

    L = sum_{u,i met} (p_u'q_i - 1)^2 + a sum_{u,i} (p_u'q_i)^2
        + r (sum_u (|I_u| + a |I|)^v |p_u|^2 + sum_i (|U_i| + a |U|)^v |q_i|^2)

A sweep solves for all items, then for all users, each exactly, so that L never rises, and each
user's vector is the best for the items: a client could compute its own.

Dimensions: `U` users, `I` items, `D` width; of a half sweep `R` rows solved for, `C` columns.
"""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve

from ...check import at_least, positive
from .fit import Fit, by_user, factors, users_in

ROWS_AT_ONCE = 512  # whose D x D systems are held in memory


def ials(
    unobserved_weight: float = 0.1,
    regularization: float = 0.003,
    exponent: float = 1.0,
    sweeps: int = 1,
) -> Fit:
    """Fits `fedmf` by alternating least squares, from the vectors that the model begins with.

    Args:
        unobserved_weight: `a`, the weight of all pairs beside that of the pairs that were met.
        regularization: `r`.
        exponent: `v`; 1 regularizes a vector by how often it is met, 0 all alike.
        sweeps: sweeps in one round; further rounds go on where it ended.

    Returns:
        A `Fit` of the model `fedmf`, of any width; its loss is L a user, after the sweeps. Rendle
        et al. begin with vectors of standard deviation 0.1 / sqrt(width), the model's `scale`.

    Raises:
        ValueError: a weight is not positive, `exponent` is negative, there is no sweep, or, in the
            run, the model is not `fedmf`.

    Example:
        >>> model = models.fedmf(num_items, width=64, scale=0.0125)
        >>> strategy = strategies.central(model, fit=models.ials())
    """
    positive("ials", "unobserved_weight", unobserved_weight)
    positive("ials", "regularization", regularization)
    at_least("ials", "exponent", exponent, 0)
    at_least("ials", "sweeps", sweeps, 1)
    a, r, v = unobserved_weight, regularization, exponent

    def solve(history, shared, private):
        item, user = factors("ials", shared, private)
        matrix = by_user(history)
        user = jnp.where(matrix.any(1, keepdims=True), user, 0.0)  # who met nothing is nobody
        num_users, num_items = users_in(matrix), matrix.shape[1]
        item_penalty = r * (matrix.sum(0) + a * num_users) ** v
        user_penalty = r * (matrix.sum(1) + a * num_items) ** v

        def sweep(_, factors):
            _, users = factors
            items = _solved(matrix.T, users, item_penalty, a)
            return items, _solved(matrix, items, user_penalty, a)

        items, users = jax.lax.fori_loop(0, sweeps, sweep, (item.values, user))
        scores = jnp.matmul(users, items.T, precision="highest")
        loss = (matrix * (scores - 1) ** 2).sum() + a * (scores**2).sum()
        loss += (user_penalty @ users**2).sum() + (item_penalty @ items**2).sum()
        kept = {"user": users.reshape(private["user"].shape)}
        return {"item": replace(item, values=items)}, kept, loss / num_users

    return Fit.of(solve)


def _solved(matrix, factors, penalty, a):
    """float32[R, D], row r of which is

        (a F'F + sum_{c met} f_c f_c' + penalty_r I)^-1 sum_{c met} f_c

    matrix: float32[R, C], 1 where met. factors: F, float32[C, D]. penalty: float32[R].
    """
    width = factors.shape[1]
    # One product with all outer products: the zeros cost less than gathers of what was met.
    outer = (factors[:, :, None] * factors[:, None, :]).reshape(-1, width * width)
    everyone = a * jnp.matmul(factors.T, factors, precision="highest")

    def one(row):
        met, alone = row
        system = jnp.matmul(met, outer, precision="highest").reshape(width, width)
        system += everyone + alone * jnp.eye(width)
        return cho_solve(cho_factor(system), jnp.matmul(met, factors, precision="highest"))

    return jax.lax.map(one, (matrix, penalty), batch_size=min(ROWS_AT_ONCE, matrix.shape[0]))
