"""Leaky ReLU: the convex program, limits and certificates, against CVXPY, brute force and a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gflow
from gflow.convex.ascent import resting_places
from gflow.convex.leaky import multipliers, opposite, rows
from gflow.convex.oracle import dual_maximum


def over_all_masks(X, alpha):
    """f(x_n), sum of |v| and the cones' constraints of a leaky network with a neuron of both signs per mask."""
    import cvxpy as cp

    outputs, length, inside = 0, 0, []
    for s in (1, -1):
        for D in gflow.arrangement(X).masks:
            v = cp.Variable(X.shape[1])
            outputs, length = outputs + s * cp.multiply(np.where(D, 1.0, alpha), X @ v), length + cp.norm(v)
            inside.append(cp.multiply(np.where(D, 1.0, -1.0), X @ v) >= 0)
    return outputs, length, inside


def cvxpy_optimum(X, y, alpha):
    import cvxpy as cp

    outputs, length, inside = over_all_masks(X, alpha)
    return cp.Problem(cp.Minimize(length), [cp.multiply(y, outputs) >= 1, *inside]).solve(solver="CLARABEL")


@pytest.mark.parametrize("d, alpha", [(2, 0.5), (3, 0.1)])
def test_optimum_agrees_with_cvxpy(d, alpha):
    rng = np.random.default_rng(d)
    X, y = rng.standard_normal((8, d)), rng.choice([-1.0, 1.0], 8)
    problem = gflow.Problem(X, y, activation=gflow.LeakyReLU(alpha))
    solved = gflow.solve_max_margin(problem)
    assert abs(solved.gap) <= 1e-9 and gflow.result_name(solved.result) == "successful"
    assert solved.primal == pytest.approx(cvxpy_optimum(X, y, alpha), rel=1e-6)
    assert float(problem.objective(solved.network)) == pytest.approx(solved.primal, rel=1e-9)
    assert gflow.certify(problem, solved.network).verdict == gflow.VERDICT.GLOBAL
    # (z)_+ = (sigma(z) + alpha sigma(-z)) / (1 - alpha^2): a ReLU network is a leaky one at 1/(1 - alpha) of its cost
    relu = gflow.solve_max_margin(gflow.Problem(X, y))
    assert solved.primal <= relu.primal / (1 - alpha) * (1 + 1e-9)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6), alpha=st.sampled_from([0.0, 0.1, 0.7]), whole=st.booleans())
def test_dual_maximum_against_the_circle(seed, alpha, whole):
    rng = np.random.default_rng(seed)
    X, lam = rng.standard_normal((6, 2)), rng.standard_normal(6)
    if whole:
        X = np.round(2 * X)
    known = gflow.faces(X)
    bound = dual_maximum(rows(jnp.asarray(X), alpha), multipliers(jnp.asarray(lam), alpha), opposite(known, alpha))
    at = np.linspace(0, 2 * np.pi, 20001)
    Z = X @ np.stack([np.cos(at), np.sin(at)])
    values = np.abs(lam @ np.where(Z > 0, Z, alpha * Z))
    largest = np.abs(lam) @ np.linalg.norm(X, axis=1)
    assert values.max() <= float(bound.upper) + 1e-12 * largest
    assert float(bound.lower) <= values.max() + 2e-4 * largest and float(bound.upper) <= float(bound.lower) * (1 + 1e-9)
    (rate,), u = resting_places(X, lam, np.ones(1), np.array([[np.cos(0.3)], [np.sin(0.3)]]), alpha)
    u = u[:, 0]
    assert rate == pytest.approx(lam @ np.where(X @ u > 0, X @ u, alpha * (X @ u)), abs=1e-12 * largest)
    assert rate <= float(bound.upper) * (1 + 1e-9)


