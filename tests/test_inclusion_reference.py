"""The integrator against an event-driven reference: the error falls with the tolerance through dozens of kinks."""

import jax.numpy as jnp
import numpy as np
import pytest
from reference import Reference

import gflow
from gflow import datasets

WIDTH = 20


def relative_error(network, W1, w2):
    size = np.sqrt(np.sum(W1**2) + np.sum(w2**2))
    return np.sqrt(np.sum((np.asarray(network.W1) - W1) ** 2) + np.sum((np.asarray(network.w2) - w2) ** 2)) / size


@pytest.mark.parametrize(("n", "d", "until"), [(10, 5, 12.0), (20, 2, 10.0), (40, 3, 8.0)])
def test_errors_fall_with_the_tolerance(n, d, until):
    data = datasets.gaussian(n=n, d=d)
    problem = gflow.Problem(data.X, data.y)
    network = gflow.Gaussian(1e-2)(gflow.key_of(0, 0), problem, WIDTH)
    exact = Reference(data.X, data.y, network.W1, network.w2)
    W1, w2 = exact.run(until)
    assert len(exact.events) >= 50
    assert any(after == "slide" for *_, after in exact.events)
    for rtol in (1e-5, 1e-7, 1e-9):
        controller = gflow.PIController(rtol)
        flow = gflow.solve_flow(problem, network, until_s=until, saves=1, controller=controller, max_steps=5000)
        assert gflow.result_name(flow.result) == "horizon_reached"
        assert relative_error(flow.final, W1, w2) <= 20 * rtol


def test_the_reference_reproduces_a_closed_form():
    # one neuron that sees both samples: w grows at the rate |mean of y x| = 1 on the clock s
    X, y = np.array([[1.0, 0.5], [1.0, -0.5]]), np.array([1.0, 1.0])
    exact = Reference(X, y, np.array([[1e-2], [0.0]]), np.array([1e-2]))
    W1, _ = exact.run(3.0)
    np.testing.assert_allclose(W1[:, 0], [1e-2 * np.exp(3.0), 0.0], rtol=1e-11, atol=1e-14)
    network = gflow.TwoLayer(jnp.asarray(W1), jnp.asarray([1e-2 * np.exp(3.0)]))
    np.testing.assert_allclose(exact.margins(exact.state), gflow.Problem(X, y).margins(network), rtol=1e-10)
