"""solve_flow(problem, network) -> Flow: gradient flow through diffrax, with a RESULTS per lane.

Source: arXiv 2110.06488, section 2 (the flow); docs/mathematics.md, "Clocks" (s and log t).
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Sequence
from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Float, Int, PyTree

from gflow._types import RESULTS, in_full_precision
from gflow.flow.charts import AbstractChart, FrozenOutput, chart_for
from gflow.flow.chebyshev import Chebyshev
from gflow.flow.clocks import AbstractClock, ScaledClock
from gflow.flow.controller import KinkController, PIController
from gflow.flow.field import Field
from gflow.flow.filippov import Clocked, Filippov, require_solver
from gflow.flow.kinks import Kinks, in_order
from gflow.flow.modes import Modes
from gflow.flow.row_space import placed, row_space
from gflow.flow.start import initial_modes, repelling_start, resting_modes
from gflow.flow.stop import AbstractStop, KKTTarget, MarginTarget, Stationary, Unfitted
from gflow.flow.vector_chart import VectorPolar
from gflow.network import TwoLayer, VectorTwoLayer
from gflow.parts import require_class, require_part
from gflow.problem import Problem

DEFAULT_STOP = (MarginTarget(), KKTTarget(), Unfitted())


class Flow(eqx.Module):
    """A curve theta(s) at k saved times, the last one where the integration ended.

    `network`: W1 (k, d, m), w2 (k, m). `s` (k,), `log_t` (k,): scaled clock and natural log of physical time.
    `margins` (k, n), `lam` (k, n): q and lambda = p o y. With vector output W2 (k, m, K), margins and lam (k, n, K).
    `loss` (k,): L. `result`: a RESULTS. `steps`, `rejected`: of the integrator. `repelled`: how often a neuron met,
    within the step's error, a hyperplane that pushes away on both sides; beyond it the flow is not unique. `kinks`: the
    log of events if one was asked for. If `result` names a failure the last row is where it stopped; nothing is
    invented beyond it.
    """

    network: TwoLayer | VectorTwoLayer
    s: Float[Array, " k"]
    log_t: Float[Array, " k"]
    margins: Float[Array, "k n *K"]
    lam: Float[Array, "k n *K"]
    loss: Float[Array, " k"]
    result: RESULTS
    steps: Int[Array, ""]
    rejected: Int[Array, ""]
    repelled: Int[Array, ""]
    kinks: Kinks | None
    frozen: bool = eqx.field(static=True, default=False)
    """Whether the second layer was held fixed: such a flow has no limit that `find_limit` knows."""

    @property
    def final(self) -> TwoLayer | VectorTwoLayer:
        """The network where the integration ended."""
        return self.network.at(-1)

    @property
    def balance_drift(self) -> Float[Array, ""]:
        """max over saved times and neurons of the change of a_i^2 - |w_i|^2, relative to a_i^2 + |w_i|^2."""
        return self.network.balance_drift(self.network.at(slice(0, 1)))  # pyright: ignore[reportArgumentType]


@in_full_precision
def solve_flow(
    problem: Problem,
    network: TwoLayer | VectorTwoLayer,
    *,
    until_s: float | None = None,
    until_t: float | None = None,
    stop: Sequence[AbstractStop] | None = None,
    chart: type[AbstractChart] | None = None,
    clock: AbstractClock = ScaledClock(),
    solver: diffrax.AbstractSolver | None = None,
    controller: diffrax.AbstractStepSizeController = PIController(1e-4),
    saves: int = 64,
    kinks: int = 0,
    max_steps: int = 100_000,
) -> Flow:
    """Integrate dtheta/dt in -d°L(theta) from `network` and return `saves` points of the curve.

    It ends at `until_s` (clock s) or `until_t` (physical time) if one is given, otherwise at the first of the `stop`
    criteria (by default q_min >= 1e3, a KKT residual of 1e-5 with slackness 0.01, or stationary without fitting; where
    the loss has no margins or weights decay, a point at which nothing moves); `flow.result` says which, or that
    `max_steps` ran out. `solver` is Filippov(Tsit5()) up to a horizon, and otherwise Filippov(Chebyshev()), whose steps
    do not shrink as margins grow. `chart` is chosen from the network: BalancedPolar if it is balanced, else Hyperbolic,
    or Cartesian where weights decay; inside vmap name it. Data of a rank below min(n, d) is integrated in the
    coordinates of its row space, there in Hyperbolic for BalancedPolar; unless X is traced, when no rank is known.
    FrozenOutput holds the second layer fixed, up to a horizon or to MarginTarget or Unfitted, its default criteria.
    `saves = 1` keeps the end only; more than one costs a second integration, equally spaced on the time variable.
    `kinks`: size of the log of crossings and slides (0: none; Filippov only).

    Works under jit and vmap. A flow has no gradients: `jax.grad` through it fails, for its steps and events are loops
    of no known length; `jax.jvp` gives derivatives along a direction. Raises ValueError for shapes that do not fit,
    both horizons at once, and names or classes in place of objects.
    """
    check_arguments(problem, network, until_s, until_t, saves)
    _check_parts(stop, chart, clock, solver, controller)
    network = jax.tree.map(lambda a: jnp.asarray(a, problem.X.dtype), network)
    if stop is None:
        stop = () if until_s is not None or until_t is not None else default_stop(problem)
        if chart is FrozenOutput:
            stop = tuple(criterion for criterion in stop if isinstance(criterion, MarginTarget | Unfitted))
    if solver is None:
        solver = default_solver(horizon=until_s is not None or until_t is not None)
        solver = solver if problem.activation.kinks else solver.solver
    elif type(solver) is Filippov and not problem.activation.kinks:
        raise ValueError("fixed gates have no kinks: pass the solver without Filippov")
    if not stop and until_s is None and until_t is None:
        raise ValueError("nothing would end this flow: give until_s, until_t or a stop criterion")
    if type(solver) is not Filippov:
        if kinks:
            raise ValueError("only Filippov keeps a log of kinks: leave kinks out, or do not pass another solver")
        solver = Clocked(solver)
    elif isinstance(controller, diffrax.PIDController):
        controller = KinkController(pid=controller)  # pyright: ignore[reportCallIssue]
    if type(solver) is Filippov:
        solver = dataclasses.replace(solver, log=kinks)
    stop, controller = numeric(tuple(stop), problem.X.dtype), tolerances(controller, problem.X.dtype)
    if isinstance(network, VectorTwoLayer):
        if chart not in (None, VectorPolar):
            raise ValueError(f"vector output has the chart VectorPolar alone; leave {chart.__name__} out")
        within, (made, z0), complement = problem, (chart or VectorPolar).encode(network), None  # pyright: ignore
    else:
        chart = chart or chart_for(network, problem.weight_decay is not None)
        within, made, z0, complement = placed(problem, row_space(problem), chart, network)
    field = Field(within, made, clock, complement=complement, watched=bool(stop))
    log_S0, state0, modes = start_of(field, z0)
    field = dataclasses.replace(field, modes=modes) if type(solver) is Filippov else field
    t1, goal = _horizon(clock, until_s, until_t, log_S0)

    def run(t1, grid, armed) -> Integrated:
        try:
            return _integrate(field, state0, t1, goal, grid, armed, stop, solver, controller, max_steps)
        except ValueError as error:
            if "Linearization failed" not in str(error):
                raise
            raise ValueError(
                "a flow has no gradients: its steps and events are loops of no known length, through which jax.grad "
                "cannot go backwards; jax.jvp gives the derivative along a direction"
            ) from None

    # one compiled function (so `armed` is an array), called twice: to find the end, then to draw the curve up to there
    first = run(t1, jnp.full(saves - 1, t1), jnp.asarray(True))
    log = None if first.log is None else in_order(first.log)
    if saves == 1:
        inside = goal is not None  # a horizon on the other clock lies inside a step
        return flow_of(field, first.time, first.end, log_S0, first.result, first.stats, log, inside=inside)
    grid = jnp.linspace(0.0, first.time[0], saves)
    path = run(first.time[0], grid[:-1], jnp.asarray(False)).path
    states = jax.tree.map(lambda a, last: jnp.concatenate([a, last]), path, first.end)
    return flow_of(field, grid, states, log_S0, first.result, first.stats, log)


def default_stop(problem: Problem) -> tuple[AbstractStop, ...]:
    """What ends a flow that has no horizon: a direction that has settled, or a point at which nothing moves."""
    return DEFAULT_STOP if problem.directional else (Stationary(),)


def default_solver(*, horizon: bool) -> Filippov:
    """Tsit5 up to a horizon; Chebyshev for flows that run until a criterion is met, where margins grow large."""
    return Filippov(diffrax.Tsit5() if horizon else Chebyshev())


def _check_parts(stop, chart, clock, solver, controller) -> None:
    if isinstance(stop, AbstractStop | str) or inspect.isclass(stop):
        raise ValueError(f"stop takes criteria in a tuple: write stop=(gflow.MarginTarget(1e3),), got {stop!r}")
    for criterion in stop or ():
        require_part("stop", criterion, AbstractStop)
    if chart is not None:
        require_class("chart", chart, AbstractChart)
    require_part("clock", clock, AbstractClock)
    if solver is not None:
        require_solver(solver)
    require_part("controller", controller, diffrax.AbstractStepSizeController, example="gflow.PIController(1e-4)")


@eqx.filter_jit
def start_of(field: Field, z0):
    """log S, the state (z, anchor) and the modes at the start."""
    modes = initial_modes(field, z0)
    anchor = _anchor(field, jnp.zeros((), field.problem.y.dtype), z0, modes)
    anchor = anchor._replace(repelled=anchor.repelled + repelling_start(field, z0, modes))
    return field.problem.log_S(field.margins(z0)), (z0, anchor), modes


class Integrated(NamedTuple):
    """`time` (1,) and state `end` (leading axis 1) where the integration ended, its `result` and diffrax's `stats`;
    `path`: the states at the times of the grid; `log` of kinks."""

    time: Float[Array, " 1"]
    end: PyTree[Array]
    result: RESULTS
    stats: dict
    path: PyTree[Array] | None
    log: Kinks | None


@eqx.filter_jit
def _integrate(field, state0, t1, goal, grid, armed, stop, solver, controller, max_steps) -> Integrated:
    """One call of diffrax. States are saved at `grid` and at the end; stopping criteria count only if `armed`."""
    conditions = {f"stop{i}": _condition(criterion, armed) for i, criterion in enumerate(stop)}
    conditions["nonfinite"] = lambda t, y, args, **_: jnp.isnan(y[1].q_min)  # no step from here would be accepted
    root_finder = None
    if goal is not None:
        conditions["horizon"] = lambda t, y, args, **_: jnp.where(armed, _other(args, t, y) - goal, 1.0)
        root_finder = optx.Newton(rtol=1e-12, atol=1e-12)
    saves = {"end": diffrax.SubSaveAt(t1=True)} | ({"grid": diffrax.SubSaveAt(ts=grid)} if len(grid) else {})
    sol = diffrax.diffeqsolve(
        diffrax.ODETerm(lambda t, y, args: args.velocity(t, y)), solver, jnp.zeros_like(t1), t1, None, state0,
        args=field, saveat=diffrax.SaveAt(subs=saves, solver_state=_logs(solver)), stepsize_controller=controller,
        event=diffrax.Event(conditions, root_finder), max_steps=max_steps, throw=False,
        # the loops over events are of no known length, so nothing goes through them backwards; what diffrax does by
        # default to make that possible would take a quarter of the time to trace
        adjoint=diffrax.ForwardMode(),
    )  # fmt: skip
    assert sol.ts is not None and sol.ys is not None
    log = sol.solver_state.log if sol.solver_state is not None else None
    return Integrated(sol.ts["end"], sol.ys["end"], _result(sol, stop), sol.stats, sol.ys.get("grid"), log)


def _logs(solver) -> bool:
    return isinstance(solver, Filippov) and solver.log > 0


def _other(field: Field, time, state) -> Float[Array, ""]:
    """The other clock at a time inside a step, from the anchor at its start and the state there."""
    z, anchor = state
    return field.elapsed(anchor, _anchor(field, time, z, resting_modes(field, z)))[0]


def _anchor(field: Field, time, z, modes: Modes):
    return field.anchor(time, z, field.rates(z, modes), field.slopes(modes.on))


@eqx.filter_jit
def flow_of(field: Field, times, states, log_S0, result, stats, log, *, inside: bool = True) -> Flow:
    """The Flow of these states; `inside`: whether some of them lie inside a step, and not where one ends."""
    z, anchors = states
    q = jax.vmap(field.margins)(z)
    other = jax.vmap(lambda t, y: _other(field, t, y))(times, states) if inside else anchors.other
    s, log_t = field.clock.read(times, other, log_S0)
    return Flow(
        network=jax.vmap(field.network)(z),
        s=s,
        log_t=log_t,
        margins=q,
        lam=jax.vmap(field.problem.multipliers)(q),
        loss=jax.vmap(field.problem.loss_value)(q),
        result=result,
        steps=stats["num_steps"],
        rejected=stats["num_rejected_steps"],
        repelled=anchors.repelled[-1].astype(int),
        kinks=log,
        frozen=isinstance(field.chart, FrozenOutput),
    )


def _horizon(clock, until_s, until_t, log_S0):
    """The end of the time variable, and the value of the carried coordinate at a horizon on the other clock."""
    scaled = isinstance(clock, ScaledClock)
    own, other = (until_s, until_t) if scaled else (until_t, until_s)
    t1 = jnp.full_like(log_S0, jnp.inf if own is None else own)
    if other is None:
        return t1, None
    return t1, clock.goal(jnp.full_like(log_S0, other), log_S0)


def numeric(tree, dtype):
    """Python floats as arrays: a setting that is not static does not compile anew for every value."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype) if isinstance(leaf, float) else leaf, tree)