@pytest.mark.parametrize("alpha", [0.2])
def test_symmetric_data_have_the_margin_of_the_linear_separator(alpha):
    # (x, y) and (-x, -y): two neurons +-u are linear together, f = (1 + alpha) r^2 u . x with |theta|^2 = 4 r^2, so
    # that the normalised margin is (1 + alpha) gamma / 4, gamma the largest margin of a unit vector
    X = np.array([[1.0, 0.3], [0.5, -0.2], [0.8, 1.0]])
    # of the two outer samples: half way between their hyperplanes' normals, |x_1 . u| = |x_2 . u|
    u = np.linalg.solve(X[1:], np.ones(2))
    gamma = 1 / np.linalg.norm(u)
    assert np.all(X @ u >= 1 - 1e-12) and np.all(np.linalg.solve(X[1:].T, u) > 0)  # the hard-margin SVM's conditions
    problem = gflow.Problem(np.vstack([X, -X]), np.repeat([1.0, -1.0], 3), activation=gflow.LeakyReLU(alpha))
    network = gflow.Gaussian()(jax.random.key(0), problem, 30)
    controller = gflow.PIController(1e-3)
    limit = gflow.find_limit(problem, gflow.solve_flow(problem, network, saves=1, controller=controller))
    assert limit.polished and limit.kkt_residual < 1e-12
    assert float(problem.normalised_margin(limit.network)) == pytest.approx((1 + alpha) * gamma / 4, rel=1e-8)
    proof = gflow.certify(problem, limit)
    assert proof.verdict == gflow.VERDICT.GLOBAL and proof.c == pytest.approx(1, abs=1e-9)


def test_certificates_of_any_network_hold():
    rng = np.random.default_rng(5)
    X, y = rng.standard_normal((8, 2)), rng.choice([-1.0, 1.0], 8)
    problem = gflow.Problem(X, y, activation=gflow.LeakyReLU(0.5))
    known = gflow.faces(X)
    optimum = gflow.solve_max_margin(problem, known)
    for _ in range(8):
        U = np.vstack([np.asarray(optimum.network.W1).T, 0.3 * rng.standard_normal((3, 2))])
        a = np.concatenate([optimum.network.w2, 0.3 * rng.standard_normal(3)])
        network = gflow.TwoLayer(jnp.asarray(U.T), jnp.asarray(a))
        proof = gflow.certify(problem, network, known_faces=known, optimum=optimum)
        assert proof.lower_bound <= optimum.primal * (1 + 1e-9)
        if np.isfinite(proof.objective):
            assert proof.c >= proof.objective / optimum.primal * (1 - 1e-9)
            assert proof.verdict == gflow.VERDICT.NOT_GLOBAL
    # one leaky neuron is monotone along a line: it cannot fit labels + - +
    line = gflow.Problem([[1.0, 1.0], [2.0, 1.0], [3.0, 1.0]], [1.0, -1.0, 1.0], activation=gflow.LeakyReLU(0.5))
    flow = gflow.solve_flow(line, gflow.TwoLayer(jnp.asarray([[0.1], [0.1]]), jnp.asarray([0.2])), saves=1)
    limit = gflow.find_limit(line, flow)
    assert limit.stuck and gflow.certify(line, limit).verdict == gflow.VERDICT.UNFITTED


@pytest.mark.parametrize("d, alpha", [(2, 0.5), (3, 0.1)])
def test_least_norm_agrees_with_cvxpy(d, alpha):
    import cvxpy as cp

    rng = np.random.default_rng(d)
    X, y = rng.standard_normal((8, d)), rng.standard_normal(8)
    problem = gflow.Problem(X, y, loss=gflow.Squared(), activation=gflow.LeakyReLU(alpha))
    solved = gflow.solve_min_norm(problem)
    assert gflow.result_name(solved.result) == "successful" and abs(solved.gap) <= 1e-9
    outputs, length, inside = over_all_masks(X, alpha)
    expected = cp.Problem(cp.Minimize(length), [outputs == y, *inside]).solve(solver="CLARABEL")
    assert solved.primal == pytest.approx(expected, rel=1e-6)
    np.testing.assert_allclose(solved.network(X, problem.activation), y, atol=1e-9)
    assert gflow.certify(problem, solved.network).verdict == gflow.VERDICT.GLOBAL


