"""Large margins: weights that margins confirm, against CVXPY; flows that are continued, against what must hold."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import gflow
from gflow import datasets
from gflow._types import ENDING
from gflow.flow import implicit
from gflow.flow.charts import BalancedPolar
from gflow.flow.clocks import ScaledClock
from gflow.flow.field import Field
from gflow.flow.start import resting_modes
from gflow.flow.tied import confirmed, solved

DATA = datasets.gaussian(n=10, d=5)
PROBLEM = gflow.Problem(DATA.X, DATA.y)
FLOW = {"stop": (gflow.MarginTarget(), gflow.Unfitted()), "controller": gflow.PIController(1e-3), "saves": 1}


def cases(seed: int, size: float):
    """(v, M, guess): margins about `size`, half of them tied, and a twentieth of the time in which they double."""
    rng = np.random.default_rng(seed)
    n = 10
    A = rng.standard_normal((n, rng.integers(5, 25)))
    v = size * (1 + rng.random(n) * np.where(rng.random(n) < 0.5, 0.0, 0.5)) + rng.standard_normal(n)
    guess = rng.random(n)
    return v, 0.05 * size * A @ A.T, guess / guess.sum()


@pytest.mark.parametrize("size", [1e-3, 30.0, 1e3, 1e5])
@pytest.mark.parametrize("seed", range(3))
def test_weights_are_those_of_a_convex_program(size, seed):
    import cvxpy as cp

    v, M, guess = cases(seed, size)
    found = confirmed(gflow.Problem(DATA.X, DATA.y, loss=gflow.Exponential()), v, M, guess)
    p, root = cp.Variable(len(v)), np.linalg.cholesky(M + 1e-12 * size * np.eye(len(v))).T
    value = lambda p: 0.5 * p @ M @ p + v @ p + np.sum(p * np.log(np.maximum(p, 1e-300)))  # noqa: E731
    program = cp.Problem(cp.Minimize(0.5 * cp.sum_squares(root @ p) + (v - v.min()) @ p - cp.sum(cp.entr(p))),
                         [cp.sum(p) == 1])  # fmt: skip
    program.solve(solver=cp.CLARABEL)
    other = np.maximum(np.asarray(p.value), 0.0)
    mine = np.asarray(found.p)
    assert mine.sum() == pytest.approx(1.0) and mine.min() >= 0
    # the solver's own accuracy is relative to its objective
    assert value(mine) <= value(other / other.sum()) + 1e-6 * size


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.floats(0.0, 5.0))
def test_margins_have_the_weights_that_come_with_them(seed, power):
    v, M, guess = cases(seed, 10.0**power)
    found = confirmed(PROBLEM, v, M, guess)
    np.testing.assert_allclose(PROBLEM.weights(found.u), found.p, atol=1e-12)


@pytest.mark.parametrize("n", [8, 150])
def test_elimination_solves_symmetric_systems(n):
    rng = np.random.default_rng(0)
    A, B = rng.standard_normal((n, n)), rng.standard_normal((n, 2))
    A = A @ A.T + np.eye(n)
    np.testing.assert_allclose(solved(jnp.asarray(A), jnp.asarray(B)), np.linalg.solve(A, B), rtol=1e-9)


@pytest.fixture(scope="module")
def flow():
    """One that at q_min = 1e3 passes a saddle."""
    return gflow.solve_flow(PROBLEM, gflow.Gaussian(1e-3)(gflow.key_of(0, 0), PROBLEM, 50), **FLOW)


@pytest.fixture(scope="module")
def far(flow):
    return gflow.onward(PROBLEM, flow)


def test_margins_grow_as_the_kernel_says(flow):
    chart, z = BalancedPolar.encode(flow.final)
    field = Field(PROBLEM, chart, ScaledClock())
    modes = resting_modes(field, z)
    assert bool(jnp.any(modes.slide))
    K = implicit.kernel(field, z, modes)
    p = np.random.default_rng(0).random(10)
    G = modes.project(PROBLEM.X.T @ (field.slopes(modes.on) * (p * PROBLEM.y)[:, None]))
    margins = lambda z: implicit.margins(field, z, modes)  # noqa: E731
    rate = jax.jvp(margins, (z,), (chart.velocity(z, G),))[1]
    np.testing.assert_allclose(K @ p, rate, rtol=1e-10)
    np.testing.assert_allclose(K, K.T, rtol=1e-12)


def test_a_flow_goes_on_past_the_limit_that_was_predicted(flow, far):
    assert far.result == gflow.RESULTS.margin_reached and float(far.margins[-1].min()) >= 1e8
    before, reached = gflow.find_limit(PROBLEM, flow, follow=False), float(PROBLEM.objective(far.final))
    # P does not rise along a flow: it cannot go where it already is below
    assert before.polished and reached < 0.99 * before.objective
    after = gflow.find_limit(PROBLEM, far, follow=False)
    assert after.polished and after.objective < reached < 1.01 * after.objective
    assert before.ending == after.ending == ENDING.NOT_FOLLOWED and after.at_infinity is None
    # and both ends are followed to the same limit
    settled, again = gflow.find_limit(PROBLEM, flow), gflow.find_limit(PROBLEM, far)
    assert settled.settled and again.settled and settled.changes == 0
    assert settled.objective == pytest.approx(again.objective, rel=1e-9) and settled.objective < reached
    assert after.kkt_residual < 1e-9
    # multipliers come from the weights: margins of 1e8 do not tell them
    lam, ready = np.asarray(far.lam[-1]), np.asarray(PROBLEM.weights(far.margins[-1])) * PROBLEM.y
    residual = [float(PROBLEM.kkt_residual(far.final.normalised(), jnp.asarray(x))) for x in (lam, ready)]
    assert (
        residual[0] < 1e-3
        and float(PROBLEM.slackness(far.margins[-1], jnp.abs(jnp.asarray(lam)))) < 4e-3
        and np.abs(lam).sum() == pytest.approx(1.0)
    )
    assert float(gflow.along(PROBLEM, far).kkt_residual[-1]) == pytest.approx(residual[0])


def test_what_a_flow_conserves_and_how_long_it_takes(flow, far):
    np.testing.assert_allclose(np.linalg.norm(far.final.W1, axis=0), np.abs(far.final.w2), rtol=1e-9)
    np.testing.assert_array_equal(np.sign(far.final.w2), np.sign(flow.final.w2))
    assert int(far.steps) < 200
    assert float(far.s[-1]) > float(flow.s[-1]) and float(far.log_t[-1]) > 1e8
    # margins grow like e^(4 gamma s), gamma = 1/(2 P)
    rate = np.log(float(far.margins[-1].min() / flow.margins[-1].min())) / float(far.s[-1] - flow.s[-1])
    assert 2 / float(PROBLEM.objective(flow.final)) < rate < 2 / gflow.find_limit(PROBLEM, far).objective


def test_where_a_prediction_stands_the_limit_is_the_same():
    data = datasets.orthogonal_separable(n=10, d=5)
    problem = gflow.Problem(data.X, data.y)
    flow = gflow.solve_flow(problem, gflow.Gaussian(1e-3)(gflow.key_of(0, 0), problem, 50), **FLOW)
    far, best = gflow.onward(problem, flow), gflow.solve_max_margin(problem)
    limits = [gflow.find_limit(problem, end).objective for end in (flow, far)]
    np.testing.assert_allclose(limits, best.primal, rtol=1e-8)
    assert float(problem.objective(far.final)) == pytest.approx(best.primal, rel=2e-3)


def test_flows_that_cannot_be_continued_say_why(flow):
    early = jax.tree.map(lambda a: a, flow)
    early = gflow.Flow(**{**vars(early), "margins": 0.001 * flow.margins})
    with pytest.raises(ValueError, match="ended at q_min"):
        gflow.onward(PROBLEM, early)
    with pytest.raises(ValueError, match="must be larger"):
        gflow.onward(PROBLEM, flow, q_min=10.0)
    with pytest.raises(ValueError, match="has no margins"):
        gflow.onward(gflow.Problem(DATA.X, DATA.y, loss=gflow.Squared()), flow)
    with pytest.raises(ValueError, match="weight decay"):
        gflow.onward(gflow.Problem(DATA.X, DATA.y, weight_decay=0.1), flow)
    with pytest.raises(ValueError, match="takes a Flow, got TwoLayer"):
        gflow.onward(PROBLEM, flow.final)
    with pytest.raises(ValueError, match="one of other data"):
        gflow.onward(gflow.Problem(2 * DATA.X, DATA.y), flow)
    frozen = gflow.Flow(**{**vars(flow), "frozen": True})
    with pytest.raises(ValueError, match="frozen"):
        gflow.onward(PROBLEM, frozen)


def test_a_flow_that_runs_out_of_steps_says_so(flow):
    short = gflow.onward(PROBLEM, flow, max_steps=5)
    assert short.result == gflow.RESULTS.max_steps_reached
    assert 1e3 <= float(short.margins[-1].min()) < 1e8


def test_margins_do_not_fall_where_rows_differ_in_length_a_thousandfold():
    # one sample's margin fell to -7e8 when q_min at the end of a step was what errors were measured in
    rng = np.random.default_rng([158, 8, 3])
    X, y = rng.standard_normal((8, 3)), np.where(rng.random(8) < 0.5, 1.0, -1.0)
    y[:2] = 1.0, -1.0
    problem = gflow.Problem(X * 10 ** rng.uniform(-1.5, 1.5, (8, 1)), y)
    network = gflow.Independent(0.5)(gflow.key_of(158, 0), problem, 20)
    flow = gflow.solve_flow(problem, network, **FLOW)
    far = gflow.onward(problem, flow, max_steps=300)
    assert float(far.margins[-1].min()) > float(flow.margins[-1].min())
    assert float(problem.objective(far.final)) <= 1.001 * float(problem.objective(flow.final))
