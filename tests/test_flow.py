"""The flow: closed forms, invariants, stopping, batches."""

import cases
import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow import datasets

A = gflow.Problem(cases.A_X, cases.A_y)
TIGHT = gflow.PIController(1e-11)


def first(problem, width=20, scale=1e-3, index=0):
    return gflow.Gaussian(scale=scale)(gflow.key_of(0, index), problem, width)


@pytest.fixture(scope="module")
def flow_a():
    return gflow.solve_flow(A, first(A), stop=(gflow.MarginTarget(),))


@pytest.mark.parametrize("clock", [gflow.ScaledClock(), gflow.PhysicalClock()], ids=["s", "t"])
def test_case_c_on_both_clocks(clock):
    # Ei(p) - Ei(p0) = 2 t at t = 1000 by SciPy's exponential integral, and p = p0 e^{2s}
    from scipy.optimize import brentq
    from scipy.special import expi

    expected = brentq(lambda p: expi(p) - expi(cases.C_P0) - 2 * cases.C_T, 1.0, 50.0, xtol=1e-14, rtol=1e-14)
    assert expected == pytest.approx(cases.C_P, abs=1e-6)
    problem = gflow.Problem(np.ones((1, 1)), [1], loss=gflow.Exponential())
    root = jnp.sqrt(jnp.asarray(cases.C_P0))
    network = gflow.TwoLayer(root[None, None], root[None])
    flow = gflow.solve_flow(problem, network, until_t=cases.C_T, clock=clock, solver=diffrax.Dopri8(), controller=TIGHT)
    assert gflow.result_name(flow.result) == "horizon_reached"
    assert float(flow.margins[-1, 0]) == pytest.approx(expected, rel=1e-8)
    assert float(flow.log_t[-1]) == pytest.approx(np.log(cases.C_T), rel=1e-8)
    np.testing.assert_allclose(flow.margins[:, 0], cases.C_P0 * np.exp(2 * np.asarray(flow.s)), rtol=1e-8)


def test_case_c_unbalanced():
    # dp/dt = e^-p sqrt(c^2 + 4 p^2), c = a^2 - w^2, against SciPy
    from scipy.integrate import solve_ivp

    a, w = 1.5, 0.2
    c = a**2 - w**2
    reference = solve_ivp(lambda t, p: np.exp(-p) * np.sqrt(c**2 + 4 * p**2), (0, 50), [a * w], rtol=1e-12, atol=1e-12)
    problem = gflow.Problem(np.ones((1, 1)), [1], loss=gflow.Exponential())
    network = gflow.TwoLayer(jnp.full((1, 1), w), jnp.full((1,), a))
    flow = gflow.solve_flow(problem, network, until_t=50.0, solver=diffrax.Dopri8(), controller=TIGHT)
    assert float(flow.margins[-1, 0]) == pytest.approx(reference.y[0, -1], rel=1e-8)
    assert float(flow.balance_drift) < 1e-9


def test_case_a_by_integration_alone():
    # An implicit solver walks the stiff end: no program is solved here. At q_min = 1e6 the objective and c are within
    # 1e-6, but the margins of two support vectors still differ by log(alpha_2/alpha_1) = 2.5, which leaves the
    # direction of the flow itself 1.27e-6 from its limit; at 2e6 it is half of that.
    flow = gflow.solve_flow(
        A, first(A), stop=(gflow.MarginTarget(2e6),), solver=diffrax.Kvaerno5(),
        controller=diffrax.PIDController(rtol=1e-7, atol=1e-9), saves=1,
    )  # fmt: skip
    end = flow.final
    assert float(A.objective(end)) == pytest.approx(cases.A_OPTIMUM, rel=1e-6)
    # single neurons lag behind like q^(-1/2); the direction of a class, the mass-weighted mean, does not
    merged = gflow.limit_of_network(A, end, polish=False).network
    heavy = np.asarray(merged.masses()) > 1e-6
    U, sign = np.asarray(merged.directions())[:, heavy], np.sign(merged.w2)[heavy]
    for label, v in ((1, cases.A_PLUS), (-1, cases.A_MINUS)):
        assert (sign == label).sum() == 1
        np.testing.assert_allclose(U[:, sign == label][:, 0], v / np.linalg.norm(v), atol=1e-6)
    certificate = gflow.certify(A, end)
    assert 0 <= certificate.c - 1 < 1e-6
    assert certificate.verdict == gflow.VERDICT.GLOBAL


