"""Neurons with a^2 > |w|^2 that pass w = 0, rest there, and leave: closed forms, a plain descent, and the circle."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow.flow.departure import departure, descent

TIGHT = gflow.PIController(1e-11)


def end(X, y, W1, w2, until, controller=TIGHT, loss=gflow.Logistic()):
    """The flow's end. Rows and neurons of zeros make the shape (5, 2, 3): one program for all."""
    pad = lambda a, *shape: np.pad(np.asarray(a, float), [(0, max(k - j, 0)) for k, j in zip(shape, np.shape(a))])  # noqa: B905, E731
    X, W1, w2 = pad(X, 5, 2), pad(W1, 2, 3), pad(w2, 3)
    y = np.concatenate([y, np.ones(len(X) - len(y))])
    network = gflow.TwoLayer(jnp.asarray(W1), jnp.asarray(w2))
    problem = gflow.Problem(X, y, loss=loss)
    return gflow.solve_flow(problem, network, until_s=until, saves=1, controller=controller, max_steps=5_000)


@pytest.mark.parametrize("friend", [True, False])
def test_passing_and_resting_closed_forms(friend):
    # p is uniform, 1/5 (Linear). Both hostile rows push along -e_1: w_1' = -k a, a' = -k w_1 until w = 0. There a
    # friendly row takes the neuron on to the other side, w_1' = -a/5; without one it rests
    X = np.array([[1.0, 0.5], [1.0, -0.5], [-1.0, 0.0]])
    k, w0, a0 = 2 / 5, 0.3, 0.7
    arrival, root = np.arctanh(w0 / a0) / k, np.sqrt(a0**2 - w0**2)
    after = (2.5 - arrival) / 5 if friend else 0.0
    flow = end(X if friend else X[:2], [-1, -1, 1][: 3 if friend else 2], [[w0], [0.0]], [a0], 2.5, loss=gflow.Linear())
    np.testing.assert_allclose(flow.final.W1[:, 0], [-root * np.sinh(after), 0.0], atol=1e-9)
    np.testing.assert_allclose(flow.final.w2[0], root * np.cosh(after), atol=1e-9)
    assert int(flow.repelled) == 0 and int(flow.steps) < 400


def test_a_neuron_leaves_the_tip_when_a_ray_opens():
    # found by an attack on this method: neuron 2 rests at w = 0 from s = 0.39 to 4.84
    X = np.array([[-0.358, 0.191], [-1.477, 1.639], [0.072, -1.106], [0.713, 0.865], [0.725, 1.162]])
    y = np.array([-1.0, 1, 1, 1, 1])
    W1, w2 = np.array([[0.038, -0.003, 0.0312], [0.0735, -0.0768, 0.0182]]), np.array([0.0414, -0.0768, -0.3616])
    for rtol in (1e-4, 1e-6, 1e-8):
        flow = end(X, y, W1, w2, 6.0, gflow.PIController(rtol))
        # a descent with steps of 1e-6 ends at (-0.018161, -0.001183)
        np.testing.assert_allclose(flow.final.W1[:, 2], [-0.0181626587, -0.0011823792], atol=max(1.5 * rtol, 2e-9))
        assert gflow.result_name(flow.result) == "horizon_reached" and int(flow.steps) < 200
    W, a = W1.copy(), w2.copy()
    for _ in range(60_000):
        Z = X @ W
        p = 1 / (1 + np.exp(y * (np.maximum(Z, 0) @ a)))
        G = X.T @ ((Z > 0) * (p * y / p.sum())[:, None])
        W, a = W + 1e-4 * a * G, a + 1e-4 * np.sum(W * G, axis=0)
    np.testing.assert_allclose(flow.final.W1, W, atol=2e-4)


def test_two_hyperplanes_closer_than_the_tolerance():
    # rows 1 and 2 are almost opposite: neurons slide on the first, behind the second, where they once stayed stuck
    rng = np.random.default_rng(9)
    X, y = rng.standard_normal((10, 2)), np.sign(rng.standard_normal(10))
    y[0], y[1] = 1, -1
    W1, w2 = 0.05 * rng.standard_normal((2, 4)), 0.4 * np.sign(rng.standard_normal(4)) * rng.uniform(0.5, 1.0, 4)
    loose, tight = (end(X, y, W1, w2, 8.0, gflow.PIController(rtol)) for rtol in (1e-4, 1e-7))
    assert int(loose.steps) < 200
    np.testing.assert_allclose(loose.final.W1, tight.final.W1, rtol=1e-3, atol=1e-3)


