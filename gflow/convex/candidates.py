"""Which directions column generation looks at next: those where |lambda^T (X u)_+| is largest, each once.

Over all faces they come from exact pricing, otherwise from ascents, of which nothing is proved.
Source: arXiv 2002.10553, section 2; docs/mathematics.md, "The convex program over masks".
"""

from __future__ import annotations

import numpy as np

from gflow.convex.ascent import resting_places
from gflow.convex.faces import Faces
from gflow.convex.leaky import multipliers, rows
from gflow.convex.polish import LOOSE, Tight

SAME = 1e-15
"""Entries of unit vectors that differ by no more are equal."""

CLOSE = 1e-13
"""Unit vectors with a larger cosine than one minus this may be equal; ends of ascents are no better than that."""

PAIRS = 2**22
"""Entries of pairs that are compared at once."""

COMPARED = 4096
"""Ends of ascents of which every pair is compared."""

ASCENTS = 40
"""Ascents that slide start from so many of the newest columns and from as many other directions, with both signs."""


def best_directions(X, lam, values, level: float, known: Faces) -> Tight:
    """The distinct candidates with |lambda^T (X u)_+| >= (1 - LOOSE) level, best first, at most 4n; that / level.

    `values` (F, 2): lambda^T (X u)_+ as `price` returns it.
    """
    X, lam, values = np.asarray(X), np.asarray(lam), np.abs(np.asarray(values)).ravel()
    best = np.flatnonzero(values >= (1 - LOOSE) * level)
    most = 16 * len(X)
    if len(best) > most:
        best = best[np.argpartition(-values[best], most)[:most]]
    best = best[np.argsort(-values[best])]
    face, opposite = best // 2, best % 2
    g = np.einsum("fij,fj->fi", known.projectors[known.span[face]], (known.masks[known.cell[face]] * lam) @ X)
    U = (1 - 2 * opposite)[:, None] * g / np.maximum(np.linalg.norm(g, axis=1, keepdims=True), 1e-300)
    return _distinct(X, lam, U, values[best] / level, equal)


def best_ascended(X, lam, values, U, level: float) -> Tight:
    """As `best_directions`, of the ends of ascents U (F, d) and the values there."""
    best = np.flatnonzero(values >= (1 - LOOSE) * level)
    best = best[np.argsort(-values[best])][: min(16 * len(X), COMPARED)]
    return _distinct(np.asarray(X), np.asarray(lam), U[best], values[best] / level, close)


def slid(X, lam, U, level: float, lower: float = 0.0) -> Tight:
    """As `best_directions`, of ascents that slide along hyperplanes, from the newest of U (K, d) and random ones."""
    X, lam = np.asarray(X), np.asarray(lam)
    others = np.random.default_rng(len(U)).standard_normal((ASCENTS, X.shape[1]))
    starts = np.vstack([U[-ASCENTS:], others / np.linalg.norm(others, axis=1, keepdims=True)])
    signs = np.tile([1.0, -1.0], len(starts))
    values, ends = resting_places(X, lam, signs, np.repeat(starts, 2, axis=0).T, lower)
    return best_ascended(rows(X, lower), multipliers(lam, lower), values, ends.T, level)


def close(U: np.ndarray, V: np.ndarray) -> np.ndarray:
    """Which unit vectors U (K, d) and V (L, d) are closer than an angle of about 4e-7, (K, L)."""
    return U @ V.T >= 1 - CLOSE


def equal(U: np.ndarray, V: np.ndarray) -> np.ndarray:
    """Which unit vectors U (K, d) and V (L, d) are the same up to rounding, (K, L).

    Not by their cosine: that is 1 to the last bit up to an angle of 1e-8, over which a steep dual constraint (sum alpha
    = 1e5 and more) changes by 1e-3.
    """
    same = close(U, V)
    k, l = np.nonzero(same)  # noqa: E741
    for some in np.split(np.arange(len(k)), range(0, len(k), max(PAIRS // U.shape[1], 1))[1:]):
        same[k[some], l[some]] = np.max(np.abs(U[k[some]] - V[l[some]]), axis=1, initial=0.0) <= SAME
    return same


def _distinct(X: np.ndarray, lam: np.ndarray, U: np.ndarray, value: np.ndarray, equal) -> Tight:
    """Without repetitions, at most 4n."""
    earlier = np.tril(equal(U, U), -1).any(axis=1)
    U, value = U[~earlier][: 4 * len(X)], value[~earlier][: 4 * len(X)]
    return Tight(U, np.sign(np.maximum(U @ X.T, 0.0) @ lam), value)
