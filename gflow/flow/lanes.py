"""Many flows at once: a batch of lanes that advances a fixed number of steps in one compiled call.

`solve_flow` under vmap runs until the slowest lane has ended, and carries for every lane what dense output needs. Lanes
make the same steps, with the same solver and controller, keep only what the next step needs, and can be looked at in
between. Source: arXiv 2110.06488, section 2 (the flow).
"""

# diffrax gives its results and Python scalars types that only it can see through
# pyright: reportArgumentType=false, reportCallIssue=false

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from gflow._types import RESULTS, in_full_precision
from gflow.flow.charts import AbstractChart, BalancedPolar
from gflow.flow.clocks import AbstractClock, ScaledClock
from gflow.flow.controller import KinkController, PIController
from gflow.flow.field import Field
from gflow.flow.filippov import Filippov, attempted
from gflow.flow.implicit import tie_of
from gflow.flow.row_space import Complement, RowSpace, placed, row_space
from gflow.flow.solve import Flow, default_solver, default_stop, flow_of, numeric, start_of, tolerances
from gflow.flow.stop import AbstractStop
from gflow.network import TwoLayer
from gflow.parts import require_class, require_part
from gflow.problem import Problem

TERM = diffrax.ODETerm(lambda t, y, args: args.velocity(t, y))


SHORT = 1e-3
"""The step of a lane that has ended, in parts of its last one: it counts for nothing, and its neighbours, who wait for
its stages, must not wait for many."""


FIRST = 0.05
"""Length of the first step of a lane that goes onward, whose stiffness is no measure of steps that are implicit."""


class Lane(NamedTuple):
    """A flow under way: its `chart` and `complement` (see Field), `time` and where the next step wants to end, `state`
    (z, anchor), what solver and controller carry, log S at the start, attempted and rejected `steps`, how many of them
    were made `before` its present stepper took it over, and its `result`: successful while it runs."""

    chart: AbstractChart
    complement: Complement | None
    time: Float[Array, ""]
    target: Float[Array, ""]
    state: PyTree[Array]
    solver: PyTree[Array]
    controller: PyTree[Array]
    log_S0: Float[Array, ""]
    steps: Int[Array, ""]
    rejected: Int[Array, ""]
    before: Int[Array, ""]
    result: RESULTS

    @property
    def running(self) -> Bool[Array, ""]:
        """Whether the flow has not ended."""
        return self.result == RESULTS.successful


