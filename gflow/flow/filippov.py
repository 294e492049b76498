"""Filippov: any explicit adaptive Runge-Kutta method of diffrax, made to integrate the differential inclusion.

Inside a step every (sample, neuron) pair keeps its activation mode, off, on or sliding, so the field is smooth and the
method's error estimate means what it says. After the step, pairs that ended on the wrong side of their mode get a new
one from the box problem of the least-norm velocity, and their neuron's direction is corrected by what it moved with
the old mode since the crossing. What this leaves is of second order in the time since the crossing; it is charged to
the error estimate, and where it is too much the controller steps onto the crossing instead.
Source: theory, "Network, loss, flow" (which kinks can slide); arXiv 2110.06488, section 2.
"""

# diffrax types its abstract attributes as class variables
# pyright: reportIncompatibleVariableOverride=false, reportIncompatibleMethodOverride=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from gflow.flow.field import Field, Frozen
from gflow.inclusion import box_entries, gather

MAX_SLIDING = 12
"""Rows on which one neuron can slide at once: min(n, d, MAX_SLIDING)."""

BOX_SWEEPS = 24
"""Projected Gauss-Seidel sweeps of the box problem at a change of mode. A wrong mode is mended by the next step."""


class Modes(NamedTuple):
    """`on`, `slide` (n, m) bool, never both; `delta` (n, m): kink entries of sliding pairs at the last step's end."""

    on: Bool[Array, "n m"]
    slide: Bool[Array, "n m"]
    delta: Float[Array, "n m"]


class KinkError(NamedTuple):
    """Per neuron: `charge` (m,), the error left by crossings, and `theta` (m,), where in the step the worst one was."""

    charge: Float[Array, " m"]
    theta: Float[Array, " m"]


class _State(NamedTuple):
    inner: PyTree
    modes: Modes


class Filippov(diffrax.AbstractAdaptiveSolver, diffrax.AbstractWrappedSolver):
    """Wraps `solver`, an explicit adaptive Runge-Kutta method, for the inclusion dtheta/dt in -d°L(theta).

    For use by `solve_flow`, whose `args` is the Field. Its error estimate is a pair (of the smooth step, KinkError),
    which `KinkController` reads.
    """

    solver: diffrax.AbstractSolver = diffrax.Tsit5()

    @property
    def term_structure(self):
        return self.solver.term_structure

    @property
    def interpolation_cls(self):
        return self.solver.interpolation_cls

    def order(self, terms):
        return self.solver.order(terms)

    def func(self, terms, t0, y0, args):
        return self.solver.func(terms, t0, y0, args)

    def init(self, terms, t0, t1, y0, args: Field) -> _State:
        modes = initial_modes(args, y0[0])
        return _State(self.solver.init(terms, t0, t1, y0, args), modes)

    def step(self, terms, t0, t1, y0, args: Field, solver_state: _State, made_jump):
        # The first stage is always evaluated anew: whether modes changed differs between the lanes of a batch, and a
        # shared decision would let a lane's rounding depend on its neighbours.
        frozen = freeze(args, solver_state.modes)
        smooth = diffrax.ODETerm(lambda t, y, field: field.velocity(t, y, frozen))
        (z1, _), (error, _), dense, inner, result = self.solver.step(smooth, t0, t1, y0, args, solver_state.inner, True)
        z1, modes, kinks = after_step(args, frozen, solver_state.modes, y0[0], z1, t1 - t0)
        middle = midpoint(self.solver, t0, t1, dense)
        anchor, clock_error = args.advance(t1, z1, y0[1], freeze(args, modes), middle)
        return (z1, anchor), (error, clock_error, kinks), dense, _State(inner, modes), result


class Clocked(diffrax.AbstractAdaptiveSolver, diffrax.AbstractWrappedSolver):
    """Wraps any adaptive solver of diffrax as it is, kinks and all, and keeps the other clock for it."""

    solver: diffrax.AbstractSolver

    @property
    def term_structure(self):
        return self.solver.term_structure

    @property
    def interpolation_cls(self):
        return self.solver.interpolation_cls

    @property
    def root_finder(self):
        # diffrax hands the controller's tolerances to an implicit solver through this attribute
        return self.solver.root_finder  # pyright: ignore[reportAttributeAccessIssue]

    def order(self, terms):
        return self.solver.order(terms)

    def func(self, terms, t0, y0, args):
        return self.solver.func(terms, t0, y0, args)

    def init(self, terms, t0, t1, y0, args: Field):
        return self.solver.init(terms, t0, t1, y0, args)

    def step(self, terms, t0, t1, y0, args: Field, solver_state, made_jump):
        (z1, _), (error, zero), dense, state, result = self.solver.step(
            terms, t0, t1, y0, args, solver_state, made_jump
        )
        anchor, clock_error = args.advance(t1, z1, y0[1], None, midpoint(self.solver, t0, t1, dense))
        return (z1, anchor), (error, zero._replace(other=clock_error)), dense, state, result


