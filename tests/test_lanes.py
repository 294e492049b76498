"""Batches: lanes advanced a few steps at a time are the flows that solve_flow makes; any explicit method; float32."""

import cases
import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow import datasets
from gflow.flow.flagged import on_flagged
from gflow.flow.lanes import advance, start
from gflow.flow.traced import traced_once

DATA = datasets.gaussian(n=10, d=5)
PROBLEM = gflow.Problem(DATA.X, DATA.y)
WIDTH = 12


def networks(count, problem=PROBLEM):
    return jax.vmap(lambda i: gflow.Gaussian(1e-2)(gflow.key_of(3, i), problem, WIDTH))(jnp.arange(count))


def test_lanes_are_the_flows_of_solve_flow():
    tight = gflow.PIController(1e-6)
    stepper = gflow.Stepper(PROBLEM, controller=tight, stop=(), until=8.0)
    nets = networks(8)
    lanes = start(stepper, nets)
    while bool(jnp.any(lanes.running)):
        lanes = advance(stepper, lanes, jnp.asarray(40))
    ends = eqx.filter_vmap(stepper.flow)(lanes)
    steps = []
    for i in range(8):
        one = gflow.solve_flow(PROBLEM, jax.tree.map(lambda a, i=i: a[i], nets), until_s=8.0, saves=1, controller=tight)
        steps.append(int(one.steps))
        np.testing.assert_allclose(ends.margins[i], one.margins, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(ends.log_t[i], one.log_t, rtol=1e-5)
    # compiled differently: rounding decides about a step whose error is the tolerance, and the steps after it differ
    np.testing.assert_allclose(np.sum(ends.steps), np.sum(steps), rtol=0.03)
    assert gflow.result_name(ends.result._value[0]) == "horizon_reached"


def test_segments_and_neighbours_change_nothing():
    stepper = gflow.Stepper(PROBLEM, stop=(), until=6.0)
    nets = networks(8)
    whole = advance(stepper, start(stepper, nets), jnp.asarray(60))
    parts = start(stepper, nets)
    for _ in range(20):
        parts = advance(stepper, parts, jnp.asarray(3))
    turned = advance(stepper, start(stepper, jax.tree.map(lambda a: a[::-1], nets)), jnp.asarray(60))
    for a, b, c in zip(*(jax.tree.leaves(lanes.state) for lanes in (whole, parts, turned)), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c[::-1])


def test_a_lane_at_the_step_limit_ends_alone():
    stepper = gflow.Stepper(PROBLEM, stop=(), max_steps=7)
    lanes = advance(stepper, start(stepper, networks(8)), jnp.asarray(30))
    assert [gflow.result_name(c) for c in lanes.result._value] == ["max_steps_reached"] * 8
    np.testing.assert_array_equal(lanes.steps, 7)


@pytest.mark.parametrize("solver", [diffrax.Heun(), diffrax.Bosh3(), diffrax.Dopri5(), diffrax.Dopri8()])
def test_any_explicit_method_reaches_the_same_state(solver):
    tolerance = 1e-5 if isinstance(solver, diffrax.Heun) else 1e-6
    controller = gflow.PIController(tolerance)
    network = jax.tree.map(lambda a: a[0], networks(1))
    exact = gflow.solve_flow(PROBLEM, network, until_s=8.0, saves=1, controller=gflow.PIController(1e-9))
    flow = gflow.solve_flow(
        PROBLEM, network, until_s=8.0, saves=1, solver=gflow.Filippov(solver), controller=controller, max_steps=20_000
    )
    assert gflow.result_name(flow.result) == "horizon_reached"
    size = float(jnp.sqrt(exact.final.squared_norm()))
    assert float(jnp.max(jnp.abs(flow.final.W1 - exact.final.W1))) / size <= 20 * tolerance


def test_methods_that_are_not_explicit_are_refused():
    with pytest.raises(ValueError, match="explicit"):
        gflow.Filippov(diffrax.Kvaerno5())


def test_saved_points_lie_on_the_curve():
    # dense output through dozens of kinks: a saved state is the end of a flow to that time
    network, tight = jax.tree.map(lambda a: a[0], networks(1)), gflow.PIController(1e-7)
    curve = gflow.solve_flow(PROBLEM, network, until_s=9.0, saves=7, controller=tight)
    end = gflow.solve_flow(PROBLEM, network, until_s=float(curve.s[4]), saves=1, controller=tight)
    np.testing.assert_allclose(curve.margins[4], end.margins[-1], atol=1e-5 * float(jnp.max(jnp.abs(end.margins))))


def test_a_float32_flow_has_the_norms_of_the_float64_one():
    first = [np.asarray(a[0], np.float32) for a in jax.tree.leaves(networks(1))]
    with jax.enable_x64(False):
        single = gflow.Problem(np.asarray(DATA.X, np.float32), DATA.y)
        assert single.X.dtype == jnp.float32
        net = gflow.TwoLayer(*map(jnp.asarray, first))
        flow = gflow.solve_flow(single, net, until_s=8.0, saves=1, chart=gflow.BalancedPolar)
        assert flow.final.W1.dtype == jnp.float32
        coarse = np.asarray(flow.margins[-1], float)
    double = gflow.solve_flow(
        PROBLEM, jax.tree.map(lambda a: a[0], networks(1)), until_s=8.0, saves=1, chart=gflow.BalancedPolar
    )
    np.testing.assert_allclose(coarse, double.margins[-1], rtol=2e-3, atol=2e-3 * float(jnp.abs(double.margins).max()))


def test_products_in_float32_are_never_rounded_to_fewer_bits():
    # on a GPU the default is TF32, whose 11 bits a step's error estimate sees: flows crept there. `alone` is unbalanced
    single, nets = jax.tree.map(lambda a: a.astype(jnp.float32), (PROBLEM, networks(2)))
    stepper = gflow.Stepper(single)

    def margins(nets):
        lanes = jax.vmap(stepper.step)(jax.vmap(stepper.start)(nets))
        return jax.vmap(stepper.flow)(lanes).margins

    def alone(nets):
        return gflow.solve_flow(single, jax.tree.map(lambda a: a[0], nets), saves=1, until_s=1.0).margins

    for program in (margins, alone):
        text = jax.jit(program).lower(nets).as_text().splitlines()
        products = [line for line in text if "dot_general" in line]
        assert products and all("[HIGHEST, HIGHEST]" in line for line in products)


@pytest.mark.parametrize("inline", [True, False])
def test_a_function_is_traced_once_for_equal_shapes_and_settings(inline):
    traces = []

    def factor_times(factor, tree):
        traces.append(factor)
        return jax.tree.map(lambda a: factor * a, tree)

    scaled = traced_once(factor_times, inline=inline)

    def twice(a):
        return scaled(2.0, scaled(2.0, {"a": a})), scaled(3.0, {"a": a})

    a = jnp.arange(3.0)
    (four, three), program = jax.jit(twice)(a), jax.make_jaxpr(twice)(a)
    np.testing.assert_array_equal(four["a"], 4 * a)
    np.testing.assert_array_equal(three["a"], 3 * a)
    assert traces == [2.0, 3.0]
    written_out = {equation.primitive.name for equation in program.eqns} == {"mul"}
    assert written_out == inline


def test_flagged_columns_alone_are_worked_on():
    rng = np.random.default_rng(0)
    flagged = jnp.asarray(rng.random((5, 40)) < 0.6)  # more than one table holds
    values, factor = jnp.asarray(rng.standard_normal((5, 3, 40))), jnp.asarray(rng.standard_normal(5))
    offset = jnp.arange(3.0)

    def one(flagged, values, factor, offset):
        work = lambda v, f, o: v * f + o[:, None]  # noqa: E731
        return on_flagged(work, flagged, values, factor, offset, jnp.zeros_like(values))

    expected = np.where(flagged[:, None], np.asarray(values) * np.asarray(factor)[:, None, None] + offset[:, None], 0.0)
    shared = jax.vmap(one, (0, 0, 0, None))(flagged, values, factor, offset)
    own = jax.vmap(one)(flagged, values, factor, jnp.tile(offset, (5, 1)))
    alone = jnp.stack([one(flagged[i], values[i], factor[i], offset) for i in range(5)])
    for result in (shared, own, alone):
        np.testing.assert_allclose(result, expected, rtol=1e-12)


def test_antipodal_rows_do_not_hold_a_flow_up():
    # a neuron rests on the common hyperplane of x and -x, both with the same label
    problem = gflow.Problem(cases.B_X, cases.B_y)
    nets = jax.vmap(lambda i: gflow.Gaussian(1e-3)(gflow.key_of(0, i), problem, 4))(jnp.arange(16))
    stepper = gflow.Stepper(problem)
    lanes = advance(stepper, start(stepper, nets), jnp.asarray(1000))
    assert not np.any(lanes.running)
