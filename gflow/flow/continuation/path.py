"""The exact way of neurons while the weights of the samples are held: boosts, from one hyperplane to the next.

Under constant weights a balanced neuron obeys dw/ds = a g, da/ds = w . g with g constant as long as no hyperplane is
met: with e = g/|g|, c = u . e and tau = |g| time,

    u' ~ u - c e + e (c cosh tau + sinh tau),      log mass' - log mass = 2 log(cosh tau + c sinh tau),

so that the time of its next event is explicit as well. There the least-norm velocity says whether it crosses, turns
back or slides. Nothing is small or large here: times may be as long as masses need to grow by e^1000.
Source: docs/mathematics.md, "The limit at infinity".
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gflow.flow.continuation.state import Data, Neurons
from gflow.flow.flagged import on_flagged
from gflow.flow.modes import Modes, choose, first_rows, rounding, slopes
from gflow.network import inner

EVENTS = 256
"""Rounds of events in one path at most: of a path that needs more the step is made shorter."""


BORDER = 1e-12
"""An entry this near to 0 or 1 has reached it."""


class Arrived(NamedTuple):
    """`neurons` at the end of a path, their last `force` (d, m), how many `events` there were, and whether all neurons
    are `there`."""

    neurons: Neurons
    force: Float[Array, "d m"]
    events: Int[Array, ""]
    there: Bool[Array, ""]


class Boost(NamedTuple):
    """A boost along the unit vector `e` (d, m): `plus` = |u + e|^2/2 = 1 + u . e and `minus` = |u - e|^2/2, both to the
    last digit where they are small."""

    e: Float[Array, "d m"]
    size: Float[Array, " m"]
    plus: Float[Array, " m"]
    minus: Float[Array, " m"]

    @classmethod
    def of(cls, u: Float[Array, "d m"], force: Float[Array, "d m"]) -> Boost:
        size = jnp.sqrt(inner(force, force))
        e = force / jnp.where(size > 0, size, 1.0)
        # of a neuron that feels nothing e is 0, and u . e with it
        plus, minus = (jnp.where(size > 0, 0.5 * inner(v, v), 1.0) for v in (u + e, u - e))
        return cls(e, size, plus, minus)

    def moved(self, u: Float[Array, "d m"], tau: Float[Array, " m"]):
        """(u, growth of the log mass) after the rapidity tau."""
        less = jnp.exp(-2 * tau)
        grown = 0.5 * (self.plus + self.minus * less)  # (cosh tau + c sinh tau) e^-tau
        along = 0.5 * (self.plus - self.minus * less)
        c = 0.5 * (self.plus - self.minus)
        new = (u - c * self.e) * jnp.exp(-tau) + along * self.e
        new = new / jnp.maximum(jnp.sqrt(inner(new, new)), 1e-300)
        return new, 2 * (tau + jnp.log(jnp.maximum(grown, 1e-300)))

    def until(self, phi: Float[Array, " m"]) -> Float[Array, " m"]:
        """The rapidity after which w, |w| = 1 at first, has moved by phi >= 0 along e."""
        c = 0.5 * (self.plus - self.minus)
        b = c + phi
        root = jnp.sqrt(b**2 + self.plus * self.minus)  # 1 - c^2 = plus minus
        growth = jnp.where(b < 0, self.plus * self.minus / jnp.maximum(root - b, 1e-300), b + root)
        return jnp.log(jnp.maximum(growth / jnp.maximum(self.plus, 1e-300), 1.0))


def travel(data: Data, sign: Float[Array, " m"], start: Neurons, p: Float[Array, " n"], time) -> Arrived:
    """All neurons under the weights p for this time."""
    H, size = data.hyperplanes, data.lengths
    everyone = jnp.isfinite(start.log_mass)

    def onward(carry):
        count, neurons, hit, flagged, left, events, _ = carry
        modes = on_flagged(_chosen, flagged, (sign, neurons.modes, hit), p, data, neurons.modes)
        u = _onto(modes, flagged, neurons.u)
        force = data.force(sign, modes, p)
        boost = Boost.of(u, force)
        Z, slope = H @ u, H @ boost.e
        leaves = jnp.where(modes.on, slope < 0, slope > 0) & ~modes.slide
        leaves = leaves & (jnp.abs(slope) > rounding(H.dtype) * size)
        phi = jnp.where(leaves, jnp.maximum(-Z / jnp.where(leaves, slope, 1.0), 0.0), jnp.inf)
        row = jnp.argmin(phi, axis=0)
        when = jnp.where(jnp.any(leaves, axis=0), boost.until(jnp.min(phi, axis=0)), jnp.inf)
        whole, moving = boost.size * left, left > 0
        meets = (when < whole) & moving
        tau = jnp.where(meets, when, whole)
        further, growth = boost.moved(u, tau)
        u = jnp.where(moving, further, u)
        log_mass = neurons.log_mass + jnp.where(moving, growth, 0.0)
        left = jnp.where(meets, left - tau / jnp.where(boost.size > 0, boost.size, 1.0), 0.0)
        hit = (jnp.arange(len(H))[:, None] == row) & meets
        return count + 1, Neurons(u, log_mass, modes), hit, meets, left, events + jnp.sum(meets), force

    going = lambda carry: (carry[0] < EVENTS) & jnp.any(carry[4] > 0)  # noqa: E731
    left = jnp.where(everyone, jnp.asarray(time, H.dtype), 0.0)
    released = _released(data, start.modes, p) & everyone
    nothing = jnp.zeros_like(start.modes.on)
    carry = (0, start, nothing, released, left, jnp.sum(released), jnp.zeros_like(start.u))
    _, neurons, _, _, left, events, force = jax.lax.while_loop(going, onward, carry)
    return Arrived(neurons, force, events, ~jnp.any(left > 0))


def _onto(modes: Modes, flagged: Bool[Array, " m"], u: Float[Array, "d m"]) -> Float[Array, "d m"]:
    """Flagged neurons exactly on the hyperplanes on which they slide from here on."""
    along = modes.project(u)
    along = along / jnp.maximum(jnp.sqrt(inner(along, along)), 1e-300)
    return jnp.where(flagged & jnp.any(modes.slide, axis=0), along, u)


def entries(data: Data, modes: Modes, p: Float[Array, " n"]) -> Float[Array, "K m"]:
    """Of the sliding pairs, in 0..1 as long as a neuron stays on its hyperplanes; 1/2 where there is no pair."""
    weight, drift = data.weighted(p)
    lower, upper = data.problem.activation.slope_interval()
    n = len(weight)
    own = jnp.where(modes.at < n, weight[jnp.minimum(modes.at, n - 1)], 0.0)
    pull = drift[:, None] + data.X.T @ (slopes(data.problem.activation, modes.on, data.X.dtype) * weight[:, None])
    return jnp.where(modes.at < n, modes.wanted(data.hyperplanes, pull, own) / (upper - lower), 0.5)


def _released(data: Data, modes: Modes, p: Float[Array, " n"]) -> Bool[Array, " m"]:
    """Neurons that these weights do not hold on all hyperplanes on which they slide."""
    inside = entries(data, modes, p)
    return jnp.any((inside <= BORDER) | (inside >= 1 - BORDER), axis=0)


def _chosen(neurons, p: Float[Array, "n C"], data: Data) -> Modes:
    """Modes for the least-norm velocity of neurons that slide and have met the hyperplanes `hit`, for every column
    under the weights of its own flow; `neurons`: (sign, modes, hit).

    Hostile pairs, sign a_i != sign lambda_n, may slide: the box problem says so. Others cross: no velocity holds them.
    """
    sign, modes, hit = neurons
    weight, drift = data.weighted(p)
    hostile = sign * weight < 0
    at = first_rows((modes.slide | hit) & hostile, data.room, ahead=modes.slide)
    new = choose(data.hyperplanes, data.problem.activation, modes.on ^ (hit & ~hostile), at, weight, drift).modes
    # what a neuron slid on and is hostile no more lets it go to the side to which it is carried
    D = slopes(data.problem.activation, new.on, data.X.dtype)
    carried = sign * (data.hyperplanes @ new.project(drift + data.X.T @ (D * weight)))
    return new._replace(on=jnp.where(modes.slide & ~hostile, carried > 0, new.on))


__all__ = ["Arrived", "Boost", "entries", "travel"]
