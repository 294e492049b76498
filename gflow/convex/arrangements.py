"""All activation masks of X: the cells of the central hyperplane arrangement {u : x_n . u = 0}.

In general position there are P = 2 sum_{k<r} C(n-1, k), each found once (`general_position`). Otherwise: every cell of
an arrangement of full rank r is a pointed cone, so it is found at each of its rays: a ray is the null space of r - 1
independent rows, and around it the cells are those of the rows that vanish on it, an arrangement of rank r - 1.
Source: arXiv 2002.10553, section 2.
"""

from __future__ import annotations

import itertools
import math

import equinox as eqx
import numpy as np

from gflow import deadline
from gflow.convex.general_position import Vertices, lowest_vertices

ZERO = 1e-12
"""|x_n . v| <= ZERO |x_n||v| counts as v lying on the hyperplane of x_n; more where v is known less well."""

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
    arrangement proves nothing about all directions. `error`: cells narrower than this angle may be missing, as where
    rows are parallel or concurrent up to rounding.
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

    def expand(self, masks: np.ndarray) -> np.ndarray:
        """Masks (P, n) of the rows from masks of the lines."""
        return (masks[:, self.line] == (self.sign > 0)) & (self.sign != 0)


def lines(rows: np.ndarray) -> Lines:
    """The distinct lines of unit rows (n, d)."""
    live = np.any(rows != 0, axis=1)
    lead = np.argmax(np.abs(rows) > 1e-3 / np.sqrt(rows.shape[1]), axis=1)
    sign = np.where(live, np.sign(rows[np.arange(len(rows)), lead]), 0.0)
    key = np.round(rows * np.where(live, sign, 1.0)[:, None] / PARALLEL) * PARALLEL + 0.0
    _, first, line = np.unique(key[live], axis=0, return_index=True, return_inverse=True)
    where = np.flatnonzero(live)
    full = np.zeros(len(rows), int)
    full[where] = line
    return Lines(where[first], full, sign * np.where(live, sign[where[first]][full] if len(first) else 1.0, 0.0))


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
        return Arrangement(np.packbits(masks, axis=1), X.shape[0], True, outside)
    if enumerable(X.shape[0], basis.shape[1]):
        signs, error = cells(*restricted(rows, basis, np.full(len(rows), ROUNDING + outside)))
        return Arrangement(np.packbits(signs > 0, axis=1), X.shape[0], True, max(error, outside))
    return Arrangement(np.packbits(sampled_masks(X, samples, seed), axis=1), X.shape[0], False, np.inf)


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


def restricted(rows: np.ndarray, basis: np.ndarray, accuracy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows as unit functionals on span(basis), zero where they vanish there, and how accurately they are known."""
    A = rows @ basis
    norms = np.linalg.norm(A, axis=1)
    live = norms > np.maximum(ZERO, 4 * accuracy)
    safe = np.where(live, norms, 1.0)
    return np.where(live[:, None], A / safe[:, None], 0.0), np.where(live, accuracy / safe, 0.0)


def cells(A: np.ndarray, accuracy: np.ndarray) -> tuple[np.ndarray, float]:
    """Sign vectors (P, n) in {-1, 0, +1} of all cells of the rows of A (n, r), rank A = r; 0 only for zero rows.

    Rows are units or zero and known to within `accuracy` (n,). The second result bounds the angle of missing cells.
    """
    n, r = A.shape
    if r == 0:
        return np.zeros((1, n), np.int8), 0.0
    if r == 1:
        sign = np.sign(A[:, 0]).astype(np.int8)
        return np.stack([sign, -sign]), 0.0
    found = []
    corners = np.array(list(itertools.product((-1, 1), repeat=r - 1)), np.int8)
    live = np.any(A != 0, axis=1)
    rays, known, error = null_rays(A, accuracy)
    if len(rays) == 0:  # all rows are parallel up to rounding, or none is left: nothing is proved
        signs = np.sign(A @ A.sum(axis=0)).astype(np.int8)
        return np.stack([signs, -signs]), np.inf
    Z = A @ rays.T  # (n, R)
    on = np.abs(Z) <= np.maximum(ZERO, known + accuracy[:, None])
    signs = np.where(on, 0, np.sign(Z)).astype(np.int8).T  # (R, n)
    simple = (on.T & live).sum(axis=1) == r - 1
    if simple.any():
        which = np.nonzero((signs[simple] == 0) & live)[1].reshape(-1, r - 1)
        block = np.repeat(signs[simple][:, None, :], len(corners), axis=1)  # (R, 2^{r-1}, n)
        np.put_along_axis(
            block, np.broadcast_to(which[:, None, :], (*block.shape[:2], r - 1)),
            np.broadcast_to(corners, (*block.shape[:2], r - 1)), axis=2,
        )  # fmt: skip
        block = block.reshape(-1, n)
        found += [block, -block]
    for index in _first_by_zero_set(signs, ~simple):
        deadline.require_time()
        through = (signs[index] == 0) & live
        offset = np.max(np.abs(Z[through, index]))
        # orthogonal to the ray: rows that only nearly pass it would else span one dimension more, for ever
        around = A[through] - np.outer(Z[through, index], rays[index])
        basis, sigma, outside = row_space(around)
        local, inside = cells(*restricted(around, basis, accuracy[through] + offset + outside))
        # rows that pass the ray at this offset bound cells of this size
        error = max(error, inside, (offset + outside) / sigma)
        block = np.repeat(signs[index][None], len(local), axis=0)
        block[:, through] = local
        found += [block, -block]
    return _distinct(np.concatenate(found)), float(error)


def null_rays(A: np.ndarray, accuracy: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Unit vectors (R, r) spanning the null spaces of r - 1 independent rows of A, one per choice of rows.

    Also how accurately each is known (R,), and the largest singular value that counted as zero.
    """
    r = A.shape[1]
    live = np.flatnonzero(np.any(A != 0, axis=1))
    choices = np.array(list(itertools.combinations(live, r - 1)), int).reshape(-1, r - 1)
    rays, known, error = [], [], 0.0
    for block in np.array_split(choices, max(1, len(choices) // 50_000)):
        deadline.require_time()
        _, sigma, Vt = np.linalg.svd(A[block], full_matrices=True)
        least, rough = sigma[:, -1], 4 * accuracy[block].max(axis=1)
        independent = least > np.maximum(ZERO, rough)
        rays.append(Vt[independent, -1])
        known.append(rough[independent] / least[independent])
        error = max(error, least[~independent].max(initial=0.0))
    return np.concatenate(rays), np.concatenate(known), error


def _first_by_zero_set(signs: np.ndarray, candidates: np.ndarray) -> list[int]:
    """One index per distinct zero set among the candidate rays (a crowded ray is met once per choice of rows)."""
    seen: dict[bytes, int] = {}
    for index in np.flatnonzero(candidates):
        seen.setdefault(np.packbits(signs[index] == 0).tobytes(), int(index))
    return list(seen.values())


def _distinct(signs: np.ndarray) -> np.ndarray:
    """Distinct rows. Two cells of one arrangement differ in the sign of a row that is not zero."""
    _, index = np.unique(np.packbits(signs > 0, axis=1), axis=0, return_index=True)
    return signs[np.sort(index)]
