"""The set-valued gradient at ReLU kinks: which kink entries give the velocity of least norm.

The velocity of a gradient flow of a non-smooth loss is the least-norm element of -d°L. Neuron i's own kink entries
enter its velocity alone, so it is m independent small box-constrained least squares problems (arXiv 2110.06488,
section 2; theory: "Network, loss, flow")

    delta_i = argmin_{delta in [0,1]^K} | v0_i + sum_k delta_k lambda_k x_k |^2,   v0_i = X^T D_i lambda without kinks.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gflow.activations import AbstractActivation

SWEEPS = 200
"""Projected Gauss-Seidel sweeps. The problems are tiny (at most MAX_KINKS unknowns) and converge linearly."""

MAX_KINKS = 8
"""Kinks considered per neuron, the nearest ones. In general position at most rank(X) - 1 can matter at once."""


def least_norm_slopes(
    X: Float[Array, "n d"],
    lam: Float[Array, " n"],
    U: Float[Array, "d m"],
    activation: AbstractActivation,
    band: float,
) -> Float[Array, "n m"]:
    """Slopes D (n, m) in the activation's interval for which every X^T D_i lambda has least norm.

    `U` (d, m) holds directions or weights; pair (n, i) is a kink if |x_n . u_i| <= band |x_n| |u_i|. Rows of zeros
    are never kinks. Slopes of pairs that are not kinks are the activation's own.
    """
    lower, upper = activation.slope_interval()
    Z = X @ U
    row = jnp.linalg.norm(X, axis=1)
    column = jnp.linalg.norm(U, axis=0)
    distance = jnp.abs(Z) / jnp.maximum(row[:, None] * column[None, :], jnp.finfo(Z.dtype).tiny)
    kink = (distance <= band) & (row[:, None] > 0) & (column[None, :] > 0)
    D = jnp.where(kink, lower, activation.slope(Z))

    K = min(MAX_KINKS, X.shape[0])
    _, nearest = jax.lax.top_k(-jnp.where(kink, distance, jnp.inf).T, K)  # (m, K)
    is_kink = jnp.take_along_axis(kink.T, nearest, axis=1)
    rows = jnp.where(is_kink[..., None], lam[nearest][..., None] * X[nearest], 0.0)  # (m, K, d)
    v0 = (X.T @ (D * lam[:, None])).T  # (m, d)
    delta = box_least_squares(rows, v0, upper - lower)
    one_hot = jax.nn.one_hot(nearest, X.shape[0], dtype=Z.dtype)  # (m, K, n)
    return D + jnp.einsum("mk,mkn->nm", delta, one_hot)


def box_least_squares(rows: Float[Array, "m K d"], v0: Float[Array, "m d"], length: float) -> Float[Array, "m K"]:
    """argmin over delta in [0, length]^K of |v0 + sum_k delta_k rows_k|^2, one problem per neuron."""
    squared = jnp.sum(rows**2, axis=-1)
    safe = jnp.where(squared > 0, squared, 1.0)

    def sweep(_, carry):
        delta, v = carry
        for k in range(rows.shape[1]):
            step = -jnp.sum(rows[:, k] * v, axis=-1) / safe[:, k]
            new = jnp.where(squared[:, k] > 0, jnp.clip(delta[:, k] + step, 0.0, length), 0.0)
            v = v + (new - delta[:, k])[:, None] * rows[:, k]
            delta = delta.at[:, k].set(new)
        return delta, v

    delta, _ = jax.lax.fori_loop(0, SWEEPS, sweep, (jnp.zeros(rows.shape[:2], rows.dtype), v0))
    return delta
