"""The stabilised method: its order, its stability, its agreement with Tsit5 on the inclusion, and its steps."""

import diffrax
import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st

import gflow
from gflow import datasets
from gflow.flow.chebyshev import recurrence
from gflow.flow.clocks import ScaledClock
from gflow.flow.field import Field
from gflow.flow.start import initial_modes
from gflow.flow.vector_chart import VectorPolar


def polynomial(stages, z):
    """The stability polynomial R(z): one step of y' = z y from 1 with h = 1, by the recurrence as it is written."""
    steps, y = recurrence(stages), [1.0 + 0.0 * z]
    for j in range(1, stages + 1):
        before = y[j - 2] if j > 1 else y[0]
        move = steps.mu[j] * (y[j - 1] - y[0]) + steps.nu[j] * (before - y[0])
        y.append(y[0] + move + z * (steps.ahead[j] * y[j - 1] + steps.back[j] * y[0]))
    return y[-1]


@given(st.integers(2, 30))
def test_stable_on_the_negative_axis(stages):
    interval = 0.65 * (stages**2 - 1)
    assert np.all(np.abs(polynomial(stages, -np.linspace(0.0, interval, 2000))) <= 1 + 1e-9)
    # Tsit5 is stable to -3.3 with half of twelve stages
    assert stages < 12 or interval > 90


@given(st.integers(2, 30))
def test_order_two(stages):
    tableau = gflow.Chebyshev(stages).tableau
    A = np.zeros((stages + 1, stages + 1))
    for j, row in enumerate(tableau.a_lower, 1):
        A[j, :j] = row
    b, c = tableau.b_sol, A.sum(axis=1)
    np.testing.assert_allclose([b.sum(), b @ c], [1.0, 0.5], rtol=1e-11)
    np.testing.assert_allclose([tableau.b_error.sum(), tableau.b_error @ c], 0.0, atol=1e-11)
    # the tableau is the recurrence
    z = -0.37
    grown = 1 + z * b @ np.linalg.solve(np.eye(stages + 1) - z * A, np.ones(stages + 1))
    np.testing.assert_allclose(grown, polynomial(stages, z), rtol=1e-11)


def test_against_diffrax_on_a_stiff_linear_system():
    # the same method without Filippov: y' = -L y with rates 1 and 500
    L = jnp.array([1.0, 500.0])
    sol = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: -L * y), gflow.Chebyshev(), 0.0, 1.0, None, jnp.ones(2),
        stepsize_controller=diffrax.PIDController(rtol=1e-6, atol=1e-9), saveat=diffrax.SaveAt(t1=True),
    )  # fmt: skip
    np.testing.assert_allclose(sol.ys[0, 0], np.exp(-1.0), rtol=1e-4)
    assert abs(sol.ys[0, 1]) < 1e-6


@given(st.floats(0.0, 600.0))
def test_a_step_has_the_stages_that_it_needs(extent):
    family = gflow.Chebyshev().family
    stages = int(family.needed(extent))
    assert abs(polynomial(stages, -extent)) <= 1 + 1e-9
    assert stages == family.fewest or extent > 0.65 * ((stages - 1) ** 2 - 1)
    np.testing.assert_array_equal(np.array(family.table)[:, stages - family.fewest, : stages + 1], recurrence(stages))


@pytest.mark.parametrize("loss", [gflow.Logistic(), gflow.Exponential(), gflow.Squared()])
@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_stiffness_bounds_the_eigenvalues_of_the_field(loss, scale):
    data = datasets.gaussian(n=8, d=3)
    problem = gflow.Problem(data.X, data.y, loss=loss)
    law = gflow.Gaussian(scale)

    def compared(key):
        chart, z = gflow.Cartesian.encode(law(key, problem, 6))
        field = Field(problem, chart, ScaledClock())
        modes = initial_modes(field, z)
        flat, unravel = jax.flatten_util.ravel_pytree(z)
        velocity = lambda v: jax.flatten_util.ravel_pytree(field.rates(unravel(v), modes).dz)[0]  # noqa: E731
        return jax.jacfwd(velocity)(flat), field.stiffness(z, field.rates(z, modes), field.slopes(modes.on))

    J, bound = jax.jit(jax.vmap(compared))(jax.vmap(lambda i: gflow.key_of(0, i))(jnp.arange(20)))
    # what pulls back: eigenvalues on the negative side; those that push away are of order 1 on the clock s
    fastest = -np.min(np.linalg.eigvals(np.asarray(J)).real, axis=1)
    assert np.all(fastest <= np.asarray(bound) * (1 + 1e-9))
    # samples on the wrong side have weights that hardly depend on their margins: a bound by p is loose for them
    assert scale < 1 or isinstance(loss, gflow.Logistic) or np.median(np.asarray(bound) / fastest) < 6


