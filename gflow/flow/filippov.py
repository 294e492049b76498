"""Filippov: any explicit adaptive Runge-Kutta method of diffrax, or Implicit, made to integrate the inclusion.

Inside a step every (sample, neuron) pair keeps its activation mode, off, on or sliding, so the field is smooth and the
method's error estimate means what it says. After the step, neurons that met a hyperplane go through it once more,
alone, under its multipliers and from event to event, where the box problem of the least-norm velocity chooses new
modes; the difference to the same path with modes held corrects them. What this leaves is charged to the error
estimate, and where it is too much for a neuron the controller steps onto the event instead.
Source: docs/mathematics.md, "Crossing and sliding"; arXiv 2110.06488, section 2.
"""

# diffrax types its abstract attributes as class variables
# pyright: reportIncompatibleVariableOverride=false, reportIncompatibleMethodOverride=false
# pyright: reportAttributeAccessIssue=false, reportGeneralTypeIssues=false

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from gflow.flow import implicit
from gflow.flow.chebyshev import Family
from gflow.flow.clocks import Anchor
from gflow.flow.crossings import after_step
from gflow.flow.field import Field, Moment, Rates
from gflow.flow.implicit import Implicit, Tie
from gflow.flow.kinks import Kinks, appended, empty
from gflow.flow.modes import Modes, rounding
from gflow.flow.start import initial_modes
from gflow.flow.tip import through_tips
from gflow.flow.traced import traced_once
from gflow.network import inner
from gflow.parts import made, require_part


class Start(NamedTuple):
    """The start of a step: the field there, the first stage dz/d time, and how fast it pulls back (see Field)."""

    field: Moment
    dz: PyTree[Array]
    stiffness: Float[Array, ""]


class _State(NamedTuple):
    """Modes, the field at the start of the next step, the log of kinks, and what implicit steps hand on."""

    modes: Modes
    start: Start
    log: Kinks
    tie: Tie | None


class KinkError(NamedTuple):
    """Per neuron: `charge` (m,), the error left by crossings, and `theta` (m,), where in the step the worst one was;
    `weights`: the error of p, and so of every velocity, that the error of the smooth step makes. `longest`: up to
    which length the next step is stable."""

    charge: Float[Array, " m"]
    theta: Float[Array, " m"]
    weights: Float[Array, ""]
    longest: Float[Array, ""]


EXPLICIT = "Heun, Midpoint, Ralston, Bosh3, Tsit5, Dopri5 and Dopri8"


def usable(solver: diffrax.AbstractSolver) -> bool:
    """Whether a flow can be integrated with it: it estimates its error, and wants neither noise nor a split field."""
    adaptive = isinstance(solver, diffrax.AbstractAdaptiveSolver) and not isinstance(solver, diffrax.AbstractSRK)
    return adaptive and solver.term_structure in (diffrax.AbstractTerm, diffrax.ODETerm)


def require_solver(solver: diffrax.AbstractSolver) -> None:
    """Raise ValueError unless a flow can be integrated with it; the error says what to write."""
    require_part("solver", solver, diffrax.AbstractSolver)
    if not usable(solver):
        raise ValueError(
            f"a flow needs a method for ordinary differential equations with an error estimate, which "
            f"{type(solver).__name__} is not: write solver=gflow.Filippov(diffrax.Tsit5()), or another of {EXPLICIT}"
        )


