"""Figures from a Flow, a Limit or a store: drawn into the Axes that are given; nothing is recomputed."""

from gflow.plots.animation import circle_and_dual
from gflow.plots.directions import neurons_on_circle, neurons_on_sphere, projection
from gflow.plots.flows import decay_path, flow_figure, losses, margins, residuals
from gflow.plots.geometry import alignment, dual_function, kink_times, rectified_ellipsoid, travelled
from gflow.plots.progress import (
    balance_drift,
    certificates,
    early_alignment,
    misalignment,
    not_global,
    optimizers,
)
from gflow.plots.style import MINUS, NEUTRAL, PLUS, S_LABEL, T_LABEL, VERDICT_COLOURS, log10_t, panels, save
from gflow.plots.sweeps import certificate_histogram, objective_histogram, phase_diagram, shown_cells, sweep_figure

__all__ = [
    "MINUS",
    "NEUTRAL",
    "PLUS",
    "S_LABEL",
    "T_LABEL",
    "VERDICT_COLOURS",
    "alignment",
    "balance_drift",
    "certificate_histogram",
    "certificates",
    "circle_and_dual",
    "decay_path",
    "dual_function",
    "early_alignment",
    "flow_figure",
    "kink_times",
    "log10_t",
    "losses",
    "margins",
    "misalignment",
    "neurons_on_circle",
    "neurons_on_sphere",
    "not_global",
    "objective_histogram",
    "optimizers",
    "panels",
    "phase_diagram",
    "projection",
    "rectified_ellipsoid",
    "residuals",
    "save",
    "shown_cells",
    "sweep_figure",
    "travelled",
]
