"""The faces of the arrangement of X: cells, facets, ..., rays, each with its mask and its linear span.

The maximiser of lambda^T (X u)_+ on the unit sphere lies in the relative interior of one face; there the function is
linear, g . u with g = X^T D lambda, so the maximiser is P_L g / |P_L g| with L the span of the face.
"""

from __future__ import annotations

import itertools
import math
import operator
from fractions import Fraction

import equinox as eqx
import numpy as np

from gflow import deadline
from gflow.convex.arrangements import (
    BUDGET,
    ROUNDING,
    Lines,
    coordinates,
    generic,
    lines,
    row_space,
    sampled_masks,
    unit_rows,
)
from gflow.convex.chirotope import Chirotope
from gflow.convex.general_position import Vertices, choices, position

SHARE = 0.5
"""Of the time that is left: faces without what is proved by them are nothing."""

MOST = 6e6
"""Largest number of faces that is listed."""

PLAIN, NOTHING = 1e-3, 1e-13
"""Singular values of rows above the first count, below the second they are rounding; where one is between the two the
complement is computed exactly: of rows at an angle phi float64 knows it to 1e-16/phi only."""


class Faces(eqx.Module):
    """Face f has the span `projectors[span[f]]` (L, d, d) and the active samples `masks[cell[f]]` (C, n).

    The mask is that of a cell beside the face, or of the face itself: samples on whose hyperplane the face lies may be
    in it or not, P_L X^T D lambda is the same. `span`, `cell` (F,).
    `complete`: True only if all faces are there; else cells of a sampled arrangement. `accuracy` (L,): how accurately
    each span is known. `error`: the faces are those of rows that differ from X by at most this angle.
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
    if math.comb(len(distinct.first), max(r - 1, 0)) * 3**r * n > BUDGET:
        return None
    if r == 0:
        nothing, one = np.zeros((1, X.shape[1], X.shape[1])), np.zeros(1, int)
        return Faces(np.zeros((1, n), bool), one, one, nothing, np.zeros(1), 0.0, True)
    A, linear, missed = coordinates(X, rows, r)
    signs = Chirotope(A[distinct.first]).faces()
    zero, span = np.unique(signs == 0, axis=0, return_inverse=True)  # cells first: nothing is on
    projectors, accuracy = flats(A[distinct.first], linear, rows[distinct.first], basis, zero, outside + missed)
    error = outside + missed + distinct.apart
    return Faces(
        distinct.active(signs), np.arange(len(signs)), span.ravel(), projectors, accuracy, error, True
    )  # fmt: skip


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
    known = ROUNDING + outside
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
        np.concatenate([np.broadcast_to(a, len(P)) for a, P in zip(accuracy, projectors, strict=True)]),
        outside + distinct.apart, True,
    )  # fmt: skip


def _complements(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Projectors (C, r, r) onto the complements of C sets of independent rows (C, k, r), and their smallest singular
    values."""
    _, sigma, Vt = np.linalg.svd(rows, full_matrices=False)
    least = sigma[:, -1] if rows.shape[1] else np.ones(len(rows))
    return np.eye(rows.shape[2]) - np.swapaxes(Vt, 1, 2) @ Vt, least


def flats(
    A: np.ndarray, linear: np.ndarray | None, rows: np.ndarray, basis: np.ndarray, on: np.ndarray, outside: float
):
    """Projectors (L, d, d) onto the flats on which the rows `on` (L, n) vanish, and how accurately each is known (L,).

    A (n, r), linear: see `coordinates`; `rows` (n, d) are the unit rows, off by `outside` from A linear and from the
    span of `basis`. By singular values where rank and complement are plain, exactly where rows are nearly dependent.
    """
    local, r = rows @ basis, basis.shape[1]
    projectors, accuracy = np.empty((len(on), rows.shape[1], rows.shape[1])), np.empty(len(on))
    count = on.sum(axis=1)
    for size in np.unique(count):
        which = np.flatnonzero(count == size)
        through = np.nonzero(on[which])[1].reshape(len(which), size)
        _, sigma, Vt = np.linalg.svd(local[through], full_matrices=False)
        plain = np.all((sigma > PLAIN) | (sigma < NOTHING * np.sqrt(max(size, 1))), axis=1)
        held = np.where((sigma > PLAIN)[:, :, None], Vt, 0.0)
        P = np.eye(r) - np.swapaxes(held, 1, 2) @ held
        projectors[which] = basis @ P @ basis.T
        least = np.min(np.where(sigma > PLAIN, sigma, 1.0), axis=1, initial=1.0)
        accuracy[which] = 4 * (ROUNDING + outside) / least
        for index, chosen in zip(which[~plain], through[~plain], strict=True):
            deadline.require_time()
            projectors[index] = _exact_complement(A, linear, basis, chosen)
            accuracy[index] = 4 * (ROUNDING + outside)
    return projectors, accuracy


def _exact_complement(A: np.ndarray, linear: np.ndarray | None, basis: np.ndarray, on: np.ndarray) -> np.ndarray:
    """The projector (d, d) onto what is orthogonal to the rows `on`, within the span of `basis`: by fractions."""
    rows = [[Fraction(a) for a in row] for row in A[on].tolist()]
    if linear is not None:
        M = [[Fraction(a) for a in column] for column in linear.T.tolist()]
        rows = [[sum(map(operator.mul, row, column)) for column in M] for row in rows]
    held: list[tuple[list, Fraction]] = []
    for row in rows:
        for q, square in held:
            along = sum(map(operator.mul, row, q)) / square
            row = [a - along * b for a, b in zip(row, q, strict=True)]
        square = sum(a * a for a in row)
        if square:
            held.append((row, Fraction(square)))
        if len(held) == basis.shape[1] - 1:
            break
    along = [
        [sum((q[i] * q[j] / square for q, square in held), Fraction(0)) for j in range(len(basis))]
        for i in range(len(basis))
    ]
    return basis @ basis.T - np.array([[float(a) for a in row] for row in along])
