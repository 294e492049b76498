"""Newton's method on the reduced KKT system of the subsampled max-margin program.

Patterns fixed, neuron k of sign s_k and mask D_k acts through v_k = |a_k| w_k, |v_k| = its mass, and
P = min sum_k |v_k|  s.t.  Y sum_k s_k D_k X v_k >= 1,  x_n . v_k = 0 for the samples n on which k slides.
With v_k = Q_k z_k (Q_k a basis of the complement of the sliding rows), B_k = s_k Y D_k X Q_k and support vectors S
the KKT system is
    B_k^T alpha = z_k/|z_k| for every k,    (sum_k B_k z_k)_S = 1.
Source: arXiv 2006.05900, section 3; docs/mathematics.md, "The convex program over masks".
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gflow import deadline
from gflow.convex.threads import one_thread

ITERATIONS = 30
RELATIVE = 1e-15

CLOSE = 1e-9
"""Largest residual of a solution."""

FAR = 1e100
"""Largest weights and multipliers, in units of 1/max|x_n|, from which Newton's method is tried: squares overflow."""

LONGEST = 1.0
"""Longest step, relative to the largest multiplier and the largest mass."""


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
def newton(
    X,
    y,
    patterns: Patterns,
    start: KKTPoint,
    support: np.ndarray,
    *,
    prune: bool = False,
    lower: float = 0.0,
    close: float = CLOSE,
) -> KKTPoint | None:
    """The KKT point of the program with these patterns near `start`, or None if Newton's method does not get there.

    `support` (n,) bool: first guess of the support vectors. Wrong guesses are mended by dropping negative
    multipliers and adding violated margins. `prune`: neurons of negative mass are dropped too, their columns of V are
    0; otherwise there is no such point. `lower`: the activation's slope off the mask. `close`: the largest
    residual that rounding may leave. Whoever calls this checks the returned point: nothing here is a proof.
    """
    if far(X, start):
        return None
    slopes = slopes_of(patterns.mask, lower)
    support, live = support.copy(), np.ones(len(patterns.sign), bool)
    if prune:
        live &= np.any(start.V != 0, axis=0)
    mass, alpha = np.linalg.norm(start.V, axis=0), start.alpha
    bases = [complement(X[slide]) for slide in patterns.sliding.T]
    blocks = [(y * s * D)[:, None] * (X @ Q) for s, D, Q in zip(patterns.sign, slopes.T, bases, strict=True)]
    for _ in range(2 * (len(y) + len(live))):
        found = _solve([blocks[k][support] for k in np.flatnonzero(live)], mass[live], alpha[support], close)
        if found is None:
            return None
        mass, alpha = np.zeros(len(live)), np.zeros(len(y))
        mass[live], alpha[support] = found
        V = np.zeros(start.V.shape)
        for k in np.flatnonzero(live):
            g = blocks[k].T @ alpha
            V[:, k] = bases[k] @ (mass[k] * g / np.linalg.norm(g))
        margins = y * np.sum(patterns.sign * slopes * (X @ V), axis=1)
        negative = support & (alpha < -1e-12 * max(alpha.max(), 1e-300))
        violated = ~support & (margins < 1 - 1e-11)
        gone = live & (mass < -1e-12 * max(mass.max(), 1e-300))
        if not negative.any() and not violated.any() and not gone.any():
            live &= mass > 0
            return KKTPoint(_feasible(V * live, blocks, bases, support), alpha) if prune or live.all() else None
        if gone.any():
            if not prune:
                return None
            live[np.argmin(mass)] = False
        else:
            support[np.argmin(alpha) if negative.any() else np.argmin(np.where(violated, margins, np.inf))] ^= True
        mass, alpha = np.maximum(mass, 0.0), np.maximum(alpha, 0.0)
    return None


def far(X, start: KKTPoint) -> bool:
    """Whether a point is too far from any optimum for Newton's method."""
    largest = np.maximum(np.max(np.abs(start.V), initial=0.0), np.max(np.abs(start.alpha)))
    return not largest * np.max(np.abs(X)) <= FAR


def slopes_of(mask: np.ndarray, lower: float) -> np.ndarray:
    """D: 1 on the mask, `lower` off it. On a neuron's hyperplane the slope does not matter."""
    return mask if lower == 0 else np.where(mask, 1.0, lower)


def _feasible(V, blocks, bases, support) -> np.ndarray:
    """V with the least change after which the support vectors have margin 1, up to rounding of 1 and not of alpha."""
    from scipy.linalg import lstsq

    live = np.flatnonzero(V.any(axis=0))
    B = np.concatenate([blocks[k][support] for k in live], axis=1)
    missing = 1.0 - B @ np.concatenate([bases[k].T @ V[:, k] for k in live])
    step, *_ = lstsq(B, missing, lapack_driver="gelsy", check_finite=False)  # pyright: ignore
    V, ends = V.copy(), np.cumsum([bases[k].shape[1] for k in live])
    for k, z in zip(live, np.split(step, ends[:-1]), strict=True):
        V[:, k] += bases[k] @ z
    return V


@np.errstate(over="ignore", invalid="ignore")  # steps that lead beyond all numbers end the search
def _solve(
    blocks: list[np.ndarray], mass: np.ndarray, alpha: np.ndarray, close: float
) -> tuple[np.ndarray, np.ndarray] | None:
    """(mass (K,), alpha (|S|,)) with |B_k^T alpha| = 1 and sum_k mass_k B_k u_k = 1, u_k = B_k^T alpha / |B_k^T alpha|.

    Masses of either sign: what is left of the system when v_k = mass_k u_k has been put in, as small as it can be.
    """
    if len(blocks) == 0 or len(alpha) == 0:
        return None
    B = np.concatenate(blocks, axis=1)  # every block's columns, side by side
    widths = np.array([block.shape[1] for block in blocks])
    if widths.min() == 0:
        return None
    first, best, before = np.concatenate([[0], np.cumsum(widths)[:-1]]), None, np.inf
    for _ in range(ITERATIONS):
        if deadline.passed():
            return None
        g = alpha @ B
        size = np.sqrt(np.add.reduceat(g * g, first))
        if not (np.all(np.isfinite(size)) and size.min() > 0):
            return None
        G = np.add.reduceat(B * (g / np.repeat(size, widths)), first, axis=1)
        residual = np.concatenate([G @ mass - 1.0, size - 1.0])
        left = np.max(np.abs(residual))
        if not np.isfinite(left):
            return None
        if left <= RELATIVE:
            return mass, alpha
        if left <= close and left >= 0.5 * before:  # as exact as rounding lets it be
            return best if left > before else (mass, alpha)
        best, before = (mass, alpha), left
        weight = mass / size
        J = np.zeros((len(residual), len(residual)))
        J[: len(alpha), : len(alpha)] = (B * np.repeat(weight, widths)) @ B.T - (G * weight) @ G.T
        J[: len(alpha), len(alpha) :], J[len(alpha) :, : len(alpha)] = G, G.T
        unit = np.concatenate([np.full(len(alpha), np.max(np.abs(alpha))), np.full(len(mass), np.max(np.abs(mass)))])
        unit = np.where(unit > 0, unit, 1.0)
        row = 1 / np.maximum(np.linalg.norm(J * unit, axis=1), 1e-300)
        step = _solved(row[:, None] * J * unit, -row * residual)
        if step is None or not np.all(np.isfinite(step)):
            return None
        step = unit * step * min(1.0, LONGEST / max(np.max(np.abs(step)), 1e-300))
        alpha, mass = alpha + step[: len(alpha)], mass + step[len(alpha) :]
    return None


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
