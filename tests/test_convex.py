"""Arrangements, faces, the oracle, column generation, Newton: against counting, sampling, a fine circle and CVXPY."""

import cases
import helpers
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import gflow
from gflow.convex.arrangements import count_masks
from gflow.convex.oracle import FEW, arrays_of, dual_maxima, dual_maximum, gram_bound, price


@pytest.mark.parametrize(("n", "d"), [(1, 1), (6, 1), (5, 2), (20, 2), (10, 3), (25, 3), (8, 4), (8, 5), (3, 6)])
def test_masks_in_general_position_are_counted_by_the_formula(n, d):
    X = np.random.default_rng(n * 10 + d).standard_normal((n, d))
    found = gflow.arrangement(X)
    assert found.complete
    assert len(np.unique(found.packed, axis=0)) == len(found) == count_masks(n, min(n, d))


@settings(max_examples=60)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 10**6))
def test_degenerate_arrangements_hold_exactly_the_sampled_masks(n, d, seed):
    # integer rows: zeros, duplicates, antipodes, many hyperplanes through one ray, deficient rank
    X = np.random.default_rng(seed).integers(-1, 2, (n, d)).astype(float)
    found = {tuple(row) for row in gflow.arrangement(X).masks}
    assert len(found) == len(gflow.arrangement(X))
    sampled = helpers.sampled_masks(X, 20_000, seed)
    assert sampled <= found
    # sampling misses thin cells: what it did not see must have an interior all the same
    assert all(helpers.cell_exists(X, np.array(mask)) for mask in found - sampled)


def test_large_arrangements_are_sampled_and_say_so():
    X = np.random.default_rng(0).standard_normal((100, 6))
    sampled = gflow.arrangement(X, samples=500)
    assert not sampled.complete
    assert not gflow.faces(X, samples=500).complete
    assert 500 <= len(sampled) <= 1000


def test_oracle_is_exact_on_the_circle(rng):
    for trial in range(30):
        n = int(rng.choice([1, 4, 11]))
        X = rng.integers(-2, 3, (n, 2)).astype(float) if trial % 2 else rng.standard_normal((n, 2))
        lam = rng.standard_normal(n)
        bound = dual_maximum(jnp.asarray(X), jnp.asarray(lam), gflow.faces(X))
        expected = helpers.dual_maximum_on_circle(X, lam)
        assert bound.exact
        assert float(bound.lower) == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert expected <= float(bound.upper) * (1 + 1e-12)
        assert helpers.dual_function(X, lam, np.asarray(bound.u)) == pytest.approx(float(bound.lower), abs=1e-12)


@settings(max_examples=40)
@example(n=1, d=2, seed=1)  # nothing but zeros
@given(n=st.sampled_from([1, 5]), d=st.sampled_from([1, 2, 4]), seed=st.integers(0, 10**6))
def test_no_direction_exceeds_the_bounds(n, d, seed):
    rng = np.random.default_rng(seed)
    X, lam = rng.integers(-2, 3, (n, d)).astype(float), rng.standard_normal(n)
    U = rng.standard_normal((d, 4000))
    U /= np.linalg.norm(U, axis=0)
    largest = np.abs(lam @ np.maximum(X @ U, 0.0)).max()
    bound = dual_maximum(jnp.asarray(X), jnp.asarray(lam), gflow.faces(X))
    assert largest <= float(bound.lower) + 1e-12
    assert largest <= float(gram_bound(jnp.asarray(X), jnp.asarray(lam))) + 1e-12


def test_gram_bound_is_tight_on_orthogonally_separable_data():
    from gflow import datasets

    data = datasets.orthogonal_separable(n=12, d=3, seed=4)
    gram = data.X @ data.X.T * np.outer(data.y, data.y)
    assert (gram > 0).all()
    lam = jnp.asarray(np.random.default_rng(0).random(12) * data.y)
    bound = dual_maximum(jnp.asarray(data.X), lam, gflow.faces(data.X))
    assert float(gram_bound(jnp.asarray(data.X), lam)) == pytest.approx(float(bound.lower), rel=1e-12)


