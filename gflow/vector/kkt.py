"""The KKT point with given patterns of the max-margin problem with K outputs, by Newton's method on its neurons.

    w_i = P_i X^T D_i Lambda a_i,   a_i = Lambda^T D_i X w_i,   q_nk = 1 on the support,   Lambda = Y o alpha,

P_i the projection onto the hyperplanes on which neuron i slides. Neurons of one pattern may be mixed by a rotation
without changing F, and multipliers need not be unique: steps of least norm. Source: docs/mathematics.md, "Vector
output".
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

STEPS = 20
LARGEST = 6000
"""Unknowns up to which Newton's equations are solved."""


class Patterns(NamedTuple):
    """`active`, `sliding` (n, k), of k neurons."""

    active: Bool[np.ndarray, "n k"]
    sliding: Bool[np.ndarray, "n k"]


class Neurons(NamedTuple):
    """`W` (d, k), `A` (K, k): first- and second-layer weights in columns."""

    W: Float[np.ndarray, "d k"]
    A: Float[np.ndarray, "K k"]


def grouped(X, W, A, band: float, share: float) -> tuple[Neurons, Patterns]:
    """Balanced neurons, merged within each pattern to as few as act the same, and their patterns.

    M = sum_i w_i a_i^T over a pattern is split by its singular value decomposition. Where a singular vector leaves the
    cone of the pattern its neurons stay as they are. Below `share` of the largest mass they are left out.
    """
    w, a = np.linalg.norm(W, axis=0), np.linalg.norm(A, axis=0)
    masses = w * a
    Z = X @ (W / np.where(w > 0, w, 1.0))
    row = np.linalg.norm(X, axis=1)[:, None]
    sliding = (np.abs(Z) <= band * row) & (row > 0)
    active = (Z > 0) & ~sliding
    keys: dict[bytes, list[int]] = {}
    for i in np.flatnonzero((masses > share * masses.max(initial=0.0)) & active.any(axis=0)):
        keys.setdefault(np.packbits(np.concatenate([active[:, i], sliding[:, i]])).tobytes(), []).append(int(i))
    parts, patterns = [], []
    for group in sorted(keys.values(), key=lambda g: -masses[g].sum()):
        on, slide = active[:, group[0]], sliding[:, group[0]]
        merged = _split(X, W[:, group] @ A[:, group].T, on, slide, band, share * masses.max())
        size = np.sqrt(masses[group])
        own = (W[:, group] / w[group] * size, A[:, group] / a[group] * size)
        kept = own if merged is None else merged
        parts.append(kept)
        patterns += [(on, slide)] * kept[0].shape[1]
    if not parts:
        empty = np.zeros((len(X), 0), bool)
        return Neurons(np.zeros((X.shape[1], 0)), np.zeros((A.shape[0], 0))), Patterns(empty, empty)
    W, A = (np.concatenate(list(p), axis=1) for p in zip(*parts, strict=True))
    return Neurons(W, A), Patterns(*(np.stack(list(p), axis=1) for p in zip(*patterns, strict=True)))


def _split(X, M, on, slide, band: float, least: float):
    """(W, A) with W A^T = M, balanced, all columns of W in the pattern's cone; None where there are none such."""
    P, sizes, Qt = np.linalg.svd(M, full_matrices=False)
    keep = sizes > max(least, 1e-9 * sizes[0])
    P, root, Q = P[:, keep], np.sqrt(sizes[keep]), Qt[keep].T
    row = np.linalg.norm(X, axis=1)[:, None]
    side = np.where(on, 1.0, -1.0)[:, None] * (X @ P)
    side = np.where(slide[:, None], 0.0, side)
    fits = [np.all(s * side >= -1e-9 * row, axis=0) for s in (1.0, -1.0)]
    if not np.all(fits[0] | fits[1]):
        return None
    sign = np.where(fits[0], 1.0, -1.0)
    return P * sign * root, Q * sign * root


