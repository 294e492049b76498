"""Where a neuron is and what mode it has agree after every event: property tests, and flows whose neurons die."""

import cases
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from reference import Reference
from scipy.optimize import minimize
from test_batch import LANES, WIDTH, every_entry

import gflow
from gflow.box import orthonormal
from gflow.flow.lanes import advance, start
from gflow.flow.modes import Modes, first_rows, rounding, rows_at
from gflow.flow.sides import on_sides
from gflow.flow.vector_chart import VectorPolar

ROUNDING = rounding(np.float64)


def modes_of(X, on, slide):
    at = first_rows(jnp.asarray(slide), min(len(X), max(X.shape[1] - 1, 1)))
    return Modes(
        jnp.asarray(on), jnp.asarray(slide), at, jnp.zeros(at.shape), orthonormal(rows_at(jnp.asarray(X), at), 2)
    )


def nearest(X, on, slide, u):
    """The nearest vector on these closed sides, by a general-purpose solver; its distance."""
    free, side = ~slide, np.where(on, 1.0, -1.0)
    rules = [{"type": "ineq", "fun": lambda v: 1e4 * (side[:, None] * X)[free] @ v}]
    if slide.any():
        rules.append({"type": "eq", "fun": lambda v: 1e4 * X[slide] @ v})
    sol = minimize(lambda v: 1e6 * np.sum((v - u) ** 2), u, constraints=rules, method="SLSQP", options={"ftol": 1e-14})
    return np.linalg.norm(sol.x - u)


@given(st.integers(0, 10_000), st.sampled_from([0, 1]))
def test_a_vector_near_a_cell_is_put_into_it(seed, slides):
    n, d, m = 7, 4, 6
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, d)) * 10.0 ** rng.uniform(-2, 2, size=(n, 1))
    inside = rng.normal(size=(d, m))
    # close to two or three hyperplanes at once, and to one on which it slides
    slide = np.zeros((n, m), bool)
    for i in range(m):
        rows = X[rng.choice(n, rng.integers(2, 4), replace=False)]
        inside[:, i] -= (1 - 1e-4 * rng.random()) * np.linalg.pinv(rows) @ rows @ inside[:, i]
        if slides:
            k = rng.integers(n)
            slide[k, i] = True
            inside[:, i] -= np.linalg.pinv(X[[k]]) @ X[[k]] @ inside[:, i]
    size = np.linalg.norm(inside, axis=0)
    on = (X @ inside > 0) & ~slide
    U = inside + 1e-3 * size * rng.normal(size=(d, m)) / np.sqrt(d)
    U[:, 0] = inside[:, 0]
    modes = modes_of(X, on, slide)
    put = jax.jit(on_sides)(jnp.asarray(X), modes, jnp.asarray(U))
    relative = np.asarray(X @ put.U) / np.linalg.norm(X, axis=1)[:, None] / np.linalg.norm(U, axis=0)
    assert np.all((relative > 0)[~slide] == np.asarray(put.on)[~slide]) and np.all(np.abs(relative[slide]) < ROUNDING)
    np.testing.assert_array_equal(put.on[:, 0], on[:, 0])
    np.testing.assert_allclose(put.U[:, 0], U[:, 0], rtol=0, atol=1e-14 * size[0])
    kept = np.all(np.asarray(put.on) == on, axis=0)
    within = U - (np.asarray(U) - np.asarray(modes.project(jnp.asarray(U))))
    for i in np.flatnonzero(kept):
        assert float(put.moved[i]) <= 10 * nearest(X, on[:, i], slide[:, i], within[:, i]) + 1e-12 * size[i]
    assert kept.sum() >= m - 1


def test_modes_that_no_vector_has_follow_the_vector():
    X = jnp.array([[1.0, 0.0], [1.0, 1e-9], [0.0, 1.0]])
    on = jnp.array([[True, True], [False, True], [False, True]])  # the first: x_1 > 0 > x_2, far below the third
    U = jnp.array([[1.0, 1.0], [-0.5, -1e-7]])
    put = on_sides(X, modes_of(np.asarray(X), on, np.zeros((3, 2), bool)), U)
    np.testing.assert_array_equal(put.on, [[True, True], [True, True], [False, True]])
    np.testing.assert_array_equal(put.U[:, 0], U[:, 0])
    np.testing.assert_array_equal(X @ put.U > 0, put.on)
    assert put.moved[1] < 2e-7 and put.moved[0] == 0


@jax.jit
def disagreement(X, lanes):
    """|x_n . u_i| / |x_n| of the pairs whose mode is another, the largest of every lane."""

    def one(lane):
        modes = lane.solver.modes
        hidden = lane.chart.hidden(lane.state[0])
        size = jnp.sqrt(jnp.sum(hidden**2, axis=0)) * jnp.sqrt(jnp.sum(X**2, axis=1))[:, None]
        relative = X @ hidden / jnp.where(size > 0, size, 1.0)
        return jnp.max(jnp.where(modes.slide, abs(relative), jnp.where(modes.on, -relative, relative)))

    return jax.vmap(one)(lanes)


SMALL, LARGER = (*cases.A_X.shape, WIDTH, LANES), (10, 5, 12, 8)
MORE = [
    (gflow.Logistic, gflow.ReLU, VectorPolar, gflow.ScaledClock, SMALL, 0.0),
    (gflow.Squared, gflow.ReLU, gflow.Cartesian, gflow.ScaledClock, SMALL, 0.1),
    (gflow.Logistic, gflow.ReLU, gflow.BalancedPolar, gflow.ScaledClock, LARGER, 0.0),
]
"""What `every_entry` leaves out: (n, d, width, lanes) and weight decay come last."""