def cvxpy_optimum(X, y):
    """The max-margin program over all masks, by CVXPY with Clarabel."""
    import cvxpy as cp

    masks = gflow.arrangement(X).masks.astype(float)
    d = X.shape[1]
    U, V = cp.Variable((len(masks), d)), cp.Variable((len(masks), d))
    f = sum(cp.multiply(m, X @ (U[j] - V[j])) for j, m in enumerate(masks))
    signs = [(2 * m - 1)[:, None] * X for m in masks]
    cone = [A @ W[j] >= 0 for W in (U, V) for j, A in enumerate(signs)]
    program = cp.Problem(
        cp.Minimize(cp.sum(cp.norm(U, 2, axis=1)) + cp.sum(cp.norm(V, 2, axis=1))), [cp.multiply(y, f) >= 1, *cone]
    )
    program.solve(solver=cp.CLARABEL)
    return program.value


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(("n", "d", "seed"), [(8, 2, 0), (6, 3, 1), (5, 4, 2)])
def test_column_generation_agrees_with_cvxpy(n, d, seed):
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((n, d)), rng.choice([-1.0, 1.0], n)
    solved = gflow.solve_max_margin(gflow.Problem(X, y))
    assert solved.dual <= solved.primal
    assert solved.primal == pytest.approx(cvxpy_optimum(X, y), rel=3e-6)


def test_exact_optima():
    a = gflow.solve_max_margin(gflow.Problem(cases.A_X, cases.A_y))
    assert a.dual <= cases.A_OPTIMUM * (1 + 1e-12) and a.primal >= cases.A_OPTIMUM * (1 - 1e-12)
    assert a.primal == pytest.approx(cases.A_OPTIMUM, rel=1e-6)
    b = gflow.solve_max_margin(gflow.Problem(cases.B_X, cases.B_y))
    assert b.primal == pytest.approx(cases.B_OPTIMUM, rel=1e-9) and b.dual == pytest.approx(4.0, rel=1e-9)
    np.testing.assert_allclose(b.alpha, 1.0, rtol=1e-9)


def test_infeasible_program_is_recognised():
    solved = gflow.solve_max_margin(gflow.Problem(np.array([[1.0, 1.0], [1.0, 1.0]]), [1, -1]))
    assert solved.network is None and solved.primal == np.inf
    assert gflow.result_name(solved.result) == "infeasible"


@settings(max_examples=16)
@given(st.sampled_from([1, 6]), st.sampled_from([1, 3]), st.integers(0, 10**6))
def test_scaling_flip_and_permutation(n, d, seed):
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((n, d)), rng.choice([-1.0, 1.0], n)
    value = lambda X, y: gflow.solve_max_margin(gflow.Problem(X, y)).primal  # noqa: E731
    order = rng.permutation(n)
    first = value(X, y)
    for other in (3.0 * value(3.0 * X, y), value(X, -y), value(X[order], y[order])):
        assert other == pytest.approx(first, rel=3e-6)


