"""Bounds in any dimension: a semidefinite relaxation of max_u |lambda^T (X u)_+|, and of P* itself.

For sign s let F = {n : s lambda_n > 0}, H = {n : s lambda_n < 0}, A = rows |lambda_n| x_n over F, C the same over H.
For theta in [0,1]^H, mu in R^F and t with

    M = [ I       A^T       -C^T theta ]
        [ A       diag(mu)  -mu/2      ]  positive semidefinite,      max_{|u|<=1} s lambda^T (X u)_+ <= sqrt(t).
        [   .       .       t          ]

With alpha and theta o alpha as variables, t = 1 and both signs, the largest sum of alpha is a lower bound on P*.
Clarabel proposes (mu, theta); `proved` turns any proposal into a bound that holds. Source: docs/mathematics.md, "A
bound in any dimension"; the relaxation is Shor's for z in {0,1}^F, z^T A u being the convex part of the dual
constraint.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gflow import deadline
from gflow.convex.threads import one_thread

LARGEST = 90
"""Largest size of M that is given to the solver: its work grows like the sixth power."""


class Proposal(NamedTuple):
    """`mu` (F,), `theta` (H,) for one sign; `t` what they are meant to reach."""

    mu: np.ndarray
    theta: np.ndarray
    t: float


def sides(lam: np.ndarray, s: float) -> tuple[np.ndarray, np.ndarray]:
    """Indices F and H of sign s."""
    return np.flatnonzero(s * lam > 0), np.flatnonzero(s * lam < 0)


@one_thread
def proved(X: np.ndarray, lam: np.ndarray, s: float, proposal: Proposal) -> float:
    """An upper bound of max_{|u|<=1} s lambda^T (X u)_+ that holds whatever was proposed.

    With e = max(0, -smallest eigenvalue of M) plus rounding, M + e I is positive semidefinite, and then the square of
    the maximum is at most (1 + e)(t + e (1 + |F|)).
    """
    F, H = sides(lam, s)
    A, C = np.abs(lam[F])[:, None] * X[F], np.abs(lam[H])[:, None] * X[H]
    d, k = X.shape[1], len(F)
    M = np.zeros((d + k + 1, d + k + 1))
    M[:d, :d], M[d : d + k, :d] = np.eye(d), A
    M[d : d + k, d : d + k], M[-1, d : d + k] = np.diag(proposal.mu), -0.5 * proposal.mu
    M[-1, :d], M[-1, -1] = -np.clip(proposal.theta, 0.0, 1.0) @ C, proposal.t
    if not np.all(np.isfinite(M)):
        return float(np.inf)
    least = np.linalg.eigvalsh(M)[0]
    # rounding: of the eigenvalues, and of the entries of M, sums of |H| products
    rounding = np.finfo(float).eps * (4 * len(M) * np.linalg.norm(M) + 4 * (len(H) + 1) * np.linalg.norm(C))
    e = max(0.0, -least) + rounding
    return float(np.sqrt((1 + e) * (proposal.t + e * (1 + k))))


def bound_of_dual(X: np.ndarray, lam: np.ndarray) -> float:
    """A proved upper bound of max_{|u|<=1} |lambda^T (X u)_+| for one lambda (n,); infinite if none was found.

    Samples without a multiplier do not enter: the size is the number of support vectors.
    """
    live = (lam != 0) & np.any(X != 0, axis=1)
    X, lam = X[live], lam[live]
    if not live.any():
        return 0.0
    if deadline.passed():
        return np.inf
    # first to size 1: of multipliers like 1e-320 a product with X would be 0
    top = np.max(np.abs(lam))
    lam = lam / top
    scale = float(np.linalg.norm(lam @ X) + np.linalg.norm(np.abs(lam) @ np.abs(X)))
    if scale == 0:
        return np.inf
    worst = 0.0
    for s in (1.0, -1.0):
        F, _ = sides(lam, s)
        if len(F) == 0:
            continue
        if _size(X, len(F)) > LARGEST:
            return np.inf
        proposal = _one_sign(_reduced(X), lam / scale, s)
        worst = max(worst, np.inf if proposal is None else scale * proved(X, lam / scale, s, proposal))
    return float(np.nextafter(top * worst, np.inf))


class Lower(NamedTuple):
    """P* >= `value` at every width, with multipliers `alpha` (n,) of this sum that are feasible for the whole dual."""

    value: float
    alpha: np.ndarray


def lower_bound(X: np.ndarray, y: np.ndarray, weight: np.ndarray | None = None) -> Lower | None:
    """A proved lower bound on P*; None if nothing was found.

    `weight` (n,): of samples that are likely to have a multiplier, for instance those of a good network. Samples of
    weight 0 get none, and where the program would be too large only the heaviest of each class take part.
    """
    weight = np.ones(len(y)) if weight is None else weight
    rows = _chosen(X, y, weight)
    if not rows.any():
        return None
    scale = np.max(np.linalg.norm(X[rows], axis=1))
    if scale == 0:
        return None
    found = _both_signs(_reduced(X[rows] / scale), y[rows])
    if found is None:
        return None
    alpha, proposals = found
    bounds = [
        proved(X[rows] / scale, y[rows] * alpha, s, p) if np.any(s * y[rows] * alpha > 0) else 0.0
        for s, p in proposals.items()
    ]
    B = max(bounds)
    if not (np.isfinite(B) and B > 0):
        return None
    full = np.zeros(len(y))
    full[rows] = alpha / (B * scale)
    return Lower(float(full.sum()), full)


def _chosen(X: np.ndarray, y: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The heaviest samples of each class, as many as fit."""
    order = np.argsort(-weight, kind="stable")
    for most in range(len(y), 0, -1):
        rows = np.zeros(len(y), bool)
        for s in (1, -1):
            rows[order[(y[order] == s) & (weight[order] > 0)][:most]] = True
        if max(_size(X[rows], int(np.sum(y[rows] == s))) for s in (1, -1)) <= LARGEST:
            return rows
    return np.zeros(len(y), bool)


