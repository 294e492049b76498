"""Whether a place is a limit that attracts the flow: the numbers behind `settled`, and neurons that have become one.

Source: docs/mathematics.md, "The limit at infinity".
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from gflow.flow.continuation.path import entries
from gflow.flow.continuation.state import Data, Place
from gflow.network import inner

KKT = 1e-7
"""Neurons of the limit grow at the rate 1 along themselves, up to this."""

AWAY = 1e-4
"""How far a small neuron may still be from the direction in which it grows."""

GAP = 1e-6
"""Least distance of what has to be strict from its border: hyperplanes, entries of sliding pairs, multipliers, margins,
and the rate 1."""

EQUAL = 1e-11
"""Neurons of equal sign and modes whose directions differ by this act as one, exactly."""


PROBES = 3
"""Sums by which directions are compared."""


class Stability(NamedTuple):
    """`kkt`: how far neurons of the limit are from growing at the rate 1 along themselves; `rate`: the largest rate
    rho = P |g| of other neurons, `away`: how far these are from their directions; `gap`: the smallest |x_n . u_i|/|x_n|
    of pairs that do not slide; `entry`: of those that do the least distance of an entry from 0 and 1; `slack`: the
    smallest q_n - 1 of samples with p_n = 0; `multiplier`: the smallest other p_n. `settled`: all of them say that the
    place is a KKT point that attracts what is near."""

    kkt: Float[Array, ""]
    rate: Float[Array, ""]
    away: Float[Array, ""]
    gap: Float[Array, ""]
    entry: Float[Array, ""]
    slack: Float[Array, ""]
    multiplier: Float[Array, ""]
    settled: Bool[Array, ""]


def stability(data: Data, place: Place) -> Stability:
    """Of a place."""
    neurons, modes, p = place.neurons, place.neurons.modes, place.p
    force = data.force(place.sign, modes, p)
    size = jnp.sqrt(inner(force, force))
    rho = place.objective * size
    off = neurons.u - force / jnp.where(size > 0, size, 1.0)
    away = jnp.where(size > 0, jnp.sqrt(inner(off, off)), 0.0)
    large = place.large
    small = jnp.isfinite(neurons.log_mass) & ~large
    kkt = jnp.max(jnp.where(large, jnp.maximum(jnp.abs(rho - 1), away), 0.0))
    H = data.hyperplanes
    length = jnp.sqrt(jnp.sum(H**2, axis=1))[:, None]
    near = jnp.abs(H @ neurons.u) / jnp.where(length > 0, length, 1.0)
    gap = jnp.min(jnp.where(large & ~modes.slide & (length > 0), near, 1.0))
    inside = entries(data, modes, p)
    entry = jnp.where(large, jnp.minimum(inside, 1 - inside), 1.0)
    q, tied = data.margins(place.sign, neurons, 0.0), p > 0
    found = Stability(
        kkt, jnp.max(jnp.where(small, rho, 0.0)), jnp.max(jnp.where(small, away, 0.0)), gap, jnp.min(entry),
        jnp.min(jnp.where(tied, jnp.inf, q - 1)), jnp.min(jnp.where(tied, p, jnp.inf)), jnp.asarray(False),
    )  # fmt: skip
    strict = jnp.minimum(jnp.minimum(found.gap, found.entry), jnp.minimum(found.slack, found.multiplier))
    settled = (kkt < KKT) & (found.rate < 1 - GAP) & (found.away < AWAY) & (strict > GAP)
    return found._replace(settled=settled)


def joined(place: Place) -> Place:
    """The same with neurons that act as one added up in the first of them.

    Neurons are compared by a few sums with random weights: that two of them have the same sums to rounding and are
    not alike has a probability of 1e-15.
    """
    neurons = place.neurons
    modes, there = neurons.modes, jnp.isfinite(neurons.log_mass)
    random = np.random.default_rng(0)
    n, d = len(modes.on), len(neurons.u)
    code = random.standard_normal(n) @ modes.on + random.standard_normal(n) @ modes.slide + 10 * place.sign
    seen = (random.standard_normal((PROBES, d)) / math.sqrt(d)) @ neurons.u
    close = jnp.max(jnp.abs(seen[:, :, None] - seen[:, None]), axis=0) < EQUAL
    alike = close & (code[:, None] == code) & there & there[:, None]
    first = jnp.argmax(alike, axis=0)  # of every neuron the first that is like it
    index = jnp.arange(len(there))
    # being alike up to a bound is not transitive: only to one that stays itself a neuron is added
    first = jnp.where(first[first] == first, first, index)
    member = (first[:, None] == index) & there[:, None]
    top = jnp.max(neurons.log_mass)
    several = jnp.sum(member, axis=0) > 1
    added = jnp.log(jnp.maximum(jnp.where(there, jnp.exp(neurons.log_mass - top), 0.0) @ member, 1e-300)) + top
    largest = jnp.max(jnp.where(member, neurons.log_mass[:, None], -jnp.inf), axis=0)
    own = jnp.where(several, jnp.maximum(added, largest), neurons.log_mass)
    return place._replace(neurons=neurons._replace(log_mass=jnp.where(there & (first == index), own, -jnp.inf)))


__all__ = ["Stability", "joined", "stability"]
