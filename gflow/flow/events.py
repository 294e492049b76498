"""The next event of a neuron on its way: it crosses, or slides no longer; from three points of what is left of a step.

Source: docs/mathematics.md, "A step across hyperplanes"; arXiv 2110.06488, section 2.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gflow.flow.modes import Modes, put
from gflow.flow.parabola import crossing, dips

TOGETHER = 1e-9
"""Events closer than this, in parts of what is left of the step, are one."""


class Levels(NamedTuple):
    """What is positive as long as modes hold. `side` (R, C): pre-activations towards their side. Of sliding rows,
    (K, C): `wanted`, the entry; `room`, what it is short of its upper bound; `hostile`, how much the pair is."""

    side: Float[Array, "R C"]
    wanted: Float[Array, "K C"]
    room: Float[Array, "K C"]
    hostile: Float[Array, "K C"]


class Found(NamedTuple):
    """Events of what is left of a step: pairs (n, C) that have one, `happens`; those whose it is `now`, the earliest of
    their neuron; `tau` (C,) of that, in parts of what is left. `slid`: rows on which a neuron no longer slides, on the
    side `above`; `turned`: since it changed its orientation. `slopes`: of the levels there, 0 but for what is now."""

    happens: Bool[Array, "n C"]
    now: Bool[Array, "n C"]
    tau: Float[Array, " C"]
    slid: Bool[Array, "n C"]
    above: Bool[Array, "n C"]
    turned: Bool[Array, "n C"]
    slopes: Levels

    def late(self, doubt: Float[Array, "n C"], left: Float[Array, " C"]) -> Float[Array, "n C"]:
        """By how much of the step a crossing is misplaced if the pre-activation is off by `doubt`; `left` of it."""
        slope = jnp.abs(self.slopes.side)
        return jnp.where(slope > 0, jnp.minimum(1.0, doubt / jnp.where(slope > 0, slope, 1.0)), 0.0) * left


def next_events(
    levels: Levels, modes: Modes, kept: Bool[Array, "n C"], zero: Float[Array, "n C"], jump: float
) -> Found:
    """`levels`: at three points of equal distance, (3, ...). `kept`: pairs that do not cross. `zero`: what rounding
    leaves of a pre-activation. `jump`: of the slope at a kink."""
    n, at = len(kept), modes.at
    exists, K = at < n, len(at)
    floor = jnp.concatenate([zero, jnp.zeros((3 * K, zero.shape[1]), zero.dtype)])
    fall = _fall(*jnp.concatenate(levels, axis=1), floor)
    falls = [Fall(*part) for part in zip(*(jnp.split(a, [n, n + K, n + 2 * K]) for a in fall), strict=True)]
    crossed = falls[0].does & ~modes.slide & ~kept
    low, high, over = (fall.does & exists for fall in falls[1:])
    whens = [jnp.where(a, fall.when, 1.0) for a, fall in zip((low, high, over), falls[1:], strict=True)]
    when_slid = jnp.minimum(jnp.minimum(whens[0], whens[1]), whens[2])
    slid = low | high | over
    turned = over & (whens[2] <= jnp.minimum(whens[0], whens[1]))
    # on a repelling hyperplane both sides are solutions: the one with the smaller share of its entry is taken
    above = jnp.where(turned, modes.delta < 0.5 * jump, whens[1] < whens[0])
    slid_at = put(at, slid, n)
    happens = crossed | slid_at
    theta = jnp.where(crossed, falls[0].when, 1 - put(at, jnp.where(slid, 1 - when_slid, 0.0), n))
    tau = jnp.min(jnp.where(happens, theta, 1.0), axis=0)
    now = happens & (theta <= tau + TOGETHER)
    due = slid & (when_slid <= tau + TOGETHER)
    chosen = (now & crossed, *(due & (when <= when_slid) for when in whens))
    slopes = Levels(*(jnp.where(a, fall.slope, 0.0) for a, fall in zip(chosen, falls, strict=True)))
    return Found(happens, now, tau, slid_at, put(at, above & slid, n), put(at, turned & slid, n), slopes)


class Fall(NamedTuple):
    """Whether a level falls below 0, where first, and its slope there; all in parts of what is left of the step."""

    does: Bool[Array, "..."]
    when: Float[Array, "..."]
    slope: Float[Array, "..."]


@jax.jit
def _fall(a, m, b, zero) -> Fall:
    """Of what has the values a, m, b at three points of equal distance. `zero`: what counts as 0."""
    away = a > zero  # what begins at 0 has left from there
    a = jnp.maximum(a, 0.0)
    below = b < -zero
    slope, bend, dip = dips(a, m, b)
    dip = dip & away
    safe = jnp.where(dip, bend, 1.0)
    entry = -0.5 * slope / safe - 0.5 * jnp.sqrt(jnp.where(dip, slope**2 - 4 * bend * a, 0.0)) / safe
    when = jnp.where(below, crossing(a, m, b), entry)
    return Fall(below | dip, when, slope + 2 * bend * when)


__all__ = ["Found", "Levels", "next_events"]
