"""What is known along a flow, against plain NumPy on networks that no flow visited."""

import jax.numpy as jnp
import numpy as np
import pytest

import gflow
from gflow import plots
from gflow._types import RESULTS
from gflow.network import TwoLayer, VectorTwoLayer


def flow_of(problem, network):
    """A Flow with these saved networks."""
    k = len(network.W1)
    q = jnp.stack([problem.margins(network.at(i)) for i in range(k)])
    lam = jnp.stack([problem.multipliers(row) for row in q])
    loss = jnp.stack([problem.loss_value(row) for row in q])
    s, none = jnp.arange(k) * 1.0, jnp.asarray(0)
    return gflow.Flow(network, s, 2.0 * s, q, lam, loss, RESULTS.successful, none, none, none, None)


@pytest.fixture
def case(rng):
    X, y = rng.standard_normal((6, 2)), np.array([1.0, 1, 1, -1, -1, -1])
    X[:, 0] = np.abs(X[:, 0]) * y  # separable by one neuron of each sign
    W1, w2 = rng.standard_normal((3, 2, 5)), rng.standard_normal((3, 5))
    W1[2], w2[2] = 0.1 * W1[2], 0.1 * w2[2]
    W1[2, :, :2], w2[2, :2] = [[20.0, -20.0], [0.0, 0.0]], [20.0, -20.0]  # the last one fits
    return gflow.Problem(X, y), X, y, W1, w2


def test_residuals_are_those_of_plain_loops(case):
    problem, X, y, W1, w2 = case
    got = gflow.along(problem, flow_of(problem, TwoLayer(jnp.array(W1), jnp.array(w2))))
    for k in range(3):
        Z = X @ W1[k]
        q = y * (np.maximum(Z, 0) @ w2[k])
        pull = y / (1 + np.exp(q))
        pull /= np.abs(pull).sum()
        G = np.array([sum(pull[n] * X[n] for n in range(6) if Z[n, i] > 0) + np.zeros(2) for i in range(5)]).T
        v = np.append((w2[k] * G).ravel(), [W1[k, :, i] @ G[:, i] for i in range(5)])
        theta = np.append(W1[k].ravel(), w2[k])
        cos = theta @ v / np.linalg.norm(theta) / np.linalg.norm(v)
        assert float(got.kkt_residual[k]) == pytest.approx(1 - cos, abs=1e-12)
        mass, away = np.abs(w2[k]) * np.linalg.norm(W1[k], axis=0), np.zeros(5)
        moves = np.linalg.norm(G, axis=0) > 0
        for i in np.flatnonzero(moves):
            cos = np.sign(w2[k, i]) * (W1[k, :, i] @ G[:, i]) / np.linalg.norm(W1[k, :, i]) / np.linalg.norm(G[:, i])
            away[i] = 1 - cos
        assert float(got.misalignment[k]) == pytest.approx((mass * away)[moves].sum() / mass[moves].sum(), abs=1e-12)
    balance = w2**2 - (W1**2).sum(1)
    drift = np.abs(balance - balance[0]) / (w2**2 + (W1**2).sum(1))
    np.testing.assert_allclose(got.balance_drift, drift.max(1), rtol=1e-12, atol=1e-15)


def test_certificate_is_the_maximum_over_the_circle(case):
    problem, X, y, W1, w2 = case
    flow = flow_of(problem, TwoLayer(jnp.array(W1), jnp.array(w2)))
    got = gflow.along(problem, flow)
    assert got.exact and not np.isfinite(got.certificate[0])
    angle = np.linspace(0, 2 * np.pi, 200_001)
    heights = np.abs(np.asarray(flow.lam[2]) @ np.maximum(X @ np.stack([np.cos(angle), np.sin(angle)]), 0))
    q = y * (np.maximum(X @ W1[2], 0) @ w2[2])
    P = 0.5 * ((W1[2] ** 2).sum() + (w2[2] ** 2).sum()) / q.min()
    assert float(got.certificate[2]) == pytest.approx(P * heights.max(), rel=1e-8)
    assert float(got.certificate[2]) >= P * heights.max() * (1 - 1e-14)


