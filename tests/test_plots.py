"""Figures: that what is drawn is what was given; how they look is seen in docs/assets."""

import numpy as np
import pytest

from gflow import datasets, plots


def axes(count=1):
    figure, ax = plots.panels(count)
    return figure, ax[0]


def test_dual_function_draws_the_function_and_its_neurons():
    X, lam = np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([0.5, -0.25])
    W1, w2 = np.array([[1.0, 0.0, 1e-9], [0.0, 2.0, 0.0]]), np.array([1.0, -1.0, 1e-9])
    _, ax = axes()
    plots.dual_function(ax, X, lam, W1, w2, scale=2.0)
    phi, drawn = ax.lines[0].get_data()
    np.testing.assert_allclose(drawn, 2 * (0.5 * np.maximum(np.cos(phi), 0) - 0.5 * np.maximum(np.sin(phi), 0)))
    points = [c.get_offsets() for c in ax.collections]
    np.testing.assert_allclose(points[0], [[0.0, 1.0]], atol=1e-12)
    np.testing.assert_allclose(points[1], [[np.pi / 2, -1.0]], atol=1e-12)
    with pytest.raises(ValueError, match="two dimensions"):
        plots.dual_function(ax, np.eye(3), np.ones(3), np.eye(3), np.ones(3))


@pytest.mark.parametrize("n", [2, 3])
def test_rectified_ellipsoid_holds_its_paths(n):
    from matplotlib.figure import Figure

    rng = np.random.default_rng(n)
    X, W1, w2 = rng.standard_normal((n, 2)), rng.standard_normal((4, 2, 3)), np.array([[1.0, -1.0, 1.0]] * 4)
    paths = plots.travelled(X, W1, w2)
    U = W1 / np.linalg.norm(W1, axis=1, keepdims=True)
    np.testing.assert_allclose(paths, np.sign(w2)[:, None] * np.maximum(np.einsum("nd,kdm->knm", X, U), 0))
    ax = Figure().add_subplot(projection="3d" if n == 3 else None)
    plots.rectified_ellipsoid(ax, X, paths, np.ones(n))
    ax.figure.canvas.draw()
    with pytest.raises(ValueError, match="n = 2 and 3"):
        plots.rectified_ellipsoid(ax, np.eye(4), paths, np.ones(4))


def test_alignment_vanishes_at_the_limit():
    U, signs = np.array([[1.0, 0.0], [0.0, 1.0]]), np.array([1.0, -1.0])
    turned = np.array([[[0.8, 0.0], [0.6, 3.0]], [[2.0, 0.0], [0.0, 5.0]]])
    _, ax = axes()
    plots.alignment(ax, [0.0, 1.0], turned, np.array([[1.0, -3.0], [2.0, -5.0]]), U, signs)
    first, last = ax.lines[0].get_ydata()
    assert first == pytest.approx(0.2 * 1 / 10) and last <= 1e-16


def test_kinks_are_all_drawn():
    _, ax = axes()
    kind = np.array([0, 1, 1, 2, -1])
    plots.kink_times(ax, [0.5, 1.0, 1.5, 2.0, np.inf], [0, 1, 2, 1, -1], kind, [0, 0, 1, 0, -1])
    assert [len(c.get_offsets()) for c in ax.collections] == [1, 2, 1]
    assert "2 neurons" in ax.get_title()


def test_classes_have_colours_of_their_own():
    data = datasets.orthogonal_classes()
    _, ax = axes()
    W2 = np.eye(3)
    plots.neurons_on_circle(ax, data.X, data.y, np.eye(6, 3), W2)
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert sum("class" in label for label in labels) == 3
    _, ax = axes()
    q = np.ones((4, 12, 3)) * np.arange(1, 5)[:, None, None]
    q[:, 0, 0] = 1e30
    plots.margins(ax, np.arange(4.0), q)
    assert max(np.nanmax(line.get_ydata()) for line in ax.lines) == 4


def test_the_path_of_weight_decay_is_relative_to_the_largest_margin():
    _, ax = axes()
    plots.decay_path(ax, [1.0, 0.1], [0.25, 0.45], 0.5, "data")
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [0.5, 0.1])
