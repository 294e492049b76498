"""Every cell and face of an arrangement in general position, each found exactly once: no sorting, no duplicates.

Take two generic functionals c and b. In the chart c . u = 1 a face whose part there is bounded below in the direction b
has one lowest vertex; at a vertex, the ray of r - 1 rows T, exactly one face with given sliding rows S in T has it as
its lowest: the one that the remaining rows T - S leave upwards. Of a face and its opposite exactly one is found so,
unless the face meets the plane b = c = 0; those are the faces of the arrangement that is left there, of rank r - 2.
This gives P = 2 sum_{k<r} C(n-1, k) masks, k counting down in twos. Source: docs/mathematics.md, "The convex program
over masks".
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from gflow import deadline

SAFE = 1e-9
"""Smallest sine of an angle that decides on which side something lies; below it the data are not in general position
for this purpose."""

STEEP = 1e6
"""Largest norm of an inverse from which signs are read."""

TRIES = 3
"""Pairs (b, c) that are tried."""

CHUNK = 20_000


class Vertices(NamedTuple):
    """Rays of rank k + 1: `rows` (R, k) vanish on them, `masks` (R, n) of the cell of which each is the lowest."""

    rows: np.ndarray
    masks: np.ndarray


def lowest_vertices(A: np.ndarray, accuracy: float) -> list[Vertices] | None:
    """All cells up to sign, by the rank of the plane in which they were found: r, r - 2, ...

    Rows of A (n, r) are units known to within `accuracy`, r >= 1. None if they are not in general position, or so
    nearly not that signs would have to be read from rounding.
    """
    for seed in range(TRIES):
        found = _levels(A, accuracy, np.random.default_rng(seed))
        if found is not None:
            return found
    return None


def _levels(A: np.ndarray, accuracy: float, rng) -> list[Vertices] | None:
    levels = []
    while A.shape[1] > 0:
        r = A.shape[1]
        frame, _ = np.linalg.qr(rng.standard_normal((r, r)))
        level = _level(A, accuracy, frame[:, 0], frame[:, 1 % r])
        if level is None:
            return None
        levels.append(level)
        if r <= 2:
            break
        A = A @ frame[:, 2:]
        length = np.linalg.norm(A, axis=1)
        if length.min() < 1e-6:
            return None
        A, accuracy = A / length[:, None], accuracy / length.min()
    return levels


def _level(A: np.ndarray, accuracy: float, c: np.ndarray, b: np.ndarray) -> Vertices | None:
    n, r = A.shape
    rows = choices(n, r - 1)
    if len(rows) == 0:
        return None
    masks = np.empty((len(rows), n), bool)
    for at in range(0, len(rows), CHUNK):
        deadline.require_time()
        T = rows[at : at + CHUNK]
        try:
            inverse = np.linalg.inv(np.concatenate([A[T], np.broadcast_to(c, (len(T), 1, r))], axis=1))
        except np.linalg.LinAlgError:
            return None
        size = np.linalg.norm(inverse, axis=(1, 2))
        if not size.max() < STEEP:
            return None
        ray = inverse[:, :, -1] / np.linalg.norm(inverse[:, :, -1], axis=1, keepdims=True)
        Z = ray @ A.T
        edges = inverse[:, :, :-1]  # column i leaves row i upwards on its own and stays on the others
        up = np.einsum("r,trk->tk", b, edges) / np.linalg.norm(edges, axis=1)
        np.put_along_axis(Z, T, up, axis=1)
        if np.min(np.abs(Z)) < SAFE + 8 * accuracy * size.max():
            return None
        masks[at : at + CHUNK] = Z > 0
    return Vertices(rows, masks)


def choices(n: int, k: int) -> np.ndarray:
    """All k-subsets of range(n), shape (C(n, k), k), subset S at the position that `position` gives it."""
    if k == 0:
        return np.zeros((1, 0), int)
    smaller = choices(n, k - 1)
    counts = np.array([math.comb(m, k - 1) for m in range(n)], int)  # subsets whose largest member is m
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    return np.column_stack([smaller[within], np.repeat(np.arange(n), counts)])


def position(S: np.ndarray) -> np.ndarray:
    """Where the subsets S (..., k), sorted, stand in `choices`: sum_j C(s_j, j + 1)."""
    where = np.zeros(S.shape[:-1], int)
    for j in range(S.shape[-1]):
        term = np.ones_like(where)
        for i in range(j + 1):  # C(s, j + 1) in exact integers
            term = term * (S[..., j] - i) // (i + 1)
        where = where + term
    return where