def test_what_does_not_exist_is_none(case):
    problem, X, y, W1, w2 = case
    network = TwoLayer(jnp.array(W1), jnp.array(w2))
    decayed = gflow.Problem(X, y, weight_decay=0.1)
    point = gflow.along(decayed, flow_of(decayed, network))
    assert point.slackness is None and point.certificate is None
    leaky = gflow.Problem(X, y, activation=gflow.LeakyReLU(0.1))
    assert gflow.along(leaky, flow_of(leaky, network)).certificate is None
    classes = gflow.Problem(X, np.stack([y, -y], axis=1))
    vector = VectorTwoLayer(jnp.array(W1), jnp.stack([w2, -w2], axis=2))
    assert gflow.along(classes, flow_of(classes, vector)).certificate is None
    with pytest.raises(ValueError, match="do not fit the data"):
        gflow.along(gflow.Problem(np.hstack([X, X]), y), flow_of(problem, network))


def test_a_neuron_is_added(case):
    problem, X, _, W1, w2 = case
    network = TwoLayer(jnp.array(W1[0]), jnp.array(w2[0]))
    w, a = jnp.array([0.3, -0.2]), 0.7
    np.testing.assert_allclose(network.with_neuron(w, a)(problem.X), network(problem.X) + a * np.maximum(X @ w, 0))


def test_figures_of_progress_draw_what_they_are_given():
    s, c = np.arange(4.0), np.array([np.inf, 3.0, 1.5, 1.0 + 1e-9])
    _, axes = plots.panels(5)
    plots.certificates(axes[0], s, c)
    np.testing.assert_allclose(axes[0].lines[0].get_ydata()[1:], c[1:] - 1)
    plots.balance_drift(axes[1], plots.log10_t(s * np.log(10)), [0.0, 1e-16, 0.0, 1e-15], plots.T_LABEL)
    np.testing.assert_allclose(axes[1].lines[0].get_xdata(), s)
    plots.misalignment(axes[2], s, [1.0, 0.1, np.nan, 0.01], "scale 1")
    assert axes[2].get_legend() is not None
    plots.early_alignment(axes[3], [1e-1, 1e-4], [5.0, 5.0], [7.0, 20.0], 0.05)
    assert axes[3].xaxis_inverted() and len(axes[3].lines) == 2
    plots.optimizers(axes[4], {"flow": ([-1.0, 1.0, 9.0], [np.inf, 1.2, 1.1]), "SGD": ([1.0], [1.0])})
    np.testing.assert_allclose(axes[4].lines[0].get_ydata(), [0.2, 0.1])
    assert len(axes[4].lines[1].get_xdata()) == 0
    _, (ax,) = plots.panels(1)
    plots.not_global(ax, [1.0, 2.0], [0.0, 0.5], [0.0, 0.4], [0.1, 0.6])
    assert ax.get_xlabel() == "$n/d$"


def test_the_animation_shows_the_flow_to_its_end():
    rng = np.random.default_rng(0)
    X, W1, w2, lam = rng.standard_normal((3, 2)), rng.standard_normal((9, 2, 2)), np.ones((9, 2)), np.ones((9, 3))
    film = plots.circle_and_dual(X, [1, 1, -1], np.arange(9.0), W1, w2, lam, np.ones(9), frames=4)
    frames = list(film.new_frame_seq())
    assert frames[0] == 0 and frames[-1] == 8 and len(frames) == 4
    film._draw_was_started = True  # drawn here one frame at a time, which matplotlib does not see
    film._draw_frame(8)
    angle = np.sort(np.arctan2(W1[8, 1], W1[8, 0]))
    drawn = np.concatenate([c.get_offsets()[:, 0] for c in film._fig.axes[1].collections])
    np.testing.assert_allclose(np.sort(drawn), angle)
    with pytest.raises(ValueError, match="two dimensions"):
        plots.circle_and_dual(np.eye(3), [1, 1, -1], [0.0], W1, w2, lam, [1.0])
