"""Quantities along flows: certificate, balance drift, early alignment; flows beside optimisers."""

from __future__ import annotations

import numpy as np

from gflow.plots.style import MINUS, NEUTRAL, OUTPUTS, PLUS, S_LABEL


def certificates(ax, s, c, xlabel: str = S_LABEL):
    """c - 1 (k,) against s, or the clock that `xlabel` names: it bounds P/P* - 1 of the network as it is."""
    c = np.asarray(c)
    ax.semilogy(np.asarray(s), np.where(np.isfinite(c) & (c > 1), c - 1, np.nan), color=PLUS)
    ax.set(title="certificate along the flow", xlabel=xlabel, ylabel=r"$c - 1 \geq P(\theta)/P^* - 1$")
    return ax


def balance_drift(ax, s, drift, xlabel: str = S_LABEL):
    """Largest relative change (k,) of a_i^2 - |w_i|^2, which the flow conserves; no change is drawn at 1e-17."""
    ax.semilogy(np.asarray(s), np.maximum(np.asarray(drift), 1e-17), color=PLUS)
    ax.set(title="balance", xlabel=xlabel, ylabel=r"change of $a_i^2 - |w_i|^2$ (relative)", ylim=(5e-18, 1))
    return ax


def misalignment(ax, s, away, label: str = "", colour: str = PLUS, xlabel: str = S_LABEL):
    """Mean over mass of 1 - cos(w_i, its velocity) (k,) against s: small early, and again at the limit."""
    away = np.asarray(away)
    ax.semilogy(np.asarray(s), np.where(away > 0, away, np.nan), color=colour, lw=1.2, label=label or None)
    ax.set(title="alignment with the velocity", xlabel=xlabel, ylabel=r"mean of $1 - \cos(w_i, \dot w_i)$")
    if label:
        ax.legend(frameon=False, fontsize=8)
    return ax


def early_alignment(ax, scale, aligned, departed, level: float):
    """Times s (k,) at which neurons are aligned to `level` and the loss departs from L(0), against the scale (k,).

    Directions do not know how small the weights are, so the first is constant; the second grows like log(1/scale).
    """
    scale = np.asarray(scale)
    ax.semilogx(scale, np.asarray(departed), "s--", color=MINUS, ms=5, label="the loss leaves its first value")
    ax.semilogx(scale, np.asarray(aligned), "o-", color=PLUS, ms=4, label=rf"aligned: mean of $1-\cos \leq$ {level:g}")
    ax.invert_xaxis()
    ax.set(title="early phase", xlabel="scale of the first weights", ylabel=f"{S_LABEL} of the event", ylim=(0, None))
    ax.legend(frameon=False)
    return ax


def optimizers(ax, curves: dict):
    """P(theta)/P* - 1 against q_min: `curves` maps the name of a flow or optimiser to its (q_min, P/P*).

    The common axis of methods whose steps are not comparable: how far the margins have come. Unfitted times are left
    out.
    """
    stopped = []
    for k, (name, (q_min, ratio)) in enumerate(curves.items()):
        q_min, ratio = np.asarray(q_min), np.asarray(ratio)
        there = (q_min > 0) & np.isfinite(ratio) & (ratio > 1)
        style = {"lw": 2.2} if k == 0 else {"lw": 1.2, "ls": ("-", "--", "-.", ":")[k % 4]}
        tone = OUTPUTS[k % len(OUTPUTS)]
        ax.loglog(q_min[there], ratio[there] - 1, color=tone, label=name, **style)
        stopped.append((q_min[there][-1:], ratio[there][-1:] - 1, tone))
    for *at, tone in stopped:  # curves may lie on one another
        ax.loglog(*at, "o", color=tone, ms=6, mfc="white", mew=1.5, zorder=3)
    ax.loglog([], [], "o", color=NEUTRAL, ms=6, mfc="white", mew=1.5, label="where it was stopped")
    ax.set(title="flow and optimisers", xlabel=r"smallest margin $q_{\min}$", ylabel=r"$P(\theta)/P^* - 1$")
    ax.legend(frameon=False, fontsize=8)
    return ax


def not_global(ax, ratio, fraction, low, high):
    """Fraction of flows whose limit is not the global optimum, against n/d, with 95 % intervals (k,)."""
    ratio, fraction, low, high = map(np.asarray, (ratio, fraction, low, high))
    error = np.maximum([fraction - low, high - fraction], 0.0)
    ax.errorbar(ratio, fraction, error, fmt="o-", color=MINUS, capsize=2, lw=1.0, label="not GLOBAL, 95 % interval")
    ax.axhline(0, color=NEUTRAL, lw=0.6)
    ax.set(title="limits that are not global", xlabel="$n/d$", ylabel="fraction of fitted flows", ylim=(-0.03, 1.03))
    ax.legend(frameon=False)
    return ax
