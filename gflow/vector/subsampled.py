"""The max-margin program of K outputs with given patterns, whose cones are left out, and the neurons of its optimum.

    max <Lambda, Y>   s.t.  Lambda o Y >= 0,  |B_j^T X^T D_j Lambda|_2 <= 1 for every pattern j,

B_j a basis of the hyperplanes on which it slides. The spectral norm is at most 1 iff [[I, C], [C^T, I]] is positive
semidefinite; the multipliers of these matrices are the neurons, M_j = sum_i w_i a_i^T. A neuron that has left the cone
of its pattern says which pattern comes next. Source: docs/mathematics.md, "Vector output"; arXiv 2006.05900, section 3.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from gflow import deadline
from gflow.convex.threads import one_thread
from gflow.vector.kkt import Neurons, Patterns, complement

SMALL = 1e-7
"""Singular values below this share of the largest are no neurons,"""

OUTSIDE = 1e-7
"""and |x_n . u| below this share of |x_n| is no crossing."""

ENTRIES = 2e6
"""Largest number of entries of the semidefinite constraints."""


class Optimum(NamedTuple):
    """`neurons` and `origin` (k,), the pattern that each comes from; `alpha` (n, K)."""

    neurons: Neurons
    origin: np.ndarray
    alpha: np.ndarray


@one_thread
def solve_subsampled(X, Y, patterns: Patterns) -> Optimum | None:
    """The optimum over these (distinct) patterns; None where they cannot fit the data or it was not solved."""
    import clarabel as cl
    import scipy.sparse as sp

    clarabel: Any = cl  # its stubs name none of its classes
    K, d = Y.shape[1], X.shape[1]
    rows, cols = np.nonzero(Y)
    count = len(rows)
    bases = [complement(X[slide]) for slide in patterns.sliding.T]
    if sum(B.shape[1] for B in bases) * K * count > ENTRIES:
        return None
    matrix, right, cones = [-sp.eye_array(count, format="csc")], [np.zeros(count)], [clarabel.NonnegativeConeT(count)]
    places = []
    for B, on in zip(bases, patterns.active.T, strict=True):
        r = B.shape[1]
        triangle = (r + K) * (r + K + 1) // 2
        i, j = np.meshgrid(np.arange(r), r + np.arange(K), indexing="ij")
        place = j * (j + 1) // 2 + i  # (r, K)
        entries = np.sqrt(2.0) * (X @ B)[rows] * (on[rows] * Y[rows, cols])[:, None]  # (count, r)
        matrix.append(
            sp.csc_array(
                (-entries.ravel(), (place[:, cols].T.ravel(), np.repeat(np.arange(count), r))), shape=(triangle, count)
            )
        )
        b = np.zeros(triangle)
        diagonal = np.arange(r + K)
        b[diagonal * (diagonal + 1) // 2 + diagonal] = 1.0
        right.append(b)
        cones.append(clarabel.PSDTriangleConeT(r + K))
        places.append(place)
    settings = clarabel.DefaultSettings()
    settings.verbose, settings.max_threads = False, 1
    settings.time_limit = deadline.left()
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-10
    A, b = sp.csc_matrix(sp.vstack(matrix)), np.concatenate(right)
    solution = clarabel.DefaultSolver(sp.csc_matrix((count, count)), -np.ones(count), A, b, cones, settings).solve()
    if str(solution.status) not in ("Solved", "AlmostSolved", "InsufficientProgress"):
        return None
    x, z = np.asarray(solution.x), np.asarray(solution.z)
    if not (np.all(np.isfinite(x)) and np.all(np.isfinite(z))):
        return None
    alpha = np.zeros(Y.shape)
    alpha[rows, cols] = np.maximum(x, 0.0)
    at, blocks = count, []
    for B, place in zip(bases, places, strict=True):
        blocks.append(B @ (-np.sqrt(2.0) * z[at + place]) if place.size else np.zeros((d, K)))
        at += (B.shape[1] + K) * (B.shape[1] + K + 1) // 2
    return Optimum(*_neurons(X, blocks, patterns), alpha)


def _neurons(X, blocks: list[np.ndarray], patterns: Patterns) -> tuple[Neurons, np.ndarray]:
    """Balanced neurons with sum_i w_i a_i^T = M_j, each with the sign that fits its pattern best."""
    parts, origin = [], []
    largest = max((np.linalg.norm(M, 2) for M in blocks), default=0.0)
    for j, M in enumerate(blocks):
        P, sizes, Qt = np.linalg.svd(M, full_matrices=False)
        keep = sizes > SMALL * largest
        P, root, Q = P[:, keep], np.sqrt(sizes[keep]), Qt[keep].T
        side = np.where(patterns.sliding[:, [j]], 0.0, np.where(patterns.active[:, [j]], 1.0, -1.0) * (X @ P))
        sign = np.where(np.minimum(side, 0).sum(axis=0) >= np.minimum(-side, 0).sum(axis=0), 1.0, -1.0)
        parts.append((P * sign * root, Q * sign * root))
        origin += [j] * int(keep.sum())
    W, A = (np.concatenate(list(p), axis=1) for p in zip(*parts, strict=True))
    return Neurons(W, A), np.array(origin, int)


class Path(NamedTuple):
    """Where neurons are on their way: directions `U` (d, k), and their `patterns`."""

    U: np.ndarray
    patterns: Patterns


def onward(X, Lam, optimum: Optimum, path: Path) -> tuple[Path, bool]:
    """The path up to the first border that a neuron meets on its way to the optimum, and whether it met one.

    Neurons move from the direction of their pattern towards that of the optimum. A hostile border, (Lambda a)_n < 0, is
    slid on from there; a friendly one is crossed. Patterns without a neuron in the optimum stay where they are, behind
    the others.
    """
    W, A = optimum.neurons
    here, there = path.U[:, optimum.origin], W / np.linalg.norm(W, axis=0)
    on, slide = path.patterns.active[:, optimum.origin], path.patterns.sliding[:, optimum.origin]
    side, size = np.where(on, 1.0, -1.0), np.linalg.norm(X, axis=1)[:, None]
    before, after = np.maximum(side * (X @ here), 0.0), side * (X @ there)
    behind = ~slide & (after < -OUTSIDE * size)
    when = np.where(behind, before / np.where(behind, before - after, 1.0), np.inf)
    first = min(float(when.min(initial=np.inf)), 1.0)
    met, hostile = behind & (when <= first), Lam @ A < 0
    on, slide = on ^ (met & ~hostile) & ~(met & hostile), slide | (met & hostile)
    idle = np.setdiff1d(np.arange(path.U.shape[1]), optimum.origin)
    U = np.hstack([_inside(X, (1 - first) * here + first * there, slide), path.U[:, idle]])
    on = np.hstack([on, path.patterns.active[:, idle]])
    slide = np.hstack([slide, path.patterns.sliding[:, idle]])
    return Path(U, Patterns(on & ~slide, slide)), bool(met.any())


def released(optimum: Optimum, path: Path, slopes) -> tuple[Path, bool]:
    """The path after neurons have left hyperplanes on which their least-norm velocity does not hold them, where its
    slope, `slopes` (n, k), is at an end of [0, 1]; and whether one has. `path` is that of the optimum's neurons."""
    slide = path.patterns.sliding[:, : len(optimum.origin)]
    leaves = slide & ((slopes <= 0) | (slopes >= 1))
    on, slide = path.patterns.active.copy(), path.patterns.sliding.copy()
    on[:, : leaves.shape[1]] |= leaves & (slopes >= 1)
    slide[:, : leaves.shape[1]] &= ~leaves
    return Path(path.U, Patterns(on, slide)), bool(leaves.any())


def _inside(X, U, sliding):
    """Unit vectors, projected onto the hyperplanes on which they slide."""
    U = np.stack([B @ (B.T @ u) for u, B in ((u, complement(X[s])) for u, s in zip(U.T, sliding.T, strict=True))], 1)
    return U / np.maximum(np.linalg.norm(U, axis=0), 1e-300)


def distinct(path: Path) -> Path:
    """Every pattern once, the first neuron's direction with it, in the same order."""
    _, first = np.unique(np.concatenate(path.patterns), axis=1, return_index=True)
    first = np.sort(first)
    return Path(path.U[:, first], Patterns(path.patterns.active[:, first], path.patterns.sliding[:, first]))
