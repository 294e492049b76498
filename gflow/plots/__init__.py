"""Figures from a Flow, a Limit or a store: drawn into the Axes that are given; nothing is recomputed."""

from gflow.plots.flows import decay_path, flow_figure, margins, neurons_on_circle, projection, residuals
from gflow.plots.geometry import alignment, dual_function, kink_times, rectified_ellipsoid, travelled
from gflow.plots.style import MINUS, NEUTRAL, PLUS, VERDICT_COLOURS, panels, save
from gflow.plots.sweeps import certificate_histogram, phase_diagram, sweep_figure

__all__ = [
    "MINUS",
    "NEUTRAL",
    "PLUS",
    "VERDICT_COLOURS",
    "alignment",
    "certificate_histogram",
    "decay_path",
    "dual_function",
    "flow_figure",
    "kink_times",
    "margins",
    "neurons_on_circle",
    "panels",
    "phase_diagram",
    "projection",
    "rectified_ellipsoid",
    "residuals",
    "save",
    "sweep_figure",
    "travelled",
]
