"""Contract: a batch is a loop. Lanes give what `solve_flow` gives one by one, for every entry of every catalogue."""

import inspect
import itertools

import cases
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow import activations, initializers, losses
from gflow.flow import charts, clocks
from gflow.flow.lanes import advance, start
from gflow.flow.vector_chart import VectorPolar

WIDTH, LANES, UNTIL, RTOL = 6, 3, 4.0, 1e-6


def entries(module):
    """What a catalogue names in `__all__`; of one that has none, its concrete classes."""
    if hasattr(module, "__all__"):
        return [getattr(module, name) for name in module.__all__]
    own = [c for _, c in inspect.getmembers(module, inspect.isclass) if c.__module__ == module.__name__]
    return [c for c in own if issubclass(c, eqx.Module) and not inspect.isabstract(c)]


def every_entry():
    """(loss, activation, chart, clock): as many as the longest catalogue has entries, the others begun again."""
    several = [entries(m) for m in (losses, activations, charts, clocks)]
    count = max(map(len, several))
    return list(itertools.islice(zip(*map(itertools.cycle, several), strict=False), count))


def names(value):
    return value.__name__


def test_no_entry_is_left_out():
    assert {gflow.BalancedPolar, gflow.Cartesian, gflow.FrozenOutput, gflow.Hyperbolic} <= {c[2] for c in every_entry()}
    for k, module in enumerate((losses, activations, charts, clocks)):
        assert {case[k] for case in every_entry()} == set(entries(module))


def assert_lanes_are_flows(problem, networks, chart, clock):
    """Every lane of a batch against the flow of its network alone."""
    tight = gflow.PIController(RTOL)
    stepper = gflow.Stepper(problem, chart=chart, clock=clock, controller=tight, stop=(), until=UNTIL)
    lanes = start(stepper, networks)
    while bool(jnp.any(lanes.running)):
        lanes = advance(stepper, lanes, jnp.asarray(40))
    ends = eqx.filter_vmap(stepper.flow)(lanes)
    horizon = "until_t" if isinstance(clock, clocks.PhysicalClock) else "until_s"
    for i in range(LANES):
        network = jax.tree.map(lambda a, i=i: a[i], networks)
        one = gflow.solve_flow(
            problem, network, chart=chart, clock=clock, controller=tight, saves=1, **{horizon: UNTIL}
        )  # fmt: skip
        assert gflow.result_name(ends.result._value[i]) == gflow.result_name(one.result) == "horizon_reached"
        assert not np.allclose(network.W1, one.final.W1, rtol=0.1)  # it has moved
        size = float(jnp.sqrt(one.final.squared_norm()))
        for batched, alone in zip(jax.tree.leaves(ends.network), jax.tree.leaves(one.network), strict=True):
            np.testing.assert_allclose(batched[i], alone, atol=20 * RTOL * size)
        for name in ("s", "log_t", "margins", "lam", "loss"):
            np.testing.assert_allclose(getattr(ends, name)[i], getattr(one, name), rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("loss, activation, chart, clock", every_entry(), ids=names)
def test_lanes_are_single_flows(loss, activation, chart, clock):
    problem = gflow.Problem(cases.A_X, cases.A_y, loss=loss(), activation=activation())
    law = gflow.Gaussian(0.1) if chart is gflow.BalancedPolar else gflow.Independent(0.1)
    draw = lambda i: law(gflow.key_of(3, i), problem, WIDTH)  # noqa: E731
    assert_lanes_are_flows(problem, jax.vmap(draw)(jnp.arange(LANES)), chart, clock())


def test_lanes_of_vector_output_are_single_flows():
    problem = gflow.Problem(cases.A_X, np.stack([cases.A_y, -cases.A_y], axis=1))
    draw = lambda i: gflow.Gaussian(0.1)(gflow.key_of(3, i), problem, WIDTH)  # noqa: E731
    assert_lanes_are_flows(problem, jax.vmap(draw)(jnp.arange(LANES)), VectorPolar, gflow.ScaledClock())


LAWS = [(law, K) for law in entries(initializers) for K in (None, 3) if law.balanced or K is None]
"""Vector output starts balanced."""


@pytest.mark.parametrize("law, outputs", LAWS)
def test_a_batch_of_first_weights_is_drawn_one_by_one(law, outputs):
    y = np.array([1, 1, -1]) if outputs is None else 2 * np.eye(3) - 1
    problem, law = gflow.Problem(np.eye(3), y), law()
    batch = jax.vmap(lambda i: law(gflow.key_of(7, i), problem, 4))(jnp.arange(5))
    assert not np.array_equal(batch.W1[0], batch.W1[1])
    for i in range(5):
        alone = law(gflow.key_of(7, i), problem, 4)
        for batched, one in zip(jax.tree.leaves(batch), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(batched[i], one, rtol=1e-14)
