"""Neurons that travel through a step alone: boosts against a matrix exponential, events against the reference."""

from decimal import Decimal, localcontext

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from reference import Reference

import gflow
from gflow import datasets
from gflow.flow.boost import boosted
from gflow.flow.clocks import ScaledClock
from gflow.flow.events import Found, Levels
from gflow.flow.field import Field
from gflow.flow.path import Traveller, _beyond, at_start, travel
from gflow.flow.pull import Given, Pull
from gflow.flow.start import initial_modes
from gflow.flow.vector_chart import VectorPolar


def generator(G):
    """d(w, a) = (a G, w . G) as a matrix; G (d,), or (d, K) for a (K,)."""
    G = np.atleast_2d(G.T).T
    d, K = G.shape
    return np.block([[np.zeros((d, d)), G], [G.T, np.zeros((K, K))]])


def exponential(A, v):
    """exp(A) v by its series, in 120 decimal digits: scipy.linalg.expm is off by 1e-11 at |A| = 66."""
    A, term = np.vectorize(Decimal)(A), np.vectorize(Decimal)(v)
    with localcontext(prec=120):
        total, k = term, 1
        while k <= 500 and any(term):
            term = A @ term / k
            total, k = total + term, k + 1
        return total.astype(float)


@given(st.integers(0, 10_000), st.floats(-3.0, 2.0), st.sampled_from([-1, 0, 1]))
@example(63, 1.82421875, -1)
def test_a_boost_is_the_exponential_of_its_generator(seed, scale, kind):
    rng = np.random.default_rng(seed)
    w, G = rng.normal(size=(2, 3))
    G *= 10.0**scale / np.linalg.norm(G)
    size = np.linalg.norm(w)
    a = rng.choice([-1.0, 1.0]) * size * (1.0 + kind * rng.uniform(0.1, 0.9))
    c = 0.0 if kind == 0 else (abs(a) - size) * (abs(a) + size)
    new = boosted(w[:, None], jnp.array([a]), G[:, None], jnp.array([c]))
    exact = exponential(generator(G), np.append(w, a))
    got = np.append(new[0][:, 0], new[1][0])
    np.testing.assert_allclose(got, exact, rtol=1e-11, atol=1e-12 * np.linalg.norm(exact))
    np.testing.assert_allclose(new[1][0] ** 2 - np.sum(new[0] ** 2), c, atol=1e-11 * np.linalg.norm(exact) ** 2)


def test_a_neuron_that_is_turned_by_half_a_circle_keeps_its_digits():
    # w is almost opposite to where it goes: after a long time a - |w| is what is left of a difference of large numbers
    w, c = np.array([-1.0, 1e-6]), 0.0
    a = float(np.linalg.norm(w))
    y = w[:, None], jnp.array([a])
    for _ in range(40):
        y = boosted(*y, jnp.array([[0.5], [0.0]]), c)
    up, down = a - 1.0, a + 1.0  # a + w_1 and a - w_1, which grow and shrink by e^20
    up = w[1] ** 2 / down if up < 1e-9 else up
    exact = 0.5 * (up * np.exp(20.0) - down * np.exp(-20.0)), 0.5 * (up * np.exp(20.0) + down * np.exp(-20.0))
    np.testing.assert_allclose([y[0][0, 0], y[1][0]], exact, rtol=1e-9)


@pytest.mark.parametrize("length", [0.1, 2.0])
def test_with_vector_output_a_neuron_is_carried_by_the_same_exponential(rng, length):
    d, K, m = 4, 3, 5
    w, v, G = rng.normal(size=(d, m)), rng.normal(size=(K, m)), rng.normal(size=(d, K, m))
    G *= length / np.sqrt(np.sum(G**2, axis=(0, 1)))
    chart = VectorPolar(jnp.ones(m, bool))
    new = jnp.concatenate(chart.carried((jnp.asarray(w), jnp.asarray(v)), jnp.asarray(G)))
    exact = [exponential(generator(G[..., i]), np.append(w[:, i], v[:, i])) for i in range(m)]
    np.testing.assert_allclose(new.T, exact, rtol=1e-8 if length > 1 else 1e-12)


