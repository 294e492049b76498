"""The figures of docs/assets, `python docs/figures.py` (two minutes on 2 cores): the geometry of the dual, on flows."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

jax.config.update("jax_enable_x64", True)

import matplotlib

matplotlib.use("Agg")
import jax.numpy as jnp
import matplotlib.pyplot as plt

import gflow
from gflow import datasets, plots

ASSETS = Path(__file__).parent / "assets"
OKABE_ITO = ("#56B4E9", "#E69F00", "#CC79A7", "#009E73")


def flow_of(X, y, width: int, scale: float = 1e-3, index: int = 0, kinks: int = 0):
    problem = gflow.Problem(X, y)
    network = gflow.Gaussian(scale)(gflow.key_of(0, index), problem, width)
    flow = gflow.solve_flow(problem, network, saves=400, kinks=kinks)
    return problem, flow, gflow.find_limit(problem, flow)


def save(figure, name: str) -> None:
    ASSETS.mkdir(exist_ok=True)
    figure.savefig(ASSETS / f"{name}.png", dpi=150, bbox_inches="tight")
    plt.close(figure)
    print(f"wrote {name}.png")


def dual_circle() -> None:
    """Where the flow ends at the global optimum, and where it does not."""
    figure, axes = plt.subplots(1, 2, figsize=(12, 4.2), layout="constrained", sharey=True)
    cases = {
        "orthogonally separable (6,2)": datasets.orthogonal_separable(n=6),
        "gaussian (6,2), seed 4": datasets.gaussian(n=6, d=2, seed=4),
    }
    for ax, (name, data) in zip(axes, cases.items(), strict=True):
        problem, flow, limit = flow_of(data.X, data.y, 30)
        proof = gflow.certify(problem, limit)
        for share, colour in zip((0.3, 0.6), OKABE_ITO, strict=False):
            k = int(share * len(flow.s))
            B = 1 / float(gflow.convex.oracle.dual_maximum(problem.X, flow.lam[k], gflow.faces(data.X)).upper)
            ax_label = rf"$\lambda(s)^T(Xu)_+ / B$ at $s$ = {float(flow.s[k]):.1f}"
            plots.dual_function(ax, data.X, flow.lam[k], np.zeros((2, 1)), np.zeros(1), B, ax_label, colour)
        plots.dual_function(ax, data.X, limit.lam, limit.network.W1, limit.network.w2, 1.0, "limit", "black")
        if proof.missing_neuron is not None:
            u = proof.missing_neuron
            height = float(limit.lam @ np.maximum(data.X @ u, 0.0))
            ax.plot(np.arctan2(u[1], u[0]), height, "*", color=OKABE_ITO[2], ms=12, label="missing neuron")
        ax.set_title(f"{name}: {proof.verdict.name}, c = {proof.c:.4f}")
        ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=2, frameon=False)
    save(figure, "dual_circle")


def ellipsoids() -> None:
    """Two and three samples: neurons end at extreme points of conv(Q u -Q) on the face that lambda exposes."""
    figure = plt.figure(figsize=(12, 5), layout="constrained")
    X2, y2 = np.array([[1.0, 0.35], [0.2, 1.1]]), np.array([1.0, -1.0])
    X3, y3 = np.array([[1.0, 0.3], [-0.4, 1.0], [0.5, -0.9]]), np.array([1.0, 1.0, -1.0])
    for k, (X, y) in enumerate(((X2, y2), (X3, y3))):
        _, flow, limit = flow_of(X, y, 14)
        ax = figure.add_subplot(1, 2, k + 1, projection=None if k == 0 else "3d")
        live = np.asarray(flow.final.masses()) > 1e-6 * float(jnp.max(flow.final.masses()))
        paths = plots.travelled(X, flow.network.W1[:, :, live], flow.network.w2[:, live])
        plots.rectified_ellipsoid(ax, X, paths, limit.lam)
    save(figure, "rectified_ellipsoid")


def along_a_flow() -> None:
    """Alignment of directions, and every kink on the way."""
    data = datasets.gaussian(n=10, d=5)
    _, flow, limit = flow_of(data.X, data.y, 50, kinks=2000)
    figure, axes = plt.subplots(1, 3, figsize=(16, 4.2), layout="constrained")
    plots.alignment(
        axes[0], flow.s, flow.network.W1, flow.network.w2, limit.network.W1, np.sign(np.asarray(limit.network.w2))
    )
    plots.kink_times(axes[1], flow.kinks.s, flow.kinks.sample, flow.kinks.kind, flow.kinks.neuron)
    plots.margins(axes[2], flow.s, flow.margins)
    save(figure, "along_a_flow")


if __name__ == "__main__":
    for draw in (dual_circle, ellipsoids, along_a_flow):
        draw()
