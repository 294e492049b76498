"""Implicit(): steps for flows whose margins are large, implicit in the multipliers and exact in the neurons.

Once margins are large, the multipliers keep the smallest of them equal, and what is stiff in the flow is only how they
do it. A neuron, given the multipliers, obeys a linear equation that charts solve in closed form. So a step asks for the
multipliers alone: n numbers, such that the margins to which they lead have them as their weights. Two stages of an
L-stable method of order 2, with multipliers held at p_1 for the time (1 - GAMMA) h and at p_2 for GAMMA h; nothing of
it depends on how large margins are, and they may tend to infinity: there the flow is dtheta/ds in d°(q_min).
Source: Alexander, SIAM J. Numer. Anal. 14 (1977), SDIRK of order 2; docs/mathematics.md, "Large margins".
"""

# diffrax types its abstract attributes as class variables
# pyright: reportIncompatibleVariableOverride=false, reportIncompatibleMethodOverride=false

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
from diffrax._local_interpolation import ThirdOrderHermitePolynomialInterpolation
from jaxtyping import Array, Float, PyTree

from gflow.flow.field import NEGLIGIBLE, Field, Moment, Rates
from gflow.flow.modes import Modes
from gflow.flow.tied import confirmed
from gflow.flow.traced import traced_once

GAMMA = 1 - 1 / math.sqrt(2)

EARLY = 0.1
"""Where in the step multipliers are found besides the stages: those at its start may be of other modes."""

FORGETS = 3.0
"""At which rate, per unit of s, differences between margins are taken back that the step before has left."""

SUPPORT = 1e-6
"""Samples of smaller weight have no offset: their margins are their own."""

LONGEST = 0.4
"""By how much log q_min may grow in a step: the kernel is that of its start."""

_NODES = np.vander([EARLY, GAMMA, 1.0], increasing=True).T
_START, _MIDDLE = np.linalg.solve(_NODES, [1, 0, 0]), np.linalg.solve(_NODES, [1, 1 / 2, 1 / 4])
_ERROR = np.linalg.solve(_NODES, [1, 1 / 2, 1 / 3]) - [0, 1 - GAMMA, GAMMA]


class Implicit(diffrax.AbstractAdaptiveSolver):
    """For use inside Filippov, on the scaled clock, for one output and losses of margins."""

    term_structure: ClassVar = diffrax.ODETerm
    interpolation_cls: ClassVar[Callable] = ThirdOrderHermitePolynomialInterpolation.from_k

    def order(self, terms):
        return 2

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)

    def init(self, terms, t0, t1, y0, args):
        raise ValueError("Implicit() is for use inside Filippov")

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        raise ValueError("Implicit() is for use inside Filippov")


class Tie(NamedTuple):
    """What a step hands to the next: `p` (n,) at its end, and `offset` (n,), margins that have p as their weights less
    those that were reached, up to a constant: events and unfinished solutions leave differences, which are not a matter
    of the weights but of the error of the margins."""

    p: Float[Array, " n"]
    offset: Float[Array, " n"]


class Smooth(NamedTuple):
    """A step with modes held: state `z`, its `error`, h times the velocities at both ends `ks`, the field at `start`,
    `middle` and `end`, the weights `p` (n,) there, margins `u` (n,) that have them, the `least` margin
    at the start, and d log q_min/ds, `growth`."""

    z: PyTree[Array]
    error: PyTree[Array]
    ks: tuple[PyTree[Array], ...]
    start: Moment
    middle: Moment
    end: Rates
    p: Float[Array, " n"]
    u: Float[Array, " n"]
    least: Float[Array, ""]
    growth: Float[Array, ""]


def tie_of(field: Field, z: PyTree[Array], modes: Modes) -> Tie:
    """Of a state that no step has led to."""
    p = jnp.abs(field.moment(z, field.slopes(modes.on)).lam)
    return Tie(p, jnp.zeros_like(p))


def margins(field: Field, z: PyTree[Array], modes: Modes) -> Float[Array, " n"]:
    """q with modes held."""
    return field.problem.scored(field.chart.outputs(z, field.slopes(modes.on) * field.preactivations(z)))


@traced_once
def kernel(field: Field, z: PyTree[Array], modes: Modes) -> Float[Array, "n n"]:
    """K (n, n) of dq/ds = K p with modes held."""
    network, y, D = field.chart.decode(z), field.problem.y, field.slopes(modes.on)
    X = field.problem.X
    a, W1 = network.w2, network.W1  # pyright: ignore[reportAttributeAccessIssue]
    B = y[:, None] * D * a
    # sum_i b_i b_i^T o X (I - Q_i Q_i^T) X^T, without the rows (n, d, m). It is positive up to rounding of its first
    # term: 1 is added to what is solved, of which that is nothing while margins are below 1e15
    K = (X @ X.T) * (B @ B.T)

    def less(k, K):
        along = B * (X @ modes.Q[k])
        return K - along @ along.T

    K = jax.lax.fori_loop(0, modes.rows, less, K)
    if not field.chart.both_layers:
        return K
    own = y[:, None] * D * (X @ W1)
    return K + own @ own.T