class Filippov(diffrax.AbstractAdaptiveSolver, diffrax.AbstractWrappedSolver):
    """Wraps `solver`, an explicit adaptive Runge-Kutta method, for the inclusion dtheta/dt in -d°L(theta).

    For use by `solve_flow`, whose `args` is the Field. Its error estimate is a triple (of the smooth step, of the
    other clock, KinkError), which `KinkController` reads. Raises ValueError for a method that is not explicit or has
    no error estimate.
    """

    solver: diffrax.AbstractERK | Implicit = diffrax.Tsit5()
    log: int = 0
    """How many events the log of kinks can hold."""

    def __check_init__(self):
        require_part("solver", self.solver, diffrax.AbstractSolver, Implicit)
        explicit = isinstance(self.solver, diffrax.AbstractERK)
        if not (explicit or isinstance(self.solver, Implicit)) or not isinstance(
            self.solver, diffrax.AbstractAdaptiveSolver
        ):
            raise ValueError(
                f"{type(self.solver).__name__} is no explicit method with an error estimate, as {EXPLICIT} are: "
                + (
                    f"pass solver={made(type(self.solver))} to solve_flow as it is"
                    if usable(self.solver)
                    else "write Filippov(diffrax.Heun()), the lowest order of them"
                )
            )

    @property
    def term_structure(self):
        return self.solver.term_structure

    @property
    def interpolation_cls(self):
        return _Interpolant(self.solver.interpolation_cls)

    @property
    def scan_kind(self):
        return "lax"  # diffrax asks every Runge-Kutta method how its stages are looped over; these are not

    def order(self, terms):
        return self.solver.order(terms)

    def func(self, terms, t0, y0, args):
        return self.solver.func(terms, t0, y0, args)

    def init(self, terms, t0, t1, y0, args: Field) -> _State:
        modes = initial_modes(args, y0[0]) if args.modes is None else args.modes
        start = _start(args, y0[0], args.rates(y0[0], modes), modes)
        tie = implicit.tie_of(args, y0[0], modes) if isinstance(self.solver, Implicit) else None
        return _State(modes, start, empty(self.log, args.problem.y.dtype), tie)

    def count(self, h, solver_state: _State):
        """How many stages a step of length h has, 1 where that does not depend on the step."""
        family = getattr(self.solver, "family", None)
        return jnp.asarray(1) if family is None else family.needed(h * solver_state.start.stiffness)

    def step(self, terms, t0, t1, y0, args: Field, solver_state: _State, made_jump):
        return *_traced(self, t0, t1, y0, args, solver_state), diffrax.RESULTS.successful


def attempted(solver: Filippov, t0, t1, y0, field: Field, state: _State):
    """Where a step ends, its error estimate, what dense output needs, and the next state."""
    # The stages are written out here, since what they evaluate (pre-activations, multipliers, G) is what the
    # choice of modes needs, and since their number must not depend on whether a neighbour in the batch crossed.
    (z0, anchor), h = y0, t1 - t0
    modes, start, log, tie = state
    if tie is None:
        made, begin = None, start.field
        z, error, ks, end = _explicit(solver.solver, field, modes, z0, start, h)
        middle = field.moment(halfway(solver.solver, z0, z, ks), field.slopes(modes.on))
    else:
        made = implicit.smooth(field, modes, z0, tie, h)
        z, error, ks, begin, middle, end = made[:6]
    smooth = {"y0": z0, "y1": z, "k": ks}
    phi = field.clock.phi(middle.log_S)
    off = jnp.sqrt(inner(error[0], error[0]))
    settled = after_step(field, modes, begin, middle, end, (z0, z), off, h, solver.log > 0, made is None)
    if field.tips:
        settled = through_tips(field, modes, begin, end, (z0, z), off, h, settled)
    z1 = jax.tree.map(jnp.add, z, settled.correction)
    z1 = field.chart.with_hidden(z1, settled.modes.project(field.chart.hidden(z1)))
    tied = None if made is None else implicit.tied(field, z1, settled.modes, made)
    rates = field.rates(z1, settled.modes) if tied is None else implicit.rates(field, z1, settled.modes, tied.p)
    new = field.anchor(t1, z1, rates, field.slopes(settled.modes.on), anchor)
    other, clock_error = field.elapsed(anchor, new, phi)
    new = new._replace(other=other, repelled=anchor.repelled + jnp.sum(settled.repelled))
    if settled.details is not None:
        s = (field.clock.scaled(anchor.time, anchor.other), field.clock.scaled(new.time, new.other))
        log = appended(log, modes, settled.modes, settled.details, *s)
    next_ = _start(field, z1, rates, settled.modes)
    if made is None or tie is None or tied is None:
        family = getattr(solver.solver, "family", None)
        longest = jnp.full_like(h, jnp.inf) if family is None else family.longest / next_.stiffness
        kinks = KinkError(settled.charge, settled.theta, weight_error(field, modes, z, error, end), longest)
    else:
        charge = settled.charge + implicit.shifts(field, made, (z, modes), (z1, settled.modes))
        kinks = KinkError(charge, settled.theta, implicit.defect(tie, tied, rates, made, h), implicit.longest(made))
    shift = jax.tree.map(jnp.subtract, z1, z)
    dense = {"smooth": smooth, "shift": shift, "theta": kinks.theta, "anchor": anchor}
    return (z1, new), (error, clock_error, kinks), dense, _State(settled.modes, next_, log, tied)


