"""Newton's method on the reduced KKT system of the subsampled max-margin program.

Patterns fixed, neuron k of sign s_k and mask D_k acts through v_k = |a_k| w_k, |v_k| = its mass, and
P = min sum_k |v_k|  s.t.  Y sum_k s_k D_k X v_k >= 1,  x_n . v_k = 0 for the samples n on which k slides.
With v_k = Q_k z_k (Q_k a basis of the complement of the sliding rows) and support vectors S the KKT system is
    s_k Q_k^T X^T D_k Y alpha - z_k/|z_k| = 0 for every k,    (Y sum_k s_k D_k X Q_k z_k)_S = 1.
Source: arXiv 2006.05900, section 3; theory, "The convex program".
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gflow.convex.threads import one_thread

ITERATIONS = 30
RELATIVE = 1e-13

VANISHED = 1e-2
"""A neuron whose mass has shrunk by this factor is on its way to 0."""


class Patterns(NamedTuple):
    """K groups of neurons: `sign` (K,), `mask` (n, K) strictly active, `sliding` (n, K) on the hyperplane."""

    sign: np.ndarray
    mask: np.ndarray
    sliding: np.ndarray


class KKTPoint(NamedTuple):
    """`V` (d, K) with |v_k| the mass of neuron k, and multipliers `alpha` (n,); sum alpha = sum |v_k| at the point."""

    V: np.ndarray
    alpha: np.ndarray


@one_thread
def newton(X, y, patterns: Patterns, start: KKTPoint, support: np.ndarray, *, prune: bool = False) -> KKTPoint | None:
    """The KKT point of the program with these patterns near `start`, or None if Newton's method does not get there.

    `support` (n,) bool: first guess of the support vectors. Wrong guesses are mended by dropping negative
    multipliers and adding violated margins. `prune`: neurons whose mass vanishes on the way are given up, their columns
    of V are 0. Whoever calls this checks the returned point: nothing here is a proof.
    """
    support = support.copy()
    for _ in range(2 * len(y)):
        point = _solve(X, y, patterns, start, support, prune)
        if point is None:
            return None
        margins = y * np.sum(patterns.sign * patterns.mask * (X @ point.V), axis=1)
        scale = max(point.alpha.max(), 1e-300)
        negative = support & (point.alpha < -1e-12 * scale)
        violated = ~support & (margins < 1 - 1e-11)
        if not negative.any() and not violated.any():
            return point
        support[np.argmin(point.alpha) if negative.any() else np.argmin(np.where(violated, margins, np.inf))] ^= True
        start = point
    return None


def _solve(X, y, patterns: Patterns, start: KKTPoint, support: np.ndarray, prune: bool) -> KKTPoint | None:
    live = [k for k in range(len(patterns.sign)) if not prune or start.V[:, k].any()]
    bases = [complement(X[patterns.sliding[:, k]]) for k in live]
    # row block k: d margins_S / d z_k
    blocks = [
        (y * patterns.sign[k] * patterns.mask[:, k])[support, None] * (X[support] @ Q)
        for k, Q in zip(live, bases, strict=True)
    ]
    z = [Q.T @ start.V[:, k] for k, Q in zip(live, bases, strict=True)]
    least = [VANISHED * np.linalg.norm(start.V[:, k]) for k in live]
    alpha = np.where(support, start.alpha, 0.0)[support]
    residual = np.array([np.inf])
    for _ in range(ITERATIONS):
        norms = [np.linalg.norm(zk) for zk in z]
        gone = [j for j, (r, small) in enumerate(zip(norms, least, strict=True)) if r < small] if prune else []
        for j in reversed(gone):
            for each in (live, bases, blocks, z, least, norms):
                del each[j]
        if min(norms, default=0.0) <= 0:
            return None
        stationarity = [B.T @ alpha - zk / r for B, zk, r in zip(blocks, z, norms, strict=True)]
        feasibility = sum(B @ zk for B, zk in zip(blocks, z, strict=True)) - 1.0
        residual = np.concatenate([*stationarity, feasibility])
        if np.max(np.abs(residual)) <= RELATIVE * (1 + np.max(np.abs(alpha), initial=0) * np.max(np.abs(X))):
            break
        step = _newton_step(blocks, z, norms, residual)
        if step is None:
            return None
        dz = np.split(step[: len(step) - len(alpha)], np.cumsum([len(zk) for zk in z])[:-1])
        collapse = max(np.linalg.norm(d) / r for d, r in zip(dz, norms, strict=True))
        t = min(1.0, 0.5 / collapse) if collapse > 0 else 1.0
        z = [zk + t * d for zk, d in zip(z, dz, strict=True)]
        alpha = alpha + t * step[len(step) - len(alpha) :]
    if not np.all(np.isfinite(alpha)) or np.max(np.abs(residual)) > 1e-9:
        return None
    V = np.zeros(start.V.shape)
    V[:, live] = np.stack([Q @ zk for Q, zk in zip(bases, z, strict=True)], axis=1)
    full = np.zeros(len(y))
    full[support] = alpha
    return KKTPoint(V, full)


def _newton_step(blocks, z, norms, residual) -> np.ndarray | None:
    """Minimum-norm solution of the equilibrated Newton system: duplicate neurons and dependent rows are harmless.

    None where the iteration has run off to numbers that are not finite.
    """
    sizes = [len(zk) for zk in z]
    total, count = sum(sizes), blocks[0].shape[0]
    J = np.zeros((total + count, total + count))
    offset = 0
    for B, zk, r, size in zip(blocks, z, norms, sizes, strict=True):
        rows = slice(offset, offset + size)
        J[rows, rows] = -(np.eye(size) - np.outer(zk, zk) / r**2) / r
        J[rows, total:] = B.T
        J[total:, rows] = B
        offset += size
    # z_k is measured in units of |z_k|, alpha in units of 1 / |row of J|
    column = np.concatenate([*(np.full(size, r) for r, size in zip(norms, sizes, strict=True)), np.ones(count)])
    column[total:] = 1 / np.maximum(np.linalg.norm(J[:, total:], axis=0), 1e-300)
    scaled = J * column
    row = 1 / np.maximum(np.linalg.norm(scaled, axis=1), 1e-300)
    matrix, right = scaled * row[:, None], -residual * row
    if not (np.all(np.isfinite(matrix)) and np.all(np.isfinite(right))):
        return None
    step = _solved(matrix, right)
    if step is None:
        return None
    return column * step


def _solved(matrix: np.ndarray, right: np.ndarray) -> np.ndarray | None:
    """By elimination where that is accurate, else the minimum-norm least squares solution."""
    from scipy.linalg import lstsq

    try:
        step = np.linalg.solve(matrix, right)
        if np.max(np.abs(matrix @ step - right)) <= 1e-10 * np.max(np.abs(right)) and np.max(np.abs(step)) <= 1e3:
            return step
    except np.linalg.LinAlgError:
        pass
    try:
        step, *_ = lstsq(matrix, right, cond=1e-14, lapack_driver="gelsy", check_finite=False)  # pyright: ignore
        return step
    except np.linalg.LinAlgError:
        return None


def complement(rows: np.ndarray) -> np.ndarray:
    """Orthonormal basis (d, e) of the complement of the row space; all of R^d without rows."""
    if rows.shape[0] == 0:
        return np.eye(rows.shape[1])
    _, sigma, Vt = np.linalg.svd(rows, full_matrices=True)
    rank = int(np.sum(sigma > 1e-10 * max(sigma[0], 1e-300)))
    return Vt[rank:].T
