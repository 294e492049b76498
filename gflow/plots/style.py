"""Colours, and figures without pyplot: no display is needed, and no global state is left.

The Okabe-Ito palette (safe for colour-blind readers): blue for label or sign +1, vermilion for -1.
"""

from __future__ import annotations

import numpy as np

PLUS, MINUS, NEUTRAL = "#0072B2", "#D55E00", "#666666"
OUTPUTS = (PLUS, MINUS, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
UNASKED = 1e29
"""Margins as large as this belong to entries without a label."""

S_LABEL, T_LABEL = "scaled clock $s$", r"$\log_{10} t$ of physical time"

VERDICT_COLOURS = {"GLOBAL": "#009E73", "NOT_GLOBAL": "#D55E00", "INCONCLUSIVE": "#999999", "UNFITTED": "#000000"}


def log10_t(log_t) -> np.ndarray:
    """log10 of physical time from its natural logarithm; t itself may be e^10000. The start, t = 0, is NaN."""
    log_t = np.asarray(log_t, float)
    return np.where(np.isfinite(log_t), log_t, np.nan) / np.log(10)


def save(figure, path) -> None:
    """Write a figure made here to `path` (png, pdf or svg by its suffix)."""
    figure.savefig(path, dpi=150, bbox_inches="tight")


def panels(columns: int):
    """A figure with this many Axes side by side, and the array of them."""
    # no pyplot: a figure of its own needs no display and leaves no global state
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4 * columns, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, np.atleast_1d(figure.subplots(1, columns))
