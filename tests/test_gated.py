"""Gated ReLU against a group lasso solved by CVXPY, and against ReLU over the same masks."""

import warnings

import numpy as np
import pytest

import gflow


@pytest.mark.parametrize("index", range(6))
def test_gated_relu_is_a_group_lasso(index):
    cp = pytest.importorskip("cvxpy")
    n, d = ((6, 2), (10, 3), (20, 5))[index % 3]
    rng, squared = np.random.default_rng(index), index % 2 == 0
    X, beta = rng.standard_normal((n, d)), 10 ** rng.uniform(-2, 0)
    y = rng.standard_normal(n) if squared else rng.choice([-1.0, 1.0], n)
    masks = np.unique(X @ rng.standard_normal((d, 30)) > 0, axis=1).T
    problem = gflow.Problem(X, y, loss=gflow.Squared() if squared else gflow.Logistic())
    solved = gflow.solve_gated(problem, beta, masks)
    assert solved.gap <= 1e-9
    f, length = 0, 0
    for D in masks:
        v = cp.Variable(d)
        f, length = f + cp.multiply(D.astype(float), X @ v), length + cp.norm(v)
    loss = 0.5 * cp.sum_squares(f - y) if squared else cp.sum(cp.logistic(-cp.multiply(y, f)))
    program = cp.Problem(cp.Minimize(loss + beta * length))
    with warnings.catch_warnings():  # what CVXPY calls inaccurate is compared all the same
        warnings.simplefilter("ignore")
        program.solve(solver=cp.CLARABEL, tol_gap_abs=1e-10, tol_gap_rel=1e-10, tol_feas=1e-10)
    assert solved.primal == pytest.approx(program.value, rel=1e-7)
    # the dual is feasible, from the returned arrays alone
    lam = problem.signs() * solved.alpha
    assert max(np.linalg.norm((masks * np.asarray(lam)) @ X, axis=1)) <= beta * (1 + 1e-12)


def test_without_cones_the_optimum_is_lower():
    rng = np.random.default_rng(3)
    X, y = rng.standard_normal((8, 2)), rng.choice([-1.0, 1.0], 8)
    problem, masks = gflow.Problem(X, y), gflow.arrangement(X).masks
    gated, relu = gflow.solve_gated(problem, 0.1, masks), gflow.solve_penalized(problem, 0.1)
    assert gated.gap <= 1e-9 and gated.primal <= relu.primal


def test_what_is_refused():
    problem = gflow.Problem(np.eye(3), np.array([1.0, -1.0, 1.0]))
    with pytest.raises(ValueError, match="beta must be a positive"):
        gflow.solve_gated(problem, 0.0, np.ones((1, 3)))
    with pytest.raises(ValueError, match="masks must be"):
        gflow.solve_gated(problem, 1.0, np.ones((3, 2)))


def test_command(capsys):
    import json

    from gflow.cli import main

    assert main(["solve", "gaussian:n=8,d=2", "--beta", "0.1", "--activation", "gated-relu", "--json"]) == 0
    gated = json.loads(capsys.readouterr().out)
    assert gated["result"] == "successful" and gated["complete"] and gated["masks"] == 16
    assert main(["solve", "gaussian:n=8,d=2", "--activation", "gated-relu"]) == 2
    assert "give --beta" in capsys.readouterr().err


@pytest.mark.parametrize("beta", [1e-290, 1e-200, 1e-30, 1e8])
def test_the_dual_never_exceeds_the_optimum(beta):
    X = np.array([[1, 0.2], [-0.3, 1], [-1, -0.5], [0.4, -1]])
    masks = np.array([[1, 1, 0, 0], [0, 0, 1, 1], [1, 0, 0, 1], [0, 1, 1, 0]], bool)
    solved = gflow.solve_gated(gflow.Problem(X, [1.0, -1.0, 1.0, -1.0]), beta, masks)
    assert solved.dual <= solved.primal * (1 + 1e-12)
