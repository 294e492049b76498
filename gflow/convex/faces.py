"""The faces of the arrangement of X: cells, facets, ..., rays, each with its mask and its linear span.

The maximiser of lambda^T (X u)_+ on the unit sphere lies in the relative interior of one face; there the function is
linear, g . u with g = X^T D lambda, so the maximiser is P_L g / |P_L g| with L the span of the face.
"""

from __future__ import annotations

import itertools
import math

import equinox as eqx
import numpy as np

from gflow.convex.arrangements import (
    BUDGET,
    ROUNDING,
    ZERO,
    arrangement,
    cells,
    enumerable,
    restricted,
    row_space,
    unit_rows,
)


class Faces(eqx.Module):
    """`masks` (F, n): strictly active samples on each face. `span` (F,): index into `projectors` (L, d, d).

    `complete`: True only if all faces are there; else cells of a sampled arrangement. `accuracy` (L,): how accurately
    each span is known. `error`: faces within this angle of the ones found may be missing.
    """

    masks: np.ndarray
    span: np.ndarray
    projectors: np.ndarray
    accuracy: np.ndarray
    error: float
    complete: bool = eqx.field(static=True)

    def __len__(self) -> int:
        return self.masks.shape[0]


def faces(X, *, samples: int = 4096, seed: int = 0) -> Faces:
    """All faces of X (n, d) where they fit the budget; otherwise the cells of `samples` sampled directions."""
    X = np.asarray(X, float)
    rows = unit_rows(X)
    basis, _, outside = row_space(rows)
    n, r = X.shape[0], basis.shape[1]
    if not (enumerable(n, r) and math.comb(n, max(r - 1, 0)) * 3**r * n <= BUDGET):
        masks = arrangement(X, samples=samples, seed=seed).masks
        return Faces(masks, np.zeros(len(masks), np.int32), (basis @ basis.T)[None], np.zeros(1), np.inf, False)
    if r == 0:
        nothing = np.zeros((1, X.shape[1], X.shape[1]))
        return Faces(np.zeros((1, n), bool), np.zeros(1, np.int32), nothing, np.zeros(1), 0.0, True)
    masks, span, projectors, accuracy = [], [], [], []
    found, error = flats(rows @ basis, ROUNDING + outside)
    error = max(error, outside)
    for flat, known in found:
        L = basis @ flat  # (d, k)
        signs, missing = cells(*restricted(rows, L, np.full(n, known)))
        error = max(error, missing)
        masks.append(signs > 0)
        span.append(np.full(len(signs), len(projectors), np.int32))
        projectors.append(L @ L.T)
        accuracy.append(known)
    return Faces(np.concatenate(masks), np.concatenate(span), np.stack(projectors), np.array(accuracy), error, True)


def flats(A: np.ndarray, rounding: float) -> tuple[list[tuple[np.ndarray, float]], float]:
    """(basis (r, k), accuracy) of all intersections of hyperplanes a_n . u = 0 with k >= 1, the whole space first.

    Rows of A (n, r) are units or zero. The second result bounds the angle between flats that counted as one.
    """
    r = A.shape[1]
    unit = A[np.any(A != 0, axis=1)]
    found, error = ([(np.eye(r), rounding)] if r else []), 0.0
    for size in range(1, r):
        seen: set[bytes] = set()
        choices = np.array(list(itertools.combinations(range(len(unit)), size)), int).reshape(-1, size)
        _, sigma, Vt = np.linalg.svd(unit[choices], full_matrices=True)
        # best conditioned first: of choices that span the same flat the first is kept
        for index in np.argsort(-sigma[:, -1], kind="stable"):
            least = sigma[index, -1]
            if least <= max(ZERO, 4 * rounding):
                error = max(error, least)
                continue
            L, known = Vt[index, size:].T, 4 * rounding / least
            distance = np.linalg.norm(unit @ L, axis=1)  # the sine of the row's angle to the complement of L
            through = distance <= max(ZERO, 4 * known)
            key = np.packbits(through).tobytes()
            if key not in seen:
                seen.add(key)
                found.append((L, known))
                error = max(error, distance[through].max() / least if through.sum() > size else 0.0)
    return found, float(error)
