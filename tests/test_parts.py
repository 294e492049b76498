"""Names, classes and other things in place of objects: one line that says what to write, and that is true."""

import re
import types

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gflow

X, Y = np.array([[2.0, 0.0], [0.5, 1.0], [-1.0, -1.0], [-2.0, 0.5]]), np.array([1.0, 1.0, -1.0, -1.0])
P = gflow.Problem(X, Y)
NET = gflow.Gaussian(0.3)(gflow.key_of(0, 0), P, 2)


def solve(**options):
    return lambda: gflow.solve_flow(P, NET, **options)


WRITE = {
    "loss=gflow.Logistic()": [lambda: gflow.Problem(X, Y, "logistic"), lambda: gflow.Problem(X, Y, gflow.Logistic)],
    "gflow.Exponential(), gflow.Linear(), ": [lambda: gflow.Problem(X, Y, "hinge"), lambda: gflow.Problem(X, Y, None)],
    "activation=gflow.ReLU()": [lambda: gflow.Problem(X, Y, activation=gflow.ReLU)],
    "activation=gflow.LeakyReLU()": [lambda: gflow.Problem(X, Y, activation="leaky-relu:0.1")],
    "solver=diffrax.Tsit5()": [solve(solver=diffrax.Tsit5), solve(solver="tsit5"),
                               lambda: gflow.Filippov(diffrax.Tsit5)],
    "solver=gflow.Filippov(diffrax.Tsit5())": [solve(solver=diffrax.Euler()), solve(solver=diffrax.KenCarp3())],
    "clock=gflow.PhysicalClock()": [solve(clock="physical"), solve(clock=gflow.PhysicalClock)],
    "chart=gflow.Cartesian": [solve(chart="cartesian"), lambda: gflow.Stepper(P, chart="cartesian")],
    "controller=gflow.PIController(": [solve(controller=1e-4), solve(controller=gflow.PIController),
                                       lambda: gflow.Stepper(P, controller="pi")],
    "controller=diffrax.PIDController(rtol=..., atol=...)": [solve(controller=diffrax.PIDController)],
    "stop=(gflow.MarginTarget(1e3),)": [solve(stop=gflow.MarginTarget()), solve(stop="margin"),
                                        solve(stop=gflow.MarginTarget)],
    "stop=gflow.MarginTarget()": [solve(stop=(gflow.MarginTarget,))],
    "law=gflow.Gaussian()": [lambda: next(gflow.sweep(P, "gaussian", 2, 3)),
                             lambda: next(gflow.sweep(P, gflow.Gaussian, 2, 3))],
    "optimizer=optax.sgd(0.1)": [lambda: gflow.descend(P, NET, "sgd", 3), lambda: gflow.descend(P, NET, optax.sgd, 3)],
    "gflow.key_of(": [lambda: gflow.Gaussian()(0, P, 2)],
    "gflow.Problem(X=..., y=...)": [lambda: gflow.solve_flow(NET, P), lambda: gflow.find_limit(NET, P),
                                    lambda: gflow.certify(NET, P), lambda: gflow.descend(NET, P, optax.sgd(1), 3)],
    "gflow.TwoLayer(W1, w2)": [lambda: gflow.solve_flow(P, (NET.W1, NET.w2)), lambda: gflow.certify(P, NET.W1)],
    "numpy.asarray": [lambda: gflow.solve_flow(P, gflow.TwoLayer([[1.0], [2.0]], [1.0]))],
}  # fmt: skip


@pytest.mark.parametrize("written", WRITE)
def test_what_is_no_object_is_refused_with_what_to_write(written):
    for call in WRITE[written]:
        with pytest.raises(ValueError, match=re.escape(written)) as refused:
            call()
        assert "\n" not in str(refused.value)


def advised(message):
    """The object that a message tells to write."""
    code = re.search(r"write (?:solver=)?(.+?\)+)(?:,| or|$)|solver=(\S+) to solve_flow", message)
    return eval(code[1] or code[2], {"diffrax": diffrax, "gflow": gflow, "Filippov": gflow.Filippov})


@pytest.mark.parametrize("method", [diffrax.Euler(), diffrax.LeapfrogMidpoint(), diffrax.KenCarp4(), diffrax.ShARK()])
def test_advice_about_solvers_is_accepted(method):
    with pytest.raises(ValueError) as refused:
        gflow.Filippov(method)
    assert isinstance(advised(str(refused.value)), gflow.Filippov)
    with pytest.raises(ValueError) as refused:
        gflow.solve_flow(P, NET, solver=method)
    assert isinstance(advised(str(refused.value)), gflow.Filippov)


def test_advice_about_solvers_works():
    ends = []
    for method in (diffrax.Euler(), diffrax.Kvaerno3()):  # an advice of each kind
        with pytest.raises(ValueError) as refused:
            gflow.Filippov(method)
        flow = gflow.solve_flow(P, NET, solver=advised(str(refused.value)), until_s=0.1, saves=1)
        assert gflow.result_name(flow.result) == "horizon_reached"
        ends.append(flow.final.W1)
    np.testing.assert_allclose(*ends, rtol=1e-3)


def test_there_are_no_gradients_and_this_is_said():
    def end(W1):
        return gflow.solve_flow(P, gflow.TwoLayer(W1, NET.w2), until_s=0.1, saves=1).loss[-1]

    with pytest.raises(ValueError, match="a flow has no gradients"):
        jax.grad(end)(NET.W1)


def test_float32_networks_are_cast():
    small = gflow.TwoLayer(NET.W1.astype("float32"), NET.w2.astype("float32"))
    wide = gflow.TwoLayer(small.W1.astype(float), small.w2.astype(float))
    found, expected = gflow.certify(P, small), gflow.certify(P, wide)
    assert (found.verdict, found.objective, found.c) == (expected.verdict, expected.objective, expected.c)
    assert gflow.limit_of_network(P, small).objective == gflow.limit_of_network(P, wide).objective


def test_certify_of_a_flow_names_find_limit():
    flow = gflow.solve_flow(P, NET, until_s=0.1, saves=1)
    with pytest.raises(ValueError, match=re.escape("gflow.find_limit(problem, flow)")):
        gflow.certify(P, flow)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("bias", [False, True])
def test_weights_in_the_layout_of_pytorch(rng, outputs, bias):
    d = m = 4  # shapes cannot tell
    hidden, output, b = rng.standard_normal((m, d)), rng.standard_normal((outputs, m)), rng.standard_normal(m)
    rows = rng.standard_normal((5, d))
    forward = np.array([output @ np.maximum(hidden @ x + b * bias, 0.0) for x in rows])
    tensor = lambda a: types.SimpleNamespace(  # noqa: E731
        detach=lambda: types.SimpleNamespace(cpu=lambda: types.SimpleNamespace(double=lambda: a))
    )
    for wrap in (lambda a: a, tensor, jnp.asarray):
        network = gflow.network_of_torch(wrap(hidden), wrap(output), wrap(b) if bias else None)
        given = np.hstack([rows, np.ones((5, 1))]) if bias else rows
        np.testing.assert_allclose(network(jnp.asarray(given)), forward.squeeze(1) if outputs == 1 else forward)
    with pytest.raises(ValueError, match="as PyTorch has them"):
        gflow.network_of_torch(rng.standard_normal((3, 4)), output)
    with pytest.raises(ValueError, match=r"pass its \.weight"):
        gflow.network_of_torch(types.SimpleNamespace(weight=hidden), output)
