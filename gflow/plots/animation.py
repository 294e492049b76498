"""An animation of a flow on data in two dimensions: neurons on the circle, the dual constraint beside them."""

from __future__ import annotations

import numpy as np

from gflow.plots.directions import neurons_on_circle
from gflow.plots.geometry import dual_function
from gflow.plots.style import panels


def circle_and_dual(X, y, s, W1, w2, lam, scale, frames: int = 60):
    """FuncAnimation of a flow W1 (k, 2, m), w2 (k, m), lam (k, n) at times s (k,); `.save("flow.gif")` writes it.

    `scale` (k,): factors of lambda, for instance 1/B(s) so that the dual constraint is touched at every time: |.| <= 1
    holds all along, and neurons come to sit where it is touched. Frames are equally spaced among the saved times.
    """
    from matplotlib.animation import FuncAnimation

    X, y, s, W1, w2, lam, scale = map(np.asarray, (X, y, s, W1, w2, lam, scale))
    if X.shape[1] != 2:
        raise ValueError(f"the circle is of data in two dimensions, got d = {X.shape[1]}")
    figure, axes = panels(2)
    chosen = np.unique(np.linspace(0, len(s) - 1, frames).round().astype(int))

    def draw(k: int):
        for ax in axes:
            ax.clear()
        neurons_on_circle(axes[0], X, y, W1[k], w2[k], f"neurons at s = {s[k]:.2f}")
        legend = axes[0].get_legend()
        if legend is not None:
            legend.remove()
        dual_function(axes[1], X, lam[k], W1[k], w2[k], scale[k])
        axes[1].set(ylim=(-1.25, 1.25), ylabel=r"$\lambda(s)^T (Xu)_+ / B$  (bounds dashed)")
        return axes

    return FuncAnimation(figure, draw, frames=chosen.tolist(), interval=80)
