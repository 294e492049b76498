"""Figures from a Flow, a Limit or a store: one function each, drawing into the Axes it is given.

Colours are the Okabe-Ito palette (safe for colour-blind readers): blue for label or sign +1, vermilion for -1.
"""

from __future__ import annotations

import numpy as np

from gflow._types import VERDICT

PLUS, MINUS, NEUTRAL = "#0072B2", "#D55E00", "#666666"
OUTPUTS = (PLUS, MINUS, "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
UNASKED = 1e29
"""Margins as large as this belong to entries without a label."""

VERDICT_COLOURS = {"GLOBAL": "#009E73", "NOT_GLOBAL": "#D55E00", "INCONCLUSIVE": "#999999", "UNFITTED": "#000000"}


def projection(X: np.ndarray) -> tuple[np.ndarray, tuple[str, str]]:
    """(d, 2) map to the plane of the figures: the plane itself for d <= 2, else the first two principal directions."""
    d = X.shape[1]
    if d <= 2:
        return np.eye(d, 2), ("$x_1$", "$x_2$")
    _, sigma, Vt = np.linalg.svd(X, full_matrices=False)
    share = sigma**2 / np.sum(sigma**2)
    return Vt[:2].T, (f"principal direction 1 ({share[0]:.0%})", f"principal direction 2 ({share[1]:.0%})")


def neurons_on_circle(ax, X, y, W1, w2, title: str = "directions of live neurons"):
    """Directions of the data and of neurons W1 (d, m), w2 (m,); a neuron's area is its share of the mass |a||w|.

    With K outputs, y (n, K) and W2 (m, K), a neuron has the colour of the output that it raises most.
    """
    X, y, W1, w2 = map(np.asarray, (X, y, W1, w2))
    plane, labels = projection(X)
    size = np.linalg.norm(X, axis=1, keepdims=True)
    rows = (X / np.where(size > 0, size, 1.0)) @ plane
    norms = np.linalg.norm(W1, axis=0)
    mass = (np.abs(w2) if w2.ndim == 1 else np.linalg.norm(w2, axis=1)) * norms
    live = mass > 1e-9 * mass.max(initial=0.0)
    tips = ((W1[:, live] / norms[live]).T) @ plane
    angle = np.linspace(0, 2 * np.pi, 400)
    ax.plot(np.cos(angle), np.sin(angle), color="#cccccc", lw=0.8, zorder=0)
    if X.shape[1] == 2:  # the data's hyperplanes x_n . u = 0
        for k, x in enumerate(rows):
            label = "kinks $x_n \\cdot u = 0$" if k == 0 else None
            ax.plot([-x[1], x[1]], [x[0], -x[0]], color="#dddddd", lw=0.6, zorder=0, label=label)
    for name, of_neurons, marker, colour, own, chosen in _classes(y, w2[live]):
        pick = rows[own]
        ax.scatter(pick[:, 0], pick[:, 1], marker=marker, color=colour, s=28, label=f"$x_n/|x_n|$, {name}")
        share = mass[live][chosen] / max(mass[live].sum(), 1e-300)
        for tip in tips[chosen]:
            ax.plot([0, tip[0]], [0, tip[1]], color=colour, lw=1.0, alpha=0.7)
        ax.scatter(
            tips[chosen, 0],
            tips[chosen, 1],
            s=4 + 316 * share,
            facecolors="none",
            edgecolors=colour,
            lw=1.5,
            label=f"neurons, {of_neurons}",
        )
    ax.set(title=title, xlabel=labels[0], ylabel=labels[1], aspect="equal", xlim=(-1.2, 1.2), ylim=(-1.2, 1.2))
    ax.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    return ax


def _classes(y, w2):
    """(name, name of its neurons, marker, colour, its samples, its neurons) of every class."""
    if y.ndim == 1:
        parts = ((1, "+", PLUS), (-1, "_", MINUS))
        return [
            (f"y = {c:+d}", f"a {'>' if c > 0 else '<'} 0", mark, colour, y == c, np.sign(w2) == c)
            for c, mark, colour in parts
        ]
    samples, neurons = np.argmax(y, axis=1), np.argmax(w2, axis=1)
    return [
        (f"class {k}", f"largest $a_{{{k}}}$", "+x_|1234"[k % 8], OUTPUTS[k % len(OUTPUTS)], samples == k, neurons == k)
        for k in range(y.shape[1])
    ]


def margins(ax, s, q):
    """The positive margins q_n (k, n), or (k, n, K), against the scaled clock s (k,), q_min in front."""
    s, q = np.asarray(s), np.asarray(q)
    q = q.reshape(len(s), -1)
    q = q[:, q[0] < UNASKED]
    positive = np.where(q > 0, q, np.nan)
    ax.semilogy(s, positive, color="#bbbbbb", lw=0.7, label=["all $q_n$", *[None] * (q.shape[1] - 1)])
    smallest = q.min(axis=1)
    ax.semilogy(s, np.where(smallest > 0, smallest, np.nan), color=PLUS, lw=1.8, label="$q_{min}$")
    ax.set(title="margins", xlabel="scaled clock $s$", ylabel="margin $q_n$ (positive ones)")
    ax.legend(frameon=False)
    return ax


def residuals(ax, s, kkt_residual, slackness):
    """KKT residual 1 - cos and complementary slackness against the scaled clock s."""
    for values, colour, label in ((kkt_residual, PLUS, "$1 - \\cos(\\theta, v)$"), (slackness, MINUS, "slackness")):
        values = np.asarray(values)
        ax.semilogy(
            np.asarray(s), np.where((values > 0) & np.isfinite(values), values, np.nan), color=colour, label=label
        )
    ax.set(title="KKT residual of the direction", xlabel="scaled clock $s$", ylabel="residual (below 10)")
    ax.set_ylim(top=min(ax.get_ylim()[1], 10.0))  # slackness starts as large as margins differ
    ax.legend(frameon=False)
    return ax


def decay_path(ax, beta, margin, optimum: float, label: str = "", colour: str = PLUS):
    """1 - (normalised margin of the optimum with weight decay beta) / (largest one, 1/(2 P*)), against beta (k,).

    It falls to 0 with beta: penalised optima approach the max-margin direction.
    """
    distance = 1 - np.asarray(margin) / optimum
    ax.loglog(np.asarray(beta), np.where(distance > 0, distance, np.nan), "o-", color=colour, ms=4, label=label)
    ax.set(
        title="weight decay to max-margin", xlabel="weight decay $\\beta$",
        ylabel="$1 - 2P^*\\, q_{min}/|\\theta|^2$",
    )  # fmt: skip
    if label:
        ax.legend(frameon=False)
    return ax


def certificate_histogram(ax, certificate, verdict):
    """Histogram of log10 c over the fitted initialisations, stacked by verdict."""
    certificate, verdict = np.asarray(certificate), np.asarray(verdict)
    fitted = np.isfinite(certificate)
    if fitted.any():
        log_c = np.log10(np.maximum(certificate, 1.0))
        span = (0.0, max(float(log_c[fitted].max()) * 1.05, 0.01))
        names = [v for v in VERDICT if np.any(fitted & (verdict == v))]
        ax.hist(
            [log_c[fitted & (verdict == v)] for v in names], bins=40, range=span, stacked=True,
            color=[VERDICT_COLOURS[v.name] for v in names], label=[f"{v.name} ({np.sum(verdict == v)})" for v in names],
        )  # fmt: skip
    else:
        ax.text(0.5, 0.5, "no initialisation fits the data", ha="center", va="center", transform=ax.transAxes)
        ax.set(xlim=(0, 1), ylim=(0, 1), xticks=[0], yticks=[])
    unfitted = int(np.sum(verdict == VERDICT.UNFITTED))
    if unfitted:
        ax.plot([], [], "s", color=VERDICT_COLOURS["UNFITTED"], label=f"UNFITTED ({unfitted}), not shown")
    ax.set(title="certificates", xlabel="$\\log_{10} c$  (0: proved global)", ylabel="initialisations")
    if ax.get_legend_handles_labels()[0]:
        ax.legend(frameon=False, fontsize=8)
    return ax


def flow_figure(problem, flow, limit, kkt_residual, slackness):
    """Neurons of the limit, margins and residuals of one flow, side by side. Returns the Figure."""
    figure, axes = _figure(3)
    neurons_on_circle(
        axes[0],
        problem.X,
        problem.y,
        limit.network.W1,
        limit.network.W2 if problem.outputs else limit.network.w2,
        "neurons at the limit" if limit.polished else "neurons at the end",
    )
    margins(axes[1], flow.s, flow.margins)
    residuals(axes[2], flow.s, kkt_residual, slackness)
    return figure


def sweep_figure(dataset, limits: list[dict]):
    """Histogram of certificates and the neurons of the (at most three) most frequent limits. Returns the Figure."""
    shown = [x for x in limits if np.isfinite(x["objective"])][:3]
    figure, axes = _figure(1 + len(shown))
    done = dataset["verdict"].values >= 0
    certificate_histogram(axes[0], dataset["certificate"].values[done], dataset["verdict"].values[done])
    for ax, limit in zip(axes[1:], shown, strict=True):
        row = dataset.isel(init=limit["example"])
        K = int(row["neurons"])
        title = f"{limit['count']} x P = {limit['objective']:.6g}, {limit['verdict']}"
        neurons_on_circle(
            ax, dataset["X"].values, dataset["y"].values, row["W1"].values[:K].T, row["w2"].values[:K], title
        )
    return figure


AXIS_LABELS = {"width": "width $m$", "scale": "scale of the initialisation", "data_seed": "seed of the data"}


def phase_diagram(summary: dict):
    """Fractions of initialisations over the grid of a sweep, with 95 % Wilson intervals. Returns the Figure.

    `summary`: `axes` (name -> values) and `cells` as `gflow report --json` prints them. One axis with more than one
    value: GLOBAL and fitted as curves; more: GLOBAL over the two longest, the other axes at their first value.
    """
    axes = {name: values for name, values in summary["axes"].items() if len(values) > 1}
    names = sorted(axes, key=lambda name: -len(axes[name]))[:2] or list(summary["axes"])[:1]
    held = {name: values[0] for name, values in summary["axes"].items() if name not in names}
    cells = [cell for cell in summary["cells"] if all(cell[k] == v for k, v in held.items())]
    figure, (ax,) = _figure(1)
    if len(names) == 1:
        _curves(ax, summary["axes"][names[0]], names[0], cells)
    else:
        across, up = sorted(names, key=lambda name: name != "width")
        _map(figure, ax, (across, summary["axes"][across]), (up, summary["axes"][up]), cells)
    note = ", ".join(f"{AXIS_LABELS.get(k, k)} {v}" for k, v in held.items())
    ax.set_title("where initialisations end" + (f" ({note})" if note else ""), fontsize=10)
    return figure


def _curves(ax, values, name: str, cells: list[dict]) -> None:
    numbers = not isinstance(values[0], str)
    at = np.asarray(values if numbers else range(len(values)), float)
    # the fitted ones behind, as large open squares: where all that fit are GLOBAL both are seen
    for key, colour, style in (
        ("fitted", NEUTRAL, {"marker": "s", "ms": 8, "mfc": "none"}),
        ("global", VERDICT_COLOURS["GLOBAL"], {"marker": "o", "ms": 4}),
    ):
        middle, low, high = (np.array([c[key][k] for c in cells], float) for k in ("fraction", "low", "high"))
        label = f"{'GLOBAL' if key == 'global' else key}, 95 % interval"
        # at a fraction of 0 or 1 rounding may put it outside its interval by 1e-17
        error = np.maximum([middle - low, high - middle], 0.0)
        ax.errorbar(at, middle, error, color=colour, lw=1, capsize=2, label=label, **style)
    if name == "scale" and min(at) > 0:
        ax.set_xscale("log")
    if not numbers:
        ax.set_xticks(at, values)
    ax.set(xlabel=AXIS_LABELS.get(name, name), ylabel="fraction of initialisations", ylim=(-0.03, 1.03))
    ax.legend(frameon=False, fontsize=8)


def _map(figure, ax, across, up, cells: list[dict]) -> None:
    (x_name, xs), (y_name, ys) = across, up
    shown = np.full((len(ys), len(xs)), np.nan)
    for cell in cells:
        at = ys.index(cell[y_name]), xs.index(cell[x_name])
        if cell["global"]["fraction"] is None:
            continue
        shown[at] = cell["global"]["fraction"]
        half = 0.5 * (cell["global"]["high"] - cell["global"]["low"])
        colour = "white" if shown[at] < 0.6 else "black"
        if len(xs) * len(ys) <= 64:
            ax.text(at[1], at[0], f"{shown[at]:.2f}\n±{half:.2f}", ha="center", va="center", color=colour, fontsize=7)
    image = ax.imshow(shown, origin="lower", aspect="auto", cmap="viridis", vmin=0, vmax=1)
    ax.set_xticks(range(len(xs)), [f"{v:g}" if not isinstance(v, str) else v for v in xs])
    ax.set_yticks(range(len(ys)), [f"{v:g}" if not isinstance(v, str) else v for v in ys])
    ax.set(xlabel=AXIS_LABELS.get(x_name, x_name), ylabel=AXIS_LABELS.get(y_name, y_name))
    figure.colorbar(image, ax=ax, label="fraction GLOBAL (± half of a 95 % interval)")


def save(figure, path) -> None:
    """Write a figure made here to `path` (png, pdf or svg by its suffix)."""
    figure.savefig(path, dpi=150, bbox_inches="tight")


def _figure(columns: int):
    # no pyplot: a figure of its own needs no display and leaves no global state
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.4 * columns, 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, np.atleast_1d(figure.subplots(1, columns))
