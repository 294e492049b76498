"""The box problem of the least-norm velocity, against the enumeration of all faces of the box."""

import box_problems
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gflow.activations import LeakyReLU, ReLU
from gflow.box import bounded, entries, orthonormal
from gflow.inclusion import least_norm_slopes
from gflow.lines import lines_of


def test_velocities_of_least_norm_on_degenerate_kinks():
    worst, compared, unsettled = box_problems.errors(600)
    assert set(worst) == set(box_problems.KINDS) and compared >= 500
    assert max(worst.values()) <= 1e-12, worst
    assert unsettled == 0


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1), st.floats(0.2, 3.0), st.sampled_from([(6, 3), (12, 7)]))  # 12: searched first
def test_optimality_conditions_hold_whatever_the_guess(seed, upper, shape):
    rng, (K, d) = np.random.default_rng(seed), shape
    rows, v0 = rng.standard_normal((K, d, 8)), rng.standard_normal((d, 8))
    rows[4] = rows[0] * rng.choice([-1.0, 1.0, 0.5])
    rows[5] = 0.0
    guess = rng.uniform(-1, upper + 1, (K, 8))
    box = bounded(jnp.asarray(rows), jnp.asarray(v0), upper, jnp.asarray(guess))
    delta = np.asarray(box.delta)
    v = v0 + np.einsum("km,kdm->dm", delta, rows)
    gradient = np.einsum("kdm,dm->km", rows, v)
    assert bool(jnp.all(box.settled)) and np.all((delta >= 0) & (delta <= upper))
    assert np.all(gradient[delta <= 0] >= -1e-12) and np.all(gradient[delta >= upper] <= 1e-12)
    inside = (delta > 0) & (delta < upper)
    assert np.all(np.abs(gradient[inside]) <= 1e-12)
    assert not delta[5].any()


compiled = eqx.filter_jit(least_norm_slopes)


@settings(max_examples=25)
@given(st.integers(0, 2**32 - 1))
def test_numpy_finds_the_same_velocities(seed):
    rng = np.random.default_rng(seed)
    X, U, lam = rng.standard_normal((6, 4)), rng.standard_normal((4, 5)), rng.standard_normal(6)
    X[4] = rng.choice([-2.0, 0.5]) * X[0]  # one line
    for i in range(1, 5):  # on the hyperplanes of two rows, or of three
        basis = np.linalg.qr(X[1 : 2 + (i + 1) // 2].T)[0]
        U[:, i] -= basis @ (basis.T @ U[:, i])
    lam[5] = 0.0
    for activation in (ReLU(), LeakyReLU(0.2)):
        for lines in (None, lines_of(X)):
            D = least_norm_slopes(X, lam, U, activation, 1e-9, lines)
            other = compiled(*map(jnp.asarray, (X, lam, U)), activation, 1e-9, jax.tree.map(jnp.asarray, lines))
            assert isinstance(D, np.ndarray)
            np.testing.assert_allclose(X.T @ (D * lam[:, None]), X.T @ (other * lam[:, None]), atol=1e-12)


def test_dependent_rows_give_no_direction():
    rows = np.zeros((3, 2, 1))
    rows[0, :, 0], rows[1, :, 0] = [3.0, 4.0], [-6.0, -8.0]
    Q = orthonormal(jnp.asarray(rows), 2)
    np.testing.assert_allclose(Q[0, :, 0], [0.6, 0.8], rtol=1e-15)
    assert not np.asarray(Q[1:]).any()


@pytest.mark.parametrize(("K", "d"), [(3, 4), (6, 8)])
def test_entries_leave_nothing_along_the_rows(rng, K, d):
    m = 20
    rows, v = rng.standard_normal((K, d, m)), rng.standard_normal((d, m))
    rows[:, :, 1] = 0.0
    rows[1, :, 2] = 0.0
    rows[2, :, 3] = rows[0, :, 3] - 2 * rows[1, :, 3]
    rows[-1] *= 1e-6
    x = jnp.asarray(rows)
    c = np.asarray(entries(orthonormal(x, 2), lambda k: x[k], jnp.asarray(v)))
    for i in range(m):
        A = rows[:, :, i].T
        left = v[:, i] - A @ np.linalg.lstsq(A, v[:, i], rcond=1e-12)[0]
        np.testing.assert_allclose(v[:, i] + A @ c[:, i], left, atol=1e-12)
    assert not c[:, 1].any() and c[1, 2] == 0 and c[2, 3] == 0
