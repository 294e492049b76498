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

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from gflow.flow.field import Field, Frozen, Rates
from gflow.flow.modes import Modes, choose, freeze, gather, initial_modes, most_sliding, on_kink, slopes


class KinkError(NamedTuple):
    """Per neuron: `charge` (m,), the error left by crossings, and `theta` (m,), where in the step the worst one was;
    `weights`: the error of p, and so of every velocity, that the error of the smooth step makes."""

    charge: Float[Array, " m"]
    theta: Float[Array, " m"]
    weights: Float[Array, ""]


class _State(NamedTuple):
    """Modes, their frozen field, and the field's value at the start of the next step."""

    modes: Modes
    frozen: Frozen
    rates: Rates


class Filippov(diffrax.AbstractAdaptiveSolver, diffrax.AbstractWrappedSolver):
    """Wraps `solver`, an explicit adaptive Runge-Kutta method, for the inclusion dtheta/dt in -d°L(theta).

    For use by `solve_flow`, whose `args` is the Field. Its error estimate is a triple (of the smooth step, of the
    other clock, KinkError), which `KinkController` reads. Raises ValueError for a method that is not explicit or has
    no error estimate.
    """

    solver: diffrax.AbstractERK = diffrax.Tsit5()

    def __check_init__(self):
        if not isinstance(self.solver, diffrax.AbstractERK) or not isinstance(
            self.solver, diffrax.AbstractAdaptiveSolver
        ):
            raise ValueError(
                f"Filippov wraps explicit adaptive Runge-Kutta methods (Heun, Bosh3, Tsit5, Dopri5, Dopri8); "
                f"{type(self.solver).__name__} is none. Pass it to solve_flow as it is, kinks and all"
            )

    @property
    def term_structure(self):
        return self.solver.term_structure

    @property
    def interpolation_cls(self):
        return _Interpolant(self.solver.interpolation_cls)

    def order(self, terms):
        return self.solver.order(terms)

    def func(self, terms, t0, y0, args):
        return self.solver.func(terms, t0, y0, args)

    def init(self, terms, t0, t1, y0, args: Field) -> _State:
        modes = initial_modes(args, y0[0]) if args.modes is None else args.modes
        frozen = freeze(args, modes)
        return _State(modes, frozen, args.rates(y0[0], frozen))

    def step(self, terms, t0, t1, y0, args: Field, solver_state: _State, made_jump):
        # The stages are written out here, since what they evaluate (pre-activations, multipliers, G) is what the
        # choice of modes needs, and since their number must not depend on whether a neighbour in the batch crossed.
        (z0, anchor), h = y0, t1 - t0
        modes, frozen, start = solver_state
        tableau = self.solver.tableau
        assert isinstance(tableau, diffrax.ButcherTableau)
        z, error, ks, end = stages(tableau, args, frozen, z0, start, h)
        still = jax.tree.map(lambda a: jnp.zeros((tableau.num_stages,), a.dtype), anchor)
        smooth = {"y0": (z0, anchor), "y1": (z, anchor), "k": (ks, still)}
        zm, _ = self.solver.interpolation_cls(t0=t0, t1=t1, **smooth).evaluate(t0 + 0.5 * h)
        Zm = args.preactivations(zm)
        phi = args.clock.phi(args.problem.log_S(args.problem.y * args.chart.outputs(zm, frozen.D * Zm)))
        z1, modes, frozen, kinks = after_step(args, modes, frozen, start, Zm, end, z, h)
        rates = args.rates(z1, frozen)
        new = args.anchor(t1, z1, rates, frozen.D, anchor)
        other, clock_error = args.elapsed(anchor, new, phi)
        new = new._replace(other=other)
        kinks = kinks._replace(weights=weight_error(args, solver_state.frozen, z, error, end))
        dense = {"smooth": smooth, "shift": jax.tree.map(jnp.subtract, z1, z), "theta": kinks.theta}
        return (z1, new), (error, clock_error, kinks), dense, _State(modes, frozen, rates), diffrax.RESULTS.successful


