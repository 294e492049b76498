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
from gflow.flow.modes import Modes, first_rows, rows_at
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


@pytest.mark.parametrize(("K", "d"), [(3, 4), (6, 8), (20, 30)])
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
        size = np.linalg.norm(A, axis=0)
        unit = A / np.where(size > 0, size, 1.0)  # lstsq loses what lengths differ by
        left = v[:, i] - unit @ np.linalg.lstsq(unit, v[:, i], rcond=1e-12)[0]
        np.testing.assert_allclose(v[:, i] + A @ c[:, i], left, atol=1e-13)
    assert not c[:, 1].any() and c[1, 2] == 0 and c[2, 3] == 0


@pytest.mark.parametrize("K", [3, 20])
def test_first_rows_are_those_ahead_and_then_the_others(rng, K):
    n, m = 30, 12
    chosen, ahead = rng.random((n, m)) < rng.random(m), rng.random((n, m)) < 0.3
    found = np.asarray(first_rows(jnp.asarray(chosen), K, ahead=jnp.asarray(ahead)))
    for i in range(m):
        rows = [*np.flatnonzero(chosen[:, i] & ahead[:, i]), *np.flatnonzero(chosen[:, i] & ~ahead[:, i])]
        np.testing.assert_array_equal(found[:, i], [*rows, *[n] * K][:K])
    np.testing.assert_array_equal(
        first_rows(jnp.asarray(chosen), K), first_rows(jnp.asarray(chosen), K, ahead=jnp.asarray(chosen))
    )


@pytest.mark.parametrize("K", [4, 11])
def test_lanes_of_unlike_numbers_of_sliding_rows_are_projected_as_alone(rng, K):
    n, d, m, lanes = 15, 12, 3, 4
    X, G = rng.standard_normal((n, d)), rng.standard_normal((lanes, d, m))
    slide = np.zeros((lanes, n, m), bool)
    for lane, rows in enumerate((0, 1, K, 2)):
        slide[lane, :rows, 1] = True

    def modes(slide):
        at = first_rows(slide, K)
        return Modes(jnp.zeros_like(slide), slide, at, jnp.zeros(at.shape), orthonormal(rows_at(jnp.asarray(X), at), 2))

    both = jax.vmap(lambda slide, G: (modes(slide).project(G), modes(slide).wanted(X, G, jnp.ones((K, m)))))
    projected, wanted = both(jnp.asarray(slide), jnp.asarray(G))
    for lane in range(lanes):
        A, g = X[slide[lane, :, 1]].T, G[lane, :, 1]
        c = np.linalg.lstsq(A, -g, rcond=None)[0]
        np.testing.assert_allclose(projected[lane, :, 1], g + A @ c, atol=1e-13)
        np.testing.assert_array_equal(projected[lane, :, 0], G[lane, :, 0])
        np.testing.assert_allclose(wanted[lane, :, 1], [*c, *np.zeros(K - len(c))], atol=1e-12)
