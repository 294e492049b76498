"""Ascents of small neurons on the sphere: against small steps of the same flow, and its own invariants."""

import tracemalloc

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import lsq_linear

from gflow.convex.ascent import resting_places
from gflow.convex.candidates import best_ascended


def least_norm(X, pull, u):
    """g of least norm at u: samples within 1e-9 of their hyperplane may have any slope in [0, 1]."""
    z = X @ u
    kinks = np.abs(z) <= 1e-9 * np.linalg.norm(X, axis=1)
    g = ((z > 0) & ~kinks) @ pull
    if not kinks.any():
        return g
    return g + lsq_linear(pull[kinks].T, -g, (0.0, 1.0), method="bvls").x @ pull[kinks]


def by_small_steps(X, lam, sign, u, steps=20_000, h=1e-3):
    """Explicit Euler with the indicator: it chatters along hyperplanes, within h of the slide."""
    pull = sign * lam[:, None] * X
    for _ in range(steps):
        g = (X @ u > 0) @ pull
        u = u + h * (g - (g @ u) * u)
        u = u / np.linalg.norm(u)
    return float(sign * lam @ np.maximum(X @ u, 0.0))


@settings(max_examples=60)
@given(st.integers(1, 9), st.integers(2, 4), st.sampled_from([-1.0, 1.0]), st.integers(0, 10**6))
def test_the_value_rises_and_the_end_is_stationary(n, d, sign, seed):
    rng = np.random.default_rng(seed)
    X, lam, U = rng.standard_normal((n, d)), rng.standard_normal(n), rng.standard_normal((d, 5))
    U = U / np.linalg.norm(U, axis=0)
    rates, ends = resting_places(X, lam, np.full(5, sign), U)
    assert np.all(rates >= sign * lam @ np.maximum(X @ U, 0.0) - 1e-12)
    for end in ends.T:
        g = least_norm(X, sign * lam[:, None] * X, end)
        assert np.linalg.norm(g - (g @ end) * end) <= 1e-7 * np.sum(np.abs(lam) * np.linalg.norm(X, axis=1))


@settings(max_examples=40)
@given(st.integers(2, 9), st.integers(2, 4), st.integers(0, 10**6))
def test_samples_without_a_multiplier_do_not_hold_a_neuron(n, d, seed):
    # limits have such samples: those that are no support vectors
    rng = np.random.default_rng(seed)
    X, lam, U = rng.standard_normal((n, d)), rng.standard_normal(n), rng.standard_normal((d, 6))
    free, U, sign = rng.random(n) < 0.4, U / np.linalg.norm(U, axis=0), np.tile([1.0, -1.0], 3)
    free[0] = False
    lam[free] = 0.0
    rates, ends = resting_places(X, lam, sign, U)
    without, same = resting_places(X[~free], lam[~free], sign, U)
    assert np.allclose(rates, without, atol=1e-9) and np.allclose(ends, same, atol=1e-9)


def test_it_ends_where_small_steps_end():
    rng = np.random.default_rng(0)
    agree = 0
    for _ in range(12):
        X, lam, u = rng.standard_normal((6, 3)), rng.standard_normal(6), rng.standard_normal(3)
        u = u / np.linalg.norm(u)
        (rate,), _ = resting_places(X, lam, np.ones(1), u[:, None])
        agree += abs(rate - by_small_steps(X, lam, 1.0, u)) <= 2e-2 * np.abs(lam).sum()
    assert agree >= 11  # a start near a basin border may fall to either side


def test_ends_of_ascents_that_agree_are_one_candidate():
    # digits: thousands of ascents in 64 dimensions end in a few places, up to the accuracy of an ascent
    rng = np.random.default_rng(0)
    X, lam = rng.standard_normal((40, 64)), rng.standard_normal(40)
    places = np.linalg.qr(rng.standard_normal((64, 3)))[0].T
    U = np.tile(places, (1000, 1)) + 1e-12 * rng.standard_normal((3000, 64))
    U /= np.linalg.norm(U, axis=1, keepdims=True)
    tracemalloc.start()
    found = best_ascended(X, lam, np.ones(3000), U, 1.0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.U) == 3 and set(np.argmax(found.U @ places.T, axis=1)) == {0, 1, 2}
    assert peak < 2e8