_traced = traced_once(attempted, inline=True)


def _explicit(solver, field: Field, modes: Modes, z0: PyTree[Array], start: Start, h):
    """One step with modes held fixed: (z1, its error estimate, h times the stages' velocities, the field at z1)."""
    family = getattr(solver, "family", None)
    if family is not None:
        return recurrent(family, field, modes, z0, start, h)
    assert isinstance(solver.tableau, diffrax.ButcherTableau)
    return stages(solver.tableau, field, modes, z0, start.dz, h)


def _start(field: Field, z: PyTree[Array], rates: Rates, modes: Modes) -> Start:
    return Start(Moment(rates.Z, rates.lam, rates.log_S), rates.dz, field.stiffness(z, rates, field.slopes(modes.on)))


class _KinkedStep(diffrax.AbstractLocalInterpolation):
    """The smooth step's dense output; a neuron's correction grows linearly from its crossing at `theta`."""

    t0: Array
    t1: Array
    smooth: diffrax.AbstractLocalInterpolation
    shift: PyTree[Array]
    theta: Float[Array, " m"]
    anchor: Anchor

    def evaluate(self, t0, t1=None, left: bool = True):
        if t1 is not None:
            return jax.tree.map(jnp.subtract, self.evaluate(t1), self.evaluate(t0))
        z = self.smooth.evaluate(t0)
        length = jnp.where(self.t1 > self.t0, self.t1 - self.t0, 1.0)
        since = (t0 - self.t0) / length - self.theta
        ramp = jnp.clip(since / jnp.where(self.theta < 1, 1 - self.theta, 1.0), 0.0, 1.0)
        return jax.tree.map(lambda a, b: a + ramp * b, z, self.shift), self.anchor


@dataclasses.dataclass(frozen=True)
class _Interpolant:
    """`interpolation_cls` of Filippov for an inner one; comparable, as a static part of a solution must be."""

    inner: Callable

    def __call__(self, *, t0, t1, smooth, shift, theta, anchor) -> _KinkedStep:
        k = jax.tree.map(lambda *stages: jnp.stack(stages), *smooth["k"])
        return _KinkedStep(t0, t1, self.inner(t0=t0, t1=t1, **(smooth | {"k": k})), shift, theta, anchor)


def stages(tableau: diffrax.ButcherTableau, field: Field, modes: Modes, z0: PyTree[Array], dz0: PyTree[Array], h):
    """One step with modes held fixed: (z1, its error estimate, h times the stages' velocities, the field at z1)."""
    slopes = [dz0]
    for row in tableau.a_lower[:-1]:
        slopes.append(field.rates(_combine(z0, h, row, slopes), modes).dz)
    z = _combine(z0, h, tableau.a_lower[-1], slopes)
    last = field.rates(z, modes)
    slopes.append(last.dz)
    if not tableau.ssal:  # else the last stage is the end of the step
        z = _combine(z0, h, tableau.b_sol, slopes)
        last = field.rates(z, modes)
    zero = jax.tree.map(jnp.zeros_like, z0)
    ks = tuple(jax.tree.map(lambda k: h * k, slope) for slope in slopes)
    return z, _combine(zero, h, tableau.b_error, slopes), ks, last


def recurrent(family: Family, field: Field, modes: Modes, z0: PyTree[Array], start: Start, h):
    """The same by the recurrence of a Chebyshev method, whose dense output needs the first and the last velocity."""
    count = family.needed(h * start.stiffness)
    steps = [jnp.asarray(c, start.stiffness.dtype)[count - family.fewest] for c in family.table]

    def combined(j, before, z, dz):
        mu, nu, ahead, back = (c[j] for c in steps)

        def one(a, two, one, f, f0):
            return a + mu * (one - a) + nu * (two - a) + h * (ahead * f + back * f0)

        return jax.tree.map(one, z0, before, z, dz, start.dz)

    def stage(j, carry):
        before, z = carry
        return z, combined(j, before, z, field.rates(z, modes).dz)

    # a loop: a dozen stages written out take half a minute to compile
    _, z = jax.lax.fori_loop(2, count + 1, stage, (z0, combined(1, z0, z0, start.dz)))
    last = field.rates(z, modes)
    ks = tuple(jax.tree.map(lambda k: h * k, slope) for slope in (start.dz, last.dz))
    error = jax.tree.map(lambda a, b, k0, k1: 0.8 * (a - b) + 0.4 * (k0 + k1), z0, z, *ks)
    return z, error, ks, last


