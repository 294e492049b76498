"""Flows of the first layer alone: their limits and the bound for their second layer, against CVXPY and closed forms."""

import cases
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow import datasets
from gflow.convex.oracle import one_sided

ROUGH = gflow.PIController(1e-3)  # as `gflow run`, whose tests compile the same


def flow_of(problem, seed, scale=0.1):
    network = gflow.Gaussian(scale)(gflow.key_of(0, seed), problem, 10)
    return gflow.solve_flow(problem, network, saves=1, chart=gflow.FrozenOutput, controller=ROUGH)


def least_first_layer(problem, network):
    """min 1/2 |W1|^2 s.t. q >= 1 over first layers with the patterns of `network`, by CVXPY."""
    import cvxpy as cp

    X, y = np.asarray(problem.X), np.asarray(problem.y)
    Z, W = X @ np.asarray(network.directions()), cp.Variable(network.W1.shape)
    on = Z > 1e-9
    outputs = cp.multiply(on, X @ W) @ np.asarray(network.w2)
    inside = cp.multiply(np.where(on, 1.0, np.where(Z < -1e-9, -1.0, 0.0)), X @ W) >= 0
    held = cp.multiply((np.abs(Z) <= 1e-9) * 1.0, X @ W) == 0
    program = cp.Problem(cp.Minimize(cp.sum_squares(W) / 2), [cp.multiply(y, outputs) >= 1, inside, held])
    return program.solve(solver="CLARABEL")


def test_one_direction_per_class_is_the_best_first_layer():
    # each class is separated at the least cost |v|^2 / (2 A), A the sum of its a^2, by |a_i| w_i = a_i^2 v / A
    problem = gflow.Problem(cases.A_X, cases.A_y)
    a = np.array([0.3, 0.5, -0.7])
    V = np.stack([cases.A_PLUS, cases.A_PLUS, cases.A_MINUS], axis=1)
    W1 = np.abs(a) * V / np.array([0.34, 0.34, 0.49])
    limit = gflow.frozen_limit(problem, gflow.TwoLayer(jnp.asarray(1e3 * W1 + 0.1), jnp.asarray(a)))
    expected = 0.5 * (np.sum(cases.A_PLUS**2) / 0.34 + np.sum(cases.A_MINUS**2) / 0.49)
    assert limit.polished and limit.objective == pytest.approx(expected, rel=1e-12)
    assert limit.c == pytest.approx(1, abs=1e-9) and limit.kkt_residual < 1e-12
    np.testing.assert_allclose(limit.network.W1, W1, rtol=1e-9)


def test_limits_of_flows_on_separable_data_are_the_best_first_layers():
    data = datasets.orthogonal_separable(n=8, d=2)
    problem = gflow.Problem(data.X, data.y)
    flow = flow_of(problem, 0)
    limit = gflow.frozen_limit(problem, flow.final)
    assert limit.polished and limit.c == pytest.approx(1, abs=1e-9)
    np.testing.assert_array_equal(limit.network.w2, flow.final.w2)
    at_end = flow.final.W1 / jnp.min(flow.margins)
    np.testing.assert_allclose(limit.network.W1, at_end, atol=2e-2 * float(jnp.max(jnp.abs(at_end))))
    # the function is that of the max-margin network, one direction per class
    merged = gflow.limit_of_network(problem, limit.network, polish=False)
    assert merged.objective == pytest.approx(gflow.solve_max_margin(problem).primal, rel=1e-9)


def test_limits_against_cvxpy_and_bounds_against_every_first_layer():
    solved = 0
    for seed in range(6):
        rng = np.random.default_rng(seed)
        problem = gflow.Problem(rng.standard_normal((8, 2)), rng.choice([-1.0, 1.0], 8))
        flow = flow_of(problem, seed)
        limit = gflow.frozen_limit(problem, flow.final)
        assert limit.lower_bound > 0 and limit.c >= 1 - 1e-9
        if limit.polished:
            solved += 1
            assert limit.objective == pytest.approx(least_first_layer(problem, limit.network), rel=1e-6)
            assert limit.kkt_residual < 1e-9
            # any first layer that fits is at least as long as the bound for its second one
            for _ in range(20):
                W1 = np.asarray(limit.network.W1)
                other = gflow.TwoLayer(
                    jnp.asarray(W1 + 0.3 * rng.random() * np.abs(W1).max() * rng.standard_normal(W1.shape)),
                    limit.network.w2,
                )
                q_min = float(jnp.min(problem.margins(other)))
                if q_min > 0:
                    assert 0.5 * float(jnp.sum(other.W1**2)) / q_min**2 >= limit.lower_bound * (1 - 1e-9)
    assert solved >= 1


def test_one_sided_maximum_against_the_circle():
    at = np.linspace(0, 2 * np.pi, 100_001)
    U = np.stack([np.cos(at), np.sin(at)])
    for seed in range(10):
        rng = np.random.default_rng(seed)
        X, lam = rng.standard_normal((6, 2)), rng.standard_normal(6) - seed % 2
        values = lam @ np.maximum(X @ U, 0.0)
        bounds = one_sided(jnp.asarray(X), jnp.asarray(lam), gflow.faces(X))
        for s, bound in zip((1, -1), bounds, strict=True):
            most = max(0.0, (s * values).max())
            # the maximum is at most half a step of the grid away
            off = np.pi / 100_000 * np.abs(lam) @ np.linalg.norm(X, axis=1)
            assert most - 1e-12 <= bound <= most + off


def test_what_a_frozen_limit_does_not_exist_for():
    network = gflow.TwoLayer(jnp.eye(2), jnp.asarray([1.0, -1.0]))
    for problem, frozen, message in (
        (gflow.Problem(np.eye(2), [1, -1], loss=gflow.Squared()), network, "no margins"),
        (gflow.Problem(np.eye(2), [1, -1], weight_decay=0.1), network, "weight decay"),
        (gflow.Problem(np.eye(2), [1, -1]), gflow.TwoLayer(network.W1, jnp.zeros(2)), "second layer"),
    ):
        with pytest.raises(ValueError, match=message):
            gflow.frozen_limit(problem, frozen)
    # not fitted: nothing is a limit
    limit = gflow.frozen_limit(gflow.Problem(np.eye(2), [1, -1]), network.scaled(jnp.asarray(-1.0)))
    assert not limit.polished and limit.objective == np.inf and limit.lower_bound > 0
