"""One flow of a sweep, integrated again, and its figures: neurons, margins, residuals, the dual constraint."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gflow._types import VERDICT, result_name
from gflow.along import Along, along
from gflow.at_infinity import find_limit
from gflow.certificate import certify
from gflow.convex.faces import Faces
from gflow.far import flow_to
from gflow.flow.solve import Flow
from gflow.initializers import AbstractInitializer, key_of
from gflow.optimum import Optimum
from gflow.plots.directions import LIVE, neurons_on_circle, projection
from gflow.plots.flows import losses, margins, residuals
from gflow.plots.geometry import dual_function
from gflow.plots.style import panels
from gflow.problem import Problem
from gflow.programs.base import Certificate, Limit
from gflow.report.overview import SIZE
from gflow.report.svg import Drawn, Tips, drawing, inline

SAVES = 200

EVERY = 8
"""Saved times between two points of a curve that tell their numbers."""


class Ended(NamedTuple):
    """A flow, its limit and what is proved about it."""

    problem: Problem
    flow: Flow
    limit: Limit
    proof: Certificate
    along: Along

    @property
    def own_end(self) -> bool:
        """Whether the limit is the flow's end itself: one of many minima, which only the flow knows."""
        return not self.problem.directional and self.problem.weight_decay is None


def integrated(
    problem: Problem,
    law: AbstractInitializer,
    width: int,
    key: tuple[int, int],
    known: Faces,
    optimum: Optimum | None,
    q_min: float | None = None,
) -> Ended:
    """One initialisation of a sweep from its first weights to its certified limit, with SAVES saved times.

    `key`: seed and index; `known`: the faces of X; `optimum`: the solved convex program, or None. The tolerance is that
    of a sweep, and so is the end, at its `q_min`.
    """
    network = law(key_of(*key), problem, width)
    flow = flow_to(problem, network, q_min, saves=SAVES)
    limit = find_limit(problem, flow, follow=q_min is None)
    proof = certify(problem, limit, known_faces=known, optimum=optimum)
    return Ended(problem, flow, limit, proof, along(problem, flow, known))


def figures(ended: Ended, name: str) -> list[Drawn]:
    """The figures of one flow; `name` is part of their ids."""
    drawn = [_directions(ended, name), _margins(ended, name), _approach(ended, name)]
    problem = ended.problem
    plane = problem.shape[1] == 2 and problem.directional and problem.lower_slope == 0
    return [*drawn, _dual(ended, name)] if plane and ended.limit.fitted else drawn


def _panel():
    figure, (ax,) = panels(1)
    figure.set_size_inches(*SIZE)
    return figure, ax


def _directions(ended: Ended, name: str) -> Drawn:
    X, y = np.asarray(ended.problem.X), np.asarray(ended.problem.y)
    W1, w2 = np.asarray(ended.limit.network.W1), np.asarray(ended.limit.network.w2)
    tips = Tips()
    with drawing():
        figure, ax = _panel()
        figure.set_size_inches(SIZE[0], 5.2)
        title = "neurons at the limit" if ended.limit.polished else "neurons at the end"
        neurons_on_circle(ax, X, y, W1, w2, title)
        ax.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncols=2, frameon=False)
        norms = np.linalg.norm(W1, axis=0)
        mass, plane = np.abs(w2) * norms, projection(X)[0]
        share = mass / max(mass.sum(), 1e-300)
        live = np.flatnonzero(mass > LIVE * mass.max(initial=0.0))
        for i in live[np.argsort(-share[live], kind="stable")]:
            u = W1[:, i] / norms[i]
            across, up = u @ plane
            direction = ", ".join(f"{v:.4g}" for v in u[:6]) + (", ..." if len(u) > 6 else "")
            text = f"neuron with a {'>' if w2[i] > 0 else '<'} 0: {share[i]:.1%} of the mass, direction ({direction})"
            # the ring encloses the circle of the neuron, whose area is 4 + 316 share
            tips.ring(ax, across, up, text, float(np.sqrt(4 + 316 * share[i])) + 4.0)
        svg = inline(figure, f"{name}-neurons", f"Directions of the samples and of {len(live)} live neurons", tips)
    where = "" if X.shape[1] <= 2 else " in the plane of the first two principal directions"
    signs = [int(np.sum(np.sign(w2[live]) == s)) for s in (1, -1)]
    return Drawn(
        svg,
        f"Directions of the samples and of the {len(live)} live neurons{where}: {signs[0]} with a > 0 (blue) and "
        f"{signs[1]} with a < 0 (vermilion); a larger circle has a larger share of the mass |a||w|.",
    )


