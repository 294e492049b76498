"""The faces of the arrangement of X: cells, facets, ..., rays, each with its mask and its linear span.

The maximiser of lambda^T (X u)_+ on the unit sphere lies in the relative interior of one face; there the function is
linear, g . u with g = X^T D lambda, so the maximiser is P_L g / |P_L g| with L the span of the face.
"""

from __future__ import annotations

import itertools
import math

import equinox as eqx
import numpy as np

from gflow import deadline
from gflow.convex.arrangements import (
    BUDGET,
    PARALLEL,
    ROUNDING,
    ZERO,
    Lines,
    cells,
    enumerable,
    generic,
    lines,
    restricted,
    row_space,
    sampled_masks,
    unit_rows,
)
from gflow.convex.general_position import Vertices, choices, position

SHARE = 0.5
"""Of the time that is left: faces without what is proved by them are nothing."""

MOST = 6e6
"""Largest number of faces that is listed."""


class Faces(eqx.Module):
    """Face f has the span `projectors[span[f]]` (L, d, d) and the active samples `masks[cell[f]]` (C, n).

    The mask is that of a cell beside the face, or of the face itself: samples on whose hyperplane the face lies may be
    in it or not, P_L X^T D lambda is the same. `span`, `cell` (F,).
    `complete`: True only if all faces are there; else cells of a sampled arrangement. `accuracy` (L,): how accurately
    each span is known. `error`: faces within this angle of the ones found may be missing.
    """

    masks: np.ndarray
    cell: np.ndarray
    span: np.ndarray
    projectors: np.ndarray
    accuracy: np.ndarray
    error: float
    complete: bool = eqx.field(static=True)

    def __len__(self) -> int:
        return self.span.shape[0]

    @property
    def cells(self) -> int:
        """How many of the faces are cells: the number of masks."""
        return int(np.sum(self.span == 0))


def faces(X, *, samples: int = 4096, seed: int = 0, sampled: bool = False) -> Faces:
    """All faces of X (n, d) where they fit memory, and SHARE of the time until a deadline; otherwise, or if asked, the
    cells of `samples` directions."""
    X = np.asarray(X, float)
    rows = unit_rows(X)
    basis, _, outside = row_space(rows)
    if not sampled:
        try:
            with deadline.within(share=SHARE):
                listed = _all(X, rows, basis, outside)
        except deadline.OutOfTime:
            listed = None
        if listed is not None:
            return listed
    return _sampled(X, basis, samples, seed)


def _all(X: np.ndarray, rows: np.ndarray, basis: np.ndarray, outside: float) -> Faces | None:
    """All faces; None where they are too many. Raises OutOfTime."""
    n, r = X.shape[0], basis.shape[1]
    distinct = lines(rows)
    if count_faces(len(distinct.first), r) <= MOST:
        vertices = generic(rows, basis, outside, distinct)
        if vertices is not None:
            return _faces_of_vertices(rows, basis, outside, distinct, vertices)
    if not (enumerable(n, r) and math.comb(n, max(r - 1, 0)) * 3**r * n <= BUDGET):
        return None
    if r == 0:
        nothing, one = np.zeros((1, X.shape[1], X.shape[1])), np.zeros(1, int)
        return Faces(np.zeros((1, n), bool), one, one, nothing, np.zeros(1), 0.0, True)
    masks, span, projectors, accuracy = [], [], [], []
    found, error = flats(rows @ basis, ROUNDING + outside)
    error = max(error, outside)
    for flat, known in found:
        deadline.require_time()
        L = basis @ flat  # (d, k)
        signs, missing = cells(*restricted(rows, L, np.full(n, known)))
        error = max(error, missing)
        masks.append(signs > 0)
        span.append(np.full(len(signs), len(projectors), np.int32))
        projectors.append(L @ L.T)
        accuracy.append(known)
    masks = np.concatenate(masks)
    one = np.arange(len(masks))
    return Faces(masks, one, np.concatenate(span), np.stack(projectors), np.array(accuracy), error, True)


def _sampled(X: np.ndarray, basis: np.ndarray, samples: int, seed: int) -> Faces:
    masks = sampled_masks(X, samples, seed)
    whole, one = (basis @ basis.T)[None], np.arange(len(masks))
    return Faces(masks, one, np.zeros(len(masks), np.int32), whole, np.zeros(1), np.inf, False)


def count_faces(n: int, r: int) -> int:
    """How many faces n >= r rows in general position of rank r have: 2 C(n, r-1) 2^{r-1} and fewer in lower ranks."""
    return sum(math.comb(n, k) * 2 ** (k + 1) for k in range(r - 1, -1, -2))


def _faces_of_vertices(rows, basis, outside: float, distinct: Lines, found: list[Vertices]) -> Faces:
    """At the vertex of rows T: the faces with sliding rows S, for every S in T, all beside one cell."""
    A = rows[distinct.first] @ basis
    known = ROUNDING + PARALLEL + outside
    offset, projectors, accuracy = [0], [], []
    for size in range(A.shape[1]):
        P, least = _complements(A[choices(len(A), size)])
        projectors.append(basis @ P @ basis.T)
        accuracy.append(known if size == 0 else 4 * known / least)
        offset.append(offset[-1] + len(P))
    cell, span, first = [], [], 0
    for level in found:
        count, k = level.rows.shape
        for kept in itertools.product((False, True), repeat=k):
            S = level.rows[:, np.array(kept, bool)]
            span.append(offset[S.shape[1]] + position(S))
            cell.append(first + np.arange(count))
        first += count
    half, span, cell = np.concatenate([v.masks for v in found]), np.concatenate(span), np.concatenate(cell)
    masks = distinct.expand(np.concatenate([half, ~half]))
    return Faces(
        masks, np.concatenate([cell, cell + len(half)]), np.concatenate([span, span]), np.concatenate(projectors),
        np.concatenate([np.broadcast_to(a, len(P)) for a, P in zip(accuracy, projectors, strict=True)]), outside, True,
    )  # fmt: skip


def _complements(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Projectors (C, r, r) onto the complements of C sets of independent rows (C, k, r), and their smallest singular
    values."""
    _, sigma, Vt = np.linalg.svd(rows, full_matrices=False)
    least = sigma[:, -1] if rows.shape[1] else np.ones(len(rows))
    return np.eye(rows.shape[2]) - np.swapaxes(Vt, 1, 2) @ Vt, least


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
            deadline.require_time()
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
