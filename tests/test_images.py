"""The six main figures as images, against tests/baseline; `python tests/test_images.py` draws the baseline anew."""

import pathlib
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from gflow import plots

BASELINE = pathlib.Path(__file__).parent / "baseline"
TOLERANCE = 6.0
"""Root mean square of differences in grey levels: another version of the fonts is within it, another curve is not."""

X2 = np.array([[2.0, 0.0], [0.5, 1.0], [-1.0, -1.0], [-2.0, 0.5]])
Y = np.array([1.0, 1.0, -1.0, -1.0])
W1 = np.array([[1.2, 0.3, -1.0, 0.2], [0.5, 1.0, -0.4, -0.9]])
W2 = np.array([1.3, 1.0, -1.1, -0.9])
S = np.linspace(0, 12, 80)


def circle():
    figure, (ax,) = plots.panels(1)
    plots.neurons_on_circle(ax, X2, Y, W1, W2)
    return figure


def sphere():
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4, 4.0), layout="constrained")
    rng = np.random.default_rng(3)
    X, ax = rng.standard_normal((5, 3)), figure.add_subplot(projection="3d")
    plots.neurons_on_sphere(ax, X, np.array([1.0, 1, -1, -1, 1]), rng.standard_normal((3, 4)), W2)
    return figure


def dual():
    figure, (ax,) = plots.panels(1)
    plots.dual_function(ax, X2, 0.25 * Y, W1, W2, scale=1.7)
    return figure


def ellipsoid():
    figure, (ax,) = plots.panels(1)
    turning = np.stack([W1 + np.array([[0.1 * k], [0.0]]) for k in range(5)])
    plots.rectified_ellipsoid(ax, X2[:2], plots.travelled(X2[:2], turning, np.stack([W2] * 5)), np.array([0.4, 0.5]))
    return figure


def one_flow():
    q = np.exp(np.outer(S - 3, [1.0, 1.1, 1.2, 1.3]))
    problem = SimpleNamespace(X=X2, y=Y, outputs=None)
    flow = SimpleNamespace(s=S, margins=q, loss=np.exp(-S))
    limit = SimpleNamespace(network=SimpleNamespace(W1=W1, w2=W2), polished=True)
    along = SimpleNamespace(kkt_residual=np.exp(-S), slackness=np.exp(-0.7 * S))
    return plots.flow_figure(problem, flow, limit, along)


def phases():
    cells = [{"width": m, "global": share(1 - 0.8**m), "fitted": share(1 - 0.7**m), "done": 100} for m in (2, 4, 8, 16)]
    return plots.phase_diagram({"axes": {"width": [2, 4, 8, 16]}, "cells": cells})


def share(p: float) -> dict:
    return {"fraction": p, "low": p - 0.05, "high": min(p + 0.05, 1.0)}


FIGURES = {draw.__name__: draw for draw in (circle, sphere, dual, ellipsoid, one_flow, phases)}


def difference(name: str, figure, folder) -> float:
    from matplotlib.testing.compare import compare_images

    figure.savefig(folder / f"{name}.png", dpi=50)
    found = compare_images(str(BASELINE / f"{name}.png"), str(folder / f"{name}.png"), tol=0.0, in_decorator=True)
    return found["rms"] if found else 0.0


@pytest.mark.parametrize("name", FIGURES)
def test_figure_looks_as_before(name, tmp_path):
    assert difference(name, FIGURES[name](), tmp_path) <= TOLERANCE


def test_a_wrong_figure_is_seen(tmp_path):
    figure = dual()
    figure.axes[0].lines[0].set_ydata(-figure.axes[0].lines[0].get_ydata())
    assert difference("dual", figure, tmp_path) > TOLERANCE
    with pytest.raises(ValueError, match="three dimensions"):
        plots.neurons_on_sphere(None, X2, Y, W1, W2)


if __name__ == "__main__":
    BASELINE.mkdir(exist_ok=True)
    for name, draw in FIGURES.items():
        draw().savefig(BASELINE / f"{name}.png", dpi=50)
        print(f"wrote {name}.png", file=sys.stderr)
