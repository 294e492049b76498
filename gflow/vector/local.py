"""The local minimum of 1/2 |theta|^2 near a flow's end, its neurons held in the closed cones of their patterns.

    min 1/2 sum_i |w_i|^2 + |a_i|^2   s.t.   Y o sum_i (D_i X w_i)_ a_i^T >= 1,   (2 D_i - I) X w_i >= 0,

by sequential quadratic programming (SciPy). Where the convex program without cones leads elsewhere than the flow goes,
this stays in its neighbourhood. Source: docs/mathematics.md, "Vector output" and "The max-margin problem and its KKT
points".
"""

from __future__ import annotations

import numpy as np

from gflow.convex.nonnegative import nonnegative
from gflow.vector.kkt import Neurons, Patterns, complement
from gflow.vector.subsampled import Optimum, Path

ALIKE = 0.02
"""Neurons of one pattern whose directions u . u' and v . v' are both within this of 1 start as one."""

VARIABLES = 400
BORDER = 1e-6
"""|x_n . u| below this share of |x_n| at the minimum is on the border of the cone."""

NEAR = 1e-4
"""Margins are met, and tight, up to this: Newton's method says whether the point is one."""

GONE = 1e-7
"""Neurons below this share of the largest mass have vanished at the minimum."""


def local_minimum(X, Y, neurons: Neurons, patterns: Patterns) -> tuple[Optimum, Path] | None:
    """The minimum near `neurons` (q_min > 0), with the patterns of its neurons; None where it was not found.

    A hostile border on which a neuron ends is one that it slides on, a friendly one is crossed.
    """
    from scipy.optimize import minimize

    neurons, patterns = _merged(neurons, patterns)
    (d, k), K = neurons.W.shape, len(neurons.A)
    if not 0 < k * (d + K) <= VARIABLES:
        return None
    rows, cols = np.nonzero(Y)
    y, D = Y[rows, cols], patterns.active.T.astype(float)
    side = np.where(patterns.active, 1.0, -1.0)
    row = np.linalg.norm(X, axis=1)
    cone = [(i, n) for i in range(k) for n in np.flatnonzero(~patterns.sliding[:, i] & (row > 0))]
    held = [(i, n) for i in range(k) for n in np.flatnonzero(patterns.sliding[:, i])]
    normals = {name: _normals(pairs, X, side, d, k, K) for name, pairs in (("ineq", cone), ("eq", held))}

    def split(x):
        return x[: k * d].reshape(k, d), x[k * d :].reshape(k, K)

    def margins(x):
        W, A = split(x)
        return y * ((D * (W @ X.T)).T @ A)[rows, cols] - 1

    def slopes(x):
        W, A = split(x)
        H, J = D * (W @ X.T), np.zeros((len(rows), len(x)))
        J[:, : k * d] = ((y[:, None] * A.T[cols] * D.T[rows])[:, :, None] * X[rows][:, None]).reshape(len(rows), -1)
        for i in range(k):
            J[np.arange(len(rows)), k * d + i * K + cols] = y * H[i, rows]
        return J

    constraints = [{"type": "ineq", "fun": margins, "jac": slopes}]
    constraints += [
        {"type": name, "fun": lambda x, N=N: N @ x, "jac": lambda x, N=N: N} for name, N in normals.items() if len(N)
    ]
    x = np.concatenate([neurons.W.T.ravel(), neurons.A.T.ravel()])
    found = minimize(
        lambda x: 0.5 * x @ x, x, jac=lambda x: x, constraints=constraints, method="SLSQP",
        options={"maxiter": 300, "ftol": 1e-11},
    )  # fmt: skip
    if not np.all(np.isfinite(found.x)) or margins(found.x).min() < -NEAR:
        return None
    W, A = split(found.x)
    mass = np.linalg.norm(W, axis=1) * np.linalg.norm(A, axis=1)
    live = mass > GONE * mass.max()
    W, A, patterns = W[live].T, A[live].T, Patterns(patterns.active[:, live], patterns.sliding[:, live])
    U = W / np.linalg.norm(W, axis=0)
    border = (np.abs(X @ U) <= BORDER * row[:, None]) & (row > 0)[:, None]
    alpha = _multipliers(X, Y, W, A, patterns.active & ~border, border, margins(found.x) <= NEAR, rows, cols)
    if alpha is None:
        return None
    hostile = (Y * alpha) @ A < 0
    on = np.where(border & ~patterns.sliding & ~hostile, ~patterns.active, patterns.active)
    slide = border & (patterns.sliding | hostile)
    crossed = Patterns(on & ~slide, slide)
    return Optimum(Neurons(W, A), np.arange(W.shape[1]), alpha), Path(U, crossed)


def _merged(neurons: Neurons, patterns: Patterns) -> tuple[Neurons, Patterns]:
    """Neurons of one pattern and nearly one direction added up: their sum acts as they do, to second order."""
    U, V = (a / np.linalg.norm(a, axis=0) for a in neurons)
    mass = np.linalg.norm(neurons.W, axis=0) * np.linalg.norm(neurons.A, axis=0)
    left, W, A, of = list(np.argsort(-mass, kind="stable")), [], [], []
    keys = [
        np.concatenate([on, slide]).tobytes() for on, slide in zip(patterns.active.T, patterns.sliding.T, strict=True)
    ]
    while left:
        i = left[0]
        group = [
            j for j in left if keys[j] == keys[i] and U[:, i] @ U[:, j] > 1 - ALIKE and V[:, i] @ V[:, j] > 1 - ALIKE
        ]
        u, v = U[:, group] @ mass[group], V[:, group] @ mass[group]
        size = np.sqrt(mass[group].sum())
        W.append(size * u / np.linalg.norm(u))
        A.append(size * v / np.linalg.norm(v))
        of.append(i)
        left = [j for j in left if j not in group]
    return Neurons(np.stack(W, 1), np.stack(A, 1)), Patterns(patterns.active[:, of], patterns.sliding[:, of])


def _normals(pairs, X, side, d: int, k: int, K: int) -> np.ndarray:
    """Rows +-x_n at the place of w_i, of unit length."""
    N = np.zeros((len(pairs), k * (d + K)))
    for r, (i, n) in enumerate(pairs):
        N[r, i * d : (i + 1) * d] = side[n, i] * X[n] / np.linalg.norm(X[n])
    return N


def _multipliers(X, Y, W, A, active, border, tight, rows, cols) -> np.ndarray | None:
    """alpha (n, K) >= 0 that explains the minimum best: a_i = Lambda^T D_i X w_i, w_i = X^T D_i Lambda a_i within the
    borders on which neuron i lies."""
    rows, cols = rows[tight], cols[tight]
    y, equations, right = Y[rows, cols], [], []
    for i in range(W.shape[1]):
        B = complement(X[border[:, i]])
        on = active[rows, i]
        equations.append((y * on * A[cols, i]) * (X[rows] @ B).T)
        right.append(B.T @ W[:, i])
        out = np.zeros((Y.shape[1], len(rows)))
        out[cols, np.arange(len(rows))] = y * on * (X[rows] @ W[:, i])
        equations.append(out)
        right.append(A[:, i])
    alpha = np.zeros(Y.shape)
    found = nonnegative(np.concatenate(equations), np.concatenate(right), 20 * len(rows) + 100)
    if found is None:
        return None
    alpha[rows, cols] = found
    return alpha