def test_clock_law(flow_a):
    # d log q_min / ds -> 4 * normalised margin
    q = np.asarray(flow_a.margins).min(axis=1)
    late = q > 100
    slope = np.polyfit(np.asarray(flow_a.s)[late], np.log(q[late]), 1)[0]
    assert slope == pytest.approx(4 / (2 * cases.A_OPTIMUM), rel=1e-2)


def test_loss_never_increases_and_signs_stay(flow_a):
    loss = np.asarray(flow_a.loss)
    assert np.all(np.diff(loss) <= 1e-12 * loss[:-1])
    assert np.all(np.sign(flow_a.network.w2) == np.sign(flow_a.network.w2[0]))
    assert float(flow_a.balance_drift) < 1e-12


def test_early_directions_are_class_means():
    # at tiny scale directions align with the class means before anything else happens
    flow = gflow.solve_flow(A, first(A, scale=1e-30), until_s=15.0)
    U, sign = np.asarray(flow.final.directions()), np.sign(flow.final.w2)
    active = (cases.A_X @ U > 0).any(axis=0)
    for label, mean in ((1, (2.5, 1.0)), (-1, (-3.0, -0.5))):
        aligned = U.T @ np.array(mean) / np.linalg.norm(mean)
        chosen = active & (sign == label) & (aligned > 0)
        assert chosen.any() and aligned[chosen].max() > 1 - 1e-6


def test_scales_of_1e_100_stay_finite():
    flow = gflow.solve_flow(A, first(A, scale=1e-100), stop=(gflow.MarginTarget(),))
    assert gflow.result_name(flow.result) == "margin_reached"
    for leaf in jax.tree.leaves(eqx.filter(flow, eqx.is_inexact_array)):
        assert bool(jnp.all(jnp.isfinite(leaf[1:] if leaf.ndim else leaf)))  # log t = -inf at the start
    limit = gflow.find_limit(A, flow)
    assert limit.objective == pytest.approx(cases.A_OPTIMUM, rel=1e-9)


def test_one_flow_equals_its_row_in_a_batch():
    # compared at one s, since the last step may differ by rounding
    options = {"until_s": 10.0, "saves": 1, "controller": TIGHT}
    nets = jax.vmap(lambda i: gflow.Gaussian(1e-3)(gflow.key_of(0, i), A, 20))(jnp.arange(4))
    batch = eqx.filter_vmap(lambda net: gflow.solve_flow(A, net, chart=gflow.BalancedPolar, **options))(nets)
    for i in range(4):
        one = gflow.solve_flow(A, jax.tree.map(lambda a, i=i: a[i], nets), **options)
        np.testing.assert_allclose(batch.margins[i], one.margins, rtol=1e-7)


def unbalanced(problem, width=12, scale=0.3):
    """A third of the neurons each with c = a^2 - |w|^2 above, below and equal to 0."""
    network = first(problem, width, scale)
    factor = jnp.array([2.0, 0.25, 1.0])[jnp.arange(width) % 3]
    return gflow.TwoLayer(network.W1, network.w2 * factor)