def _size(X: np.ndarray, k: int) -> int:
    return min(X.shape) + k + 1


def _reduced(X: np.ndarray) -> np.ndarray:
    """X in coordinates of its row space."""
    if X.shape[1] <= X.shape[0]:
        return X
    _, R = np.linalg.qr(X.T)
    return R.T


def _one_sign(X: np.ndarray, lam: np.ndarray, s: float) -> Proposal | None:
    """min t over (mu, theta, t)."""
    F, H = sides(lam, s)
    d, k, h = X.shape[1], len(F), len(H)
    block = _Block(d, k)
    A, C = np.abs(lam[F])[:, None] * X[F], np.abs(lam[H])[:, None] * X[H]
    block.constant(np.arange(d), np.arange(d), np.ones(d))
    for j in range(d):
        block.constant(np.full(k, j), d + np.arange(k), A[:, j])
    _mu(block, 0, d, k)
    for j in range(d):
        block.entry(k + np.arange(h), np.full(h, j), np.full(h, d + k), -C[:, j])
    block.entry([k + h], [d + k], [d + k], [1.0])
    cost = np.append(np.zeros(k + h), 1.0)
    x = _solve(cost, [block], np.vstack([np.eye(k + h + 1)[k : k + h], -np.eye(k + h + 1)[k : k + h]]), h)
    return None if x is None else Proposal(x[:k], np.clip(x[k : k + h], 0.0, 1.0), float(x[-1]))


