"""All activation masks of X: the cells of the central hyperplane arrangement {u : x_n . u = 0}.

In general position there are P = 2 sum_{k<r} C(n-1, k), each found once (`general_position`); otherwise they follow
from the signs of minors (`chirotope`). Source: arXiv 2002.10553, section 2.
"""

from __future__ import annotations

import itertools
import math

import equinox as eqx
import numpy as np

from gflow.convex.chirotope import Chirotope
from gflow.convex.exact import independent_columns, multiples
from gflow.convex.general_position import Vertices, lowest_vertices

ZERO = 1e-12
"""Singular values of unit rows below this share of the largest count as zero: by what rows leave their span then enters
`error`."""

ROUNDING = 16 * np.finfo(float).eps
"""Accuracy of a unit row; a direction found from rows of smallest singular value sigma is known to about 4/sigma times
theirs."""

BUDGET = 2e8
"""Largest number of signs (cells x samples; without general position ray cells x samples) that is enumerated; beyond it
masks are sampled."""

PARALLEL = 1e-15
"""Unit rows that differ by no more than this in every entry are one row."""


class Arrangement(eqx.Module):
    """The distinct masks 1[X u > 0] of the cells.

    `packed` (P, ceil(n/8)) uint8, bits in `np.packbits` order. `complete`: True only if every mask is there; a sampled
    arrangement proves nothing about all directions. `error`: the cells are those of rows that differ from X by at most
    this angle, 0 or a little more than rounding, where rows lie in a smaller space or are equal up to rounding.
    """

    packed: np.ndarray
    n: int = eqx.field(static=True)
    complete: bool = eqx.field(static=True)
    error: float

    @property
    def masks(self) -> np.ndarray:
        """Boolean masks, shape (P, n)."""
        return np.unpackbits(self.packed, axis=1, count=self.n).astype(bool)

    def __len__(self) -> int:
        return self.packed.shape[0]


def count_masks(n: int, r: int) -> int:
    """P = 2 sum_{k<r} C(n-1, k), the number of masks of n rows in general position of rank r >= 1."""
    return 2 * sum(math.comb(n - 1, k) for k in range(r)) if r else 1


def enumerable(n: int, r: int) -> bool:
    """Whether all masks of n rows of rank r fit the memory budget, ray by ray."""
    return math.comb(n, max(r - 1, 0)) * 2**r * n <= BUDGET


class Lines(eqx.Module):
    """Rows by the line they span: row n is `sign[n]` times row `first[line[n]]`, up to rounding; sign 0 for a zero row.

    Data with equal or antipodal rows are in general position as often as others once each line is counted once.
    """

    first: np.ndarray
    line: np.ndarray
    sign: np.ndarray

    apart: float
    """By how much rows of one line differ."""

    def expand(self, masks: np.ndarray) -> np.ndarray:
        """Masks (P, n) of the rows from masks of the lines."""
        return (masks[:, self.line] == (self.sign > 0)) & (self.sign != 0)

    def active(self, signs: np.ndarray) -> np.ndarray:
        """Masks (P, n) of the rows from the sides (P, lines) of the lines: on its hyperplane a row is off."""
        return signs[:, self.line] * self.sign > 0


def lines(rows: np.ndarray) -> Lines:
    """The distinct lines of unit rows (n, d), equal up to PARALLEL."""
    live = np.any(rows != 0, axis=1)
    lead = np.argmax(np.abs(rows) > 1e-3 / np.sqrt(rows.shape[1]), axis=1)
    sign = np.where(live, np.sign(rows[np.arange(len(rows)), lead]), 0.0)
    key = np.round(rows * np.where(live, sign, 1.0)[:, None] / PARALLEL) * PARALLEL + 0.0
    _, first, line = np.unique(key[live], axis=0, return_index=True, return_inverse=True)
    where = np.flatnonzero(live)
    full = np.zeros(len(rows), int)
    full[where] = line
    sign = sign * np.where(live, sign[where[first]][full] if len(first) else 1.0, 0.0)
    lead = rows[where[first]][full] if len(first) else rows
    return Lines(
        where[first], full, sign, float(np.max(np.linalg.norm(sign[:, None] * rows - lead, axis=1)[live], initial=0.0))
    )


def unit_rows(X: np.ndarray) -> np.ndarray:
    """x_n / |x_n|, zero rows as they are: masks do not depend on the lengths of rows, however different they are."""
    X = X / np.maximum(np.max(np.abs(X), axis=1, keepdims=True), np.finfo(float).tiny)
    norms = np.linalg.norm(X, axis=1, keepdims=True)
    return X / np.where(norms > 0, norms, 1.0)


def row_space(rows: np.ndarray) -> tuple[np.ndarray, float, float]:
    """An orthonormal basis (d, r) of the span of unit rows (n, d): masks depend on u through it only.

    Also the smallest singular value that was kept, and the largest distance of a row from the span.
    """
    if not rows.any():
        return np.zeros((rows.shape[1], 0)), 1.0, 0.0
    _, sigma, Vt = np.linalg.svd(rows, full_matrices=False)
    kept = sigma > ZERO * sigma[0]
    basis = Vt[kept].T
    return basis, float(sigma[kept][-1]), float(np.max(np.linalg.norm(rows - (rows @ basis) @ basis.T, axis=1)))


