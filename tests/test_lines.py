"""Samples on one line have one hyperplane: velocities against the hull of both sides, flows against Euler."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls

import gflow
from gflow.inclusion import least_norm_slopes
from gflow.lines import lines_of, shared_lines

N, D = 7, 4


def rows_with_lines(rng):
    """Rows 3.. lie on the lines of the first three, up to sign and length, and u on the hyperplanes of two lines."""
    base, u = rng.standard_normal((3, D)), rng.standard_normal(D)
    u /= np.linalg.norm(u)
    base[:2] -= np.outer(base[:2] @ u, u)
    which = rng.integers(0, 3, N - 3)
    X = np.vstack([base, rng.choice([-2.0, -1.0, -0.5, 0.5, 3.0], (N - 3, 1)) * base[which]])
    order = rng.permutation(N)
    return X[order], u, np.concatenate([np.arange(3), which])[order]


def least_norm_of_the_hull(X, lam, u, line):
    """Smallest element of the convex hull of X^T D lambda over the cells around u: all choices of two sides."""
    gradients = []
    for sides in itertools.product((-1, 1), repeat=2):
        # a direction on the wanted sides of the two hyperplanes through u
        first = [X[line == k][0] for k in (0, 1)]
        step = np.linalg.lstsq(np.array([*first, u]), np.array([*sides, 0.0]), rcond=None)[0]
        gradients.append(X.T @ ((X @ (u + 1e-7 * step) > 0) * lam))
    G = np.array(gradients).T
    weight = 1e4 * max(1.0, np.abs(G).max())
    share, _ = nnls(np.vstack([G, weight * np.ones(4)]), np.append(np.zeros(D), weight))
    return G @ (share / share.sum())


@settings(max_examples=60)
@given(st.integers(0, 10**6))
def test_velocity_is_the_least_element_of_the_clarke_set(seed):
    rng = np.random.default_rng(seed)
    X, u, line = rows_with_lines(rng)
    lam = rng.dirichlet(np.ones(N)) * rng.choice([-1.0, 1.0], N)
    lines = lines_of(jnp.asarray(X))
    D_ = least_norm_slopes(jnp.asarray(X), jnp.asarray(lam), jnp.asarray(u)[:, None], gflow.ReLU(), 1e-9, lines)
    found = X.T @ (np.asarray(D_)[:, 0] * lam)
    np.testing.assert_allclose(found, least_norm_of_the_hull(X, lam, u, line), atol=1e-6)


def test_lines_are_found_and_rows_that_share_none_cost_nothing():
    X = jnp.array([[1.0, 2.0], [0.0, 0.0], [-2.0, -4.0], [2.0, 1.0], [0.5, 1.0]])
    lines = shared_lines(X)
    assert lines is not None
    assert lines.lead.tolist() == [0, 1, 0, 3, 0] and lines.flip.tolist() == [False, False, True, False, False]
    np.testing.assert_allclose(lines.ratio, [1, 1, 2, 1, 0.5])
    assert shared_lines(X[jnp.array([0, 1, 3])]) is None
    assert gflow.Problem(X[3:], [1, -1]).lines is None


def euler(X, y, w, a, until, h=2e-4):
    """Explicit Euler on the clock s with D = 1[z > 0], one neuron."""
    for _ in range(round(until / h)):
        z = X @ w
        p = 1 / (1 + np.exp(y * a * np.maximum(z, 0)))
        g = X.T @ ((z > 0) * p * y) / p.sum()
        w, a = w + h * a * g, a + h * w @ g
    return w


def test_flows_on_antipodal_rows_and_into_zero():
    # rows x and -3 x with different labels: a neuron slides while one pull exceeds the other, then must leave
    antipodal = np.array([[0, 1.0], [0, -3.0], [1, -2.0]]), np.array([1.0, -1.0, 1.0])
    # a neuron with a^2 > |w|^2 that all samples push away: w reaches 0, where every hyperplane meets, and stays
    pushed = np.array([[1.0, 0.0], [-0.5, 0.9], [-0.5, -0.9]]), -np.ones(3)
    starts = [(antipodal, w, np.hypot(*w)) for w in ([0.5, -0.1], [0.5, 0.1], [0.5, -0.05], [0.5, 0.0])]
    starts.append((pushed, [0.3, 0.1], 1.0))

    @jax.jit
    @jax.vmap
    def run(X, y, w, a):
        network = gflow.TwoLayer(w[:, None], a[None])
        flow = gflow.solve_flow(
            gflow.Problem(X, y), network, until_s=4.0, saves=1, chart=gflow.Hyperbolic, max_steps=500
        )
        return flow.final.W1[:, 0], flow.final.w2[0], flow.loss[-1], flow.steps

    arrays = [jnp.asarray(np.stack(a)) for a in zip(*((X, y, w, a) for (X, y), w, a in starts), strict=True)]
    W, a, loss, steps = map(np.asarray, run(*arrays))
    for k, ((X, y), w, size) in enumerate(starts[:4]):
        np.testing.assert_allclose(W[k], euler(X, y, np.array(w), size, 4.0), atol=2e-3)
    assert np.linalg.norm(W[4]) < 1e-6
    np.testing.assert_allclose(a[4], np.sqrt(1 - 0.1), rtol=1e-9)
    np.testing.assert_allclose(loss[4], 3 * np.log(2), rtol=1e-9)  # f = 0: it had risen again while w was held off 0
    assert np.all(steps < 60)
