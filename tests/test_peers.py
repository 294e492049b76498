"""The rivals of the speed benchmarks solve the same flow: they are compared with it before they are raced."""

import itertools
import pathlib
import sys

import numpy as np
import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "benchmarks"))
import peers

from gflow import datasets

DATA = datasets.orthogonal_separable(n=8, d=2)
WIDTH = 6


@pytest.fixture(scope="module")
def start():
    rng = np.random.default_rng(0)
    W1 = 0.1 * rng.standard_normal((2, WIDTH))
    return W1, np.linalg.norm(W1, axis=0) * rng.choice([-1.0, 1.0], WIDTH)


def loss(X, y, theta):
    W1, w2 = peers.parts(theta, X.shape[1])
    return np.sum(np.log1p(np.exp(-y * (np.maximum(X @ W1, 0) @ w2))))


@pytest.mark.parametrize("log", [False, True])
def test_slope_is_that_of_the_loss(log, start):
    theta = np.concatenate([start[0].ravel(), start[1]])
    value = (lambda th: np.log(loss(DATA.X, DATA.y, th))) if log else (lambda th: loss(DATA.X, DATA.y, th))
    step = 1e-6 * np.eye(len(theta))
    numeric = np.array([(value(theta + e) - value(theta - e)) / 2e-6 for e in step])
    np.testing.assert_allclose(peers.slope(DATA.X, DATA.y, theta, log), -numeric, atol=1e-8)


def test_slope_of_log_loss_survives_large_margins(start):
    theta = 1e3 * np.concatenate([start[0].ravel(), start[1]])
    assert np.all(np.isfinite(peers.slope(DATA.X, DATA.y, theta, True)))


def test_solvers_of_physical_time_agree(start):
    """diffrax at t = 10 against SciPy at its own steps, by the loss, which falls along the flow."""
    X, y = DATA.X, DATA.y
    _, W1, w2 = next(itertools.islice(peers.diffrax_by_hand(X, y, *start, "Tsit5", until=10.0), 1, 2))
    import scipy.integrate as ode

    theta = np.concatenate([start[0].ravel(), start[1]])
    exact = ode.solve_ivp(lambda t, th: peers.slope(X, y, th, False), (0, 10.0), theta, rtol=1e-9, atol=1e-12).y[:, -1]
    np.testing.assert_allclose(np.concatenate([W1.ravel(), w2]), exact, rtol=1e-3, atol=1e-4)


def test_bdf_on_the_logarithm_gets_far(start):
    first = loss(DATA.X, DATA.y, np.concatenate([start[0].ravel(), start[1]]))
    for _, W1, w2 in peers.scipy_steps(DATA.X, DATA.y, *start, "BDF", True, 60.0):
        last = loss(DATA.X, DATA.y, np.concatenate([W1.ravel(), w2]))
    assert last < 1e-6 * first


def test_descent_descends(start):
    walk = peers.optax_descent(DATA.X, DATA.y, *start, 0.1, False)
    losses = [loss(DATA.X, DATA.y, np.concatenate([W1.ravel(), w2])) for _, W1, w2 in itertools.islice(walk, 3)]
    assert losses[0] > losses[1] > losses[2]
