"""The max-margin solver, its faces and the semidefinite bounds: certified gaps, exact optima, no false proof."""

import itertools

import cases
import helpers
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import null_space

import gflow
from gflow import datasets
from gflow.convex.arrangements import count_masks, unit_rows
from gflow.convex.faces import count_faces
from gflow.convex.general_position import choices, lowest_vertices, position
from gflow.convex.newton import KKTPoint, Patterns, newton
from gflow.convex.oracle import dual_maximum
from gflow.convex.semidefinite import bound_of_dual, lower_bound
from gflow.limit import limit_of_network


def random_labels(n, d, seed):
    rng = np.random.default_rng(seed)
    return gflow.Problem(rng.standard_normal((n, d)), rng.choice([-1.0, 1.0], n))


@pytest.mark.parametrize(("n", "d"), [(5, 1), (30, 2), (12, 4), (9, 6), (40, 4)])
def test_every_cell_is_found_once(n, d):
    levels = lowest_vertices(unit_rows(np.random.default_rng(n).standard_normal((n, d))), 1e-15)
    half = np.concatenate([level.masks for level in levels])
    masks = np.concatenate([half, ~half])
    assert len(masks) == len(np.unique(masks, axis=0)) == count_masks(n, d)


@pytest.mark.parametrize(("n", "k"), [(6, 0), (6, 1), (7, 3), (9, 4)])
def test_subsets_are_numbered(n, k):
    subsets = choices(n, k)
    np.testing.assert_array_equal(position(subsets), np.arange(len(subsets)))
    assert len(np.unique(subsets, axis=0)) == len(subsets)


@settings(max_examples=20)
@given(st.integers(3, 7), st.integers(2, 4), st.integers(0, 10**6))
def test_faces_of_vertices_are_those_of_the_lattice(n, d, seed):
    # (span, mask off the span) of every face, against one flat after the other and sampled directions on it
    X = np.random.default_rng(seed).standard_normal((n, d))
    known = gflow.faces(X)
    if n >= d:
        assert len(known) == count_faces(n, d)
    through = np.abs(np.einsum("lij,nj->lni", known.projectors, X)).max(axis=2) < 1e-9
    pairs = zip(known.cell, known.span, strict=True)
    found = {(through[L].tobytes(), (known.masks[c] & ~through[L]).tobytes()) for c, L in pairs}
    assert len(found) == len(known)
    rng = np.random.default_rng(seed + 1)
    basis = np.linalg.svd(X, full_matrices=False)[2].T
    sets = itertools.chain.from_iterable(itertools.combinations(range(n), k) for k in range(basis.shape[1]))
    for flat in (null_space(X[list(rows)] @ basis) if rows else np.eye(basis.shape[1]) for rows in sets):
        for u in rng.standard_normal((20, flat.shape[1])) @ (basis @ flat).T:
            on = np.abs(unit_rows(X) @ (u / np.linalg.norm(u))) < 1e-9
            assert (on.tobytes(), ((X @ u > 0) & ~on).tobytes()) in found


def kinds(seed):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((6, 3))
    return {
        "general": rng.standard_normal((12, 2)),
        "integer grid": rng.integers(-2, 3, (8, 3)).astype(float),
        "duplicates": np.vstack([X, X[:3]]),
        "antipodal": np.vstack([X, -X[:3]]),
        "flat": rng.standard_normal((8, 2)) @ rng.standard_normal((2, 4)),
    }


@pytest.mark.parametrize("kind", list(kinds(0)))
def test_gaps_are_closed_or_the_result_says_so(kind):
    for seed in range(6):
        X = kinds(seed)[kind]
        problem = gflow.Problem(X, np.random.default_rng(seed).choice([-1.0, 1.0], len(X)))
        solved = gflow.solve_max_margin(problem)
        name = gflow.result_name(solved.result)
        assert name in ("successful", "infeasible")
        if name == "infeasible":
            assert solved.network is None
            continue
        assert solved.gap <= 1e-9
        # both sides again, from what was returned: the network's own margins, and no direction above the dual
        W1, w2 = np.asarray(solved.network.W1), np.asarray(solved.network.w2)
        q = helpers.margins(X, np.asarray(problem.y), W1, w2)
        assert 0.5 * (np.sum(W1**2) + np.sum(w2**2)) / q.min() == pytest.approx(solved.primal, rel=1e-9)
        U = np.random.default_rng(seed).standard_normal((20_000, X.shape[1]))
        U /= np.linalg.norm(U, axis=1, keepdims=True)
        assert np.abs(np.maximum(U @ X.T, 0) @ (solved.alpha * np.asarray(problem.y))).max() <= 1 + 1e-9
        assert solved.alpha.sum() == pytest.approx(solved.dual, rel=1e-12)