@settings(max_examples=20)
@given(st.integers(2, 6), st.integers(2, 3), st.integers(0, 10**6))
def test_masks_do_not_depend_on_the_lengths_of_rows(n, d, seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    stretched = X * 10.0 ** rng.uniform(-40, 40, (n, 1))
    assert {tuple(m) for m in gflow.arrangement(X).masks} == {tuple(m) for m in gflow.arrangement(stretched).masks}
    assert len(gflow.faces(X)) == len(gflow.faces(stretched))


def exact_ray_values(X, lam):
    """|lambda^T (X u)_+| / |u| at every ray x_i x x_j of rows in R^3, cross products in rational arithmetic."""
    from fractions import Fraction
    from itertools import combinations

    rows = [[Fraction(float(v)) for v in row] for row in X]
    for (a, b, c), (e, f, g) in combinations(rows, 2):
        ray = (b * g - c * f, c * e - a * g, a * f - b * e)
        size = sum(v * v for v in ray)
        if size == 0:
            continue
        for s in (1, -1):
            h = sum(
                Fraction(float(w)) * max(s * sum(x * v for x, v in zip(r, ray, strict=True)), 0)
                for w, r in zip(lam, rows, strict=True)
            )
            yield float(h * h / size) ** 0.5


@settings(max_examples=40)
@given(st.integers(3, 15), st.integers(0, 10**6), st.booleans())
def test_bounds_hold_for_nearly_parallel_rows_and_far_ones(exponent, seed, far):
    # pairs of rows that differ by 1e-3 .. 1e-15: either their intersections are found or `upper` makes up for it
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((3, 3))
    X = np.vstack([X, X + 10.0**-exponent * rng.standard_normal((3, 3))])
    if far:
        X[5] *= 3e7
    lam = rng.standard_normal(6) / np.linalg.norm(X, axis=1)
    bound = dual_maximum(jnp.asarray(X), jnp.asarray(lam), gflow.faces(X))
    assert max(exact_ray_values(X, lam)) <= float(bound.upper) * (1 + 1e-12)


def test_almost_parallel_rows_are_not_called_inseparable():
    # lambda^T (X u)_+ reaches 2e-11 p only in a cell of this angle; P* is finite
    X, y = np.array([[1.0, 1e-11], [1.0, -1e-11]]), np.array([1.0, -1.0])
    bound = dual_maximum(jnp.asarray(X), jnp.asarray([0.5, -0.5]), gflow.faces(X))
    assert float(bound.upper) >= 1e-11 * (1 - 1e-9)
    solved = gflow.solve_max_margin(gflow.Problem(X, y))
    assert gflow.result_name(solved.result) != "infeasible"


@pytest.mark.parametrize("spread", [1.0, 1e3, 1e7])
def test_rows_of_very_different_lengths_are_separated(spread):
    X = cases.A_X / np.array([[spread], [1.0], [1.0], [1.0]]) * np.array([[1.0], [spread], [1.0], [1.0]])
    solved = gflow.solve_max_margin(gflow.Problem(X, cases.A_y))
    assert gflow.result_name(solved.result) == "successful"
    assert float(jnp.min(gflow.Problem(X, cases.A_y).margins(solved.network))) >= 1 - 1e-9


@pytest.mark.parametrize("scale", [1e-90, 1e-13, 1e90])
def test_the_program_scales_with_the_data(scale):
    solved = gflow.solve_max_margin(gflow.Problem(cases.A_X * scale, cases.A_y))
    assert solved.primal * scale == pytest.approx(cases.A_OPTIMUM, rel=2e-6)
    assert float(jnp.min(gflow.Problem(cases.A_X * scale, cases.A_y).margins(solved.network))) == pytest.approx(1.0)


def test_a_row_of_zeros_is_infeasible_at_once():
    solved = gflow.solve_max_margin(gflow.Problem(np.array([[0.0, 0.0], [1.0, 0.0]]), [1, 1]))
    assert gflow.result_name(solved.result) == "infeasible" and solved.network is None


@settings(max_examples=40)
@given(st.integers(4, 13), st.integers(0, 10**6))
def test_faces_of_nearly_duplicate_rows_exist(exponent, seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((3, 4))
    X = np.vstack([X, rng.choice([-1, 1], (3, 1)) * X + 10.0**-exponent * rng.standard_normal((3, 4))])
    assert len(gflow.faces(X)) > 0


def test_numpy_prices_as_compiled_code_does(rng):
    X, lams = rng.standard_normal((9, 4)), rng.standard_normal((3, 9))
    known = gflow.faces(X)
    few = arrays_of(known)
    assert isinstance(few[0], np.ndarray) and len(known) <= FEW
    for lam in lams:
        values, over = price(X, lam, *few)
        compiled = price(jnp.asarray(X), jnp.asarray(lam), *map(jnp.asarray, few))
        assert isinstance(values, np.ndarray) and isinstance(compiled[0], jax.Array)
        known_directions = compiled[1].max(axis=1) > 1e-9  # where P_L g is rounding its direction is any
        np.testing.assert_allclose(values[known_directions], compiled[0][known_directions], atol=1e-12)
        np.testing.assert_allclose(values.max(), compiled[0].max(), rtol=1e-13)
        np.testing.assert_allclose(over.max(), compiled[1].max(), rtol=1e-13)
    many = np.tile(lams, (1 + FEW // (3 * len(known)), 1))  # these are compiled
    np.testing.assert_allclose(dual_maxima(X, lams, known).upper, dual_maxima(X, many, known).upper[:3], rtol=1e-13)
