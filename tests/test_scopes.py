"""A bound holds for the networks of its scope: against CVXPY over all masks, for every program and activation."""

import itertools
import json

import numpy as np
import pytest

import gflow
from gflow.convex.gated import scope_of

SCOPE = gflow.Scope
LOSSES = {"logistic": gflow.Logistic(), "exponential": gflow.Exponential(), "squared": gflow.Squared()}
FIELD = np.random.default_rng(8).standard_normal((8, 2))
BETA = 0.1


def labels(loss):
    rng = np.random.default_rng(1)
    return rng.standard_normal(8) if loss == "squared" else rng.choice([-1.0, 1.0], 8)


def least(X, y, loss, beta, masks, lower, cones=True):
    """The optimum over all masks by CVXPY: with weight decay, or without (`beta` None) max-margin or least norm."""
    import cvxpy as cp

    f, length, inside = 0, 0, []
    for sign, D in itertools.product((1.0, -1.0) if cones else (1.0,), masks):
        v = cp.Variable(X.shape[1])
        f = f + sign * cp.multiply(np.where(D, 1.0, lower), X @ v)
        length = length + cp.norm(v)
        if cones:
            inside.append(cp.multiply(np.where(D, 1.0, -1.0), X @ v) >= 0)
    if beta is None:
        meets = f == y if loss == "squared" else cp.multiply(y, f) >= 1
        return cp.Problem(cp.Minimize(length), [meets, *inside]).solve(solver="CLARABEL")
    q = cp.multiply(y, f)
    fit = {"squared": cp.sum_squares(f - y) / 2, "logistic": cp.sum(cp.logistic(-q)), "exponential": cp.sum(cp.exp(-q))}
    return cp.Problem(cp.Minimize(fit[loss] + beta * length), inside).solve(solver="CLARABEL")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("lower", [0.0, 0.2])
def test_no_bound_is_above_the_optimum_of_its_scope(loss, lower):
    pytest.importorskip("cvxpy")
    y, activation = labels(loss), gflow.LeakyReLU(lower) if lower else gflow.ReLU()
    problem = gflow.Problem(FIELD, y, loss=LOSSES[loss], activation=activation)
    masks = gflow.arrangement(FIELD).masks
    for beta in (None, BETA):
        if beta is None and loss == "exponential":  # the max-margin program has no loss
            continue
        best, primal = least(FIELD, y, loss, beta, masks, lower), np.inf
        for samples in (1, 20, None):
            known = gflow.faces(FIELD) if samples is None else gflow.faces(FIELD, samples=samples, sampled=True)
            if beta is not None:
                solved = gflow.solve_penalized(problem, beta, known)
            else:
                solved = (gflow.solve_min_norm if loss == "squared" else gflow.solve_max_margin)(problem, known)
            bound = getattr(solved, "lower_bound", solved.dual)
            assert bound <= best * (1 + 1e-6) and solved.primal >= best * (1 - 1e-6)
            assert solved.scope == (SCOPE.ALL if beta is None or samples is None else SCOPE.MASKS)
            if solved.scope == SCOPE.ALL:
                assert solved.dual <= best * (1 + 1e-6)
            if beta is not None:  # more masks are no worse
                assert solved.primal <= primal * (1 + 1e-8)
                primal = solved.primal


@pytest.mark.parametrize("loss", LOSSES)
def test_a_bound_over_sampled_gates_is_about_them(loss):
    pytest.importorskip("cvxpy")
    y = labels(loss)
    problem, before = gflow.Problem(FIELD, y, loss=LOSSES[loss]), None
    for samples in (1, 20, None):
        listed = gflow.gate_masks(FIELD, **({} if samples is None else {"samples": samples, "sampled": True}))
        gates, scope = listed.masks, scope_of(listed)
        solved = gflow.solve_gated(problem, BETA, gates, scope=scope)
        best = least(FIELD, y, loss, BETA, gates, 0.0, cones=False)
        assert solved.dual <= best * (1 + 1e-6) and solved.primal >= best * (1 - 1e-6)
        assert solved.scope == (SCOPE.ALL_GATES if samples is None else SCOPE.GATES)
        if before is not None:  # nested
            old, value = before
            assert {row.tobytes() for row in old} <= {row.tobytes() for row in gates}
            assert solved.primal <= value * (1 + 1e-8)
        before = gates, solved.primal
    assert len(gates) == 16


def test_gates_on_hyperplanes_are_gates():
    # the gate (0, 1) lies on the hyperplane of the rows (1, 0) and (-1, 0): it sees the third row alone
    X = np.array([[1.0, 0], [-1, 0], [1, 1]])
    listed = gflow.gate_masks(X)
    gates, scope = listed.masks, scope_of(listed)
    assert [False, False, True] in gates.tolist() and scope == SCOPE.ALL_GATES
    problem = gflow.Problem(X, [0.0, 0, 1], loss=gflow.Squared())
    # v (1, 1)/sqrt 2 on that gate: min (sqrt 2 r - 1)^2/2 + r/10
    expected = 0.1 / np.sqrt(2) - 0.05**2
    assert gflow.solve_gated(problem, 0.1, gates, scope=scope).primal == pytest.approx(expected, rel=1e-8)
    # rows are taken as they are: between two that are 1e-13 apart there are gates that see one of them alone
    listed = gflow.gate_masks(np.array([[1.0, 0], [1, 1e-13], [0, 1]]))
    assert scope_of(listed) == SCOPE.ALL_GATES
    assert {(True, False), (False, True)} <= {tuple(row[:2]) for row in listed.masks.tolist()}


def test_more_samples_hold_those_of_fewer():
    X = np.random.default_rng(0).standard_normal((9, 4))
    few, many = ({row.tobytes() for row in gflow.faces(X, samples=k, sampled=True, seed=3).masks} for k in (7, 50))
    assert few < many


def test_the_command_says_for_which_networks(capsys):
    from gflow.cli import main

    def said(*more):
        assert main(["solve", "gaussian:n=8,d=2", "--beta", "0.1", "--activation", "gated-relu", *more]) == 0
        return " ".join(capsys.readouterr().out.split())

    summary, whole = json.loads(said("--masks", "3", "--json")), json.loads(said("--json"))
    assert summary["scope"] == {"dual": "GATES", "lower_bound": "GATES"} and not summary["complete"]
    assert whole["scope"] == {"dual": "ALL_GATES", "lower_bound": "ALL_GATES"}
    assert whole["primal"] <= summary["primal"]
    text = said("--masks", "3")
    assert "among networks with these gates" in text and "any width" not in text and "every width" not in text
    assert "gates of any kind" in said()
