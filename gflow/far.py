"""flow_to(problem, network, q_min) -> Flow: one flow to large margins, as those of `sweep(q_min=)`, with its path."""

from __future__ import annotations

import dataclasses

import diffrax
import jax
import jax.numpy as jnp

from gflow._types import RESULTS
from gflow.flow.controller import PIController
from gflow.flow.solve import Flow, default_stop, solve_flow
from gflow.flow.stop import MarginTarget
from gflow.network import TwoLayer, VectorTwoLayer
from gflow.onward import LARGE, onward
from gflow.problem import Problem
from gflow.sweep import EARLY_RTOL, FAR_RTOL, FAR_STEPS, NEAR, require_far


def flow_to(
    problem: Problem,
    network: TwoLayer | VectorTwoLayer,
    q_min: float,
    *,
    controller: diffrax.PIDController = PIController(EARLY_RTOL),
    saves: int = 1,
    max_steps: int = 100_000,
) -> Flow:
    """The Flow from `network` to margins of `q_min`, 1e3 to 1e8: to 10 by `solve_flow`, from there by `onward`.

    `saves` times of each of the two parts are saved, of a flow that ends before 10 those of the first; it ends with the
    step that passes `q_min`. A flow that has not got there after 500 steps of the second part counts as margin_reached
    from q_min = 1e3 on. `controller`, `max_steps`: of the first part. Where a flow comes close to a border rounding
    decides, and the same one in a sweep may go elsewhere. Raises ValueError where a flow cannot be continued (see
    `onward`) and for a q_min that is not possible. Source: docs/mathematics.md, "Large margins".
    """
    require_far(problem, str(problem.X.dtype), q_min)
    others = [stop for stop in default_stop(problem) if not isinstance(stop, MarginTarget)]
    options = {"controller": controller, "saves": saves, "max_steps": max_steps}
    first = solve_flow(problem, network, stop=(MarginTarget(LARGE), *others), **options)
    if first.result != RESULTS.margin_reached:
        return first
    return _both(first, onward(problem, first, q_min=q_min, rtol=FAR_RTOL, saves=saves, max_steps=FAR_STEPS))


def _both(first: Flow, later: Flow) -> Flow:
    """One Flow of both, `later` having continued `first`."""
    saved = lambda flow: {k: getattr(flow, k) for k in ("network", "s", "log_t", "margins", "lam", "loss")}  # noqa: E731
    begin = min(1, len(later.s) - 1)  # its first saved time is the last one of the first part
    rows = jax.tree.map(lambda a, b: jnp.concatenate([a, b[begin:]]), saved(first), saved(later))
    counts = {name: getattr(first, name) + getattr(later, name) for name in ("steps", "rejected", "repelled")}
    given_up = later.result == RESULTS.max_steps_reached
    near = bool(given_up) and float(jnp.min(later.margins[-1])) >= NEAR
    return dataclasses.replace(later, **rows, **counts, result=RESULTS.margin_reached if near else later.result)


__all__ = ["flow_to"]