def midpoint(solver: diffrax.AbstractSolver, t0, t1, dense) -> PyTree[Array]:
    """The chart state halfway through a step, from dense output."""
    return solver.interpolation_cls(t0=t0, t1=t1, **dense).evaluate(t0 + 0.5 * (t1 - t0))[0]


def freeze(field: Field, modes: Modes) -> Frozen:
    """Slopes of the modes, and per neuron an orthonormal basis of its sliding rows (Gram-Schmidt, twice is enough)."""
    lower, upper = field.problem.activation.slope_interval()
    D = jnp.where(modes.on, upper, lower).astype(field.problem.X.dtype)
    n, d = field.problem.shape
    rows, _ = gather(field.problem.X, modes.slide, min(n, d, MAX_SLIDING))
    size = jnp.sum(rows**2, axis=1)
    basis: list[Array] = []
    for k in range(rows.shape[0]):
        v = rows[k]
        for _ in range(2):
            for q in basis:
                v = v - q * jnp.sum(q * v, axis=0)
        left = jnp.sum(v**2, axis=0)
        # a dependent row leaves rounding only
        independent = left > 1e-20 * size[k]
        basis.append(jnp.where(independent, v / jnp.sqrt(jnp.where(independent, left, 1.0)), 0.0))
    return Frozen(D, jnp.stack(basis))


def initial_modes(field: Field, z: PyTree[Array]) -> Modes:
    """Modes at a state: the sign of the pre-activation; the least-norm choice for pairs exactly on a kink."""
    X = field.problem.X
    Z, lam = field.preactivations(z), field.problem.multipliers(field.margins(z))
    sizes = jnp.linalg.norm(X, axis=1)[:, None] * jnp.linalg.norm(field.chart.hidden(z), axis=0)
    kink = (jnp.abs(Z) <= 64 * jnp.finfo(Z.dtype).eps * sizes) & (sizes > 0)
    orientation = jnp.sign(field.chart.orientation(z))
    hostile = orientation * lam[:, None] < 0
    on = (Z > 0) & ~kink
    lower, jump = _jump(field)
    D = jnp.where(on, lower + jump, lower)
    delta = box_entries(X, lam, D, kink, field.problem.activation, BOX_SWEEPS)
    # a friendly pair cannot rest on its kink: it takes the side to which the least-norm choice leans
    slide = kink & hostile & (delta > 0) & (delta < jump)
    return Modes(on | (kink & ~slide & (delta >= 0.5 * jump)), slide, jnp.where(slide, delta, 0.0))


def after_step(field: Field, frozen: Frozen, modes: Modes, z0: PyTree[Array], z1: PyTree[Array], h):
    """New modes at the end of a step, the corrected end state, and what the correction leaves as an error."""
    problem, chart = field.problem, field.chart
    X = problem.X
    Z0, Z1 = field.preactivations(z0), field.preactivations(z1)
    q0 = problem.y * chart.outputs(z0, frozen.D * Z0)
    q1 = problem.y * chart.outputs(z1, frozen.D * Z1)
    lam0, lam = problem.multipliers(q0), problem.multipliers(q1)
    ds = field.clock.rate(problem.log_S(q1))
    orientation = chart.orientation(z1)
    G = frozen.project(X.T @ (frozen.D * lam[:, None]))

    wrong = ~modes.slide & jnp.where(modes.on, Z1 < 0, Z1 > 0)
    theta = crossing(Z0, Z1, h * ds * orientation * (X @ G))
    hostile = (jnp.sign(orientation) * lam[:, None]) < 0
    through = wrong & ~hostile
    on = modes.on ^ through
    candidate = modes.slide | (wrong & hostile)
    lower, jump = _jump(field)
    D = jnp.where(on & ~candidate, lower + jump, lower)
    delta = box_entries(X, lam, D, candidate, problem.activation, BOX_SWEEPS)
    slide = candidate & (delta > 0) & (delta < jump)
    on = jnp.where(candidate, delta >= jump, on)

    # what the pairs moved with the old mode since they crossed, in units of lambda_n x_n time
    row = jnp.linalg.norm(X, axis=1)[:, None]
    squared = jnp.where(row > 0, row**2, 1.0) * jnp.where(lam == 0, 1.0, lam)[:, None]
    D1 = jnp.where(on, lower + jump, lower) + jnp.where(slide, delta, 0.0)
    G1 = X.T @ (D1 * lam[:, None])
    left = modes.slide & ~slide
    # a released pair left when its entry passed the bound; the entry had grown linearly from its last value
    excess = jnp.where(left, -(X @ G1) / squared, 0.0)
    bound = jnp.where(on, jump, 0.0)
    run = bound + excess - modes.delta
    begun = jnp.clip((bound - modes.delta) / jnp.where(run == 0, 1.0, run), 0.0, 1.0)
    theta = jnp.where(left, begun, theta)
    tau = (1 - theta) * h * ds
    change = jnp.where(wrong, D1 - frozen.D, jnp.where(left, -0.5 * excess, 0.0)) * tau
    z1 = chart.with_hidden(z1, chart.hidden(z1) + orientation * (X.T @ (change * lam[:, None])))

    rate = jnp.abs(lam - lam0) / jnp.maximum(jnp.maximum(jnp.abs(lam), jnp.abs(lam0)) * h * ds, 1e-300)
    speed = jnp.abs(orientation) * jnp.linalg.norm(G, axis=0)
    charge = jnp.abs(change * lam[:, None] * orientation) * row
    charge = charge * jnp.minimum(1.0, (rate[:, None] + speed) * tau)
    worst = jnp.argmax(charge, axis=0)
    kinks = KinkError(jnp.sum(charge, axis=0), jnp.take_along_axis(theta, worst[None], axis=0)[0])

    new = Modes(on, slide, jnp.where(slide, delta, 0.0))
    snapped = freeze(field, new).project(chart.hidden(z1))
    z1 = chart.with_hidden(z1, jnp.where(jnp.any(slide, axis=0), snapped, chart.hidden(z1)))
    return z1, new, kinks