def test_integer_grid_whose_last_columns_newton_had_added():
    X = np.array([
        [2, 2, 1], [-1, 0, 0], [-1, 2, 2], [0, -1, 0], [0, 1, 2], [-2, -2, -2], [-2, 2, -1], [-2, -2, -2],
    ])  # fmt: skip
    solved = gflow.solve_max_margin(gflow.Problem(X, [-1, 1, 1, -1, -1, 1, -1, 1]))
    assert solved.gap <= 1e-9


def test_exact_cases_to_1e8():
    a = gflow.solve_max_margin(gflow.Problem(cases.A_X, cases.A_y))
    assert a.primal == pytest.approx(cases.A_OPTIMUM, rel=1e-8) and a.gap <= 1e-9
    np.testing.assert_allclose(a.alpha, cases.A_ALPHA, atol=1e-6)
    b = gflow.solve_max_margin(gflow.Problem(cases.B_X, cases.B_y))
    assert b.primal == pytest.approx(4.0, rel=1e-8)
    np.testing.assert_allclose(b.alpha, 1.0, rtol=1e-8)


@settings(max_examples=30)
@given(st.integers(0, 10**6))
def test_newton_returns_to_a_kkt_point_built_backwards(seed):
    # one neuron that sees everything: choose alpha, the direction follows; then scale the rows to margin 1
    rng = np.random.default_rng(seed)
    n, d = 4, 8
    X, y, sign = rng.standard_normal((n, d)), rng.choice([-1.0, 1.0], n), rng.choice([-1.0, 1.0], 1)
    alpha = rng.uniform(0.5, 2.0, n)
    patterns = Patterns(sign, np.ones((n, 1), bool), np.zeros((n, 1), bool))
    u = sign[0] * X.T @ (y * alpha)
    alpha = alpha / np.linalg.norm(u)
    V = (u / np.linalg.norm(u))[:, None]
    q = y * sign[0] * (X @ V[:, 0])
    if q.min() <= 0.05:
        return
    X = X / q[:, None]
    alpha = alpha * q
    start = KKTPoint(V * rng.uniform(0.7, 1.3), alpha * rng.uniform(0.8, 1.2, n))
    point = newton(X, y, patterns, start, np.ones(n, bool))
    assert point is not None
    np.testing.assert_allclose(point.V, V, atol=1e-9)
    np.testing.assert_allclose(np.linalg.norm(X.T @ (y * point.alpha)), 1.0, rtol=1e-10)


@settings(max_examples=15)
@given(st.sampled_from([(4, 2), (8, 3)]), st.integers(0, 10**6))
def test_semidefinite_bounds_hold(shape, seed):
    problem = random_labels(*shape, seed)
    X, y = np.asarray(problem.X), np.asarray(problem.y)
    known = gflow.faces(X)
    lam = y * np.random.default_rng(seed).dirichlet(np.ones(len(y)))
    exact = float(dual_maximum(problem.X, jnp.asarray(lam), known).upper)
    bound = bound_of_dual(X, lam)
    assert bound >= exact * (1 - 1e-12)
    # homogeneous, also where products with X vanish in rounding: entries of 1e-320 keep four digits
    assert bound_of_dual(X, 1e-300 * lam) == pytest.approx(1e-300 * bound, rel=1e-9)
    assert bound_of_dual(X, 1e-320 * lam) >= 0.99 * 1e-320 * exact
    solved, lower = gflow.solve_max_margin(problem, known), lower_bound(X, y)
    assert lower is not None and lower.value <= solved.primal * (1 + 1e-9)
    largest = float(dual_maximum(problem.X, jnp.asarray(y * lower.alpha), known).upper)
    assert largest <= 1 + 1e-9 and lower.alpha.min() >= 0


