"""Every face of an arrangement by signs of minors, which are exact: nearly degenerate rows are no special case.

The chirotope of rows A (n, r) is the sign of det A_S for every r-subset S. A ray of the arrangement is orthogonal to
r - 1 independent rows T, and lies on the side sign det(A_T, a_n) of row n. Around a ray the faces are those of the rows
Z that vanish on it, an arrangement of rank r - 1, whose signs are minors too: det(A_S, a_n, a_t) for any row t that
does not vanish. So all faces follow from the chirotope without further geometry. Minors are computed in float64 with an
error bound, and in integers where that does not tell their sign. Source: Bjorner et al., Oriented Matroids, section
3.5; docs/mathematics.md, "The convex program over masks".
"""

from __future__ import annotations

import itertools
import math

import numpy as np

from gflow import deadline
from gflow.convex.exact import integers
from gflow.convex.general_position import choices, position

BLOCK = 2**20
"""Minors that are looked up, or computed in integers, at once."""

SMALLEST = 1e-280
"""Minors below it may have underflown."""


class Chirotope:
    """`signs` (C(n, r),) of det A_S, S at `position(S)`, for A (n, r)."""

    def __init__(self, A: np.ndarray):
        self.n, self.r = A.shape
        whole = integers(A)
        most = max((abs(a) for row in whole for a in row), default=0)
        if math.factorial(self.r) * most**self.r < 2**53:  # nothing is rounded
            self.signs = np.sign(_determinants(np.array(whole, float).reshape(A.shape))[0]).astype(np.int8)
            return
        value, size = _determinants(_scaled(A))
        self.signs = np.sign(value).astype(np.int8)
        unknown = np.flatnonzero(np.abs(value) <= 2 * (self.r + 1) ** 2 * np.finfo(float).eps * size + SMALLEST)
        subsets, numbers = choices(self.n, self.r), np.array(whole, object).reshape(A.shape)
        for some in np.split(unknown, range(BLOCK // 16, len(unknown), BLOCK // 16)):
            deadline.require_time()
            self.signs[some] = _exact_signs(numbers[subsets[some]])

    def of(self, rows: np.ndarray) -> np.ndarray:
        """sign det of rows (..., r) in this order; 0 where one is there twice."""
        ordered = np.sort(rows, axis=-1)
        odd = sum((rows[..., i] > rows[..., j]).astype(np.int8) for i, j in itertools.combinations(range(self.r), 2))
        twice = np.any(ordered[..., 1:] == ordered[..., :-1], axis=-1)
        sign = self.signs[np.where(twice, 0, position(ordered))]
        return np.where(twice, 0, sign * (1 - 2 * (np.asarray(odd) % 2))).astype(np.int8)

    def faces(self, cells_only: bool = False) -> np.ndarray:
        """Sign vectors (F, n) of all faces but the origin, each once; of the cells only if asked. r >= 1."""
        found = self._around(np.arange(self.n), (), (-1, 1) if cells_only else (-1, 0, 1))
        return found[found.any(axis=1)]

    def _around(self, Z: np.ndarray, tail: tuple[int, ...], entries: tuple[int, ...]) -> np.ndarray:
        """Sign vectors (F, len(Z)) of the faces around a flat on which the rows Z vanish and the rows `tail` do not."""
        k = self.r - len(tail)
        rays = self._rays(Z, tail, k)
        origin = np.zeros((1 if 0 in entries else 0, len(Z)), np.int8)
        if k == 1:
            return np.concatenate([origin, rays, -rays])
        found, zero = [origin], rays == 0
        simple = zero.sum(axis=1) == k - 1
        if simple.any():
            corners = np.array(list(itertools.product(entries, repeat=k - 1)), np.int8)
            where = np.nonzero(zero[simple])[1].reshape(-1, 1, k - 1)
            block = np.repeat(rays[simple][:, None, :], len(corners), axis=1)
            np.put_along_axis(block, np.broadcast_to(where, (*block.shape[:2], k - 1)), corners[None], axis=2)
            found.append(block.reshape(-1, len(Z)))
        for ray, on in zip(rays[~simple], zero[~simple], strict=True):
            deadline.require_time()
            local = self._around(Z[on], (int(Z[~on][0]), *tail), entries)
            block = np.repeat(ray[None], len(local), axis=0)
            block[:, on] = local
            found.append(block)
        half = np.concatenate(found)
        return _distinct(np.concatenate([half, -half]))

    def _rays(self, Z: np.ndarray, tail: tuple[int, ...], k: int) -> np.ndarray:
        """Sign vectors (R, len(Z)) of the rays, each line once."""
        chosen = Z[choices(len(Z), k - 1)]
        found = []
        for some in np.split(chosen, range(BLOCK // len(Z) + 1, len(chosen), BLOCK // len(Z) + 1)):
            deadline.require_time()
            rows = np.empty((len(some), len(Z), self.r), int)
            rows[:, :, : k - 1], rows[:, :, k - 1], rows[:, :, k:] = some[:, None], Z, tail
            found.append(self.of(rows))
        signs = np.concatenate(found)
        signs = signs[signs.any(axis=1)]
        first = np.argmax(signs != 0, axis=1)
        return _distinct(signs * signs[np.arange(len(signs)), first][:, None])


def _scaled(A: np.ndarray) -> np.ndarray:
    """Rows, then columns, divided by powers of two: no entry above 1, and no sign of a minor changes."""
    for axis in (1, 0):
        _, exponent = np.frexp(np.max(np.abs(A), axis=axis, keepdims=True))
        A = np.ldexp(A, -exponent)
    return A


def _determinants(A: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(C(n, r),) determinants of all r-subsets of rows, and the sums of the sizes of their terms, column by column."""
    n, r = A.shape
    value, size = np.ones(1), np.ones(1)
    for k in range(1, r + 1):
        subsets, column = choices(n, k), A[:, k - 1]
        new, total = np.zeros(len(subsets)), np.zeros(len(subsets))
        for i in range(k):
            smaller, entry = position(np.delete(subsets, i, axis=1)), column[subsets[:, i]]
            new += (-1) ** (i + k - 1) * entry * value[smaller]
            total += np.abs(entry) * size[smaller]
        value, size = new, total
    return value, size


def _exact_signs(A: np.ndarray) -> np.ndarray:
    """Signs (U,) of the determinants of A (U, r, r), of Python's integers."""
    r = A.shape[1]
    minors: dict[tuple[int, ...], np.ndarray | int] = {(): 1}
    for k in range(1, r + 1):
        minors = {
            S: sum((-1) ** (i + k - 1) * A[:, S[i], k - 1] * minors[S[:i] + S[i + 1 :]] for i in range(k))
            for S in itertools.combinations(range(r), k)
        }
    value = np.asarray(minors[tuple(range(r))])
    return (value > 0).astype(np.int8) - (value < 0).astype(np.int8)


def _distinct(signs: np.ndarray) -> np.ndarray:
    """The distinct rows of `signs` (F, n)."""
    packed = np.packbits(np.concatenate([signs > 0, signs < 0], axis=1), axis=1)
    _, index = np.unique(packed.view([("", packed.dtype)] * packed.shape[1]).ravel(), return_index=True)
    return signs[np.sort(index)]