def _margins(ended: Ended, name: str) -> Drawn:
    flow, directional = ended.flow, ended.problem.directional
    s = np.asarray(flow.s)
    values = np.asarray(flow.margins).min(axis=1) if directional else np.asarray(flow.loss)
    symbol = "q_min" if directional else "L"
    tips = Tips()
    with drawing():
        figure, ax = _panel()
        if directional:
            margins(ax, s, flow.margins)
        else:
            losses(ax, s, flow.loss)
        _tell(ax, tips, s, values, symbol)
        svg = inline(figure, f"{name}-margins", f"{'Margins' if directional else 'Loss'} along the flow", tips)
    end = f"the integration ended at s = {s[-1]:.4g} ({result_name(flow.result)}) with {symbol} = {values[-1]:.4g}"
    if not directional:
        return Drawn(svg, f"The loss along the flow: {end}.")
    fitted = np.flatnonzero(values > 0)
    when = f"all samples are fitted from s = {s[fitted[0]]:.4g} on; " if len(fitted) else ""
    return Drawn(svg, f"Margins along the flow, the smallest in front: {when}{end}.")


def _approach(ended: Ended, name: str) -> Drawn:
    s, residual = np.asarray(ended.flow.s), np.asarray(ended.along.kkt_residual)
    directional = ended.problem.directional
    symbol = "1 - cos" if directional else "speed"
    tips = Tips()
    with drawing():
        figure, ax = _panel()
        residuals(ax, s, residual, ended.along.slackness)
        _tell(ax, tips, s, residual, symbol)
        svg = inline(figure, f"{name}-residuals", "Residuals along the flow", tips)
    end = f"{residual[-1]:.2g} at the end"
    if not ended.limit.polished:
        end += ", from where no exact limit was found"
    elif not ended.own_end:
        end += f"; {ended.limit.kkt_residual:.2g} at the limit that was solved for"
    if not directional:
        return Drawn(svg, f"Relative speed of the fastest neuron: {end}.")
    assert ended.along.slackness is not None
    cosine = "1 - cos".replace(" ", "\N{NO-BREAK SPACE}")
    slack = f"Slackness at the end: {float(ended.along.slackness[-1]):.2g}."
    return Drawn(
        svg, f"How far the direction is from a KKT point of the max-margin problem: {cosine} is {end}. {slack}"
    )


def _tell(ax, tips: Tips, s, values, symbol: str) -> None:
    low, high = ax.get_ylim()
    for k in sorted({*range(0, len(s), EVERY), len(s) - 1}):
        if max(low, 0) < values[k] <= high:
            tips.ring(ax, s[k], values[k], f"s = {s[k]:.4g}: {symbol} = {values[k]:.4g}")


def _dual(ended: Ended, name: str) -> Drawn:
    limit, X = ended.limit, np.asarray(ended.problem.X)
    W1, w2, lam = (np.asarray(a) for a in (limit.network.W1, limit.network.w2, limit.lam))
    tips = Tips()
    with drawing():
        figure, ax = _panel()
        # lambda of a limit is at the scale of its objective: the bounds are -1 and 1
        dual_function(ax, X, lam, W1, w2)
        mass = np.abs(w2) * np.linalg.norm(W1, axis=0)
        for i in np.flatnonzero(mass > LIVE * mass.max(initial=0.0)):
            phi, height = np.arctan2(W1[1, i], W1[0, i]), _height(X, lam, W1[:, i])
            tips.ring(ax, phi, height, f"neuron at {phi:.4g} radians: {height:.6g}", 14.0)
        missing = ended.proof.missing_neuron
        if missing is not None:
            phi, height = np.arctan2(missing[1], missing[0]), _height(X, lam, missing)
            ax.plot(phi, height, "*", color="#CC79A7", ms=12, label="missing neuron")
            tips.ring(ax, phi, height, f"missing neuron at {phi:.4g} radians: {height:.6g}", 14.0)
            ax.legend(handles=ax.lines[-2:-1], frameon=False, fontsize=9)
        verdict = ended.proof.verdict.name
        svg = inline(figure, f"{name}-dual", f"The dual constraint around the circle: {verdict}", tips)
    return Drawn(svg, _of_dual(ended.proof))


def _height(X, lam, w) -> float:
    return float(lam @ np.maximum(X @ (w / np.linalg.norm(w)), 0.0))


def _of_dual(proof: Certificate) -> str:
    if proof.verdict == VERDICT.GLOBAL:
        return (
            "The dual constraint for every direction u: it stays within its bounds (dashed) and touches them at the "
            "neurons of the limit. GLOBAL: no network of any width separates the data with a smaller norm."
        )
    exceeded = "The dual constraint for every direction u: it is exceeded"
    if proof.missing_neuron is not None:
        exceeded += ", most at the direction of the missing neuron (star)"
    if proof.verdict == VERDICT.NOT_GLOBAL:
        return f"{exceeded}. NOT_GLOBAL: a better network is known, and P is at most {proof.c:.6g} times the optimum."
    return f"The dual constraint for every direction u. {proof.verdict.name}: with these multipliers nothing is proved."
