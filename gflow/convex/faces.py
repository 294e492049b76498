"""The faces of the arrangement of X: cells, facets, ..., rays, each with its mask and its linear span.

The maximiser of lambda^T (X u)_+ on the unit sphere lies in the relative interior of one face; there the function is
linear, g . u with g = X^T D lambda, so the maximiser is P_L g / |P_L g| with L the span of the face.
"""

from __future__ import annotations

import itertools
import math

import equinox as eqx
import numpy as np

from gflow.convex.arrangements import BUDGET, ZERO, arrangement, cells, enumerable, row_space


class Faces(eqx.Module):
    """`masks` (F, n): strictly active samples on each face. `span` (F,): index into `projectors` (L, d, d).

    `complete`: True only if all faces are there; else cells of a sampled arrangement.
    """

    masks: np.ndarray
    span: np.ndarray
    projectors: np.ndarray
    complete: bool = eqx.field(static=True)

    def __len__(self) -> int:
        return self.masks.shape[0]


def faces(X, *, samples: int = 4096, seed: int = 0) -> Faces:
    """All faces of X (n, d) where they fit the budget; otherwise the cells of `samples` sampled directions."""
    X = np.asarray(X, float)
    basis = row_space(X)
    n, r = X.shape[0], basis.shape[1]
    if not (enumerable(n, r) and math.comb(n, max(r - 1, 0)) * 3**r * n <= BUDGET):
        sampled = arrangement(X, samples=samples, seed=seed)
        masks = sampled.masks
        return Faces(masks, np.zeros(len(masks), np.int32), (basis @ basis.T)[None], False)
    if r == 0:
        return Faces(np.zeros((1, n), bool), np.zeros(1, np.int32), np.zeros((1, X.shape[1], X.shape[1])), True)
    masks, span, projectors = [], [], []
    for flat in flats(X @ basis):
        L = basis @ flat  # (d, k)
        signs = cells(X @ L)
        masks.append(signs > 0)
        span.append(np.full(len(signs), len(projectors), np.int32))
        projectors.append(L @ L.T)
    return Faces(np.concatenate(masks), np.concatenate(span), np.stack(projectors), True)


def flats(A: np.ndarray) -> list[np.ndarray]:
    """Orthonormal bases (r, k) of all intersections of hyperplanes a_n . u = 0 with k >= 1, the whole space first."""
    r = A.shape[1]
    norms = np.linalg.norm(A, axis=1)
    live = np.flatnonzero(norms > ZERO * max(norms.max(initial=0.0), 1e-300))
    unit = A[live] / norms[live][:, None]
    found = [np.eye(r)] if r else []
    for size in range(1, r):
        seen: set[bytes] = set()
        choices = np.array(list(itertools.combinations(range(len(live)), size)), int).reshape(-1, size)
        _, sigma, Vt = np.linalg.svd(unit[choices], full_matrices=True)
        for rows, basis in zip(sigma, Vt, strict=True):
            if rows[-1] <= ZERO**0.5 * 1e-2:
                continue
            L = basis[size:].T
            through = np.linalg.norm(unit @ L, axis=1) <= ZERO
            key = np.packbits(through).tobytes()
            if key not in seen:
                seen.add(key)
                found.append(L)
    return found