def tolerances(controller, dtype):
    """rtol and atol of a PID controller as arrays, for the same reason; its coefficients steer Python branches."""
    if isinstance(controller, KinkController):
        return eqx.tree_at(lambda c: c.pid, controller, tolerances(controller.pid, dtype))
    if isinstance(controller, diffrax.PIDController):
        return eqx.tree_at(lambda c: (c.rtol, c.atol), controller, replace_fn=lambda x: numeric(x, dtype))
    return controller


def _condition(criterion: AbstractStop, armed):
    return lambda t, y, args, **_: armed & criterion.reached(args, y)


def _result(sol, stop) -> RESULTS:
    result = RESULTS.promote(sol.result)
    result = RESULTS.where(result == RESULTS.successful, RESULTS.horizon_reached, result)
    ends = {f"stop{i}": criterion.result for i, criterion in enumerate(stop)}
    ends |= {"horizon": RESULTS.horizon_reached, "nonfinite": RESULTS.nonfinite}
    for name, fired in sol.event_mask.items():
        which = ends[name]
        result = RESULTS.where(fired, which, result)
    finite = jnp.all(jnp.array([jnp.all(jnp.isfinite(leaf[-1])) for leaf in jax.tree.leaves(sol.ys["end"])]))
    return RESULTS.where(finite, result, RESULTS.nonfinite)  # pyright: ignore[reportArgumentType]


def check_arguments(problem, network, until_s=None, until_t=None, saves=1) -> None:
    """Raise ValueError as `solve_flow` does for these arguments, before anything is compiled."""
    require_part("problem", problem, Problem)
    problem.check(network)
    if until_s is not None and until_t is not None:
        raise ValueError("give until_s or until_t, not both")
    for name, value in (("until_s", until_s), ("until_t", until_t)):
        if value is not None and not 0 < value < float("inf"):
            raise ValueError(f"{name} must be a positive number, got {value}")
    if saves < 1:
        raise ValueError(f"saves must be at least 1, got {saves}")