RTOLS = 10.0 ** -np.arange(3.0, 9.0)


@pytest.mark.parametrize(
    "loss, activation, chart, clock, shape, decay",
    [*((*entry, SMALL, 0.0) for entry in every_entry()), *MORE],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_after_every_step_positions_and_modes_agree(loss, activation, chart, clock, shape, decay):
    # with shapes and settings that other tests have compiled; data, weights and tolerances are numbers
    if not activation().kinks:
        pytest.skip("fixed gates have no hyperplanes")
    n, d, width, count = shape
    labels = (n, 2) if chart is VectorPolar else n
    law = gflow.Gaussian(0.3) if chart in (VectorPolar, gflow.BalancedPolar) else gflow.Independent(0.3)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        X, signs = rng.normal(size=(n, d)), rng.choice([-1.0, 1.0], size=labels)
        y = rng.normal(size=labels) if loss is gflow.Squared else signs
        problem = gflow.Problem(X, y, loss=loss(), activation=activation(), weight_decay=decay)
        tolerance = gflow.PIController(RTOLS[seed % len(RTOLS)])
        stepper = gflow.Stepper(problem, chart=chart, clock=clock(), controller=tolerance, stop=(), until=8.0)
        networks = jax.vmap(lambda i, seed=seed, problem=problem: law(gflow.key_of(seed, i), problem, width))
        lanes = start(stepper, networks(jnp.arange(count)))
        for _ in range(60):
            lanes = advance(stepper, lanes, jnp.asarray(1))
            assert jnp.max(disagreement(problem.X, lanes)) <= ROUNDING


FIVE = [[-1.0, 0.28], [-0.6, -0.1], [-0.1, 0.03], [0.3, 0.23], [0.7, -0.22]]
"""Points (x, y), fitted with a bias."""


@pytest.fixture(scope="module")
def five_points():
    """(problem, stepper, start's lanes) of 50 neurons from tiny independent weights."""
    data = np.array(FIVE)
    problem = gflow.Problem(np.column_stack([data[:, 0], np.ones(5)]), data[:, 1], loss=gflow.Squared())
    stepper = gflow.Stepper(problem, chart=gflow.Hyperbolic, controller=gflow.PIController(1e-3))
    draw = lambda i: gflow.Independent(8e-6)(gflow.key_of(0, i), problem, 50)  # noqa: E731
    return problem, stepper, draw


@pytest.mark.parametrize("rtol", [1e-3, 1e-4])
def test_neurons_that_die_are_left_behind_the_hyperplane_of_their_last_sample(five_points, rtol):
    problem, stepper, draw = five_points
    at = lambda s: (s.controller.pid.rtol, s.controller.pid.atol)  # noqa: E731
    stepper = eqx.tree_at(at, stepper, (jnp.asarray(rtol), jnp.asarray(rtol)))
    lanes = start(stepper, jax.vmap(draw)(jnp.arange(4)))
    balance = jax.vmap(draw)(jnp.arange(4)).balance()
    for _ in range(60):
        lanes = advance(stepper, lanes, jnp.asarray(10))
        assert jnp.max(disagreement(problem.X, lanes)) <= ROUNDING
    assert not jnp.any(lanes.running)
    ends = jax.vmap(stepper.flow)(lanes).final
    np.testing.assert_allclose(ends.balance(), balance, atol=1e-12 * float(jnp.max(ends.w2**2)))
    for i in range(4):
        network = ends.at(i)
        modes = jax.tree.map(lambda a, i=i: np.asarray(a[i]), lanes.solver.modes)
        never = ~np.any(modes.on | modes.slide, axis=0)
        np.testing.assert_array_equal(np.asarray(gflow.fates(problem, network)) == gflow.FATE.DEAD, never)
        assert not np.any(np.asarray(network.masks(problem.X))[:, never])
        limit = gflow.limit_of_network(problem, network)
        assert limit.polished and limit.loss == pytest.approx(0.06971490, abs=1e-8)
        assert gflow.certify(problem, limit).verdict == gflow.VERDICT.NOT_GLOBAL


def test_fates_are_those_of_the_reference():
    # an event-driven integrator in SciPy, which locates deaths and slides to 1e-11
    rng = np.random.default_rng(4)
    X, y = rng.normal(size=(6, 2)), rng.choice([-1.0, 1.0], size=6)
    W1 = 0.5 * rng.normal(size=(2, 10))
    w2 = rng.choice([-1.0, 1.0], size=10) * np.linalg.norm(W1, axis=0)
    exact = Reference(X, y, W1, w2)
    at_first = exact.on.any(axis=0)
    exact.run(6.0)
    active, slides = exact.on.any(axis=0), exact.slide.any(axis=0)
    expected = np.where(active, np.where(slides, gflow.FATE.SLIDING, gflow.FATE.LIVE), gflow.FATE.DEAD)
    assert np.any(at_first & (expected == gflow.FATE.DEAD)) and len(set(expected)) == 3
    problem, network = gflow.Problem(X, y), gflow.TwoLayer(jnp.asarray(W1), jnp.asarray(w2))
    for rtol in (1e-3, 1e-6):
        flow = gflow.solve_flow(problem, network, until_s=6.0, saves=1, controller=gflow.PIController(rtol))
        np.testing.assert_array_equal(gflow.fates(problem, flow.final), expected)
        relative = X @ np.asarray(flow.final.directions()) / np.linalg.norm(X, axis=1)[:, None]
        assert np.max(np.abs(relative[exact.slide])) < 1e-12
        np.testing.assert_array_equal((relative > 0)[~exact.slide], exact.on[~exact.slide])
