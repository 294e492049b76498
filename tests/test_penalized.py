"""Weight decay: closed forms, CVXPY, weak duality, and programs over sampled masks."""

import helpers
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gflow


@pytest.mark.parametrize("y", [1.5, -0.7])
def test_one_sample_with_the_squared_loss_in_closed_form(y):
    x, beta = np.array([[0.6, -0.8]]), 0.2  # |x| = 1: min (m - |y|)^2 / 2 + beta m
    solved = gflow.solve_penalized(gflow.Problem(x, [y], loss=gflow.Squared()), beta)
    mass = abs(y) - beta
    assert solved.primal == pytest.approx(0.5 * beta**2 + beta * mass, rel=1e-12)
    assert solved.gap <= 1e-9 and solved.network.width == 1
    np.testing.assert_allclose(solved.network.W1[:, 0] * abs(solved.network.w2[0]), mass * x[0], rtol=1e-6)
    np.testing.assert_allclose(solved.alpha, np.sign(y) * beta, rtol=1e-6)


@pytest.mark.parametrize("y, beta", [(1e6, 1e-6), (1.0, 1e-9)])
def test_decay_far_below_the_labels_in_closed_form(y, beta):
    solved = gflow.solve_penalized(gflow.Problem(np.array([[1.0]]), [y], loss=gflow.Squared()), beta)
    assert solved.primal == pytest.approx(beta * (y - beta) + 0.5 * beta**2, rel=1e-12)
    assert solved.gap <= 1e-9


@pytest.mark.parametrize("beta", [1e-3, 1e-6])
def test_decay_far_below_the_data_and_separable_labels(beta):
    # the first three samples once left the bracket 0.0475 .. 0.0689; a long row needs a beta that is small beside it
    X = [[-0.34, 1.62], [0.026, 0.158], [-0.877, -0.306], [0.732, -0.52], [1.794, -0.077], [-1.348, -1.598]]
    solved = gflow.solve_penalized(gflow.Problem(np.array(X), np.ones(6)), beta)
    assert solved.gap <= 1e-9
    if beta == 1e-3:
        expected = cvxpy_optimum(np.array(X), np.ones(6), "logistic", beta, gflow.arrangement(np.array(X)).masks)
        assert solved.primal == pytest.approx(expected, rel=5e-6)  # Clarabel stops 2e-6 above


def test_a_long_row_in_closed_form():
    # min e^-x m + beta m at x m = log(x / beta)
    x, beta = 1e8, 1e-3
    solved = gflow.solve_penalized(gflow.Problem(np.array([[x]]), [1.0], loss=gflow.Exponential()), beta)
    assert solved.primal == pytest.approx(beta / x * (1 + np.log(x / beta)), rel=1e-12)
    assert solved.gap <= 1e-9


def test_large_weight_decay_leaves_nothing(rng):
    X, y = rng.standard_normal((6, 2)), np.array([1.0, -1, 1, -1, 1, -1])
    solved = gflow.solve_penalized(gflow.Problem(X, y), 100.0)
    assert solved.network.width == 0 and solved.gap <= 1e-12
    assert solved.primal == pytest.approx(6 * np.log(2), rel=1e-14)


def cvxpy_optimum(X, y, loss: str, beta: float, masks) -> float:
    import cvxpy as cp

    U = [cp.Variable(X.shape[1]) for _ in range(2 * len(masks))]
    signs = [1.0] * len(masks) + [-1.0] * len(masks)
    f = sum(s * cp.multiply(D.astype(float), X @ u) for s, D, u in zip(signs, [*masks, *masks], U, strict=True))
    inside = [cp.multiply(np.where(D, 1.0, -1.0), X @ u) >= 0 for D, u in zip([*masks, *masks], U, strict=True)]
    fit = cp.sum_squares(f - y) / 2 if loss == "squared" else cp.sum(cp.logistic(-cp.multiply(y, f)))
    program = cp.Problem(cp.Minimize(fit + beta * sum(cp.norm(u) for u in U)), inside)
    return program.solve(solver=cp.CLARABEL)


@pytest.mark.parametrize("loss", ["squared", "logistic"])
@pytest.mark.parametrize("beta", [0.01, 0.3])
def test_optimum_agrees_with_cvxpy(loss, beta):
    for seed in range(3):
        rng = np.random.default_rng(seed)
        X = rng.standard_normal((7, 2))
        y = rng.standard_normal(7) if loss == "squared" else rng.choice([-1.0, 1.0], 7)
        problem = gflow.Problem(X, y, loss=gflow.Squared() if loss == "squared" else gflow.Logistic())
        solved = gflow.solve_penalized(problem, beta)
        assert solved.gap <= 1e-9
        assert gflow.result_name(solved.result) == "successful"
        expected = cvxpy_optimum(X, y, loss, beta, gflow.arrangement(X).masks)
        assert solved.primal == pytest.approx(expected, rel=1e-6)