class GivenMultipliers(Reference):
    """The event-driven reference where every sample weighs the same at all times: neurons do not know of each other."""

    def multipliers(self, state):
        return self.y / len(self.y)


def traveller(problem, network, length):
    """All neurons on their way through one step of this length on the clock s, with multipliers y/n."""
    chart, z = gflow.BalancedPolar.encode(network)
    modes = initial_modes(Field(problem, chart, ScaledClock()), z)
    n, d = problem.shape
    lam = jnp.broadcast_to(length * problem.y[:, None] / n, (3, n, network.width))
    given = Given.through(lam, jnp.zeros((3, d, network.width)))
    nothing = jnp.zeros((n, network.width))
    neurons = Traveller(
        problem.X, problem.activation, chart, z, modes, given, nothing, nothing, jnp.zeros(network.width)
    )
    base = neurons._replace(middle=neurons.preactivations(chart.lift(z)), end=neurons.preactivations(chart.lift(z)))
    one = jnp.ones(network.width)
    held = at_start(base)
    middle = neurons.moved(held, held.y, 0 * one, 0.5 * one)
    end = neurons.moved(held, middle, 0.5 * one, one)
    return neurons._replace(middle=neurons.preactivations(middle), end=neurons.preactivations(end))


def test_what_pulls_at_a_neuron_changes_with_its_own_events_alone():
    # all neurons slide on the first hyperplane, although some would leave it; those of the first half have an event
    n, d, m = 8, 3, 100
    data = datasets.gaussian(n=n, d=d, seed=4)
    problem = gflow.Problem(data.X, data.y)
    neurons = traveller(problem, gflow.Gaussian(1e-2)(gflow.key_of(0, 0), problem, m), 3.0)
    first = jnp.zeros((n, m), bool).at[0].set(True)
    Q = neurons.modes.Q.at[0].set((problem.X[0] / jnp.linalg.norm(problem.X[0]))[:, None])
    at = jnp.full_like(neurons.modes.at, n).at[0].set(0)
    modes = neurons.modes._replace(on=neurons.modes.on & ~first, slide=first, at=at, Q=Q)
    neurons = neurons._replace(modes=modes)
    way, no = at_start(neurons), jnp.zeros((n, m), bool)
    levels = Levels(jnp.zeros((n, m)), *(jnp.zeros(at.shape) for _ in range(3)))
    busy = no.at[1, : m // 2].set(True)
    found = Found(busy, busy, jnp.ones(m), no, no, no, levels)
    pull = _beyond(neurons, found, way, way.y, jnp.full(m, 0.5))[1].coefficients
    changed = np.any(np.asarray(pull != way.pull.coefficients), axis=(0, 1))
    assert changed[: m // 2].any()
    assert not changed[m // 2 :].any()


@pytest.mark.parametrize(("n", "d"), [(6, 2), (8, 3)])
def test_events_in_one_long_step_against_the_reference(n, d):
    data, length, m = datasets.gaussian(n=n, d=d, seed=4), 3.0, 100
    problem = gflow.Problem(data.X, data.y)
    network = gflow.Gaussian(1e-2)(gflow.key_of(0, 0), problem, m)
    exact = GivenMultipliers(data.X, data.y, network.W1, network.w2)
    exact.run(length)
    changes = [(i, k) for s, i, k, a, b in exact.events if a != b]
    several = {i for i, _ in changes if sum(j == i for j, _ in changes) > 1}
    assert len(changes) > 20 and len(several) > 3
    neurons = traveller(problem, network, length)
    way = jax.jit(travel)(neurons).way
    assert not np.any(way.open)
    np.testing.assert_array_equal(np.any(np.asarray(way.theta) < 1, axis=0), [i in dict(changes) for i in range(m)])
    u, r = neurons.chart.lowered(neurons.z, way.y)
    want_u, want_r = exact.split(exact.state)
    np.testing.assert_allclose(u / np.linalg.norm(u, axis=0), want_u, atol=1e-6)
    np.testing.assert_allclose(r, want_r, atol=1e-6)
    np.testing.assert_array_equal(way.modes.slide, exact.slide)
    np.testing.assert_array_equal(np.asarray(way.modes.on), exact.on)


def test_multipliers_between_the_points_of_a_step():
    at = lambda given, tau: float(given.at(jnp.array([tau]))[0][0, 0])  # noqa: E731
    # e^-5 in a step: a parabola through the three values would be negative on the way
    weight = jnp.exp(-jnp.array([0.0, 2.5, 5.0]))[:, None, None]
    falling, negative = (Given.through(sign * weight, jnp.zeros((3, 1, 1))) for sign in (1, -1))
    for tau in (0.0, 0.3, 0.5, 0.9, 1.0):
        assert at(falling, tau) == pytest.approx(np.exp(-5 * tau)) == -at(negative, tau)
    # one that changes its sign, as with vector output, has no logarithm
    turning = Given.through(jnp.array([1.0, 0.25, -1.0])[:, None, None], jnp.zeros((3, 1, 1)))
    for tau in (0.0, 0.3, 0.5, 0.9, 1.0):
        assert at(turning, tau) == pytest.approx(1 - tau - tau**2)


@pytest.mark.parametrize("outputs", [(), (3,)])
def test_the_pull_on_a_neuron_is_the_sum_over_its_samples_also_after_some_turned(rng, outputs):
    n, d, C = 30, 4, 7
    X = jnp.asarray(rng.normal(size=(n, d)))
    falls = jnp.array([0.0, 0.1, 0.3]).reshape(3, *(1,) * (2 + len(outputs)))
    size = jnp.asarray(rng.uniform(0.5, 2.0, size=(1, n, *outputs, C)))
    given = Given.through(size * jnp.exp(-falls * size), jnp.asarray(rng.normal(size=(3, d, *outputs, C))))
    before, after = (jnp.asarray(rng.integers(0, 2, size=(n, C)), float) for _ in range(2))
    after = after.at[:, 0].set(before[:, 0])  # one of whose samples none turns
    pull = Pull.of(given, X, before).turned(given, X, after - before)
    tau = jnp.asarray(rng.uniform(size=C))
    weight, drift = given.at(tau)
    # to what a polynomial of degree 7 can
    for D, got in ((before, Pull.of(given, X, before)), (after, pull)):
        want = drift + jnp.einsum("nd,nc,n...c->d...c", X, D, weight)
        np.testing.assert_allclose(got.at(tau), want, rtol=1e-7, atol=1e-7)
    rows = jnp.asarray(rng.integers(0, n + 1, size=(2, C)))
    picked = given.of(rows).at(tau)[0]
    for i, row in np.ndenumerate(rows):
        want = weight[row, ..., i[1]] if row < n else jnp.zeros(outputs)
        np.testing.assert_allclose(picked[i[0], ..., i[1]], want)


def test_a_dead_neuron_that_is_a_little_on_the_wrong_side_stays_and_is_not_late():
    # both samples are off, so nothing moves it; on the other side of the first it would be pushed back at once
    X, m = jnp.array([[1.0, 0.2], [0.3, 1.0]]), 1
    problem = gflow.Problem(X, jnp.ones(2))
    w = jnp.array([[0.2], [-1.0]]) + 1e-7 * X[:1].T
    chart, z = gflow.BalancedPolar.encode(gflow.TwoLayer(w, -jnp.linalg.norm(w, axis=0)))
    modes = initial_modes(Field(problem, chart, ScaledClock()), z)
    modes = modes._replace(on=jnp.zeros_like(modes.on))
    given = Given.through(jnp.full((3, 2, m), 0.5), jnp.zeros((3, 2, m)))
    Z = X @ chart.hidden(z)
    assert Z[0, 0] > 1e-8 > 0 > Z[1, 0]
    way = travel(Traveller(X, problem.activation, chart, z, modes, given, Z, Z, jnp.zeros(m))).way
    assert way.kept[0, 0] and not np.any(way.modes.on) and not np.any(way.modes.slide)
    np.testing.assert_array_equal(way.late, 0.0)
    np.testing.assert_allclose(way.y[0] / np.linalg.norm(way.y[0]), w / np.linalg.norm(w), atol=1e-12)