@pytest.mark.parametrize("balanced", [True, False])
def test_charts_agree(balanced):
    network = first(A, 12, 0.3) if balanced else unbalanced(A)
    special, cartesian = (
        gflow.solve_flow(A, network, until_s=3.0, chart=chart, controller=TIGHT)
        for chart in (gflow.BalancedPolar if balanced else gflow.Hyperbolic, gflow.Cartesian)
    )
    np.testing.assert_allclose(special.network.W1[0], network.W1, rtol=1e-13)
    np.testing.assert_allclose(special.network.w2[0], network.w2, rtol=1e-13)
    np.testing.assert_allclose(special.network.W1, cartesian.network.W1, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(special.network.w2, cartesian.network.w2, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(special.log_t[1:], cartesian.log_t[1:], rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("scale", [0.3, 1e-100])
def test_unbalanced_flows_conserve_balance_at_default_tolerance(scale):
    data = datasets.gaussian(n=10, d=5)
    problem = gflow.Problem(data.X, data.y)
    network = unbalanced(problem, scale=scale)
    flow = gflow.solve_flow(problem, network, until_s=20.0 if scale > 1e-50 else 400.0, saves=16, max_steps=20_000)
    assert gflow.result_name(flow.result) == "horizon_reached"
    assert float(flow.balance_drift) < 1e-9
    rises = network.balance() > 0
    assert bool(jnp.all(jnp.where(rises, jnp.sign(flow.network.w2) == jnp.sign(network.w2), True)))
    loss = np.asarray(flow.loss)
    assert np.all(np.diff(loss) <= 1e-9 * loss[:-1])
    assert loss[-1] < 0.9 * loss[0]


def test_unfitted_flows_say_so():
    # both neurons inactive on the sample labelled -1: it can never be fitted
    problem = gflow.Problem(np.array([[1.0, 0.0], [-1.0, 0.0]]), [1, -1])
    network = gflow.TwoLayer(jnp.array([[1e-2, 1e-2], [0.0, 0.0]]), jnp.array([1e-2, 1e-2]))
    flow = gflow.solve_flow(problem, network)
    assert gflow.result_name(flow.result) == "unfitted"
    limit = gflow.find_limit(problem, flow)
    assert limit.stuck and not limit.fitted
    assert gflow.certify(problem, limit).verdict == gflow.VERDICT.UNFITTED


def test_dead_network_is_unfitted_at_once():
    problem = gflow.Problem(np.array([[1.0, 0.0]]), [1])
    network = gflow.TwoLayer(jnp.array([[-1.0], [0.0]]), jnp.array([1.0]))
    flow = gflow.solve_flow(problem, network)
    assert gflow.result_name(flow.result) == "unfitted" and int(flow.steps) <= 2


def test_step_budget_is_a_result():
    flow = gflow.solve_flow(A, first(A), max_steps=10)
    assert gflow.result_name(flow.result) == "max_steps_reached"
    assert int(flow.steps) == 10 and bool(jnp.all(jnp.isfinite(flow.margins)))


def test_kkt_target_stops():
    flow = gflow.solve_flow(A, first(A), stop=(gflow.KKTTarget(1e-3),), saves=1)
    assert gflow.result_name(flow.result) == "kkt_reached"
    assert float(A.kkt_residual(flow.final, flow.lam[-1])) <= 1e-3


def test_zero_neurons_stay_zero():
    network = first(A)
    W1, w2 = network.W1.at[:, 0].set(0.0), network.w2.at[0].set(0.0)
    flow = gflow.solve_flow(A, gflow.TwoLayer(W1, w2), until_s=5.0)
    assert bool(jnp.all(flow.network.W1[:, :, 0] == 0)) and bool(jnp.all(flow.network.w2[:, 0] == 0))
    assert bool(jnp.all(jnp.isfinite(flow.margins)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"until_s": 1.0, "until_t": 1.0}, "not both"),
        ({"until_s": -1.0}, "positive"),
        ({"saves": 0}, "saves"),
        ({"stop": ()}, "nothing would end"),
    ],
)
def test_misuse_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        gflow.solve_flow(A, first(A), **options)


def test_weights_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="do not fit"):
        gflow.solve_flow(A, gflow.TwoLayer(jnp.ones((3, 2)), jnp.ones(2)))


def test_linear_loss_is_the_early_phase():
    # p stays uniform, so one neuron that sees everything obeys dw/ds = a g, da/ds = w . g with g fixed: cosh and sinh
    problem = gflow.Problem(np.array([[1.0, 0.5], [1.0, -0.5]]), [1, 1], loss=gflow.Linear())
    network = gflow.TwoLayer(jnp.array([[1.0], [0.0]]), jnp.array([1.0]))
    flow = gflow.solve_flow(problem, network, until_s=2.0, controller=TIGHT)
    np.testing.assert_allclose(flow.network.W1[:, 0, 0], np.exp(np.asarray(flow.s)), rtol=1e-9)
    np.testing.assert_allclose(flow.margins[:, 0], np.exp(2 * np.asarray(flow.s)), rtol=1e-9)


def test_frozen_second_layer_against_small_steps():
    data = datasets.gaussian(n=10, d=5)
    problem = gflow.Problem(data.X, data.y)
    start = gflow.Gaussian(0.3)(gflow.key_of(0, 3), problem, 12)
    flow = gflow.solve_flow(problem, start, until_s=6.0, saves=2, chart=gflow.FrozenOutput)
    W, a, h = np.asarray(start.W1), np.asarray(start.w2), 2e-4
    for _ in range(round(6.0 / h)):
        Z = data.X @ W
        weight = 1 / (1 + np.exp(data.y * (np.maximum(Z, 0) @ a)))
        W = W + h * a * (data.X.T @ ((Z > 0) * (weight / weight.sum() * data.y)[:, None]))
    np.testing.assert_array_equal(flow.final.w2, a)
    np.testing.assert_allclose(flow.final.W1, W, atol=2e-3)
    assert flow.frozen
    with pytest.raises(ValueError, match="frozen"):
        gflow.find_limit(problem, flow)
