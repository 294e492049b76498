"""The flow at q_min = infinity, against closed forms, SciPy and the convex program."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cases import A_MINUS, A_OPTIMUM, A_PLUS, A_X, A_y
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import solve_ivp

import gflow
from gflow._types import ENDING
from gflow.at_infinity import limits_of
from gflow.flow.continuation import solve
from gflow.flow.continuation.path import travel
from gflow.flow.continuation.solve import continued, followed
from gflow.flow.continuation.state import Data
from gflow.flow.continuation.step import advance, judged, placed, start
from gflow.flow.continuation.weights import derivative, simplex_minimum
from gflow.network import TwoLayer

M = 12
"""One width for all, so that little is compiled."""


def network_of(signs, U, log_masses):
    """M neurons with these signs, directions (d, k) and log masses, the others absent (w = 0)."""
    U, root = np.asarray(U, float), np.exp(0.5 * np.asarray(log_masses, float))
    U = U / np.linalg.norm(U, axis=0)
    rest = M - len(root)
    return TwoLayer(
        jnp.asarray(np.pad(U * root, ((0, 0), (0, rest)))), jnp.asarray(np.pad(np.asarray(signs) * root, (0, rest)))
    )


def random_problem(rng, n=6, d=3):
    X, y = rng.standard_normal((n, d)), np.where(rng.random(n) < 0.5, -1.0, 1.0)
    return gflow.Problem(X, y)


@settings(max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 5), st.booleans())
def test_the_program_over_the_simplex_has_the_minimum_of_its_best_face(seed, rank, warm):
    """Every face of the simplex is tried: its stationary point counts where it lies inside."""
    rng, n = np.random.default_rng(seed), 5
    B = rng.standard_normal((n, rank))
    J, v = B @ B.T + 1e-6 * np.eye(n), rng.standard_normal(n)
    p0 = rng.random(n) * (rng.random(n) < 0.5) if warm else np.ones(n)
    p0 = p0 if p0.any() else np.ones(n)
    best = np.inf
    for k in range(1, n + 1):
        for face in map(list, itertools.combinations(range(n), k)):
            kkt = np.block([[J[np.ix_(face, face)], -np.ones((k, 1))], [np.ones((1, k)), np.zeros((1, 1))]])
            p = np.linalg.solve(kkt, np.append(-v[face], 1.0))[:k]
            if p.min() >= -1e-12:
                whole = np.zeros(n)
                whole[face] = p
                best = min(best, 0.5 * whole @ J @ whole + v @ whole)
    p = np.asarray(simplex_minimum(jnp.asarray(J), jnp.asarray(v), jnp.asarray(p0), jnp.asarray(True)))
    assert p.min() >= 0 and abs(p.sum() - 1) < 1e-12
    assert 0.5 * p @ J @ p + v @ p <= best + 1e-9 * (1 + abs(best))


def least_norm(X, c, w):
    """Velocity of least norm of one neuron at w, force sum_n c_n 1[x_n.w > 0] x_n, hyperplanes within 1e-9."""
    from scipy.optimize import lsq_linear

    z = X @ w / np.linalg.norm(w)
    kinks = np.abs(z) < 1e-9
    v = X.T @ (c * ((z > 0) & ~kinks))
    if not kinks.any():
        return v
    rows = (c[:, None] * X)[kinks]
    return v + rows.T @ lsq_linear(rows.T, -v, (0, 1), method="bvls").x


def event_by_event(X, c, u, time):
    """(direction, growth of log mass) of one balanced neuron under constant c = s lambda, by a stiff-free SciPy
    integration between located events; it shares nothing with gflow."""
    w, a, t = np.array(u, float), 1.0, 0.0
    held = np.zeros(len(X), bool)
    side = np.sign(X @ w)
    for _ in range(60):
        hit = np.flatnonzero(held)
        free = ~held

        def force(on=(side > 0) & free, hit=hit):
            v = X.T @ (c * on)
            if len(hit) == 0:
                return v
            Q, _ = np.linalg.qr(X[hit].T)
            return v - Q @ (Q.T @ v)

        g = force()
        events = [lambda s, y, n=n: X[n] @ y[:-1] for n in np.flatnonzero(free)]
        for event, n in zip(events, np.flatnonzero(free), strict=True):
            event.terminal, event.direction = True, -side[n]
        sol = solve_ivp(
            lambda s, y, g=g: np.append(y[-1] * g, g @ y[:-1]), (t, time), np.append(w, a), rtol=1e-11, atol=1e-13,
            events=events,
        )  # fmt: skip
        w, a, t = sol.y[:-1, -1], sol.y[-1, -1], sol.t[-1]
        if sol.status == 0:
            break
        n = np.flatnonzero(free)[[len(e) > 0 for e in sol.t_events].index(True)]
        side[n] = -side[n]
        trial = (side > 0) & ~held
        off = X[n] @ (X.T @ (c * (trial & (np.arange(len(X)) != n))))
        on = off + c[n] * X[n] @ X[n]
        if c[n] < 0 and on < 0 < off and not held.any():
            held[n] = True
            w = w - X[n] * (X[n] @ w) / (X[n] @ X[n])
        elif held.any():
            return None  # several at once: left to the other tests
    return w / np.linalg.norm(w), np.log(a**2)


@pytest.mark.parametrize("seed", range(6))
def test_paths_are_those_of_an_integration_from_event_to_event(seed):
    rng = np.random.default_rng(seed)
    X, y = rng.standard_normal((6, 3)), np.array([1, 1, 1, -1, -1, -1.0])
    problem, p = gflow.Problem(X, y), rng.random(6) + 0.1
    p /= p.sum()
    U, signs = rng.standard_normal((3, 8)), np.where(rng.random(8) < 0.5, -1.0, 1.0)
    network = network_of(signs, U, np.zeros(8))
    data = Data(problem)
    place = on_path(problem)
    neurons = placed(data, network)[1]
    time = 3.0
    arrived = place(data, network.w2, neurons, jnp.asarray(p), time)
    assert bool(arrived.there)
    compared = 0
    for i in range(8):
        found = event_by_event(X, signs[i] * p * y, U[:, i] / np.linalg.norm(U[:, i]), time)
        if found is None or not (X @ U[:, i] > 0).any():
            continue
        compared += 1
        np.testing.assert_allclose(arrived.neurons.u[:, i], found[0], atol=1e-7)
        np.testing.assert_allclose(arrived.neurons.log_mass[i] - neurons.log_mass[i], found[1], atol=1e-7)
    assert compared >= 2


def on_path(problem):
    return jax.jit(lambda data, sign, neurons, p, time: travel(data, jnp.sign(sign), neurons, p, time))


def test_the_derivative_of_margins_is_their_quotient_of_differences():
    rng = np.random.default_rng(3)
    problem = random_problem(rng)
    data = Data(problem)
    network = network_of(rng.choice([-1.0, 1.0], 8), rng.standard_normal((3, 8)), rng.standard_normal(8))
    neurons, p, time, eps = placed(data, network)[1], np.full(6, 1 / 6), 0.3, 1e-6
    go, sign = on_path(problem), jnp.sign(network.w2)
    end = lambda p: go(data, network.w2, neurons, jnp.asarray(p), time)  # noqa: E731
    there = end(p)
    J = np.asarray(derivative(data, sign, neurons, there, time, 0.0))
    for k in range(6):
        step = eps * np.eye(6)[k]
        more, less = end(p + step), end(p - step)
        if int(more.events) != int(there.events) or int(less.events) != int(there.events) or int(there.events):
            continue
        quotient = (data.margins(sign, more.neurons, 0.0) - data.margins(sign, less.neurons, 0.0)) / (2 * eps)
        np.testing.assert_allclose(J[:, k], quotient, atol=1e-6 * np.abs(J).max())


def test_orthogonally_separable_data_end_at_their_two_directions():
    rng = np.random.default_rng(0)
    problem = gflow.Problem(A_X, A_y)
    U = np.concatenate([np.tile(A_PLUS[:, None], 6), np.tile(A_MINUS[:, None], 6)], axis=1)
    signs = np.repeat([1.0, -1.0], 6)
    found = continued(problem, network_of(signs, U + 0.2 * rng.standard_normal(U.shape), rng.standard_normal(12)))
    assert found.settled and abs(found.objective - A_OPTIMUM) < 1e-7 * A_OPTIMUM
    wanted = np.where(
        found.network.w2 > 0, (A_PLUS / np.linalg.norm(A_PLUS))[:, None], (A_MINUS / np.linalg.norm(A_MINUS))[:, None]
    )
    np.testing.assert_allclose(found.network.directions(), wanted, atol=1e-6)


@pytest.mark.parametrize("lowered", [60.0, 400.0])
def test_a_saddle_is_left_when_the_small_neuron_has_caught_up(lowered):
    """Two samples at an angle of 100 degrees, one twice as long. A neuron for each is a saddle, P = 3/2; one between
    them grows at the rate rho = 2 cos 50 degrees there. With a mass of e^-G it catches up at log q = G/(rho - 1)."""
    angle = np.deg2rad(100)
    X = np.array([[1.0, 0.0, 0.0], [2 * np.cos(angle), 2 * np.sin(angle), 0.0]])
    problem = gflow.Problem(X, np.ones(2))
    middle = X[0] + X[1] / 2
    network = network_of(np.ones(3), np.stack([*X, middle], axis=1), [0.0, -np.log(2), -lowered])
    go, data = jax.jit(lambda data, lane: jax.lax.cond(lane.over, judged, advance, data, lane)), Data(problem)
    lane, left = jax.jit(start)(data, network, 1e-2), None
    while not bool(lane.stability.settled):
        assert int(lane.place.steps) <= 120
        lane = go(data, lane)
        log_mass = lane.place.neurons.log_mass
        if left is None and float(log_mass[2]) >= float(jnp.max(log_mass[:2])):
            left = float(lane.place.log_q)
    rho, best = 2 * np.cos(angle / 2), np.linalg.norm(np.linalg.pinv(X) @ np.ones(2))
    assert abs(left - lowered / (rho - 1)) < 0.02 * lowered / (rho - 1)
    assert abs(float(lane.place.objective) - best) < 1e-6 * best


def two_samples(angle):
    """Two samples, one twice as long, and the network of a neuron for each and a small one between them, e^-30."""
    X = np.array([[1.0, 0.0, 0.0], [2 * np.cos(angle), 2 * np.sin(angle), 0.0]])
    U = np.stack([*X, X[0] + X[1] / 2], axis=1)
    return gflow.Problem(X, np.ones(2)), network_of(np.ones(3), U, [0.0, -np.log(2), -30.0])


def test_a_flow_that_neither_stays_nor_leaves_is_on_the_border():
    """At 120 degrees the neuron between both samples grows at the rate 2 cos 60 degrees = 1: as fast as they do."""
    problem, network = two_samples(np.deg2rad(120))
    (found,) = followed(problem, [network], narrow=False)
    assert found.end == ENDING.BORDER and not found.settled
    assert found.stability.rate == pytest.approx(1, abs=1e-6) and found.objective == pytest.approx(1.5, abs=1e-6)


def test_a_limit_is_settled_if_two_tolerances_agree():
    problem, network = two_samples(np.deg2rad(100))
    (found,) = followed(problem, [network], narrow=False)
    coarse, fine = (continued(problem, network, tol=tol) for tol in (0.1, 0.01))
    assert found.settled and coarse.settled and fine.settled and found.steps == fine.steps
    assert coarse.same_limit(fine) and found.objective == fine.objective
    # when the patterns became final: the neuron between both joins the limit on the way, at log q = gap/(rho - 1)
    assert 0 < found.final <= found.log_q and found.final > 0.5 * 30 / (2 * np.cos(np.deg2rad(50)) - 1)
    elsewhere = dataclasses.replace(fine, objective=1.01 * fine.objective)
    assert solve._agreed(coarse, elsewhere).end == ENDING.DISAGREEMENT
    turned = dataclasses.replace(fine, masks=~fine.masks)
    assert solve._agreed(coarse, turned).end == ENDING.DISAGREEMENT
    left = dataclasses.replace(fine, end=ENDING.STEP_LIMIT)
    assert solve._agreed(coarse, left).end == ENDING.STEP_LIMIT == solve._agreed(left, fine).end


def test_too_few_steps_are_said():
    problem, network = two_samples(np.deg2rad(100))
    (found,) = followed(problem, [network], max_steps=5, narrow=False)
    assert found.end == ENDING.STEP_LIMIT and not found.settled and found.steps == 5


@pytest.mark.parametrize("seed", range(8))
def test_a_settled_limit_is_a_kkt_point_and_the_optimum_of_its_patterns(seed):
    """Against the program of its cones by CVXPY: what the patterns determine cannot be improved inside of them."""
    import cvxpy as cp

    rng = np.random.default_rng(seed)
    problem, U = random_problem(rng), rng.standard_normal((3, M))
    # a second layer with which all margins are 1
    second = np.linalg.lstsq(np.maximum(np.asarray(problem.X) @ U, 0), np.asarray(problem.y), rcond=None)[0]
    network = TwoLayer(jnp.asarray(U), jnp.asarray(second))
    if not float(problem.margins(network).min()) > 0.5:
        pytest.skip("some samples are on the wrong side of all neurons")
    (limit,) = limits_of(problem, [network.scaled(30.0)], narrow=False)
    assert limit.settled and limit.polished and limit.changes == 0
    assert limit.kkt_residual < 1e-9 and limit.slackness < 1e-9
    X, y, signs = np.asarray(problem.X), np.asarray(problem.y), np.sign(np.asarray(limit.network.w2))
    V, f, cones = [cp.Variable(3) for _ in signs], 0, []
    for v, s, on, slide in zip(V, signs, limit.masks.T, limit.sliding.T, strict=True):
        f = f + s * cp.multiply(on & ~slide, X @ v)
        cones += [cp.multiply(np.where(on, 1.0, -1.0), X @ v) >= 0]
        cones += [X[slide] @ v == 0] if slide.any() else []
    program = cp.Problem(cp.Minimize(sum(cp.norm(v) for v in V)), [cp.multiply(y, f) >= 1, *cones])
    program.solve(solver=cp.CLARABEL)
    assert limit.objective == pytest.approx(program.value, rel=1e-6)
