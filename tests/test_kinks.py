"""The log of kinks, closed forms of sliding, repelling hyperplanes, fates, leaky ReLU."""

import cases
import diffrax
import jax.numpy as jnp
import numpy as np
import pytest
from reference import Reference
from scipy.optimize import brentq

import gflow
from gflow import KINK, datasets

TIGHT = gflow.PIController(1e-11)


def one_neuron(w, a=1.0):
    w = np.asarray(w, float)
    return gflow.TwoLayer(jnp.asarray(w[:, None]), jnp.asarray([a * np.linalg.norm(w)]))


def test_sliding_closed_form():
    # p is uniform (Linear). g = (x1 - x2)/2 until w_2 = 0 at a time that solves an equation with cosh and sinh; there
    # the entry is 1/2, and the neuron slides: w_1' = a/2, a' = w_1/2
    problem = gflow.Problem(np.array([[1.0, 0.5], [0.0, 1.0]]), [1, -1], loss=gflow.Linear())
    w0, until = np.array([0.06, 0.08]), 3.0
    g = np.array([0.5, -0.25])
    speed = np.linalg.norm(g)
    along, a0 = w0 @ g / speed, np.linalg.norm(w0)

    def w(s):
        return w0 + g / speed * (a0 * np.sinh(speed * s) + along * (np.cosh(speed * s) - 1))

    entry = brentq(lambda s: w(s)[1], 0.0, until, xtol=1e-15)
    end = w(entry)[0] * np.exp(0.5 * (until - entry))
    flow = gflow.solve_flow(problem, one_neuron(w0), until_s=until, saves=1, kinks=4, controller=TIGHT)
    assert int(flow.kinks.total) == 1 and int(flow.kinks.kind[0]) == KINK.STARTED_SLIDING
    assert float(flow.kinks.s[0]) == pytest.approx(entry, abs=1e-9)
    np.testing.assert_allclose(flow.final.W1[:, 0], [end, 0.0], rtol=1e-9, atol=1e-12)
    assert int(flow.repelled) == 0


def test_the_log_agrees_with_the_reference():
    n, d, until, m = 20, 2, 10.0, 20
    data = datasets.gaussian(n=n, d=d)
    problem = gflow.Problem(data.X, data.y)
    network = gflow.Gaussian(1e-2)(gflow.key_of(0, 0), problem, m)
    exact = Reference(data.X, data.y, network.W1, network.w2)
    exact.run(until)
    kind = {("slide", "on"): KINK.LEFT, ("slide", "off"): KINK.LEFT}
    kind |= {(a, "slide"): KINK.STARTED_SLIDING for a in ("on", "off")}
    events = [(i, k, kind.get((a, b), KINK.CROSSED), s) for s, i, k, a, b in exact.events if a != b]
    tight = gflow.PIController(1e-9)
    flow = gflow.solve_flow(problem, network, until_s=until, saves=1, kinks=200, controller=tight)
    log = flow.kinks
    assert int(log.lost) == 0 and bool(jnp.all(jnp.diff(log.s[: int(log.total)]) >= 0))
    found = {
        (int(i), int(k), int(c)): float(s) for s, i, k, c in zip(log.s, log.neuron, log.sample, log.kind, strict=True)
    }
    assert int(log.total) == len(events)
    for i, k, c, s in events:
        assert found[i, k, c] == pytest.approx(s, abs=1e-4)  # placed by a parabola through the step
    # a log that is too small keeps the first events and counts the others
    short = gflow.solve_flow(problem, network, until_s=until, saves=1, kinks=5, controller=tight).kinks
    assert int(short.total) == len(events) and int(short.lost) == len(events) - 5
    assert set(np.asarray(short.s)) <= set(np.asarray(log.s))


def test_a_repelling_hyperplane_is_flagged():
    # on w_2 = 0 sample 1 pushes a positive neuron down, sample 2 joins above and pushes it up: both sides are solutions
    problem = gflow.Problem(np.array([[1.0, -0.3], [0.0, 1.0]]), [1, 1])
    on_it = gflow.solve_flow(problem, one_neuron([0.1, 0.0]), until_s=1.0, saves=1, kinks=4)
    beside = gflow.solve_flow(problem, one_neuron([0.1, 0.05]), until_s=1.0, saves=1, kinks=4)
    assert int(on_it.repelled) >= 1
    assert int(beside.repelled) == 0 and int(beside.kinks.total) == 0


def test_only_filippov_keeps_a_log():
    problem = gflow.Problem(cases.A_X, cases.A_y)
    with pytest.raises(ValueError, match="Filippov"):
        gflow.solve_flow(problem, one_neuron([0.1, 0.0]), until_s=1.0, kinks=4, solver=diffrax.Tsit5())


def test_fates():
    problem = gflow.Problem(np.array([[1.0, 0.0], [0.0, 1.0]]), [1, 1])
    W1 = jnp.array([[1.0, 1.0, -1.0, 0.0, -1.0, 1.0], [1.0, 0.0, -1.0, 0.0, 0.0, -1.0]])
    network = gflow.TwoLayer(W1, jnp.ones(6))
    expected = [gflow.FATE.LIVE, gflow.FATE.SLIDING, gflow.FATE.DEAD, gflow.FATE.DEAD, gflow.FATE.DEAD, gflow.FATE.LIVE]
    np.testing.assert_array_equal(gflow.fates(problem, network), expected)
    leaky = gflow.Problem(problem.X, problem.y, activation=gflow.LeakyReLU(0.1))
    assert int(jnp.sum(gflow.fates(leaky, network) == gflow.FATE.DEAD)) == 1


def test_leaky_relu_flows():
    data = datasets.gaussian(n=6, d=2, seed=3)
    problem = gflow.Problem(data.X, data.y, activation=gflow.LeakyReLU(0.3))
    network = gflow.Gaussian(1e-1)(gflow.key_of(0, 0), problem, 4)
    tight = gflow.PIController(1e-8)
    own = gflow.solve_flow(problem, network, until_s=2.0, saves=8, controller=tight)
    plain = gflow.solve_flow(problem, network, until_s=2.0, saves=8, controller=tight, solver=diffrax.Tsit5())
    np.testing.assert_allclose(own.network.W1[-1], plain.network.W1[-1], rtol=1e-5, atol=1e-6)
    assert np.all(np.diff(own.loss) < 0) and float(own.balance_drift) < 1e-12
    X, W1, w2 = data.X, np.asarray(network.W1), np.asarray(network.w2)
    f = [sum(a * max(z, 0.3 * z) for a, z in zip(w2, x @ W1, strict=True)) for x in X]
    np.testing.assert_allclose(own.margins[0], data.y * f, rtol=1e-12)
    assert gflow.find_limit(problem, own).lam.shape == (6,)
    with pytest.raises(ValueError, match="below 1"):
        gflow.LeakyReLU(1.0)
