"""The figures of docs/assets: `python docs/figures.py [NAME ...]`, all of them in a quarter of an hour.

They are drawn from flows and programs that are solved here, not_global from benchmarks/results/bench_paper.jsonl.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
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
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained", sharey=True)
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
            label = rf"at $s$ = {float(flow.s[k]):.1f}, scaled by $1/B$"
            plots.dual_function(ax, data.X, flow.lam[k], np.zeros((2, 1)), np.zeros(1), B, label, colour)
        plots.dual_function(ax, data.X, limit.lam, limit.network.W1, limit.network.w2, 1.0, "at the limit", "black")
        if proof.missing_neuron is not None:
            u = proof.missing_neuron
            height = float(limit.lam @ np.maximum(data.X @ u, 0.0))
            ax.plot(np.arctan2(u[1], u[0]), height, "*", color=OKABE_ITO[2], ms=12, label="missing neuron")
        ax.set_title(f"{name}: {proof.verdict.name}, c = {proof.c:.4f}")
        ax.set_ylabel(r"dual constraint $P\,\lambda^T (Xu)_+$  (bounds dashed)" if ax is axes[0] else "")
        ax.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.15), ncols=3, frameon=False)
    save(figure, "dual_circle")


def ellipsoids() -> None:
    """Two and three samples: neurons end at extreme points of conv(Q u -Q) on the face that lambda exposes."""
    figure = plt.figure(figsize=(12, 5), layout="constrained")
    X2, y2 = np.array([[1.0, 0.35], [0.2, 1.1]]), np.array([1.0, -1.0])
    X3, y3 = np.array([[1.0, 0.3], [-0.4, 1.0], [0.5, -0.9]]), np.array([1.0, 1.0, -1.0])
    for k, (X, y) in enumerate(((X2, y2), (X3, y3))):
        _, flow, limit = flow_of(X, y, 14)
        ax = figure.add_subplot(1, 2, k + 1, projection=None if k == 0 else "3d")
        # a neuron that touches the constraint almost shrinks like a small power of q_min: it is still seen at the end
        live = np.asarray(flow.final.masses()) > 0.1 * float(jnp.max(flow.final.masses()))
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


def sphere() -> None:
    """Neurons of a limit among the great circles of the data, d = 3."""
    data = datasets.gaussian(n=8, d=3, seed=1)
    _, _, limit = flow_of(data.X, data.y, 30)
    figure = plt.figure(figsize=(6, 4.6), layout="constrained")
    ax = figure.add_subplot(projection="3d")
    plots.neurons_on_sphere(ax, data.X, data.y, limit.network.W1, limit.network.w2, "neurons of the limit, d = 3")
    save(figure, "sphere")


def two_clocks() -> None:
    """Margins, certificate, KKT residual and balance of one flow: above against s, below against log t."""
    data = datasets.orthogonal_separable(n=20, d=2)
    problem, flow, _ = flow_of(data.X, data.y, 50)
    along = gflow.along(problem, flow)
    figure, axes = plt.subplots(2, 4, figsize=(18, 7.5), layout="constrained")
    for row, time, label in ((0, flow.s, plots.S_LABEL), (1, plots.log10_t(flow.log_t), plots.T_LABEL)):
        plots.margins(axes[row, 0], time, flow.margins, label)
        plots.certificates(axes[row, 1], time, along.certificate, label)
        plots.residuals(axes[row, 2], time, along.kkt_residual, along.slackness, label)
        plots.balance_drift(axes[row, 3], time, along.balance_drift, label)
    for ax in axes[1]:
        ax.set_title("")
    save(figure, "two_clocks")


def early_phase(level: float = 0.05) -> None:
    """Directions align after a time that does not depend on a small scale; the loss leaves after one that does."""
    data = datasets.gaussian(n=10, d=5)
    problem = gflow.Problem(data.X, data.y)
    scales, aligned, departed = (1e-1, 1e-2, 1e-4, 1e-6, 1e-8, 1e-12, 1e-16), [], []
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    for scale in scales:
        network = gflow.Gaussian(scale)(gflow.key_of(0, 0), problem, 50)
        flow = gflow.solve_flow(problem, network, until_s=EARLY, saves=1200)
        away = np.asarray(gflow.along(problem, flow).misalignment)
        aligned.append(float(flow.s[np.argmax(away <= level)]) if np.any(away <= level) else np.nan)
        left = np.asarray(flow.loss) < 0.99 * float(flow.loss[0])
        departed.append(float(flow.s[np.argmax(left)]) if np.any(left) else np.nan)
        if scale in (1e-1, 1e-4, 1e-8):
            colour = dict(zip((1e-1, 1e-4, 1e-8), OKABE_ITO, strict=False))[scale]
            plots.misalignment(axes[0], flow.s, away, rf"scale $10^{{{np.log10(scale):.0f}}}$", colour)
    plots.early_alignment(axes[1], scales, aligned, departed, level)
    save(figure, "early_phase")


def optimisers() -> None:
    """P/P* - 1 against the smallest margin: the flow, its exact limit, SGD, Adam and normalised SGD."""
    import optax

    data = datasets.gaussian(n=10, d=5)
    problem, flow, limit = flow_of(data.X, data.y, 50, 1e-2)
    optimum = gflow.solve_max_margin(problem).primal
    start = flow.network.at(0)
    runs = {
        "flow": flow,
        "SGD, rate 0.1": gflow.descend(problem, start, optax.sgd(0.1), 100_000, saves=300),
        "Adam, rate 1e-3": gflow.descend(problem, start, optax.adam(1e-3), 100_000, saves=300),
        "normalised SGD, rate 0.01": gflow.descend(problem, start, optax.sgd(0.01), 20_000, saves=300, normalised=True),
    }
    curves = {
        name: (run.margins.min(axis=1), jax.vmap(problem.objective)(run.network) / optimum)
        for name, run in runs.items()
    }
    figure, ax = plt.subplots(figsize=(6, 4.2), layout="constrained")
    plots.optimizers(ax, curves)
    ax.axhline(limit.objective / optimum - 1, color=plots.NEUTRAL, lw=0.8, label="exact limit of the flow")
    ax.set(xlim=(1e-3, 1e6))
    ax.legend(frameon=False, fontsize=8)
    save(figure, "optimisers")


def animation() -> None:
    """Neurons on the circle, the dual constraint beside them, over one flow."""
    data = datasets.orthogonal_separable(n=6)
    problem, flow, _ = flow_of(data.X, data.y, 30)
    B = np.asarray(gflow.convex.oracle.dual_maxima(problem.X, flow.lam, gflow.faces(data.X)).upper)
    film = plots.circle_and_dual(data.X, data.y, flow.s, flow.network.W1, flow.network.w2, flow.lam, 1 / B)
    film.save(ASSETS / "flow.gif", writer="pillow", dpi=70)
    print("wrote flow.gif")


def swept(*arguments: str):
    """The store of `gflow sweep`, in memory."""
    from gflow import store
    from gflow.cli.main import main

    with tempfile.TemporaryDirectory() as folder:
        assert main(["sweep", *arguments, "--out", f"{folder}/sweep.zarr"]) == 0
        return store.open_store(f"{folder}/sweep.zarr").load()


def many_limits() -> None:
    """Objectives and certificates of a sweep with many limits, none of which is the optimum."""
    data = datasets.gaussian(n=10, d=5)
    optimum = gflow.solve_max_margin(gflow.Problem(data.X, data.y)).primal
    rows = swept("gaussian:n=10,d=5,seed=0", "--width", "20", "--inits", "1000")
    figure, axes = plots.panels(2)
    plots.objective_histogram(axes[0], rows["objective"].values, rows["verdict"].values, optimum)
    plots.certificate_histogram(axes[1], rows["certificate"].values, rows["verdict"].values)
    save(figure, "many_limits")


def phase_diagram() -> None:
    """How often a flow is proved to end at the optimum, over the width and the scale of the first weights."""
    grid = ("--width", "2,3,5,8,12", "--scale", "1e-3,1,10", "--inits", "64")
    figure = plots.phase_diagram(gflow.sweep_summary(swept("orthogonal-separable:n=20,d=2,seed=0", *grid)))
    figure.axes[0].set_title("orthogonally separable (20,2), 64 starts a cell", fontsize=10)
    save(figure, "phase_diagram")


def not_global() -> None:
    """How often the limit of a flow is not the optimum, as measured by `benchmarks/bench_paper.py gaussian`."""
    results = Path(__file__).parent.parent / "benchmarks" / "results" / "bench_paper.jsonl"
    measured = []
    for line in results.read_text().splitlines():
        found = json.loads(line)
        case = re.match(r"gaussian \((\d+),(\d+)\)", found.get("claim", ""))
        if case:
            share = found["interval"]
            measured.append((int(case[1]) / int(case[2]), share["fraction"], share["low"], share["high"]))
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    plots.not_global(ax, *np.array(sorted(measured)).T)
    ax.set_xlabel("samples per dimension $n/d$ (gaussian data, random labels, $d = 5$, width 50)")
    save(figure, "not_global")


def decay_path() -> None:
    """Optima with weight decay approach the max-margin direction as the decay goes to 0."""
    sets = {"orthogonally separable (20,2)": datasets.orthogonal_separable(), "gaussian (10,5)": datasets.gaussian()}
    figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
    for (name, data), colour in zip(sets.items(), OKABE_ITO, strict=False):
        problem, known = gflow.Problem(data.X, data.y), gflow.faces(data.X)
        best = gflow.solve_max_margin(problem, known)
        betas = 10.0 ** -np.arange(0, 13)
        solved = [gflow.solve_penalized(problem, float(beta), known) for beta in betas]
        # a network that is not the optimum to what the eye sees has no place on the path
        margins = [float(problem.normalised_margin(s.network)) if s.gap <= 1e-3 else np.nan for s in solved]
        plots.decay_path(ax, betas, margins, 1 / (2 * best.primal), name, colour)
        if np.isnan(margins).any():
            print(f"decay_path, {name}: left out, as a gap was left: {betas[np.isnan(margins)]}")
    save(figure, "decay_path")


EARLY = 55.0
"""Clock s at which the early phase is over for every scale drawn."""

FIGURES = (
    dual_circle, ellipsoids, along_a_flow, sphere, two_clocks, early_phase, optimisers, animation, many_limits,
    phase_diagram, not_global, decay_path,
)  # fmt: skip

if __name__ == "__main__":
    names = {draw.__name__: draw for draw in FIGURES}
    unknown = [name for name in sys.argv[1:] if name not in names]
    if unknown:
        sys.exit(f"no figure {', '.join(unknown)}; the figures are {', '.join(names)}")
    for name in sys.argv[1:] or names:
        names[name]()
