"""Extreme points of the dual: distances from the face that lambda exposes."""

import cases
import helpers
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow.convex.exposed import _distance


def test_distance_from_a_convex_hull_in_closed_form():
    triangle = np.array([[1.0, 0, 0], [0, 1, 0], [0, 0, 1]])
    assert _distance(triangle, np.zeros(3)) == pytest.approx(1 / np.sqrt(3), rel=1e-12)
    assert _distance(triangle, np.array([2.0, 0, 0])) == pytest.approx(1.0, rel=1e-12)
    assert _distance(triangle, np.array([0.2, 0.3, 0.5])) == pytest.approx(0.0, abs=1e-12)
    assert _distance(triangle[:1], np.array([1.0, 3.0, 4.0])) == pytest.approx(5.0, rel=1e-12)


def test_case_a_neurons_are_extreme_points():
    problem = gflow.Problem(cases.A_X, cases.A_y)
    lam = cases.A_y * gflow.solve_max_margin(problem).alpha
    corners = gflow.exposed_points(problem, lam)
    expected = [np.maximum(cases.A_X @ cases.A_PLUS, 0.0), -np.maximum(cases.A_X @ cases.A_MINUS, 0.0)]
    expected = [z / np.linalg.norm(v) for z, v in zip(expected, (cases.A_PLUS, cases.A_MINUS), strict=True)]
    assert len(corners) == 2
    assert min(np.max(np.abs(corners - expected)), np.max(np.abs(corners[::-1] - expected))) <= 1e-7
    W1 = np.stack([cases.A_PLUS, cases.A_MINUS, [0.0, 1.0]], axis=1)
    network = gflow.TwoLayer(jnp.asarray(W1), jnp.array([1.0, -1.0, 1.0]))
    distance = gflow.distance_from_exposed_face(problem, network, lam)
    assert np.max(distance[:2]) <= 1e-6 and distance[2] > 0.1


def test_neurons_of_an_optimum_are_extreme_and_others_are_not(rng):
    X, y = rng.standard_normal((9, 2)), rng.choice([-1.0, 1.0], 9)
    problem = gflow.Problem(X, y)
    solved = gflow.solve_max_margin(problem)
    lam = y * solved.alpha
    assert np.max(gflow.distance_from_exposed_face(problem, solved.network, lam)) <= 1e-6
    # turned by an angle: at least as far as the support function says
    c, s = np.cos(0.05), np.sin(0.05)
    W1 = jnp.asarray(np.array([[c, -s], [s, c]]) @ np.asarray(solved.network.W1))
    turned = gflow.TwoLayer(W1.at[:, 0].set(0.0), solved.network.w2)
    distance = gflow.distance_from_exposed_face(problem, turned, lam)
    B = helpers.dual_maximum_on_circle(X, lam)
    assert np.isnan(distance[0])
    for u, a, r in list(zip(np.asarray(turned.directions()).T, solved.network.w2, distance, strict=True))[1:]:
        short = B - np.sign(a) * lam @ np.maximum(X @ u, 0.0)
        assert short > 1e-4
        assert r >= short / np.linalg.norm(lam) * (1 - 1e-6)


def test_what_cannot_be_known_is_refused(rng):
    X = rng.standard_normal((60, 12))
    problem = gflow.Problem(X, np.where(X[:, 0] > 0, 1, -1))
    with pytest.raises(ValueError, match="needs all faces"):
        gflow.exposed_points(problem, np.ones(60))
    problem = gflow.Problem(cases.A_X, cases.A_y)
    with pytest.raises(ValueError, match="lam must hold"):
        gflow.exposed_points(problem, np.zeros(4))
