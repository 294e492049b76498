"""Figures of one flow: directions, margins, residuals. One function each, drawing into the Axes it is given."""

from __future__ import annotations

import numpy as np

from gflow.plots.style import MINUS, OUTPUTS, PLUS, UNASKED, panels


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
    if y.ndim == 1 and not np.all(np.isin(y, (-1, 1))):
        parts = ((1, "+", PLUS), (-1, "_", MINUS))
        return [
            (
                f"y {'>' if c > 0 else '<'} 0",
                f"a {'>' if c > 0 else '<'} 0",
                mark,
                colour,
                np.sign(y) == c,
                np.sign(w2) == c,
            )
            for c, mark, colour in parts
        ]
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


def losses(ax, s, loss):
    """The loss L (k,) of a flow that goes to a point, against s: physical time where the loss has no margins."""
    loss = np.asarray(loss)
    ax.semilogy(np.asarray(s), np.where(loss > 0, loss, np.nan), color=PLUS)
    ax.set(title="loss", xlabel="scaled clock $s$", ylabel="$L$")
    return ax


def residuals(ax, s, kkt_residual, slackness):
    """KKT residual 1 - cos and complementary slackness against the scaled clock s; of a flow to a point, whose
    `slackness` is None, the speed of its fastest neuron."""
    if slackness is None:
        values = np.asarray(kkt_residual)
        ax.semilogy(np.asarray(s), np.where(values > 0, values, np.nan), color=PLUS)
        ax.set(title="what still moves", xlabel="scaled clock $s$", ylabel="relative speed of the fastest neuron")
        return ax
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


def flow_figure(problem, flow, limit, kkt_residual, slackness):
    """Neurons of the limit, margins and residuals of one flow, side by side. Returns the Figure.

    `slackness` None: a flow to a point, with its loss in place of margins, and `kkt_residual` its speed.
    """
    figure, axes = panels(3)
    neurons_on_circle(
        axes[0],
        problem.X,
        problem.y,
        limit.network.W1,
        limit.network.W2 if problem.outputs else limit.network.w2,
        "neurons at the limit" if limit.polished else "neurons at the end",
    )
    if slackness is None:
        losses(axes[1], flow.s, flow.loss)
    else:
        margins(axes[1], flow.s, flow.margins)
    residuals(axes[2], flow.s, kkt_residual, slackness)
    return figure
