"""Steps of the continuation: two stages of an L-stable method, whose length grows without bound near a limit.

A step holds the weights at p_1 for the time (1 - GAMMA) h and at p_2 for GAMMA h. It is compared with p_2 held for all
of h, of order 1: where p no longer changes both agree however long the step is, and neurons that gain on others do so
over log q_min of 1e3 or 1e6 in one step. A saddle is thus left when a small neuron that outgrows it has become as large
as SHARE, and not before. Source: Alexander, SIAM J. Numer. Anal. 14 (1977), SDIRK of order 2; docs/mathematics.md, "The
limit at infinity".
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gflow.box import orthonormal
from gflow.flow.continuation.path import travel
from gflow.flow.continuation.stability import Stability, joined, stability
from gflow.flow.continuation.state import Data, Neurons, Place
from gflow.flow.continuation.weights import Look, Search, looked
from gflow.flow.modes import Modes, first_rows, lengths, put, rows_at
from gflow.network import TwoLayer, inner

GAMMA = 1 - 1 / math.sqrt(2)

SHARE = 1e-3
"""A neuron that gains is followed by short steps from this share of the largest mass on."""

GROWTH, SAFETY, CUT = 5.0, 0.9, 0.25
"""How much longer the next step may be, the safety of its length, and by what a step that failed is shortened."""

FIRST = 0.05
"""Length of the first step, in parts of P(theta): log q_min grows by twice that."""

ENDLESS = 1e8
"""A flow is left when log q_min has grown by this: a neuron whose rate rho exceeds 1 by GAP = 1e-6, and that was as
small as e^-100, would have become large by then."""

SHORTEST = 1e-13
"""In parts of P(theta): a flow whose steps are shorter has failed."""

ON = 1e-8
"""|x_n . u_i| <= ON |x_n| is sliding at the start."""

SHARPNESS, NONE = 300.0, 1e-9
"""First weights are exp(-SHARPNESS (q_n/q_min - 1)), and those below this share of the largest are 0."""


def begin(data: Data, network: TwoLayer) -> Place:
    """The place of a balanced network with positive margins."""
    sign, neurons = placed(data, network)
    neurons, _ = normalised(data, sign, neurons)
    q = data.margins(sign, neurons, 0.0)
    p = jnp.exp(-SHARPNESS * (q / jnp.min(q) - 1))
    p = jnp.where(p > NONE * jnp.max(p), p, 0.0)
    zero = jnp.asarray(0)
    none = jnp.zeros(())
    place = Place(sign, neurons, p / jnp.sum(p), none, none, none, zero, zero, zero)
    return place._replace(length=FIRST * place.objective)


def placed(data: Data, network: TwoLayer):
    """(sign, Neurons) of a balanced network; a neuron that is nowhere active is not there."""
    sign, u = jnp.sign(network.w2), network.directions()
    log_mass = jnp.log(jnp.abs(network.w2)) + jnp.log(jnp.sqrt(inner(network.W1, network.W1)))
    H = data.hyperplanes
    Z, size = H @ u, lengths(H)
    near = (jnp.abs(Z) <= ON * size) & (size > 0)
    on = (Z > 0) & ~near
    log_mass = jnp.where(jnp.any(data.slopes(on) != 0, axis=0) & (sign != 0), log_mass, -jnp.inf)
    at = first_rows(near, data.room)
    # whether they slide there the first path will find
    modes = Modes(on, put(at, at < len(H), len(H)), at, jnp.zeros(at.shape), orthonormal(rows_at(H, at), 2))
    along = modes.project(u)
    along = along / jnp.maximum(jnp.sqrt(inner(along, along)), 1e-300)
    return sign, Neurons(jnp.where(jnp.any(near, axis=0), along, u), log_mass, modes)


def normalised(data: Data, sign: Float[Array, " m"], neurons: Neurons):
    """(neurons with q_min = 1, by how much log masses were lowered)."""
    top = jnp.max(neurons.log_mass)
    by = top + jnp.log(jnp.min(data.margins(sign, neurons, top)))
    return neurons._replace(log_mass=neurons.log_mass - by), by


class Lane(NamedTuple):
    """A flow on its way: its `place`, the tolerance `tol` of its steps, and of the step that it is in the `phase`, what
    Newton's method has found, the weights `first` (n,) of its first stage, the neurons `between` its stages, those at
    its `end`, and those `whole` that the weights of its end lead to in one go. `unsolved`: whether the step has failed.
    `stability`: of the place."""

    place: Place
    tol: Float[Array, ""]
    phase: Int[Array, ""]
    search: Search
    first: Float[Array, " n"]
    between: Neurons
    end: Neurons
    whole: Neurons
    events: Int[Array, ""]
    unsolved: Bool[Array, ""]
    stability: Stability

    @property
    def running(self) -> Bool[Array, ""]:
        """Whether it has neither settled, nor failed, nor gone on without an end."""
        far, short = self.place.log_q > ENDLESS, self.place.length <= SHORTEST * self.place.objective
        return ~(self.stability.settled | far | short)

    @property
    def resting(self) -> Bool[Array, ""]:
        """Whether it stands between two steps."""
        return (self.phase == STAGE_ONE) & (self.search.looks == 0)

    @property
    def over(self) -> Bool[Array, ""]:
        """Whether a step is over, and to be judged."""
        return self.phase == OVER


STAGE_ONE, BETWEEN, STAGE_TWO, WHOLE, OVER = range(5)


def start(data: Data, network: TwoLayer, tol) -> Lane:
    """A lane at a balanced network."""
    return resumed(data, begin(data, network), tol)


def resumed(data: Data, place: Place, tol) -> Lane:
    """A lane at a place that a step has led to."""
    place = place._replace(length=jnp.minimum(place.length, longest(data, place)))
    return _before_step(place, jnp.asarray(tol, place.p.dtype), stability(data, place))


def _before_step(place: Place, tol, found: Stability) -> Lane:
    neurons, zero = place.neurons, jnp.zeros((), int)
    no = jnp.zeros((), bool)
    return Lane(place, tol, zero, Search.near(place.p), place.p, neurons, neurons, neurons, zero, no, found)


def advance(data: Data, lane: Lane) -> Lane:
    """One path of all neurons, and what follows from it: a round of Newton's method, or the next phase of the step.

    Of a lane whose step is not over. A loop of paths, whatever they are for, has one copy of what a path takes: written
    out for every phase it would compile for five times as long.
    """
    place, phase, h = lane.place, lane.phase, lane.place.length
    sign = place.sign
    origin = _pick(phase == STAGE_TWO, lane.between, place.neurons)
    newton = (phase == STAGE_ONE) | (phase == STAGE_TWO)
    p = jnp.where(newton | (phase == WHOLE), lane.search.p, lane.first)
    time = h * jnp.asarray([GAMMA, 1 - GAMMA, GAMMA, 1.0])[phase]
    arrived = travel(data, sign, origin, p, time)
    no = jnp.zeros((), bool)
    look = jax.lax.cond(
        newton,
        lambda: looked(data, sign, origin, arrived, time, lane.search),
        lambda: Look(no, no, lane.search),
    )
    events = lane.events + jnp.where(look.solved | (phase == BETWEEN), arrived.events, 0)
    failed = jnp.where(newton, look.failed, ~arrived.there)
    further = newton & ~look.solved
    return Lane(
        place, lane.tol, jnp.where(failed, OVER, jnp.where(further, phase, phase + 1)),
        _pick(further, look.search, _pick(phase == STAGE_ONE, Search.near(p), lane.search)),
        jnp.where(look.solved & (phase == STAGE_ONE), p, lane.first),
        _pick(phase == BETWEEN, arrived.neurons, lane.between), _pick(phase == STAGE_TWO, arrived.neurons, lane.end),
        _pick(phase == WHOLE, arrived.neurons, lane.whole), events, failed, lane.stability,
    )  # fmt: skip


def judged(data: Data, lane: Lane) -> Lane:
    """The lane before its next step, after one that is over: taken if the path `whole` confirms it, else to be made
    shorter."""
    place, h = lane.place, lane.place.length
    error = jnp.where(lane.unsolved, jnp.inf, distance(lane.whole, lane.end))
    sound = jnp.isfinite(error)
    taken = sound & (error <= lane.tol)
    grow = jnp.minimum(GROWTH, SAFETY * jnp.sqrt(lane.tol / jnp.maximum(error, 1e-12)))
    shrink = jnp.where(sound, jnp.maximum(0.1, 0.8 * jnp.sqrt(lane.tol / error)), CUT)
    neurons, by = normalised(data, place.sign, lane.end)
    moved = joined(place._replace(
        neurons=neurons, p=lane.search.p, log_q=place.log_q + by, events=place.events + lane.events
    ))  # fmt: skip
    moved = moved._replace(final=jnp.where(_repatterned(place, moved), moved.log_q, place.final))
    new = _pick(taken, moved, place._replace(rejected=place.rejected + 1))
    new = new._replace(steps=place.steps + 1, length=h * jnp.where(taken, grow, shrink))
    new = new._replace(length=jnp.minimum(new.length, longest(data, new)))
    found = _pick(taken, stability(data, new), lane.stability)
    return _before_step(new, lane.tol, found)


def _repatterned(before: Place, after: Place) -> Bool[Array, ""]:
    """Whether neurons of the limit have come or gone, or have another pattern. One that has been added to its like is
    not there any more, and has not gone."""
    large, was_large = after.large, before.large
    old, new = before.neurons.modes, after.neurons.modes
    other = was_large & jnp.any((old.on != new.on) | (old.slide != new.slide), axis=0)
    return jnp.any(jnp.isfinite(after.neurons.log_mass) & (other | (large != was_large)))


def _pick(which, a, b):
    return jax.tree.map(lambda x, y: jnp.where(which, x, y), a, b)


def longest(data: Data, place: Place) -> Float[Array, ""]:
    """Until a small neuron that gains on the others has the share SHARE: from there on it moves the weights."""
    force = data.force(place.sign, place.neurons.modes, place.p)
    share = place.neurons.log_mass - jnp.max(place.neurons.log_mass)
    rate = 2 * jnp.sqrt(inner(force, force)) - pace(data, place, force)
    gains = (share < math.log(SHARE) - 0.5) & jnp.isfinite(share) & (rate > 0)
    until = jnp.where(gains, (math.log(SHARE) - share) / jnp.where(gains, rate, 1.0), jnp.inf)
    return jnp.maximum(jnp.min(until), FIRST * place.objective)


def pace(data: Data, place: Place, force: Float[Array, "d m"]) -> Float[Array, ""]:
    """d log q_min / ds."""
    u = place.neurons.u
    moved = force + u * inner(u, force)
    D = data.slopes(place.neurons.modes.on)
    return place.p @ (data.y * ((D * (data.X @ moved)) @ (place.sign * place.masses)))


def distance(a: Neurons, b: Neurons) -> Float[Array, ""]:
    """How far two ends of a step are apart: the angle of every neuron, however small, and its log mass, which counts
    less the smaller the neuron is."""
    here = b.log_mass - jnp.max(b.log_mass)
    there = a.log_mass - jnp.max(a.log_mass)
    exists = jnp.isfinite(here) & jnp.isfinite(there)
    share = jnp.where(exists, here, 0.0)
    apart = jnp.where(exists, jnp.abs(there - here), 0.0)
    weight = jnp.where(share > math.log(SHARE), 1.0, 0.2 / (1 - 0.02 * share))
    turned = jnp.where(exists, jnp.sqrt(inner(a.u - b.u, a.u - b.u)), 0.0)
    return jnp.max(jnp.maximum(weight * apart, turned))


__all__ = ["Lane", "advance", "begin", "judged", "placed", "resumed", "start"]
