"""Margins of a network as if computed with twice the digits: what an objective is judged by where terms cancel.

Products and sums keep their rounding errors (Dekker, Numer. Math. 18, 1971; Ogita, Rump & Oishi, SIAM J. Sci. Comput.
26, 2005): the error is about eps^2 sum_i |a_i| sum_j |x_nj||w_ji|, where plain evaluation has eps in place of eps^2.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np

from gflow.losses import AbstractLoss

SPLITTER = 2.0**27 + 1


def accurate_margins(X: np.ndarray, y: np.ndarray, W1: np.ndarray, w2: np.ndarray, lower: float = 0.0) -> np.ndarray:
    """y_n sum_i a_i sigma(w_i . x_n), (n,), for W1 (d, m), w2 (m,); `lower`: the slope of sigma for z < 0."""
    return y * np.array([_rounded_once(row) for row in _terms(X, W1, w2, lower)])


def accurate_residuals(X: np.ndarray, y: np.ndarray, W1: np.ndarray, w2: np.ndarray, lower: float = 0.0) -> np.ndarray:
    """sum_i a_i sigma(w_i . x_n) - y_n, (n,): rounded once, however closely labels y (n,) are met."""
    terms = _terms(X, W1, w2, lower)
    return np.array([_rounded_once([*row, -label]) for row, label in zip(terms, y, strict=True)])


def dot(a: np.ndarray, b: np.ndarray) -> float:
    """sum_n a_n b_n, rounded once."""
    return _rounded_once([*np.concatenate(_product(a, b))])


def dual_value(b: np.ndarray, loss: AbstractLoss, alpha: np.ndarray) -> float:
    """b . alpha - sum_n l*(-alpha_n), less what rounding leaves open: no more than it is."""
    conjugate = np.asarray(loss.conjugate(jnp.asarray(alpha)))
    value = _rounded_once([*np.concatenate(_product(b, alpha)), *-conjugate])
    size = np.abs(alpha) @ (1 + np.abs(b)) + np.abs(conjugate).sum()
    return float(value - 8 * np.finfo(float).eps * size)


def primal_value(loss: AbstractLoss, q: np.ndarray, penalty: float) -> float:
    """sum_n l(q_n) + penalty, both terms >= 0, and what rounding may have taken off."""
    return (_rounded_once(np.asarray(loss.value(jnp.asarray(q)))) + penalty) * (1 + 8 * np.finfo(float).eps)


def gated_outputs(X: np.ndarray, masks: np.ndarray, V: np.ndarray) -> np.ndarray:
    """sum_j D_j X v_j (n,) for masks (G, n) and V (G, d), rounded once."""
    live = V.any(axis=1)
    terms = _product(masks[live][:, :, None] * X, V[live][:, None, :])
    return np.array([_rounded_once(row.ravel()) for row in np.concatenate(terms, axis=2).swapaxes(0, 1)])


def _terms(X: np.ndarray, W1: np.ndarray, w2: np.ndarray, lower: float) -> np.ndarray:
    """Numbers (n, .) whose sum over a row is f(x_n)."""
    high, low = np.zeros((len(X), W1.shape[1])), np.zeros((len(X), W1.shape[1]))
    for column, row in zip(X.T, W1, strict=True):
        product, error = _product(column[:, None], row[None])
        high, lost = _sum(high, product)
        low = low + (lost + error)
    slope = np.where(high + low > 0, 1.0, lower)
    sloped = [part for z in (high, low) for part in _product(slope, z)]
    return np.concatenate([part for z in sloped for part in _product(z, w2[None])], axis=1)


def _rounded_once(terms) -> float:
    """Their sum; NaN where float64 cannot hold it."""
    try:
        return math.fsum(terms)
    except (OverflowError, ValueError):
        return math.nan


def _product(a, b):
    """(fl(ab), ab - fl(ab))."""
    product = a * b
    (ah, al), (bh, bl) = _halves(a), _halves(b)
    return product, ((ah * bh - product) + ah * bl + al * bh) + al * bl


def _halves(a):
    scaled = SPLITTER * a
    high = scaled - (scaled - a)
    return high, a - high


def _sum(a, b):
    """(fl(a + b), a + b - fl(a + b))."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)