def test_semidefinite_bound_is_exact_on_xor_and_scales():
    for scale in (1.0, 1e-3, 1e4):
        lower = lower_bound(cases.B_X * scale, cases.B_y)
        assert lower.value * scale == pytest.approx(4.0, rel=1e-6)


def test_iris_is_proved_global_in_five_dimensions():
    from gflow.cli.data import load, prepare

    data, _ = load("iris")
    data, _ = prepare(data, True, True)
    solved = gflow.solve_max_margin(gflow.Problem(data.X, data.y))
    assert not solved.complete and solved.gap <= 1e-6
    assert solved.primal == pytest.approx(1.3752418040, rel=1e-8)


def test_a_limit_in_thirty_dimensions_is_exact_and_global():
    # one neuron per class near its mean: the patterns are those of the limit, the directions are not
    data = datasets.orthogonal_separable(n=50, d=30, seed=0)
    problem = gflow.Problem(data.X, data.y)
    W1 = np.stack([(data.X[data.y == s]).sum(axis=0) for s in (1, -1)], axis=1)
    network = gflow.TwoLayer(jnp.asarray(W1), jnp.asarray([1.0, -1.0]) * np.linalg.norm(W1, axis=0))
    q_min = jnp.min(problem.margins(network))
    limit = limit_of_network(problem, network.scaled(jnp.sqrt(2 / q_min)), settled=2.0)
    certificate = gflow.certify(problem, limit)
    assert limit.polished and limit.objective < 0.95 * float(problem.objective(network)) and not certificate.exact
    assert certificate.verdict == gflow.VERDICT.GLOBAL


def test_steep_constraints_are_told_apart():
    """Two rows 1e-9 apart in angle: columns at their borders differ by 1e-9, and values there by 1e-9 sum alpha."""
    from gflow.convex.candidates import equal

    angle = np.array([0.3, 0.3 + 1e-9, 0.3 + 2e-16])
    U = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    np.testing.assert_array_equal(equal(U, U), [[True, False, True], [False, True, False], [True, False, True]])


def test_masses_are_repaired():
    """Margins of the support vectors are 1 up to rounding, whatever HiGHS's tolerance left."""
    from gflow.convex.master import Master, Solution

    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((8, 3)), np.sign(rng.standard_normal(8))
    master = Master(X, y, 1e6)
    U = rng.standard_normal((200, 3))
    U /= np.linalg.norm(U, axis=1, keepdims=True)
    master.add(np.vstack([U, U]), np.repeat([1.0, -1.0], len(U)))
    solved = master.solve()
    assert solved is not None and solved.slack == 0
    short = Solution(solved.mass * (1 - 1e-7), solved.alpha, 0.0)
    entries = y[:, None] * np.maximum(X @ master.U.T, 0.0) * master.sign
    assert np.min(entries @ short.mass) < 1 - 5e-8
    assert np.min(entries @ master.repaired(short)) > 1 - 1e-12


@pytest.mark.parametrize("seed", [281, 377, 350])
def test_the_objective_is_that_of_the_network_returned(seed):
    """Rows whose lengths differ by ten orders of magnitude: weights of 1e5 cancel, and their rounding counts."""
    from fractions import Fraction

    rng = np.random.default_rng([seed, 5])
    X, y = rng.standard_normal((12, 2)) * 10 ** rng.uniform(-5, 5, (12, 1)), rng.choice([-1.0, 1.0], 12)
    solved = gflow.solve_max_margin(gflow.Problem(X, y))
    assert solved.network is not None
    W1, w2 = np.asarray(solved.network.W1), np.asarray(solved.network.w2)
    exact = [[Fraction(v) for v in row] for row in W1.T.tolist()]
    margins = []
    for x, label in zip(X.tolist(), y.tolist(), strict=True):
        z = [sum(Fraction(a) * b for a, b in zip(x, w, strict=True)) for w in exact]
        margins.append(
            Fraction(label) * sum(Fraction(a) * max(v, Fraction(0)) for a, v in zip(w2.tolist(), z, strict=True))
        )
    objective = float((np.sum(W1**2) + np.sum(w2**2)) / 2) / float(min(margins))
    assert objective == pytest.approx(solved.primal, rel=1e-13)
    assert solved.dual <= solved.primal
