"""fates(problem, network): live, sliding or dead, for every neuron. Source: arXiv 2110.06488, section 2."""

from __future__ import annotations

import enum

from jaxtyping import Array, Int

from gflow._types import namespace
from gflow.network import TwoLayer
from gflow.problem import Problem

BAND = 1e-9
"""|x_n . w_i| <= BAND |x_n||w_i| is on the hyperplane."""


class FATE(enum.IntEnum):
    """LIVE: active on some sample, on no hyperplane. SLIDING: active, and on the hyperplane of some sample.

    DEAD: active on none, or zero: it never moves again. A leaky neuron is only dead if it is zero.
    """

    LIVE = 0
    SLIDING = 1
    DEAD = 2


def fates(problem: Problem, network: TwoLayer, band: float = BAND) -> Int[Array, " m"]:
    """FATE codes (m,). A neuron lies on the hyperplane of x_n if |x_n . w_i| <= band |x_n||w_i|."""
    Z = problem.X @ network.directions()
    xp = namespace(Z)
    row = xp.linalg.norm(problem.X, axis=1)[:, None]
    on_kink = (xp.abs(Z) <= band * row) & (row > 0)
    problem.require_sides()
    lower, _ = problem.activation.slope_interval()
    active = xp.any((Z > 0) & ~on_kink, axis=0) if lower == 0 else xp.any(row > 0)
    alive = active & network.live()
    return xp.where(alive, xp.where(xp.any(on_kink, axis=0), FATE.SLIDING, FATE.LIVE), FATE.DEAD)