class Stepper(eqx.Module):
    """How lanes are stepped: `start` makes one from a network, `advance` makes `count` steps with a batch of them.

    Options and their defaults as in `solve_flow`; `until` is a horizon on the clock's own variable. A lane that
    has made `patience` steps with this stepper counts as one whose margin is reached as soon as q_min is `enough`.
    """

    problem: Problem
    space: RowSpace | None
    chart: type[AbstractChart] = eqx.field(static=True)
    clock: AbstractClock
    solver: Filippov
    controller: diffrax.AbstractStepSizeController
    stop: tuple[AbstractStop, ...]
    until: Float[Array, ""]
    max_steps: Int[Array, ""]
    patience: Int[Array, ""]
    enough: Float[Array, ""]

    def __init__(
        self,
        problem: Problem,
        *,
        chart: type[AbstractChart] = BalancedPolar,
        clock: AbstractClock = ScaledClock(),
        solver: Filippov | None = None,
        controller: diffrax.PIDController = PIController(1e-4),
        stop: Sequence[AbstractStop] | None = None,
        until: float = float("inf"),
        max_steps: int = 100_000,
        patience: int = 0,
        enough: float = float("inf"),
    ):
        require_part("problem", problem, Problem)
        require_class("chart", chart, AbstractChart)
        require_part("clock", clock, AbstractClock)
        require_part("controller", controller, diffrax.PIDController, example="gflow.PIController(1e-4)")
        if solver is not None:
            require_part("solver", solver, Filippov)
        for criterion in stop or ():
            require_part("stop", criterion, AbstractStop)
        dtype = problem.X.dtype
        stop = default_stop(problem) if stop is None else stop
        if solver is None:
            solver = default_solver(horizon=not math.isinf(until))
        self.problem, self.chart, self.clock, self.solver = problem, chart, clock, solver
        self.space = row_space(problem)
        kinks = KinkController(pid=controller)
        self.controller, self.stop = tolerances(kinks, dtype), numeric(tuple(stop), dtype)
        self.until, self.enough = jnp.asarray(until, dtype), jnp.asarray(enough, dtype)
        self.max_steps, self.patience = jnp.asarray(max_steps), jnp.asarray(patience)

    @in_full_precision
    def start(self, network: TwoLayer) -> Lane:
        """One lane at s = 0."""
        _, chart, z0, complement = placed(self.problem, self.space, self.chart, network)
        field = self._field(chart, complement)
        log_S0, state, modes = start_of(field, z0)
        field = dataclasses.replace(field, modes=modes)
        zero, order = jnp.zeros_like(log_S0), self.solver.error_order(TERM)
        target, controller = self.controller.init(
            TERM, zero, self.until, state, None, field, self.solver.func, order
        )  # fmt: skip
        target = jnp.minimum(target, self.until)
        solver, none = self.solver.init(TERM, zero, target, state, field), jnp.asarray(0)
        more = {"steps": none, "rejected": none, "before": none, "result": RESULTS.successful}
        return Lane(chart, complement, zero, target, state, solver, controller, log_S0, **more)

    @in_full_precision
    def onward(self, lane: Lane) -> Lane:
        """The lane of another stepper, where its margin is reached, under way again with this one, of Implicit()."""
        field = self._field(lane.chart, lane.complement)
        tie = tie_of(field, lane.state[0], lane.solver.modes)
        target, controller = self.controller.init(
            TERM, lane.time, self.until, lane.state, FIRST, field, self.solver.func, self.solver.error_order(TERM)
        )
        solver = lane.solver._replace(tie=tie)
        return lane._replace(
            target=target, solver=solver, controller=controller, before=lane.steps, result=RESULTS.successful
        )

    def _field(self, chart: AbstractChart, complement: Complement | None) -> Field:
        problem = self.problem if self.space is None else self.space.problem
        return Field(problem, chart, self.clock, complement=complement, watched=bool(self.stop))

    @in_full_precision
    def step(self, lane: Lane) -> Lane:
        """One attempted step; a lane that has ended stays as it is."""
        field = self._field(lane.chart, lane.complement)
        end = jnp.where(lane.running, lane.target, lane.time + SHORT * (lane.target - lane.time))
        state, error, _, solver = attempted(self.solver, lane.time, end, lane.state, field, lane.solver)
        error = jax.tree.map(lambda e: jnp.where(jnp.isnan(e), jnp.inf, e), error)
        keep, time, target, _, controller, _ = self.controller.adapt_step_size(
            lane.time, lane.target, lane.state, state, field, error, self.solver.error_order(TERM), lane.controller
        )
        time, target = jnp.minimum(time, self.until), jnp.minimum(target, self.until)
        running = lane.running
        choose = lambda which, new, old: jax.tree.map(lambda a, b: jnp.where(which, a, b), new, old)  # noqa: E731
        state, solver = choose(keep & running, (state, solver), (lane.state, lane.solver))
        time, target, controller = choose(
            running, (time, target, controller), (lane.time, lane.target, lane.controller)
        )
        steps = lane.steps + running
        rejected = lane.rejected + (running & ~keep)
        result = RESULTS.where(running, self._result(field, time, state, steps, lane.before), lane.result)
        new = {"time": time, "target": target, "state": state, "solver": solver, "controller": controller}
        return lane._replace(**new, steps=steps, rejected=rejected, result=result)

    def effort(self, lane: Lane) -> Int[Array, ""]:
        """How many stages its next step has, 1 where that does not depend on the step; 0 when it has ended."""
        return jnp.where(lane.running, self.solver.count(lane.target - lane.time, lane.solver), 0)

    def _result(self, field: Field, time, state, steps, before) -> RESULTS:
        far = (steps - before >= self.patience) & (state[1].q_min >= self.enough)
        result = RESULTS.where(steps >= self.max_steps, RESULTS.max_steps_reached, RESULTS.successful)
        result = RESULTS.where(far, RESULTS.margin_reached, result)
        result = RESULTS.where(time >= self.until, RESULTS.horizon_reached, result)
        for criterion in reversed(self.stop):
            result = RESULTS.where(criterion.reached(field, state), criterion.result, result)
        finite = jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state)]))
        return RESULTS.where(finite, result, RESULTS.nonfinite)

    def margins(self, lane: Lane) -> Float[Array, "n *K"]:
        """q (n,) where the lane stands."""
        return self._field(lane.chart, lane.complement).margins(lane.state[0])

    @in_full_precision
    def flow(self, lane: Lane, path: tuple | None = None) -> Flow:
        """The Flow of a lane, saved at its present state, or at `path`: (times (k,), states) of ends of steps."""
        field = self._field(lane.chart, lane.complement)
        path = jax.tree.map(lambda a: a[None], (lane.time, lane.state)) if path is None else path
        stats = {"num_steps": lane.steps, "num_rejected_steps": lane.rejected}
        return flow_of(field, *path, lane.log_S0, lane.result, stats, None, inside=False)


@eqx.filter_jit
def start(stepper: Stepper, networks: TwoLayer) -> Lane:
    """A batch of lanes from a batch of networks."""
    return jax.vmap(stepper.start)(networks)


CHUNK = 256
"""Lanes that a CPU steps together: more leave its cache, fewer are slowed down by the cost of starting operations."""


@eqx.filter_jit
def advance(stepper: Stepper, lanes: Lane, count: Int[Array, ""]) -> Lane:
    """The lanes after at most `count` further attempted steps each."""

    def together(lanes: Lane) -> Lane:
        return jax.lax.fori_loop(0, count, lambda _, batch: jax.vmap(stepper.step)(batch), lanes)

    size = lanes.steps.shape[0]
    if jax.default_backend() != "cpu" or size <= CHUNK or size % CHUNK:
        return together(lanes)
    chunks = jax.tree.map(lambda a: a.reshape(size // CHUNK, CHUNK, *a.shape[1:]), lanes)
    return jax.tree.map(lambda a: a.reshape(size, *a.shape[2:]), jax.lax.map(together, chunks))


__all__ = ["Lane", "Stepper", "advance", "start"]