def _pull(field: Field, modes: Modes, p: Float[Array, " n"]) -> Float[Array, "d m"]:
    return modes.project(field.problem.X.T @ (field.slopes(modes.on) * (p * field.problem.y)[:, None]))


def _moved(field: Field, z: PyTree[Array], modes: Modes, p: Float[Array, " n"], time) -> PyTree[Array]:
    return field.chart.lowered(z, field.chart.carried(field.chart.lift(z), time * _pull(field, modes, p)))


@traced_once
def _stage(field: Field, z: PyTree[Array], modes: Modes, K, time, guess, offset):
    """(p, u, z) after `time` with these multipliers held, found twice: from the kernel and from the margins reached."""
    M = time * K
    first = confirmed(field.problem, margins(field, z, modes) + offset, M, guess)
    reached = margins(field, _moved(field, z, modes, first.p, time), modes) + offset
    second = confirmed(field.problem, reached - M @ first.p, M, first.p)
    return second.p, second.u, _moved(field, z, modes, second.p, time)


@traced_once
def smooth(field: Field, modes: Modes, z0: PyTree[Array], tie: Tie, h) -> Smooth:
    """One step of length h."""
    K = kernel(field, z0, modes)
    left = lambda share: tie.offset * jnp.exp(-FORGETS * share * h)  # noqa: E731
    p0, _, _ = _stage(field, z0, modes, K, EARLY * h, tie.p, left(EARLY))
    p1, _, _ = _stage(field, z0, modes, K, GAMMA * h, p0, left(GAMMA))
    between = _moved(field, z0, modes, p1, (1 - GAMMA) * h)
    p2, u, z = _stage(field, between, modes, K, GAMMA * h, p1, left(1.0))
    of = lambda c: c[0] * p0 + c[1] * p1 + c[2] * p2  # noqa: E731
    weights = lambda p: jnp.maximum(p, 0.0) / jnp.sum(jnp.maximum(p, 0.0))  # noqa: E731
    velocity = lambda z, p: field.chart.velocity(z, h * _pull(field, modes, p))  # noqa: E731
    start, middle = weights(of(_START)), weights(of(_MIDDLE))
    ks = velocity(z0, start), velocity(z, p2)
    zm = jax.tree.map(lambda a, b, k0, k1: 0.5 * (a + b) + 0.125 * (k0 - k1), z0, z, *ks)
    first, half = moment(field, z0, modes, start), moment(field, zm, modes, middle)
    end = rates(field, z, modes, p2)
    least = jnp.min(margins(field, z0, modes))
    growth = p2 @ (K @ p2) / jnp.maximum(least, jnp.min(end.q))
    return Smooth(z, velocity(z0, of(_ERROR)), ks, first, half, end, p2, u, least, growth)


def moment(field: Field, z: PyTree[Array], modes: Modes, p: Float[Array, " n"]) -> Moment:
    """Of the state z under these weights."""
    log_S = field.problem.log_S(margins(field, z, modes))
    return Moment(field.preactivations(z), jnp.where(p < NEGLIGIBLE, 0.0, p) * field.problem.y, log_S)


def rates(field: Field, z: PyTree[Array], modes: Modes, p: Float[Array, " n"]) -> Rates:
    """The field at z under these weights."""
    at = moment(field, z, modes, p)
    weight, drift = field.weighted(at.lam)
    force = field.problem.X.T @ (field.slopes(modes.on) * at.lam[:, None])
    G = modes.project(force)
    q, dz = margins(field, z, modes), field.chart.velocity(z, G)
    return Rates(at.Z, q, at.log_S, at.lam, weight, drift, force, G, dz)


def tied(field: Field, z: PyTree[Array], modes: Modes, step: Smooth) -> Tie:
    """For the next step, from the state after events."""
    offset = step.u - margins(field, z, modes)
    offset = jnp.where(step.p > SUPPORT, offset - jnp.sum(step.p * offset), 0.0)
    return Tie(step.p, offset)


def longest(step: Smooth) -> Float[Array, ""]:
    """The length of the next step at most."""
    return LONGEST / step.growth


def defect(before: Tie, after: Tie, rates: Rates, step: Smooth, h) -> Float[Array, ""]:
    """By how much the step has added to differences between margins, or the smallest one has fallen, which it does not
    along a flow: in parts of q_min at the start."""
    added = after.offset - jnp.where(after.p > SUPPORT, before.offset * jnp.exp(-FORGETS * h), 0.0)
    return jnp.maximum(jnp.max(jnp.abs(added)), step.least - jnp.min(rates.q)) / step.least


def shifts(field: Field, step: Smooth, before, after) -> Float[Array, " m"]:
    """By how much events have moved margins, neuron by neuron, in parts of q_min at the start. `before`, `after`: (z,
    modes)."""
    part = lambda z, modes: field.slopes(modes.on) * field.preactivations(z) * field.chart.sizes(z)  # noqa: E731
    moved = jnp.max(jnp.abs(part(*after) - part(*before)), axis=0)
    return moved / step.least


__all__ = [
    "Implicit",
    "Smooth",
    "Tie",
    "defect",
    "kernel",
    "longest",
    "margins",
    "rates",
    "shifts",
    "smooth",
    "tie_of",
    "tied",
]