def test_the_network_and_the_multipliers_are_what_they_claim(rng):
    X, y = rng.standard_normal((7, 2)), rng.standard_normal(7)
    solved = gflow.solve_penalized(gflow.Problem(X, y, loss=gflow.Squared()), 0.1)
    W1, w2 = np.asarray(solved.network.W1), np.asarray(solved.network.w2)
    f = sum(a * np.maximum(X @ w, 0.0) for w, a in zip(W1.T, w2, strict=True))
    objective = 0.5 * np.sum((f - y) ** 2) + 0.05 * (np.sum(W1**2) + np.sum(w2**2))
    assert solved.primal == pytest.approx(objective, rel=1e-12)
    assert solved.dual == solved.lower_bound
    # alpha scaled to |lambda^T (X u)_+| <= beta is a proof
    largest = helpers.dual_maximum_on_circle(X, solved.alpha)
    alpha = solved.alpha * min(1.0, 0.1 / largest)
    assert y @ alpha - 0.5 * alpha @ alpha == pytest.approx(solved.dual, rel=1e-9)


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), beta=st.sampled_from([0.03, 1.0]), rational=st.booleans())
def test_no_network_is_below_the_bound(seed, beta, rational):
    rng = np.random.default_rng(seed)
    X = rng.integers(-2, 3, (7, 2)).astype(float) if rational else rng.standard_normal((7, 2))
    y = rng.choice([-1.0, 1.0], 7)
    problem = gflow.Problem(X, y)
    solved = gflow.solve_penalized(problem, beta)
    assert -1e-12 <= solved.gap <= 1e-6
    W1, w2 = rng.standard_normal((2, 9)) * rng.exponential(), rng.standard_normal(9)
    near = np.asarray(solved.network.W1) * (1 + 0.1 * rng.standard_normal(solved.network.W1.shape))
    for A, a in ((W1, w2), (near, np.asarray(solved.network.w2))):
        q = helpers.margins(X, y, A, a)
        assert helpers.logistic_loss(q) + beta / 2 * (np.sum(A**2) + a @ a) >= solved.dual * (1 - 1e-12)


def test_sampled_masks_bound_the_program_over_them_and_say_so():
    rng = np.random.default_rng(3)
    X, y = rng.standard_normal((12, 6)), rng.standard_normal(12)
    problem = gflow.Problem(X, y, loss=gflow.Squared())
    solved = gflow.solve_penalized(problem, 0.2, gflow.faces(X, samples=20, sampled=True))
    everything = gflow.solve_penalized(problem, 0.2, gflow.faces(X, samples=60, sampled=True))
    assert not solved.complete and solved.gap <= 1e-8
    assert solved.lower_bound <= everything.primal <= solved.primal * (1 + 1e-8)
    assert solved.lower_bound < solved.dual


def test_wrong_arguments_are_refused(rng):
    X, y = rng.standard_normal((4, 2)), np.array([1.0, -1, 1, -1])
    with pytest.raises(ValueError, match="weight decay beta must be a positive number"):
        gflow.solve_penalized(gflow.Problem(X, y), 0.0)
    with pytest.raises(ValueError, match="linear loss has no minimum"):
        gflow.solve_penalized(gflow.Problem(X, y, loss=gflow.Linear()), 1.0)
    with pytest.raises(ValueError, match="Squared has no margins"):
        gflow.solve_max_margin(gflow.Problem(X, y, loss=gflow.Squared()))
    with pytest.raises(ValueError, match="with weight decay the flow ends at a point"):
        gflow.solve_max_margin(gflow.Problem(X, y, weight_decay=0.1))
    for wrong in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match="weight decay must be at least 0"):
            gflow.Problem(X, y, weight_decay=wrong)


def test_the_conjugate_keeps_the_digits_of_small_multipliers():
    from decimal import Decimal, getcontext

    getcontext().prec = 50
    for alpha in (1e-16, 3e-13, 1e-10, 1e-3, 0.5, 1 - 1e-9, 1.0):
        a = Decimal(alpha)
        exact = a * a.ln() + ((1 - a) * (1 - a).ln() if a < 1 else 0)
        found = float(gflow.Logistic().conjugate(jnp.asarray(alpha)))
        assert found == pytest.approx(float(exact), rel=1e-14, abs=0.0)


def test_a_dual_value_does_not_exceed_a_small_optimum():
    # one sample of length 1: the least log(1 + e^-m) + beta m, where beta is so small that 1 - alpha rounds to 1
    for beta in (1e-8, 1e-10, 1e-12):
        solved = gflow.solve_penalized(gflow.Problem(np.array([[1.0]]), [1.0]), beta)
        optimum = -np.log1p(-beta) + beta * (np.log1p(-beta) - np.log(beta))
        assert solved.primal == pytest.approx(optimum, rel=1e-12)
        assert -1e-14 <= solved.gap <= 1e-9