def _both_signs(X: np.ndarray, y: np.ndarray):
    """max 1^T alpha: (alpha, {s: Proposal})."""
    n, d = X.shape
    at, blocks, bounds, places = n, [], [], {}
    for s in (1.0, -1.0):
        F, H = sides(y, s)
        k, h = len(F), len(H)
        mu, beta = at, at + k
        at += k + h
        places[s] = (F, H, mu, beta)
        block = _Block(d, k)
        block.constant(np.arange(d), np.arange(d), np.ones(d))
        block.constant([d + k], [d + k], [1.0])
        for j in range(d):
            block.entry(F, np.full(k, j), d + np.arange(k), X[F, j])
            block.entry(beta + np.arange(h), np.full(h, j), np.full(h, d + k), -X[H, j])
        _mu(block, mu, d, k)
        blocks.append(block)
        bounds += [(beta + i, H[i]) for i in range(h)]
    low = np.zeros((n + 2 * len(bounds), at))
    low[np.arange(n), np.arange(n)] = 1.0
    for i, (b, a) in enumerate(bounds):
        low[n + 2 * i, b] = 1.0
        low[n + 2 * i + 1, [a, b]] = 1.0, -1.0
    x = _solve(np.append(-np.ones(n), np.zeros(at - n)), blocks, low, 0)
    if x is None:
        return None
    alpha = np.maximum(x[:n], 0.0)
    alpha[alpha < 1e-9 * alpha.max()] = 0.0
    proposals = {}
    for s, (F, H, mu, beta) in places.items():
        kept, held = alpha[F] > 0, alpha[H] > 0
        theta = x[beta : beta + len(H)][held] / alpha[H][held]
        proposals[s] = Proposal(x[mu : mu + len(F)][kept], np.clip(theta, 0.0, 1.0), 1.0)
    return alpha, proposals


class _Block:
    """The matrix M of one sign as Clarabel wants it: its upper triangle by columns, off-diagonals times sqrt 2."""

    def __init__(self, d: int, k: int):
        self.size = d + k + 1
        self.fixed: list[tuple] = []
        self.terms: list[tuple] = []

    def _place(self, i, j):
        i, j = np.minimum(i, j), np.maximum(i, j)
        return j * (j + 1) // 2 + i, np.where(i == j, 1.0, np.sqrt(2.0))

    def constant(self, i, j, value) -> None:
        place, weight = self._place(np.asarray(i), np.asarray(j))
        self.fixed.append((place, weight * np.asarray(value)))

    def entry(self, variable, i, j, value) -> None:
        place, weight = self._place(np.asarray(i), np.asarray(j))
        self.terms.append((place, np.asarray(variable), weight * np.asarray(value)))


def _mu(block: _Block, first: int, d: int, k: int) -> None:
    each = np.arange(k)
    block.entry(first + each, d + each, d + each, np.ones(k))
    block.entry(first + each, d + each, np.full(k, d + k), np.full(k, -0.5))


def _solve(cost: np.ndarray, blocks: list[_Block], low: np.ndarray, ones: int) -> np.ndarray | None:
    """min cost . x  s.t.  low x + (0, .., 0, 1, .., 1 (`ones` of them)) >= 0, every block positive semidefinite."""
    import clarabel as cl
    import scipy.sparse as sp

    clarabel: Any = cl  # its stubs name none of its classes

    right = [np.concatenate([np.zeros(len(low) - ones), np.ones(ones)])]
    matrix, cones = [sp.csc_array(-low)], [clarabel.NonnegativeConeT(len(low))]
    for block in blocks:
        rows = block.size * (block.size + 1) // 2
        b = np.zeros(rows)
        for place, value in block.fixed:
            b[place] = value
        place, variable, value = (np.concatenate([t[i] for t in block.terms]) for i in range(3))
        matrix.append(sp.csc_array((-value, (place, variable)), shape=(rows, len(cost))))
        right.append(b)
        cones.append(clarabel.PSDTriangleConeT(block.size))
    settings = clarabel.DefaultSettings()
    settings.verbose, settings.max_threads = False, 1
    settings.time_limit = deadline.left()
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-10
    A, b = sp.csc_matrix(sp.vstack(matrix)), np.concatenate(right)
    solution = clarabel.DefaultSolver(sp.csc_matrix((len(cost), len(cost))), cost, A, b, cones, settings).solve()
    x = np.asarray(solution.x)
    return x if np.all(np.isfinite(x)) and str(solution.status) in ACCEPTED else None


ACCEPTED = ("Solved", "AlmostSolved", "MaxIterations", "MaxTime", "InsufficientProgress")
"""A proposal need not be optimal: it is judged by `proved`."""