def crossing(Z0: Float[Array, "n m"], Z1: Float[Array, "n m"], slope1: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """Fraction of the step at which the parabola through Z0, Z1 with end slope `slope1` (per step) is zero."""
    c = slope1 - (Z1 - Z0)
    b = Z1 - Z0 - c
    root = jnp.sqrt(jnp.maximum(b**2 - 4 * c * Z0, 0.0))
    q = -0.5 * (b + jnp.where(b >= 0, root, -root))
    first, second = Z0 / jnp.where(q == 0, 1.0, q), q / jnp.where(c == 0, 1.0, c)
    linear = Z0 / jnp.where(Z0 == Z1, 1.0, Z0 - Z1)
    inside = lambda x: (x >= 0) & (x <= 1)  # noqa: E731
    theta = jnp.where((q != 0) & inside(first), first, jnp.where((c != 0) & inside(second), second, linear))
    return jnp.clip(theta, 0.0, 1.0)


class KinkController(diffrax.AbstractAdaptiveStepSizeController):
    """A PID controller that knows kinks: it steps onto a crossing whose charge is too large, then resumes."""

    pid: diffrax.PIDController

    @property
    def rtol(self):
        return self.pid.rtol

    @property
    def atol(self):
        return self.pid.atol

    @property
    def norm(self):
        return self.pid.norm

    def wrap(self, direction):
        return self

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        first, state = self.pid.init(terms, t0, t1, y0, dt0, args, func, error_order)
        return first, (state, jnp.zeros_like(jnp.asarray(first)))

    def adapt_step_size(self, t0, t1, y0, y1_candidate, args: Field, y_error, error_order, controller_state):
        z_error, clock_error, kinks = y_error
        pid_state, resume = controller_state
        h = t1 - t0
        d = args.problem.X.shape[1]
        # the charge of a neuron is spread over the d entries of its direction
        hidden = jnp.sqrt(z_error[0] ** 2 + kinks.charge**2 / d)
        still = jax.tree.map(jnp.zeros_like, y0[1])._replace(other=clock_error)
        smooth, total = (z_error, still), ((hidden, *z_error[1:]), still)
        keep, next0, next1, jump, pid_state, result = self.pid.adapt_step_size(
            t0, t1, y0, y1_candidate, args, total, error_order, pid_state
        )
        scale = lambda a, b, e: e / (self.atol + self.rtol * jnp.maximum(jnp.abs(a), jnp.abs(b)))  # noqa: E731
        fine = self.norm(jax.tree.map(scale, y0, y1_candidate, smooth)) < 1
        # h so small that time no longer moves: nothing more can be resolved
        stuck = h <= 8 * jnp.finfo(h.dtype).eps * jnp.abs(t1)
        keep = keep | stuck
        next0 = jnp.where(stuck, t1, next0)

        # land a little behind the first crossing that matters, where its charge (quadratic in time) passes
        count = sum(leaf.size for leaf in jax.tree.leaves(y0))
        own = kinks.charge / ((self.atol + self.rtol) * jnp.sqrt(jnp.asarray(count, h.dtype)))
        behind = (1 - kinks.theta) * jnp.minimum(0.5, 0.4 / jnp.sqrt(jnp.maximum(own, 1e-30)))
        land = h * jnp.min(jnp.where(own > 0.2, kinks.theta + behind, 0.5))
        landing = ~keep & fine
        dt = jnp.where(landing, jnp.minimum(land, 0.9 * h), next1 - next0)
        dt = jnp.where(keep, jnp.maximum(dt, resume), dt)
        resume = jnp.where(landing, jnp.maximum(resume, h), jnp.where(keep, 0.0, jnp.minimum(resume, dt)))
        return keep, next0, next0 + dt, jump, (pid_state, resume), result


def _jump(field: Field) -> tuple[float, float]:
    """(lower slope, upper - lower)."""
    lower, upper = field.problem.activation.slope_interval()
    return lower, upper - lower


__all__ = ["Clocked", "Filippov", "KinkController"]
