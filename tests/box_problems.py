"""Random kinks of one neuron, and the least-norm velocity there by enumerating the faces of the box."""

import numpy as np
from reference import box_by_enumeration

ROWS, DIMENSION = 8, 5
KINDS = ("general", "duplicate rows", "collinear rows", "more hyperplanes than the rank", "zero neuron", "zero row")


def configuration(kind: str, rng: np.random.Generator):
    """(X (8, 5), lambda (8,), u (5,), kinks): rows on whose hyperplane u lies exactly; unused rows are zero."""
    d = int(rng.integers(2, DIMENSION + 1))
    count = int(rng.integers(1, d)) if kind != "more hyperplanes than the rank" else d
    X, u = np.zeros((ROWS, DIMENSION)), np.zeros(DIMENSION)
    u[int(rng.integers(d))] = rng.choice([-1.0, 1.0])  # along an axis, so that x . u = 0 holds exactly
    rows = rng.standard_normal((ROWS - 2, d))
    rows[:count] -= np.outer(rows[:count] @ u[:d], u[:d])
    if kind == "duplicate rows" and count < len(rows):
        rows[count], count = rows[0], count + 1
    if kind == "collinear rows" and count < len(rows):
        rows[count], count = rng.choice([-2.0, -1.0, 0.5, 3.0]) * rows[0], count + 1
    if kind == "zero row":
        rows[-1] = 0.0
    X[: len(rows), :d] = rows
    lam = rng.dirichlet(np.ones(ROWS)) * rng.choice([-1.0, 1.0], ROWS)
    if kind == "zero neuron":
        return X, lam, np.zeros(DIMENSION), np.zeros(0, int)
    return X, lam, u, np.arange(count)


def least_norm(X, lam, u, kinks):
    """The velocity of least norm."""
    active = X @ u > 0
    active[kinks] = False
    v0 = X.T @ (active * lam)
    rows = lam[kinks, None] * X[kinks]
    return v0 + rows.T @ box_by_enumeration(rows, v0)


def solved(configurations):
    """Velocities (c, d) by gflow: of least_norm_slopes, and of the choice of modes inside a step (NaN where a neuron is
    on more kinks than it has room for); and which of these were left unsettled."""
    import jax
    import jax.numpy as jnp

    import gflow
    from gflow.flow.modes import choose, first_rows, most_sliding, put, slopes
    from gflow.inclusion import least_norm_slopes

    X, lam, U = (jnp.asarray(np.stack([c[k] for c in configurations])) for k in range(3))
    kinks = np.zeros((len(X), ROWS), bool)
    for row, (*_, at) in zip(kinks, configurations, strict=True):
        row[at] = True

    def velocity(X, lam, u, kink):
        D = least_norm_slopes(X, lam, u[:, None], gflow.ReLU(), 1e-12)
        K = most_sliding(*X.shape)
        choice = choose(X, gflow.ReLU(), X @ u[:, None] > 0, first_rows(kink[:, None], K), lam[:, None])
        entries = slopes(gflow.ReLU(), choice.modes.on, X.dtype) + put(choice.modes.at, choice.modes.delta, ROWS)
        room = jnp.sum(kink) <= K
        v = X.T @ (entries * lam[:, None])
        return X.T @ (D[:, 0] * lam), jnp.where(room, v[:, 0], jnp.nan), choice.unsettled[0] & room

    return (np.asarray(a) for a in jax.jit(jax.vmap(velocity))(X, lam, U, jnp.asarray(kinks)))


def errors(count: int, seed: int = 0):
    """({kind: largest error of either velocity relative to sum |lambda_n||x_n|}, compared, unsettled)."""
    rng = np.random.default_rng(seed)
    kinds = [KINDS[k % len(KINDS)] for k in range(count)]
    configurations = [configuration(kind, rng) for kind in kinds]
    exact = np.stack([least_norm(*c) for c in configurations])
    scale = np.array([np.abs(lam) @ np.linalg.norm(X, axis=1) for X, lam, *_ in configurations])
    first, chosen, unsettled = solved(configurations)
    off = np.maximum(
        np.linalg.norm(first - exact, axis=1) / scale, np.nan_to_num(np.linalg.norm(chosen - exact, axis=1) / scale)
    )
    worst = {kind: float(max(o for o, k in zip(off, kinds, strict=True) if k == kind)) for kind in KINDS}
    return worst, int(np.sum(~np.isnan(chosen[:, 0]))), int(unsettled.sum())
