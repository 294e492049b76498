"""The set-valued gradient at ReLU kinks: which kink entries give the velocity of least norm.

The velocity of a gradient flow of a non-smooth loss is the least-norm element of -d°L. Neuron i's own kink entries
enter its velocity alone, so it is m independent small box-constrained least squares problems (arXiv 2110.06488,
section 2; docs/mathematics.md, "The flow is a differential inclusion")

    delta_i = argmin_{delta in [0,1]^K} | v0_i + sum_k delta_k lambda_k x_k |^2,   v0_i = X^T D_i lambda without kinks.

Samples on one line have one kink together (`lines`). Where more hyperplanes meet than are independent and some push
towards and others away, the box is larger than the Clarke set: such points are left at once.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from gflow._types import namespace
from gflow.activations import AbstractActivation
from gflow.box import bounded, boxed
from gflow.lines import Lines, columns

MAX_KINKS = 12
"""Kinks considered per neuron. In general position at most rank(X) - 1 can matter at once."""


def least_norm_slopes(
    X: Float[Array, "n d"],
    lam: Float[Array, "n *m"],
    U: Float[Array, "d m"],
    activation: AbstractActivation,
    band: float,
    lines: Lines | None = None,
) -> Float[Array, "n m"]:
    """Slopes D (n, m) in the activation's interval for which every X^T D_i lambda has least norm.

    `lam` (n,), or (n, m) where every neuron has its own (vector output: column i is Lambda v_i).
    `U` (d, m) holds directions or weights; pair (n, i) is a kink if |x_n . u_i| <= band |x_n| |u_i|. Rows of zeros
    are never kinks. Slopes of pairs that are not kinks are the activation's own. `lines`: those of X. Of NumPy arrays
    by NumPy.
    """
    if lines is not None:
        drift = lines.drift(X, lam, activation)
        rows = lines.rows(X)
        return lines.slopes(_slopes(rows, lines.weight(lam), U, activation, band, drift), activation)
    return _slopes(X, lam, U, activation, band, 0 * X[0])


def _slopes(X, lam, U, activation: AbstractActivation, band: float, drift: Float[Array, "d *m"]):
    lower, _ = activation.slope_interval()
    xp, Z = namespace(X, lam, U), X @ U
    sizes = xp.linalg.norm(X, axis=1)[:, None] * xp.linalg.norm(U, axis=0)
    kink = (xp.abs(Z) <= band * sizes) & (sizes > 0)
    D = xp.where(kink, lower, activation.slope(Z))
    entries = entries_on_host if xp is np else box_entries
    return D + entries(X, lam, D, kink, activation, drift)


def entries_on_host(X, lam, D, kink, activation: AbstractActivation, drift) -> np.ndarray:
    """`box_entries`, one neuron after the other: where all kinks slide, that is a least-squares problem."""
    lower, upper = activation.slope_interval()
    lam = np.broadcast_to(columns(lam), D.shape)
    G = columns(drift) + X.T @ (D * lam)
    out = np.zeros_like(D)
    for i in np.flatnonzero(kink.any(axis=0)):
        here = kink[:, i]
        out[here, i] = boxed((upper - lower) * lam[here, i, None] * X[here], G[:, i]) * (upper - lower)
    return out


def box_entries(
    X: Float[Array, "n d"],
    lam: Float[Array, "n *m"],
    D: Float[Array, "n m"],
    kink: Bool[Array, "n m"],
    activation: AbstractActivation,
    drift: Float[Array, "d *m"],
) -> Float[Array, "n m"]:
    """delta (n, m) in [0, upper - lower] at the kinks, 0 elsewhere: argmin |v0 + sum_k delta_k lambda_k x_k|.

    One problem per neuron, v0 = drift + X^T D lambda. `D` (n, m) has the lower slope at the kinks.
    """
    lower, upper = activation.slope_interval()
    rows, picks = gather(X, columns(lam), kink, min(X.shape[0], MAX_KINKS))
    box = bounded(rows, columns(drift) + X.T @ (D * columns(lam)), upper - lower)
    return jnp.sum(box.delta[:, None, :] * picks, axis=0)


def gather(
    X: Float[Array, "n d"], weights: Float[Array, "n m"], chosen: Bool[Array, "n m"], K: int
) -> tuple[Float[Array, "K d m"], Float[Array, "K n m"]]:
    """lambda_n x_n of the first K chosen rows of every neuron, padded with zeros, and their one-hot selectors."""
    order = jnp.cumsum(chosen, axis=0)
    picks = (chosen & (order == jnp.arange(1, K + 1)[:, None, None])).astype(X.dtype)
    if weights.shape[1] == 1:
        return jnp.einsum("nd,knm->kdm", X * weights, picks), picks
    return jnp.einsum("nd,knm->kdm", X, picks * weights), picks
