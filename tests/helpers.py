"""Plain NumPy and SciPy references, written from the formulas and sharing no code with gflow."""

import numpy as np
from scipy.optimize import linprog, minimize


def margins(X, y, W1, w2):
    """q_n by three nested loops."""
    q = np.zeros(len(y))
    for n in range(len(y)):
        for i in range(len(w2)):
            z = sum(X[n, j] * W1[j, i] for j in range(X.shape[1]))
            q[n] += y[n] * w2[i] * max(z, 0.0)
    return q


def logistic_loss(q):
    return sum(np.log1p(np.exp(-v)) for v in q)


def exponential_loss(q):
    return sum(np.exp(-v) for v in q)


def dual_function(X, lam, u):
    """|lambda^T (X u)_+|."""
    return abs(lam @ np.maximum(X @ u, 0.0))


def dual_maximum_on_circle(X, lam):
    """max over the unit circle of |lambda^T (X u)_+|, d = 2: a fine grid refined by golden section."""
    angles = np.linspace(0, 2 * np.pi, 20001)
    U = np.stack([np.cos(angles), np.sin(angles)])
    values = np.abs(lam @ np.maximum(X @ U, 0.0))
    best = values.max()
    for k in np.argsort(-values)[:20]:
        low, high = angles[k] - 4e-4, angles[k] + 4e-4
        for _ in range(100):
            a, b = low + 0.382 * (high - low), low + 0.618 * (high - low)
            fa, fb = (dual_function(X, lam, np.array([np.cos(t), np.sin(t)])) for t in (a, b))
            low, high = (low, b) if fa > fb else (a, high)
            best = max(best, fa, fb)
    return best


def box_least_squares(rows, v0):
    """argmin over delta in [0,1]^K of |v0 + rows^T delta| by a general-purpose bounded minimiser; returns the norm."""
    K = len(rows)
    if K == 0:
        return np.linalg.norm(v0)
    fun = lambda delta: 0.5 * np.sum((v0 + rows.T @ delta) ** 2)  # noqa: E731
    jac = lambda delta: rows @ (v0 + rows.T @ delta)  # noqa: E731
    best = min(
        (
            minimize(
                fun,
                np.full(K, x),
                jac=jac,
                bounds=[(0, 1)] * K,
                method="L-BFGS-B",
                options={"ftol": 1e-16, "gtol": 1e-12},
            )
            for x in (0.0, 0.5, 1.0)
        ),
        key=lambda r: r.fun,
    )
    return np.sqrt(2 * best.fun)


def sampled_masks(X, samples, seed=0):
    """Distinct 1[X u > 0] of random directions, as a set of tuples."""
    U = np.random.default_rng(seed).standard_normal((X.shape[1], samples))
    return {tuple(row) for row in (X @ U > 0).T}


def cell_exists(X, mask):
    """Whether some u has x_n . u >= 1 on the mask and <= -1 off it (zero rows apart): a linear feasibility program."""
    live = np.abs(X).max(axis=1) > 0
    if mask[~live].any():
        return False
    A = -np.where(mask, 1.0, -1.0)[live, None] * X[live]
    return linprog(np.zeros(X.shape[1]), A_ub=A, b_ub=-np.ones(len(A)), bounds=(None, None)).status == 0
