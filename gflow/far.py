"""flow_to(problem, network) -> Flow: one flow to where those of a sweep end, by the same steps, with its path.

Source: arXiv 2110.06488, section 2 (the flow); docs/mathematics.md, "Large margins".
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gflow._types import RESULTS
from gflow.flow.charts import chart_for
from gflow.flow.lanes import Lane, Stepper
from gflow.flow.solve import Flow, check_arguments
from gflow.flow.vector_chart import VectorPolar
from gflow.legs import FAR_RTOL, legs
from gflow.network import TwoLayer, VectorTwoLayer
from gflow.onward import explained_at
from gflow.problem import Problem

CHUNK = 32
"""Attempted steps between two looks at a flow."""


class Underway(NamedTuple):
    """How far a flow has come: `s`, its smallest margin `q_min` (NaN of a loss without margins), `loss` L, attempted
    `steps`, and `events`: how often a neuron has crossed a hyperplane, or begun or ceased to slide on it."""

    s: float
    q_min: float
    loss: float
    steps: int
    events: int


def flow_to(
    problem: Problem,
    network: TwoLayer | VectorTwoLayer,
    q_min: float | None = None,
    *,
    controller: diffrax.PIDController | None = None,
    saves: int = 1,
    max_steps: int = 100_000,
    watch: Callable[[Underway], None] | None = None,
) -> Flow:
    """The Flow from `network` to margins of `q_min`, as the row of a sweep is integrated, up to rounding.

    Args:
        q_min: 1e3 to 1e8; by default flows end where `solve_flow` ends them, by q_min = 1e3, from where `find_limit`
            continues them. The flow ends with the step that passes it or, after 500 steps beyond q_min = 10, that
            passes 1e3; before, where it is unfitted or at its limit. With K outputs, in float32 and with a point for a
            limit it must be left out.
        controller: by default PIController(1e-3); with a q_min PIController(3e-3), up to q_min = 10.
        saves: at most so many ends of steps are saved, the last one always, evenly among all of them.
        max_steps: attempted steps of both parts.
        watch: called with an `Underway` every 32 steps, or every step where several are saved; what it raises ends the
            integration.

    Returns:
        A Flow; where margins are too large to tell multipliers, `lam` are those that explain the weights (`onward`).
        Where a flow comes close to a border rounding decides, and the same one in a sweep may go elsewhere.

    Raises:
        ValueError: for a network that does not fit the data, and a q_min that is not possible.
    """
    check_arguments(problem, network, saves=saves)
    network = jax.tree.map(lambda a: jnp.asarray(a, problem.X.dtype), network)
    vector = isinstance(network, VectorTwoLayer)
    chart = VectorPolar if vector else chart_for(network, problem.weight_decay is not None)
    options = {"dtype": str(problem.X.dtype), "q_min": q_min, "controller": controller, "max_steps": max_steps}
    stepper, later = legs(problem, chart, **options)
    lane, ends, events = _started(stepper, network), [] if saves > 1 else None, 0
    lane, events = _travelled(stepper, lane, events, ends, watch)
    turn = float(lane.time)
    if later is not None and lane.result == RESULTS.margin_reached:
        stepper = later
        lane, events = _travelled(later, _continued(later, lane), events, ends, watch)
    flow = _flow(stepper, lane, None if ends is None else _evenly([*ends, (lane.time, lane.state)], saves))
    far = np.flatnonzero(np.asarray(flow.s) > turn)
    if not len(far):
        return flow
    lam = jnp.stack([explained_at(problem, flow.network.at(int(k)), FAR_RTOL) for k in far])  # pyright: ignore
    return dataclasses.replace(flow, lam=flow.lam.at[far].set(lam))


def _travelled(stepper: Stepper, lane: Lane, events: int, ends: list | None, watch) -> tuple[Lane, int]:
    """The lane where it has ended, and `events` by then; where its steps begin is appended to `ends`."""
    while bool(lane.running):
        if ends is not None:
            ends.append((lane.time, lane.state))
        lane, seen = _advanced(stepper, lane, jnp.asarray(CHUNK if ends is None else 1))
        events += int(seen.events)
        if watch is not None:
            watch(Underway(float(lane.time), float(seen.q_min), float(seen.loss), int(lane.steps), events))
    return lane, events


def _evenly(ends: list, saves: int):
    """(times (k,), states) of at most so many ends of steps."""
    times = np.array([float(time) for time, _ in ends])
    moved = np.flatnonzero(np.diff(times, prepend=-np.inf) > 0)  # a rejected step ends where it began
    chosen = moved[np.unique(np.linspace(0, len(moved) - 1, saves).round().astype(int))]
    return jax.tree.map(lambda *a: jnp.stack(a), *(ends[k] for k in chosen))


class _Seen(NamedTuple):
    """The `events` of the last steps, q_min and the loss now."""

    events: Int[Array, ""]
    q_min: Float[Array, ""]
    loss: Float[Array, ""]


@eqx.filter_jit
def _advanced(stepper: Stepper, lane: Lane, count: Int[Array, ""]) -> tuple[Lane, _Seen]:
    """The lane after at most `count` further attempted steps."""

    def going(carry):
        made, lane, _ = carry
        return (made < count) & lane.running

    def onward(carry):
        made, lane, events = carry
        new = stepper.step(lane)
        before, after = lane.solver.modes, new.solver.modes
        events = events + jnp.sum((before.on != after.on) | (before.slide != after.slide))
        return made + 1, new, events

    none = jnp.asarray(0)
    _, lane, events = jax.lax.while_loop(going, onward, (none, lane, none))
    q, problem = stepper.margins(lane), stepper.problem
    q_min = jnp.min(q) if problem.of_margins else jnp.full((), jnp.nan, q.dtype)
    return lane, _Seen(events, q_min, problem.loss_value(q))


@eqx.filter_jit
def _started(stepper: Stepper, network: TwoLayer | VectorTwoLayer) -> Lane:
    return stepper.start(network)  # pyright: ignore[reportArgumentType]


@eqx.filter_jit
def _continued(stepper: Stepper, lane: Lane) -> Lane:
    return stepper.onward(lane)


@eqx.filter_jit
def _flow(stepper: Stepper, lane: Lane, path) -> Flow:
    return stepper.flow(lane, path)


__all__ = ["Underway", "flow_to"]