def halfway(
    solver: diffrax.AbstractERK | Implicit, z0: PyTree[Array], z1: PyTree[Array], ks: tuple[PyTree[Array], ...]
):
    """The solver's dense output at the middle of a step; `ks`: h times the stages' velocities.

    Dense output is linear in (z0, z1, ks): its weights are read off once, while tracing.
    """
    with jax.ensure_compile_time_eval():
        one = lambda e: solver.interpolation_cls(t0=0.0, t1=1.0, y0=e[0], y1=e[1], k=e[2:]).evaluate(0.5)  # noqa: E731
        weights = np.asarray(jax.jit(jax.vmap(one))(np.eye(2 + len(ks))))
    return _combine(jax.tree.map(jnp.zeros_like, z0), 1.0, weights, (z0, z1, *ks))


def _combine(z0, h, weights, slopes):
    """z0 + h sum_j weights_j slopes_j."""
    used = [(float(b), k) for b, k in zip(weights, slopes, strict=True) if b != 0]
    return jax.tree.map(
        lambda a, *ks: a + h * sum(b * k for (b, _), k in zip(used, ks, strict=True)), z0, *(k for _, k in used)
    )


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
    def scan_kind(self):
        return "lax"

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
        (z1, _), (error, still), dense, state, result = self.solver.step(
            terms, t0, t1, y0, args, solver_state, made_jump
        )
        zm, _ = self.solver.interpolation_cls(t0=t0, t1=t1, **dense).evaluate(t0 + 0.5 * (t1 - t0))
        rates = args.rates(z1)
        new = args.anchor(t1, z1, rates, args.slopes(rates.Z > 0), y0[1])
        middle = args.exponent(zm, args.slopes(args.preactivations(zm) > 0))
        other, clock_error = args.elapsed(y0[1], new, middle)
        # the right-hand side's indicator is not the least-norm velocity of a neuron that chatters along a hyperplane
        G = args.problem.least_norm_gradients(args.chart.decode(z1), rates.lam, CHATTER)
        new = new._replace(
            other=other, speed=args.speed(z1, G, rates.lam, rates.log_S), residual=args.misalignment(z1, G, rates.lam)
        )
        end, error = (z1, new), (error, still._replace(other=clock_error))
        # of a step that overflowed a controller makes NaN, and then of every step after it: it is refused instead
        finite = jnp.all(jnp.array([jnp.all(jnp.isfinite(a)) for a in jax.tree.leaves((end, error))]))
        end = jax.tree.map(lambda a, b: jnp.where(finite, a, b), end, y0)
        error = jax.tree.map(lambda e: jnp.where(finite, e, jnp.inf), error)
        return end, error, dense, state, result


CHATTER = 1e-6
"""Band in which a plain solver's neurons count as lying on a hyperplane."""


def weight_error(field: Field, modes: Modes, z: PyTree[Array], error: PyTree[Array], end: Rates) -> Float[Array, ""]:
    """sum_n p_n |dq_n|, dq the change of the margins under the error of z: dp_n = -p_n (dq_n - mean) on the tail.

    Without margins sum_n l''(q_n) |dq_n|.
    """
    other = jax.tree.map(jnp.subtract, z, error)
    q = field.problem.scored(field.chart.outputs(other, field.slopes(modes.on) * field.preactivations(other)))
    # what rounding leaves of the difference of two margins is no error of the step
    moved = jnp.maximum(jnp.abs(end.q - q) - rounding(q.dtype) * jnp.abs(end.q), 0.0)
    return jnp.sum((jnp.abs(end.lam) if field.problem.of_margins else field.problem.loss.curvature(q)) * moved)


__all__ = ["Clocked", "Filippov", "attempted"]
