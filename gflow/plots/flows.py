"""Figures of one flow: margins, loss, residuals. One function each, drawing into the Axes it is given."""

from __future__ import annotations

import numpy as np

from gflow.plots.directions import neurons_on_circle
from gflow.plots.style import MINUS, PLUS, S_LABEL, UNASKED, panels


def margins(ax, s, q, xlabel: str = S_LABEL):
    """The positive margins q_n (k, n), or (k, n, K), against s or the clock that `xlabel` names; q_min in front."""
    s, q = np.asarray(s), np.asarray(q)
    q = q.reshape(len(s), -1)
    q = q[:, q[0] < UNASKED]
    positive = np.where(q > 0, q, np.nan)
    ax.semilogy(s, positive, color="#bbbbbb", lw=0.7, label=["all $q_n$", *[None] * (q.shape[1] - 1)])
    smallest = q.min(axis=1)
    ax.semilogy(s, np.where(smallest > 0, smallest, np.nan), color=PLUS, lw=1.8, label=r"$q_{\min}$")
    ax.set(title="margins", xlabel=xlabel, ylabel="margin $q_n$ (positive ones)")
    ax.legend(frameon=False)
    return ax


def losses(ax, s, loss):
    """The loss L (k,) of a flow that goes to a point, against s: physical time where the loss has no margins."""
    loss = np.asarray(loss)
    ax.semilogy(np.asarray(s), np.where(loss > 0, loss, np.nan), color=PLUS)
    ax.set(title="loss", xlabel=S_LABEL, ylabel="$L$")
    return ax


def residuals(ax, s, kkt_residual, slackness, xlabel: str = S_LABEL):
    """KKT residual 1 - cos and complementary slackness against s, or the clock that `xlabel` names.

    Of a flow to a point, whose `slackness` is None, the speed of its fastest neuron.
    """
    if slackness is None:
        values = np.asarray(kkt_residual)
        ax.semilogy(np.asarray(s), np.where(values > 0, values, np.nan), color=PLUS)
        ax.set(title="what still moves", xlabel=xlabel, ylabel="relative speed of the fastest neuron")
        return ax
    for values, colour, label in ((kkt_residual, PLUS, "$1 - \\cos(\\theta, v)$"), (slackness, MINUS, "slackness")):
        values = np.asarray(values)
        ax.semilogy(
            np.asarray(s), np.where((values > 0) & np.isfinite(values), values, np.nan), color=colour, label=label
        )
    ax.set(title="KKT residual of the direction", xlabel=xlabel, ylabel="residual (below 10)")
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
        ylabel=r"$1 -$ margin / largest margin",
    )  # fmt: skip
    if label:
        ax.legend(frameon=False)
    return ax


def flow_figure(problem, flow, limit, along):
    """Neurons of the limit, margins and residuals of one flow, side by side. Returns the Figure.

    `along`: `gflow.along` of the flow. A flow to a point has its loss in place of margins.
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
    if along.slackness is None:
        losses(axes[1], flow.s, flow.loss)
    else:
        margins(axes[1], flow.s, flow.margins)
    residuals(axes[2], flow.s, along.kkt_residual, along.slackness)
    return figure