class _KinkedStep(diffrax.AbstractLocalInterpolation):
    """The smooth step's dense output; a neuron's correction grows linearly from its crossing at `theta`."""

    t0: Array
    t1: Array
    smooth: diffrax.AbstractLocalInterpolation
    shift: PyTree[Array]
    theta: Float[Array, " m"]

    def evaluate(self, t0, t1=None, left: bool = True):
        if t1 is not None:
            return jax.tree.map(jnp.subtract, self.evaluate(t1), self.evaluate(t0))
        z, anchor = self.smooth.evaluate(t0)
        length = jnp.where(self.t1 > self.t0, self.t1 - self.t0, 1.0)
        since = (t0 - self.t0) / length - self.theta
        ramp = jnp.clip(since / jnp.where(self.theta < 1, 1 - self.theta, 1.0), 0.0, 1.0)
        return jax.tree.map(lambda a, b: a + ramp * b, z, self.shift), anchor


@dataclasses.dataclass(frozen=True)
class _Interpolant:
    """`interpolation_cls` of Filippov for an inner one; comparable, as a static part of a solution must be."""

    inner: Callable

    def __call__(self, *, t0, t1, smooth, shift, theta) -> _KinkedStep:
        return _KinkedStep(t0, t1, self.inner(t0=t0, t1=t1, **smooth), shift, theta)


def stages(tableau: diffrax.ButcherTableau, field: Field, frozen: Frozen, z0: PyTree[Array], start: Rates, h):
    """One step with modes held fixed: (z1, its error estimate, h times the stages' velocities, the field at z1)."""
    slopes, last, z = [start.dz], start, z0
    for row in tableau.a_lower:
        z = _combine(z0, h, row, slopes)
        last = field.rates(z, frozen)
        slopes.append(last.dz)
    if not tableau.ssal:  # else the last stage is the end of the step
        z = _combine(z0, h, tableau.b_sol, slopes)
        last = field.rates(z, frozen)
    zero = jax.tree.map(jnp.zeros_like, z0)
    dense = jax.tree.map(lambda *k: h * jnp.stack(k), *slopes)
    return z, _combine(zero, h, tableau.b_error, slopes), dense, last


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
        new = args.anchor(t1, z1, rates, slopes(args, rates.Z > 0), y0[1])
        middle = args.exponent(zm, slopes(args, args.preactivations(zm) > 0))
        other, clock_error = args.elapsed(y0[1], new, middle)
        # the right-hand side's indicator is not the least-norm velocity of a neuron that chatters along a hyperplane
        network = args.chart.decode(z1)
        G = args.problem.least_norm_gradients(network, rates.lam, CHATTER)
        new = new._replace(
            other=other, speed=args.speed(z1, G, rates.lam), residual=args.problem.misalignment(network, G)
        )
        return (z1, new), (error, still._replace(other=clock_error)), dense, state, result


CHATTER = 1e-6
"""Band in which a plain solver's neurons count as lying on a hyperplane."""


