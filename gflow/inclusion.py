"""The set-valued gradient at ReLU kinks: which kink entries give the velocity of least norm.

The velocity of a gradient flow of a non-smooth loss is the least-norm element of -d°L. Neuron i's own kink entries
enter its velocity alone, so it is m independent small box-constrained least squares problems (arXiv 2110.06488,
section 2; theory: "Network, loss, flow")

    delta_i = argmin_{delta in [0,1]^K} | v0_i + sum_k delta_k lambda_k x_k |^2,   v0_i = X^T D_i lambda without kinks.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gflow.activations import AbstractActivation

SWEEPS = 20
"""Projected Gauss-Seidel sweeps before the active-set method finishes."""

MAX_KINKS = 12
"""Kinks considered per neuron. In general position at most rank(X) - 1 can matter at once."""


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
    lower, _ = activation.slope_interval()
    Z = X @ U
    sizes = jnp.linalg.norm(X, axis=1)[:, None] * jnp.linalg.norm(U, axis=0)
    kink = (jnp.abs(Z) <= band * sizes) & (sizes > 0)
    D = jnp.where(kink, lower, activation.slope(Z))
    return D + box_entries(X, lam, D, kink, activation, SWEEPS)


def box_entries(
    X: Float[Array, "n d"],
    lam: Float[Array, " n"],
    D: Float[Array, "n m"],
    kink: Bool[Array, "n m"],
    activation: AbstractActivation,
    sweeps: int,
) -> Float[Array, "n m"]:
    """delta (n, m) in [0, upper - lower] at the kinks, 0 elsewhere: argmin |X^T D lambda + sum_k delta_k lambda_k x_k|.

    One problem per neuron: projected Gauss-Seidel, then an active-set method to rounding. `D` (n, m) has the lower
    slope at the kinks.
    """
    lower, upper = activation.slope_interval()
    rows, picks = gather(X * lam[:, None], kink, min(X.shape[0], MAX_KINKS))
    squared = jnp.sum(rows**2, axis=1)

    def relax(i, carry):
        delta, v = carry
        k = i % len(rows)
        row, size = rows[k], squared[k]
        new = jnp.clip(delta[k] - jnp.sum(row * v, axis=0) / jnp.where(size > 0, size, 1.0), 0.0, upper - lower)
        new = jnp.where(size > 0, new, 0.0)
        return delta.at[k].set(new), v + (new - delta[k]) * row

    v0 = X.T @ (D * lam[:, None])
    delta, _ = jax.lax.fori_loop(0, sweeps * len(rows), relax, (jnp.zeros_like(squared), v0))
    delta = jax.lax.fori_loop(0, 2 * len(rows), _active_set(rows, v0, squared, upper - lower), delta)
    return jnp.sum(delta[:, None, :] * picks, axis=0)


def _active_set(rows: Float[Array, "K d m"], v0: Float[Array, "d m"], squared: Float[Array, "K m"], jump: float):
    """One step of the primal active-set method: to the minimum over the free entries, or to the first bound on the way.

    From sweeps that are nearly done it needs few steps; further ones refine the last digits, however parallel the rows.
    """
    gram = jnp.einsum("kdm,ldm->mkl", rows, rows)
    ridge = 1e-14 * jnp.max(squared, axis=0)

    def step(_, delta):
        v = v0 + jnp.sum(delta[:, None] * rows, axis=0)
        gradient = jnp.sum(rows * v, axis=1)
        held = ((delta <= 0) & (gradient >= 0)) | ((delta >= jump) & (gradient <= 0)) | (squared == 0)
        free = ~held.T
        both = free[:, :, None] & free[:, None, :]
        diagonal = jnp.where(free, ridge[:, None], 1.0)
        matrix = jnp.where(both, gram, 0.0) + diagonal[:, :, None] * jnp.eye(len(rows), dtype=rows.dtype)
        move = -jnp.linalg.solve(matrix, jnp.where(free, gradient.T, 0.0)[..., None])[..., 0].T
        room = jnp.where(move > 0, jump - delta, delta) / jnp.where(move == 0, 1.0, jnp.abs(move))
        reach = jnp.minimum(1.0, jnp.min(jnp.where(held | (move == 0), jnp.inf, room), axis=0))
        return jnp.clip(delta + reach * jnp.where(held, 0.0, move), 0.0, jump)

    return step


def gather(
    X: Float[Array, "n d"], chosen: Bool[Array, "n m"], K: int
) -> tuple[Float[Array, "K d m"], Float[Array, "K n m"]]:
    """The first K chosen rows of every neuron, padded with zeros, and their one-hot selectors."""
    order = jnp.cumsum(chosen, axis=0)
    picks = (chosen & (order == jnp.arange(1, K + 1)[:, None, None])).astype(X.dtype)
    return jnp.einsum("nd,knm->kdm", X, picks), picks