def test_too_few_stages_are_refused():
    with pytest.raises(ValueError, match="at least 2"):
        gflow.Chebyshev(1)


def test_the_same_flow_with_fewer_steps():
    data = datasets.gaussian(n=10, d=5)
    problem = gflow.Problem(data.X, data.y)
    network = gflow.Gaussian(1e-2)(gflow.key_of(3, 1), problem, 12)
    options = {"saves": 1, "stop": (gflow.MarginTarget(500.0), gflow.Unfitted())}
    plain = gflow.solve_flow(problem, network, solver=gflow.Filippov(diffrax.Tsit5()), **options)
    fast = gflow.solve_flow(problem, network, solver=gflow.Filippov(gflow.Chebyshev()), **options)
    assert gflow.result_name(fast.result) == gflow.result_name(plain.result) == "margin_reached"
    assert int(fast.steps) < 0.6 * int(plain.steps)
    objective = jax.vmap(problem.objective)
    np.testing.assert_allclose(objective(fast.network), objective(plain.network), rtol=1e-2)
    exact = [gflow.find_limit(problem, flow).objective for flow in (plain, fast)]
    np.testing.assert_allclose(exact[1], exact[0], rtol=1e-9)


def test_steps_grow_with_the_time_that_a_saddle_takes():
    """One neuron, active on all corners of a square whose labels are those of XOR: sum_n y_n x_n = 0, and what moves it
    is of order |a|^2. Against SciPy, which knows the pattern and the equations alone."""
    X, y = np.array([[0.0, 0, 1], [0, 1, 1], [1, 0, 1], [1, 1, 1]]), np.array([-1.0, 1, 1, -1])

    def velocity(_, theta):
        w, a = theta[:3], theta[3]
        p = scipy.special.expit(-y * a * (X @ w))
        g = X.T @ (y * p / p.sum())
        return np.append(a * g, w @ g)

    w = 5e-3 * np.array([0.1, 0.2, 1.0])
    theta, end = np.append(w, np.linalg.norm(w)), 3e5
    right = scipy.integrate.solve_ivp(velocity, (0, end), theta, method="LSODA", rtol=1e-11, atol=1e-16).y[:, -1]
    assert np.min(X @ right[:3]) > 0
    network = gflow.TwoLayer(jnp.asarray(w[:, None]), jnp.asarray(theta[3:]))
    options = {"until_s": end, "saves": 1, "solver": gflow.Filippov(gflow.Chebyshev())}
    flow = gflow.solve_flow(gflow.Problem(X, y), network, **options, controller=gflow.PIController(1e-5))
    np.testing.assert_allclose(np.append(flow.final.W1, flow.final.w2), right, rtol=1e-3, atol=1e-6)
    assert int(flow.steps) < 100


def test_stiffness_of_several_outputs_bounds_what_a_neuron_does_alone(rng):
    """With multipliers held, d(w, v) = (M v, M^T w), M = X^T D Lambda: eigenvalues are the singular values of M."""
    for n, d, K in [(4, 5, 3), (30, 2, 3)]:
        X, labels = rng.standard_normal((n, d)), np.where(rng.random((n, K)) < 0.5, 1.0, -1.0)
        problem = gflow.Problem(X, labels)
        network = gflow.Gaussian(1e-9)(gflow.key_of(0, 0), problem, 6)
        chart, z = VectorPolar.encode(network)
        field = Field(problem, chart, ScaledClock())
        rates = field.rates(z, initial_modes(field, z))
        D = np.asarray(field.slopes(rates.Z > 0))
        M = np.einsum("nd,nm,nk->mdk", X, D, np.asarray(rates.lam))
        frobenius = np.sqrt(np.max(np.sum(M**2, axis=(1, 2))))
        assert np.linalg.norm(M, 2, axis=(1, 2)).max() <= frobenius
        np.testing.assert_allclose(field.stiffness(z, rates, D), frobenius, rtol=1e-9)


def test_neurons_that_are_zero_do_not_move():
    """Under a leaky activation something pulls at them too: neither speed nor stiffness is theirs."""
    data = datasets.gaussian(n=6, d=2)
    problem = gflow.Problem(data.X, data.y, activation=gflow.LeakyReLU(0.3))
    network = gflow.Gaussian(1e-2)(gflow.key_of(0, 0), problem, 3)

    def seen(network):
        chart, z = gflow.BalancedPolar.encode(network)
        field = Field(problem, chart, ScaledClock())
        rates = field.rates(z, initial_modes(field, z))
        return field.stiffness(z, rates, field.slopes(rates.Z > 0)), field.speed(z, rates.G, rates.lam, rates.log_S)

    np.testing.assert_allclose(seen(network.resized(4)), seen(network), rtol=1e-12)
    small = gflow.TwoLayer(network.W1[:, :1], network.w2[:1])
    np.testing.assert_allclose(seen(small.resized(4)), seen(small), rtol=1e-12)