def test_the_steepest_ray_of_the_circle_is_found():
    rng, n, m = np.random.default_rng(0), 8, 300
    X = rng.standard_normal((n, 2))
    lam, sign = rng.standard_normal((n, m)), np.sign(rng.standard_normal(m))
    lam -= sign * 0.7  # hostile rows prevail: some neurons rest, some leave
    angle = np.linspace(0, 2 * np.pi, 20_001)
    U = np.stack([np.cos(angle), np.sin(angle)])
    rates = np.maximum(X @ U, 0).T @ (sign * lam)  # (angles, m)
    best = rates.max(axis=0)
    found = jax.jit(lambda o, lam: departure(jnp.asarray(X), gflow.ReLU(), o, lam, jnp.zeros((2, m))))(sign, lam)
    moves = np.linalg.norm(found.G, axis=0) > 0
    own = descent(jnp.asarray(X), gflow.ReLU(), jnp.asarray(sign), jnp.asarray(lam), jnp.zeros((2, m)), found.u)
    assert 50 < moves.sum() < 290
    assert not np.any(moves & (best <= 0))  # whoever leaves goes down
    missed = ~moves & (best > 1e-6)
    assert missed.sum() == 0
    # a ray leads straight out: the velocity is parallel to it, at the rate of the loss along it
    np.testing.assert_allclose(np.linalg.norm(found.G, axis=0)[moves], np.asarray(own)[moves], rtol=1e-6)
    assert np.mean(np.asarray(own)[moves] >= best[moves] - 1e-5) > 0.9


def test_starts_at_kinks_that_are_not_unique_say_so():
    def flagged(X, y, w, a=1.0):
        flow = end(X, y, np.array(w, float)[:, None], [a], 1.0)
        return int(flow.repelled), np.asarray(flow.final.W1[:, 0])

    # dead on one side, growing on the other: it stays, and says so
    count, w = flagged([[1, 0], [0, -1]], [1, 1], [0, 1])
    assert count == 1 and np.array_equal(w, [0, 1])
    # the same on a line of data, where it is a neuron at v = 0: it leaves on the ray, and says so
    count, w = flagged([[1, 0]], [1], [0, 1])
    assert count == 1 and w[0] > 0.1 and w[1] == 1
    assert flagged([[1, 0], [0, 1]], [1, 1], [0, 0])[0] == 2  # at the start, and on leaving
    count, w = flagged([[1, 0], [0, 1]], [-1, -1], [0, 0])  # all hostile: it rests, and nothing else is a solution
    assert count == 0 and np.array_equal(w, [0, 0])
    # a = 0 on a hyperplane: its sign comes with the first step, and then it may be repelled by the row it lies on
    assert flagged([[2, 0], [1, 1], [0, 2]], [1, -1, 1], [0, 1], 0.0)[0] == 1


def test_data_in_a_plane_of_three_dimensions():
    # found by an attack: in the plane neuron 2 has a^2 > |v|^2 and reaches v = 0, while w keeps a part across
    X = [[0.40, -0.56], [0.04, -1.57], [-0.10, 0.62], [0.27, -1.07], [1.02, -1.46]]
    W1 = np.array([[0.0, 0.25, -0.015625], [0.0, -0.234375, 0.140625]])
    across, w2 = np.array([0.0, -0.296875, -0.015625]), np.array([0.109375, 0.0, 0.90625])
    e = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
    network = gflow.TwoLayer(jnp.asarray(e[:, :2] @ W1 + np.outer(e[:, 2], across)), jnp.asarray(w2))
    problem = gflow.Problem(np.asarray(X) @ e[:, :2].T, -np.ones(5))
    options = {
        "until_s": 5.0,
        "saves": 1,
        "max_steps": 5_000,
        "controller": gflow.PIController(1e-9),
    }
    flow = gflow.solve_flow(problem, network, **options)
    plane = end(X, -np.ones(5), W1, w2, 5.0, options["controller"])
    assert gflow.result_name(flow.result) == "horizon_reached" and int(flow.steps) < 400
    np.testing.assert_allclose(e.T @ flow.final.W1, np.vstack([plane.final.W1, across]), atol=1e-8)
    np.testing.assert_allclose(flow.final.w2, plane.final.w2, atol=1e-8)
    # a lane says the same
    lanes = gflow.flow.lanes
    stepper = lanes.Stepper(problem, controller=options["controller"], until=5.0, chart=gflow.Hyperbolic)
    lane = lanes.advance(stepper, lanes.start(stepper, jax.tree.map(lambda a: a[None], network)), jnp.asarray(400))
    np.testing.assert_allclose(jax.vmap(stepper.flow)(lane).final.W1[0], flow.final.W1, atol=1e-8)