def arrangement(X, *, samples: int = 4096, seed: int = 0) -> Arrangement:
    """The masks of X (n, d): all of them where they fit the budget, else those of `samples` gaussian directions.

    Zero rows have mask 0. Duplicate, parallel, rank-deficient rows and several hyperplanes through one ray are right.
    """
    X = np.asarray(X, float)
    rows = unit_rows(X)
    basis, _, outside = row_space(rows)
    distinct = lines(rows)
    found = generic(rows, basis, outside, distinct)
    if found is not None:
        half = np.concatenate([level.masks for level in found])
        masks = distinct.expand(np.concatenate([half, ~half]))
        return Arrangement(np.packbits(masks, axis=1), X.shape[0], True, outside + distinct.apart)
    if basis.shape[1] == 0:
        return Arrangement(np.packbits(np.zeros((1, len(X)), bool), axis=1), X.shape[0], True, 0.0)
    if enumerable(len(distinct.first), basis.shape[1]):
        spanning, _, outside = coordinates(X, rows, basis.shape[1])
        signs = Chirotope(spanning[distinct.first]).faces(cells_only=True)
        packed = np.packbits(distinct.expand(signs > 0), axis=1)
        return Arrangement(packed, X.shape[0], True, outside + distinct.apart)
    return Arrangement(np.packbits(sampled_masks(X, samples, seed), axis=1), X.shape[0], False, np.inf)


def coordinates(X: np.ndarray, rows: np.ndarray, r: int) -> tuple[np.ndarray, np.ndarray | None, float]:
    """Columns of X (n, d), as they are, whose arrangement is that of X up to an angle: (A (n, r), M (r, d), the angle).

    All of them where rank X = d, and M None. Otherwise r independent ones; X is A M but for the angle. `rows` (n, d):
    the unit rows.
    """
    if r == X.shape[1]:
        return X, None, 0.0
    from scipy.linalg import qr

    *_, order = qr(rows, mode="r", pivoting=True)
    chosen = np.sort(order[:r])
    linear, *_ = np.linalg.lstsq(rows[:, chosen], rows, rcond=None)
    off = np.linalg.norm(rows[:, chosen] @ linear - rows, axis=1)
    return X[:, chosen], linear, float(np.max(off)) + ROUNDING


def gate_masks(X, *, samples: int = 4096, seed: int = 0, sampled: bool = False) -> Arrangement:
    """The masks 1[x_n . u > 0] of all vectors u of R^d, those on hyperplanes too: every gate that can be on X (n, d).

    A gate counts for itself however few u have it, so that nothing is decided up to rounding: rows are taken as they
    are, to the last bit (`error` 0). Where the list would not fit the budget, or if asked, the masks of `samples`
    gaussian directions, and `complete` is False.
    """
    X = np.asarray(X, float)
    listed = None if sampled else _listed_gates(X)
    if listed is None:
        return Arrangement(np.packbits(sampled_masks(X, samples, seed), axis=1), len(X), False, np.inf)
    return Arrangement(np.unique(np.packbits(listed, axis=1), axis=0), len(X), True, 0.0)


def _listed_gates(X: np.ndarray) -> np.ndarray | None:
    rows = unit_rows(X)
    basis, _, outside = row_space(rows)
    lead, sign = multiples(X)
    first = np.unique(lead[sign != 0])
    if len(first) == 0:
        return np.zeros((1, len(X)), bool)
    own = Lines(first, np.searchsorted(first, lead) * (sign != 0), sign, 0.0)
    columns = independent_columns(X[first]) if basis.shape[1] < X.shape[1] else np.arange(X.shape[1])
    r = len(columns)
    found = generic(rows, basis, outside, own) if r == basis.shape[1] else None
    if found is not None:
        return np.concatenate([_open(level, own) for level in found])
    if math.comb(len(first), r - 1) * 3**r * len(X) > BUDGET:
        return None
    return own.active(Chirotope(X[first][:, columns]).faces())


def _open(level: Vertices, own: Lines) -> np.ndarray:
    """Masks of the faces at these vertices and of their opposites: rows on whose hyperplane a face lies are closed.

    With all rows of one sign per line such a mask is that of a cell beside the face.
    """
    k, masks = level.rows.shape[1], []
    alone = np.all(own.sign >= 0)
    for kept in itertools.product((False,) if alone else (False, True), repeat=k):
        on = np.zeros(level.masks.shape, bool)
        np.put_along_axis(on, level.rows[:, np.array(kept, bool)], True, axis=1)
        masks += [own.expand(half) & ~on[:, own.line] for half in (level.masks, ~level.masks)]
    return np.concatenate(masks)


def sampled_masks(X: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """The distinct masks (P, n) of gaussian directions and of their opposites; more samples have those of fewer."""
    U = np.random.default_rng(seed).standard_normal((samples, X.shape[1]))
    Z = U @ X.T
    packed = np.unique(np.packbits(np.vstack([Z > 0, Z < 0]), axis=1), axis=0)
    return np.unpackbits(packed, axis=1, count=X.shape[0]).astype(bool)


def generic(rows: np.ndarray, basis: np.ndarray, outside: float, distinct: Lines) -> list[Vertices] | None:
    """The lowest vertices of the distinct lines, None if these are not in general position or too many."""
    n, r = len(distinct.first), basis.shape[1]
    if r == 0 or 0.5 * count_masks(n, r) * len(rows) > BUDGET:
        return None
    A = rows[distinct.first] @ basis
    length = np.linalg.norm(A, axis=1)
    return lowest_vertices(A / length[:, None], ROUNDING + PARALLEL + outside) if length.min() > 0.5 else None