def after_step(field: Field, modes: Modes, frozen: Frozen, start: Rates, Zm, end: Rates, z1: PyTree[Array], h):
    """The corrected end of a step, the new modes and their frozen field, and what the correction leaves as an error.

    `start`, `end`: the field with the old modes; `Zm` (n, m): pre-activations halfway.
    """
    problem, chart = field.problem, field.chart
    X, Z, lam = problem.X, end.Z, end.lam
    lower, upper = problem.activation.slope_interval()
    ds = field.clock.rate(end.log_S)
    orientation = chart.orientation(z1)

    wrong = ~modes.slide & jnp.where(modes.on, Z < 0, Z > 0) & ~on_kink(field, z1, Z)
    hostile = jnp.sign(orientation) * lam[:, None] < 0
    # one neuron slides on at most K rows: a crossing for which there is no room keeps its mode and is charged in full
    rows = gather(X, modes.slide | (wrong & hostile), most_sliding(field), first=modes.slide)
    choice, candidate = choose(field, modes.on ^ (wrong & ~hostile), rows, lam)
    crowded = wrong & hostile & ~candidate

    # fraction of the step since which the new mode holds: the crossing, or where a sliding entry passed its bound
    left = modes.slide & ~choice.modes.slide
    bound = jnp.where(choice.modes.on, upper - lower, 0.0)
    excess = jnp.where(left, choice.wanted - bound, 0.0)
    run = choice.wanted - modes.delta
    passed = jnp.clip((bound - modes.delta) / jnp.where(run == 0, 1.0, run), 0.0, 1.0)
    crossed = crossing(start.Z, Zm, Z)
    # a crossing changes the normal velocity of every row on which its neuron slides: these entries jump with it
    first_crossing = jnp.min(jnp.where(wrong & ~crowded, crossed, 1.0), axis=0)
    jumped = left & (first_crossing < 1)
    theta = jnp.where(jumped, first_crossing, jnp.where(left, passed, crossed))
    tau = (1 - theta) * h * ds

    # the direction is corrected by what the pair added with its old mode; an excess entry had grown linearly from 0
    after = choice.frozen.D + jnp.where(choice.modes.slide, choice.modes.delta, 0.0)
    drifted = jnp.where(left, -0.5 * excess, 0.0)
    switch = jnp.where(wrong & ~crowded, after - frozen.D, jnp.where(jumped, bound - modes.delta, drifted))
    change = switch * tau * lam[:, None]
    correction = orientation * (X.T @ change)
    z1 = chart.with_hidden(z1, choice.frozen.project(chart.hidden(z1) + correction))

    row = jnp.linalg.norm(X, axis=1)[:, None]
    size = jnp.maximum(jnp.abs(lam), jnp.abs(start.lam))
    drift = jnp.abs(lam - start.lam) / jnp.maximum(size * h * ds, 1e-300)
    speed = jnp.abs(orientation) * jnp.linalg.norm(end.G, axis=0)
    # several crossings of one neuron: each moves the others', relatively by what it shifts their pre-activation
    others = jnp.abs(X @ correction - orientation * change * row**2)
    shifted = jnp.where(wrong, others / jnp.maximum(jnp.abs(Z), 1e-300), 0.0)
    last_crossing = jnp.max(jnp.where(wrong & ~crowded, crossed, 0.0), axis=0)
    spread = (last_crossing - first_crossing) / jnp.maximum(1 - first_crossing, 1e-300)
    shifted = jnp.where(jumped, spread, shifted)
    second = jnp.abs(change) * row * jnp.minimum(1.0, (drift[:, None] + speed) * jnp.where(left, h * ds, tau) + shifted)
    # a pair on the wrong side that kept its mode, or found no settled one, is not accounted for: it may be off by what
    # it moved since, or by its distance where the neuron is being pulled back
    unmended = crowded | (wrong & ((after == frozen.D) | choice.unsettled))
    whole = jnp.abs(lam[:, None]) * (upper - lower) * row * tau
    first = jnp.where(unmended, jnp.minimum(whole, jnp.abs(Z) / jnp.where(row > 0, row, 1.0)), 0.0)
    # while a pair is on the wrong side it also shifts its margin, and so the multipliers that move every neuron
    shift = jnp.where(wrong, jnp.abs(Z) * (upper - lower) * chart.sizes(z1), 0.0)
    shared = jnp.abs(lam[:, None]) * row * shift * 0.5 * tau * jnp.sqrt(jnp.asarray(Z.shape[1], Z.dtype))
    charge = (second + first + shared) * jnp.abs(orientation)
    # the earliest of the crossings that matter
    heavy = charge >= jnp.maximum(0.1 * jnp.max(charge, axis=0), 1e-300)
    kinks = KinkError(jnp.sum(charge, axis=0), jnp.min(jnp.where(heavy, theta, 1.0), axis=0), jnp.zeros_like(h))
    return z1, choice.modes, choice.frozen, kinks


def weight_error(field: Field, frozen: Frozen, z: PyTree[Array], error: PyTree[Array], end: Rates) -> Float[Array, ""]:
    """sum_n p_n |dq_n|, dq the change of the margins under the error of z: dp_n = -p_n (dq_n - mean) on the tail."""
    other = jax.tree.map(jnp.subtract, z, error)
    q = field.problem.y * field.chart.outputs(other, frozen.D * field.preactivations(other))
    return jnp.sum(jnp.abs(end.lam * (end.q - q)))


def crossing(Z0: Float[Array, "n m"], Zm: Float[Array, "n m"], Z1: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """Fraction of the step at which the parabola through Z0, Zm (halfway) and Z1 is zero, clipped to 0..1."""
    c = 2 * (Z0 - 2 * Zm + Z1)
    b = Z1 - Z0 - c
    # of the two roots the one where Z moves towards Z1's side, without cancellation and with one division
    root = jnp.sign(Z1) * jnp.sqrt(jnp.maximum(b**2 - 4 * c * Z0, 0.0))
    along = b * root > 0
    top, bottom = jnp.where(along, -2 * Z0, root - b), jnp.where(along, b + root, 2 * c)
    return jnp.clip(top / jnp.where(bottom == 0, 1.0, bottom), 0.0, 1.0)


__all__ = ["Clocked", "Filippov"]