def solve_kkt(X, Y, neurons: Neurons, patterns: Patterns, alpha, support) -> tuple[Neurons, np.ndarray] | None:
    """(neurons, alpha (n, K)) of the KKT point near `neurons` (q_min = 1) and `alpha`, q = 1 where `support` (n, K).

    None if it does not converge. Nothing is checked outside the equations: multipliers may be negative and margins
    below 1.
    """
    rows, cols = np.nonzero(support)
    k, K = neurons.A.shape[1], len(neurons.A)
    bases = [complement(X[slide]) for slide in patterns.sliding.T]
    unknowns = sum(B.shape[1] for B in bases) + k * K + len(rows)
    if unknowns > LARGEST or k == 0 or len(rows) == 0:
        return None
    # D_i X B_i: what neuron i sees of its own coordinates
    views = [on[:, None] * (X @ B) for on, B in zip(patterns.active.T, bases, strict=True)]
    x = np.concatenate(
        [*(B.T @ w for B, w in zip(bases, neurons.W.T, strict=True)), neurons.A.T.ravel(), alpha[rows, cols]]
    )
    best = np.inf
    for _ in range(STEPS):
        residual, jacobian = _equations(x, views, Y, rows, cols)
        error = np.abs(residual).max()
        if not np.isfinite(error) or error > 1e3 * max(best, 1e-12):
            return None
        if error <= 1e-14 * (1 + np.abs(x).max()) or (error <= 1e-11 and error >= 0.5 * best):
            break
        best = min(best, error)
        try:
            x = x - np.linalg.lstsq(jacobian, residual, rcond=1e-11)[0]
        except np.linalg.LinAlgError:  # entries beyond what an SVD can take
            return None
    if np.abs(_equations(x, views, Y, rows, cols)[0]).max() > 1e-9:
        return None
    omegas, A, full = _unpacked(x, views, Y, rows, cols)
    return Neurons(np.stack([B @ w for B, w in zip(bases, omegas, strict=True)], axis=1), A.T), full


def _unpacked(x, views, Y, rows, cols):
    """omega_i (the neurons in their own coordinates), A (k, K) and alpha (n, K) of a vector of unknowns."""
    ends = np.cumsum([V.shape[1] for V in views])
    k, K = len(views), Y.shape[1]
    alpha = np.zeros(Y.shape)
    alpha[rows, cols] = x[ends[-1] + k * K :]
    return np.split(x[: ends[-1]], ends[:-1]), x[ends[-1] : ends[-1] + k * K].reshape(k, K), alpha


def _equations(x, views, Y, rows, cols) -> tuple[np.ndarray, np.ndarray]:
    """The residual of the equations at x and its Jacobian, which is symmetric: they are a gradient."""
    omegas, A, alpha = _unpacked(x, views, Y, rows, cols)
    Lam, y = Y * alpha, Y[rows, cols]
    K, first, last = Y.shape[1], sum(len(w) for w in omegas), len(x) - len(rows)
    J, r, q, at = np.zeros((len(x), len(x))), np.zeros(len(x)), np.zeros(len(rows)), 0
    each = np.arange(last, len(x))
    for i, (V, omega, a) in enumerate(zip(views, omegas, A, strict=True)):
        own, out = slice(at, at + len(omega)), first + i * K + np.arange(K)
        C, h = V.T @ Lam, V @ omega
        r[own], r[out] = C @ a - omega, C.T @ omega - a
        q += y * h[rows] * a[cols]
        J[own, out[0] : out[-1] + 1] = C
        J[own, last:] = (V[rows] * (y * a[cols])[:, None]).T
        J[out[cols], each] = y * h[rows]
        at += len(omega)
    r[last:] = q - 1
    J = J + J.T
    J[np.arange(last), np.arange(last)] = -1.0
    return r, J


def complement(rows: np.ndarray) -> np.ndarray:
    """An orthonormal basis (d, j) of what is orthogonal to these rows."""
    if len(rows) == 0:
        return np.eye(rows.shape[1])
    _, sizes, Vt = np.linalg.svd(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    return Vt[int(np.sum(sizes > 1e-10)) :].T
