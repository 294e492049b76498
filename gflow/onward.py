"""onward(problem, flow) -> Flow: the same flow up to margins of 1e8, where its limit can be named.

A flow that ends at q_min = 1e3 may have a long way to go: neurons that are small there grow like a power of q_min, and
the patterns of its end are those of a KKT point that it passes. Beyond, the multipliers only keep the smallest margins
equal, and steps that are implicit in them (`Implicit`) are as long at 1e8 as at 1e3.
Source: docs/mathematics.md, "Large margins"; arXiv 2110.06488, section 2.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np

from gflow.convex.oracle import require_float64
from gflow.flow.controller import PIController
from gflow.flow.filippov import Filippov
from gflow.flow.implicit import Implicit
from gflow.flow.solve import Flow, solve_flow
from gflow.flow.stop import MarginTarget
from gflow.network import TwoLayer
from gflow.patterns import explained
from gflow.problem import Problem
from gflow.programs.base import MOVING

LARGE = 10.0
"""Smallest q_min of a flow that can be continued."""


def onward(
    problem: Problem,
    flow: Flow,
    *,
    q_min: float = 1e8,
    rtol: float = 1e-3,
    saves: int = 1,
    max_steps: int = 2000,
) -> Flow:
    """From the end of `flow` to the first step at whose end all margins are at least `q_min`.

    `rtol`: tolerance for directions, for margins in parts of the smallest one, and per step. `saves`: as in
    `solve_flow`; `s` and `log_t` count from the start of `flow`. `lam`: multipliers under which neurons grow along
    themselves as nearly as possible, of size 1 in all; margins of 1e5 that are right to `rtol` do not tell which of
    them are the smallest. `result` is margin_reached, or max_steps_reached, and then the last row is where it stopped.
    One flow at a time, not under jit. Raises ValueError for what is no Flow, for a q_min below 10, in float32, for
    vector output, weight decay, losses without margins, fixed gates, and a frozen second layer.
    """
    if not isinstance(flow, Flow):
        raise ValueError(f"onward takes a Flow, got {type(flow).__name__}: solve_flow(problem, network) makes one")
    problem.require_scalar()
    problem.require_max_margin()
    if not problem.activation.kinks:
        raise ValueError("with fixed gates patterns do not change: the limit is gated_limit(problem, flow.final)")
    if flow.frozen:
        raise ValueError("a flow with a frozen second layer cannot be continued to large margins")
    require_float64(problem.X, flow.network.W1)
    problem.check(flow.final)
    reached = float(jnp.min(flow.margins[-1]))
    if not reached >= LARGE:
        raise ValueError(
            f"the flow ended at q_min = {reached:.3g}; only from {LARGE:g} on can it be continued: "
            "integrate it further, e.g. with stop=(MarginTarget(100.0),)"
        )
    own = problem.margins(flow.final)
    if own.shape != flow.margins[-1].shape or not jnp.allclose(own, flow.margins[-1], rtol=1e-6):
        raise ValueError("this flow is one of other data: pass the problem that it was integrated for")
    if not q_min > reached:
        raise ValueError(f"q_min must be larger than {reached:.3g}, where the flow ended, got {q_min:.3g}")
    later = solve_flow(
        problem, flow.final, stop=(MarginTarget(q_min),), solver=Filippov(Implicit()), controller=PIController(rtol),
        saves=saves, max_steps=max_steps,
    )  # fmt: skip
    lam = jnp.stack([explained_at(problem, later.network.at(k), rtol) for k in range(len(later.s))])  # pyright: ignore
    clocks = {"s": flow.s[-1] + later.s, "log_t": jnp.logaddexp(flow.log_t[-1], later.log_t)}
    return dataclasses.replace(later, lam=lam, **clocks)


def explained_at(problem: Problem, network: TwoLayer, rtol: float) -> np.ndarray:
    """lambda = Y p (n,) of a network whose margins are right to `rtol` of the smallest; NaN if none was found."""
    q = np.asarray(problem.margins(network))
    p = explained(problem, network, q, rtol, MOVING)
    return np.full(len(q), np.nan) if p is None else np.asarray(problem.y) * p


__all__ = ["explained_at", "onward"]
