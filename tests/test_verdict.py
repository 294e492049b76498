"""A verdict from bounds: what `decide` may say, and false verdicts that were found, with the right values."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gflow
from gflow.programs.base import TOLERANCE, decide

VERDICT = gflow.VERDICT
positive = st.floats(0, 1e300) | st.just(np.inf)


@given(positive, st.floats(allow_nan=True), st.floats(0, 0.5), positive, st.booleans(), st.booleans(), st.booleans())
def test_no_verdict_says_more_than_its_numbers(objective, lower, rounding, better, settled, falls, unfitted):
    judged = decide(objective, lower, rounding=rounding, better=better, settled=settled, falls=falls, unfitted=unfitted)
    assert judged.c >= 1 and judged.lower_bound >= 0
    assert judged.lower_bound <= (1 + 1e-9) * min(objective * (1 + rounding), better)
    if judged.verdict == VERDICT.GLOBAL:
        assert objective < np.inf and (settled or falls)
        assert objective * (1 + rounding) <= max(lower, 0.0) + TOLERANCE * objective  # no objective is below 0
    if judged.verdict == VERDICT.NOT_GLOBAL:
        assert settled and judged.better and better < (1 - TOLERANCE - rounding) * objective
    if judged.verdict == VERDICT.UNFITTED:
        assert unfitted and objective == np.inf
    if np.isfinite(judged.c):
        assert judged.c * judged.lower_bound >= objective * (1 - 1e-15)


@pytest.mark.parametrize("numbers", itertools.product((np.nan, 1.0), repeat=4))
def test_nothing_is_said_of_numbers_that_are_none(numbers):
    objective, lower, rounding, better = numbers
    judged = decide(objective, lower, rounding=0.1 * rounding, better=better)
    if np.isnan(numbers).any():
        assert (judged.verdict, judged.lower_bound, judged.c) == (VERDICT.INCONCLUSIVE, 0.0, np.inf)


def test_a_bound_above_an_objective_proves_nothing():
    for objective, lower, better in ((1.0, 1.001, np.inf), (1.0, np.inf, np.inf), (2.0, 1.5, 1.4), (np.inf, 3.0, 2.0)):
        judged = decide(objective, lower, rounding=1e-12, better=better)
        assert judged.verdict == VERDICT.INCONCLUSIVE and not judged.sound and judged.lower_bound == 0.0
    assert decide(1.0, 1.001, rounding=0.01).sound  # the objective may be that large


def network(W1, w2):
    return gflow.TwoLayer(jnp.asarray(W1), jnp.asarray(w2))


def test_a_label_at_the_origin_is_missed_by_every_network():
    # f(0) = 0 != 1
    problem = gflow.Problem([[0.0], [1.0]], [1.0, 1.0], loss=gflow.Squared())
    proof = gflow.certify(problem, network([[1.0]], [1.0]))
    assert proof.verdict == VERDICT.INCONCLUSIVE and proof.c == np.inf and proof.better is None
    X = np.array([[0, 0], [1, 0], [0, 1], [1, 1], [2, -1.0]])
    problem = gflow.Problem(X, [1, 1, -1, 2, 0.5], loss=gflow.Squared())
    rest = gflow.solve_min_norm(gflow.Problem(X[1:], [1, -1, 2, 0.5], loss=gflow.Squared())).network
    for limit in (rest, gflow.limit_of_network(problem, rest)):  # all that can be fitted is
        assert gflow.certify(problem, limit).verdict == VERDICT.INCONCLUSIVE


@pytest.mark.parametrize("y", [1e-160, 1e-201, 1e-300, 1e-310])
@pytest.mark.parametrize("decay", [0.0, 1e-3])
def test_what_underflows_is_not_called_optimal(y, decay):
    # with weight decay every loss below is 0 in float64
    problem = gflow.Problem(np.eye(2), [y, -y], loss=gflow.Squared(), weight_decay=decay)
    half = network(np.sqrt(y) * np.eye(2)[:, :1], [np.sqrt(y)])
    for weights in (half, network(np.zeros((2, 1)), [0.0])):
        verdict = gflow.certify(problem, weights).verdict
        if decay:
            assert verdict == VERDICT.INCONCLUSIVE
        else:
            assert verdict in (VERDICT.NOT_GLOBAL, VERDICT.INCONCLUSIVE)


PLANE = gflow.Problem([[1.0, 0.2], [0.3, 1.0], [-1.0, 0.5], [0.4, -1.0]], [1.0, -1.0, 1.0, -1.0])


def exact_objective(problem, weights):
    """P(theta) in rational arithmetic."""
    from fractions import Fraction

    X, W, a = ([[Fraction(float(v)) for v in row] for row in np.atleast_2d(it)] for it in (
        problem.X, weights.W1.T, weights.w2))  # fmt: skip
    f = [sum(c * max(sum(x * w for x, w in zip(r, u, strict=True)), 0) for c, u in zip(a[0], W, strict=True))
         for r in X]  # fmt: skip
    q = min(int(y) * v for y, v in zip(np.asarray(problem.y), f, strict=True))
    return sum(v * v for row in W + a for v in row) / 2 / q


def test_neurons_that_are_0_change_no_verdict():
    best = gflow.solve_max_margin(PLANE).network
    worse = network(np.hstack([1.5 * best.W1, np.eye(2)]), np.concatenate([1.5 * best.w2, [0.1, -0.1]]))
    padded = network(np.hstack([worse.W1, np.zeros((2, 2))]), np.concatenate([worse.w2, [0.0, 1e-3]]))
    for weights in (worse, padded):
        proof = gflow.certify(PLANE, weights)
        assert proof.verdict == VERDICT.NOT_GLOBAL and np.all(np.isfinite(np.asarray(proof.better.W1)))


@pytest.mark.parametrize("size", [1.0, 1e2, 1e4, 1e6])
def test_c_is_no_less_than_the_quotient_of_exact_numbers(size):
    # neurons that cancel: q_min has lost digits, and so has the objective
    solved = gflow.solve_max_margin(PLANE)
    best, u = solved.network, np.array([[0.6, 0.6], [0.8, 0.8]])
    for tilt in (0.0, 1e-9, 3e-8):
        pair = size * (u + tilt * np.array([[0, 1], [0, 0.3]]))
        weights = network(np.hstack([best.W1, pair]), np.concatenate([best.w2, [size, -size]]))
        proof, objective = gflow.certify(PLANE, weights, optimum=solved), float(exact_objective(PLANE, weights))
        if objective > 0:
            assert proof.c >= objective / solved.primal * (1 - 1e-12)


def some_weights_fit(X, y, a, Z, lower):
    """Whether weights with these signs of a (m,), and of X W1 in Z (n, m) or 0 in its place, fit, by CVXPY."""
    import cvxpy as cp

    f, inside = 0, []
    for sign, z in zip(np.sign(a), np.sign(Z).T, strict=True):
        v = cp.Variable(X.shape[1])
        f = f + sign * cp.multiply(np.where(z > 0, 1.0, lower * (z < 0)), X @ v)
        inside += [cp.multiply(z, X @ v) >= 0, cp.multiply((z == 0) * 1.0, X @ v) == 0, cp.norm(v, "inf") <= 1]
    tau = cp.Variable()
    return cp.Problem(cp.Maximize(tau), [cp.multiply(y, f) >= tau, tau <= 1, *inside]).solve(solver="CLARABEL") > 1e-7


@pytest.mark.parametrize("lower", [0.0, 0.1])
def test_unfitted_is_about_the_signs_that_a_network_has(lower):
    pytest.importorskip("cvxpy")
    activation, said = gflow.LeakyReLU(lower) if lower else gflow.ReLU(), 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        X, y = rng.integers(-2, 3, (4, 2)) + 0.0, rng.choice([-1.0, 1.0], 4)
        W1, a = rng.integers(-2, 3, (2, 3)) + 0.0, rng.integers(-1, 2, 3) + 0.0
        verdict = gflow.certify(gflow.Problem(X, y, activation=activation), network(W1, a), search=False).verdict
        if verdict == VERDICT.UNFITTED:
            said += 1
            assert not some_weights_fit(X, y, a, X @ W1, lower)
    assert said > 5


def test_unfitted_leaves_nothing_out():
    problem = gflow.Problem(np.eye(2), [1.0, -1.0])
    leaky = gflow.Problem(np.eye(2), [1.0, -1.0], activation=gflow.LeakyReLU(0.1))
    assert gflow.certify(problem, network(np.eye(2), [-1.0, -1.0])).verdict == VERDICT.UNFITTED
    # a neuron of which one layer is 0 may yet supply what is missing, and a leaky one that is 0 altogether too
    for W1, w2, of in (
        (np.eye(2), [0.0, -1.0], problem), (np.diag([0.0, 1.0]), [1.0, -1.0], problem),
        (np.zeros((2, 1)), [0.0], leaky), (np.eye(2), [0.0, -1.0], leaky),
    ):  # fmt: skip
        given_as = network(W1, w2)
        limit = gflow.limit_of_network(of, given_as)
        assert not limit.stuck
        for it in (given_as, limit):
            assert gflow.certify(of, it).verdict == VERDICT.INCONCLUSIVE
    assert gflow.certify(problem, network(np.zeros((2, 1)), [0.0])).verdict == VERDICT.UNFITTED
