"""Nearly degenerate data: every bound holds and every optimum is one, against exact and plain computations.

Rows that are (anti)parallel up to 1e-9 .. 1e-15, of very different lengths, in grids, zero, or twice there.
"""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gflow
from gflow.convex.oracle import dual_maxima, dual_maximum, one_sided


def nasty_rows(rng, n, d):
    """Rows (n, d): some independent ones, the others nearly multiples of them of either sign, or sums, or zero."""
    kind = rng.choice(["gaussian", "grid"])
    X = rng.standard_normal((n, d)) if kind == "gaussian" else rng.integers(-2, 3, (n, d)).astype(float)
    for row in range(1, n):
        other = X[rng.integers(row)]
        how = rng.choice(["as it is", "near", "multiple", "zero"], p=[0.35, 0.4, 0.2, 0.05])
        if how == "near":
            X[row] = rng.choice([-1, 1]) * (other + 10.0 ** -rng.uniform(9, 16) * rng.standard_normal(d))
        elif how == "multiple":
            X[row] = rng.choice([-3.0, -1.0, 1.0, 0.1]) * other
        elif how == "zero":
            X[row] = 0.0
    if rng.random() < 0.4:
        X = X * 10.0 ** rng.uniform(-3, 3, (n, 1))
    return X


def one_sided_in_the_plane(X, lam):
    """max_{|u|<=1} s lambda^T (X u)_+ for s = +1, -1, d = 2: it is at a ray or at +-X^T D lambda of some D."""
    n = len(X)
    rays = np.stack([-X[:, 1], X[:, 0]], axis=1)
    pulls = (np.array(list(itertools.product((0.0, 1.0), repeat=n))) * lam) @ X
    U = np.concatenate([rays, -rays, pulls, -pulls])
    length = np.linalg.norm(U, axis=1, keepdims=True)
    values = np.maximum((U[length[:, 0] > 0] / length[length > 0][:, None]) @ X.T, 0.0) @ lam
    return max(values.max(initial=0.0), 0.0), max(-values.min(initial=0.0), 0.0)


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_bounds_over_all_faces_hold_and_are_tight(seed):
    rng = np.random.default_rng(seed)
    X, lam = nasty_rows(rng, 5, 2), rng.standard_normal(5)
    expected, known = one_sided_in_the_plane(X, lam), gflow.faces(X)
    assert known.complete
    size = np.abs(lam) @ np.linalg.norm(X, axis=1)
    for found, true in zip(one_sided(X, lam, known), expected, strict=True):
        assert true - 1e-15 * size <= found <= true + 1e-9 * size
    bound, many = dual_maximum(X, lam, known), dual_maxima(X, np.stack([lam, -lam]), known)
    for upper in (bound.upper, *many.upper):
        assert max(expected) - 1e-15 * size <= upper <= max(expected) + 1e-9 * size


def test_a_frozen_layer_on_rows_that_are_nearly_opposite():
    X = np.array([[1.0, -1.0], [-0.9999999999995, 1.0], [2.0, 1.0]])
    network = gflow.TwoLayer(jnp.array([[-1.0, 1.0, 1.0], [2.0, 1.0, -2.0]]), jnp.array([1.0, -1.0, 1.0]))
    limit = gflow.frozen_limit(gflow.Problem(X, [1.0, 1.0, -1.0]), network)
    # p = (1, 1, 1)/3: B_+ = |(1,-1)|/3, B_- is attained at (1, 1)/sqrt(2), where row 3 is 3/sqrt(2)
    assert limit.objective == pytest.approx(2 / 3, rel=1e-9)
    assert limit.lower_bound == pytest.approx(1 / (2 * (2 * 2 / 9 + 1 / 2)), rel=1e-9)
    assert not limit.optimal