@pytest.mark.parametrize("loss", [gflow.Squared(), gflow.Logistic()], ids=["squared", "logistic"])
@pytest.mark.parametrize("d, alpha", [(2, 0.5), (3, 0.1)])
def test_weight_decay_agrees_with_cvxpy(loss, d, alpha):
    import cvxpy as cp

    rng = np.random.default_rng(d)
    X, y = rng.standard_normal((8, d)), rng.choice([-1.0, 1.0], 8)
    outputs, length, inside = over_all_masks(X, alpha)
    squared = isinstance(loss, gflow.Squared)
    value = cp.sum_squares(outputs - y) / 2 if squared else cp.sum(cp.logistic(-cp.multiply(y, outputs)))
    for beta in (0.01, 0.5):
        problem = gflow.Problem(X, y, loss=loss, activation=gflow.LeakyReLU(alpha), weight_decay=beta)
        solved = gflow.solve_penalized(problem, beta)
        assert gflow.result_name(solved.result) == "successful"
        # Clarabel's own accuracy: relative to the loss, of which little is left at a small beta
        expected = cp.Problem(cp.Minimize(value + beta * length), inside).solve(solver="CLARABEL")
        assert solved.primal == pytest.approx(expected, rel=1e-6)
        assert float(problem.total_loss(solved.network)) == pytest.approx(solved.primal, rel=1e-9)
        proof = gflow.certify(problem, solved.network)
        assert proof.verdict == gflow.VERDICT.GLOBAL and proof.c == pytest.approx(1, abs=1e-6)
        # over a few masks only: what is said of all of them still holds
        few = gflow.solve_penalized(problem, beta, gflow.faces(X, samples=3, sampled=True))
        assert few.lower_bound <= solved.primal * (1 + 1e-9) and few.primal >= solved.primal * (1 - 1e-9)


@pytest.mark.parametrize("beta", [0.0, 0.25])
def test_one_neuron_ends_at_its_closed_form(beta):
    # x = 1, -1 with labels 1, -alpha: p = a w grows like 2 p ((1 + alpha^2)(1 - p) - beta), and one neuron is optimal
    alpha = 0.5
    problem = gflow.Problem(
        [[1.0], [-1.0]], [1.0, -alpha], loss=gflow.Squared(), activation=gflow.LeakyReLU(alpha), weight_decay=beta
    )
    start = gflow.TwoLayer(jnp.asarray([[1e-5]]), jnp.asarray([1e-5]))
    flow = gflow.solve_flow(problem, start, saves=1, controller=gflow.PIController(1e-3))
    limit = gflow.find_limit(problem, flow)
    p = 1 - beta / (1 + alpha**2)
    assert limit.polished and float(limit.network.W1[0, 0] * limit.network.w2[0]) == pytest.approx(p, rel=1e-8)
    assert limit.loss == pytest.approx(0.5 * (1 + alpha**2) * (1 - p) ** 2, abs=1e-8)
    proof = gflow.certify(problem, limit)
    assert proof.verdict == gflow.VERDICT.GLOBAL and proof.c == pytest.approx(1, abs=1e-6)
    assert proof.objective == pytest.approx(p if beta == 0 else limit.loss + beta * p, rel=1e-6)


def test_limits_with_weight_decay_never_beat_the_program():
    verdicts = set()
    for seed in range(3):
        rng = np.random.default_rng(seed)
        X, y = rng.standard_normal((8, 2)), rng.choice([-1.0, 1.0], 8)
        problem = gflow.Problem(X, y, loss=gflow.Squared(), activation=gflow.LeakyReLU(0.2), weight_decay=0.3)
        network = gflow.Gaussian()(gflow.key_of(0, seed), problem, 30)
        controller = gflow.PIController(1e-3)
        flow = gflow.solve_flow(problem, network, saves=1, controller=controller)
        limit, program = gflow.find_limit(problem, flow), gflow.solve_penalized(problem, 0.3)
        assert limit.polished and limit.kkt_residual <= 1e-9
        proof = gflow.certify(problem, limit, optimum=program)
        assert program.dual * (1 - 1e-9) <= limit.objective <= float(problem.total_loss(flow.final)) * (1 + 1e-9)
        assert proof.lower_bound <= program.primal * (1 + 1e-12)
        optimal = limit.objective <= program.primal * (1 + 1e-6)
        assert proof.verdict == (gflow.VERDICT.GLOBAL if optimal else gflow.VERDICT.NOT_GLOBAL)
        if not optimal:
            assert float(problem.total_loss(proof.better)) < limit.objective
            assert proof.missing_neuron is not None
        verdicts.add(proof.verdict)
    assert verdicts == {gflow.VERDICT.GLOBAL, gflow.VERDICT.NOT_GLOBAL}


def test_what_is_about_relu_only_says_so():
    problem = gflow.Problem(np.eye(2), [1.0, -1.0], activation=gflow.LeakyReLU(0.1))
    with pytest.raises(ValueError, match="ReLU"):
        gflow.exposed_points(problem, jnp.ones(2))
