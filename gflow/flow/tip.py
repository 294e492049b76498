"""Steps in which a neuron passes the tip w = 0, or rests there.

A neuron that slides on d - 1 hyperplanes runs straight into the tip, in finite time. What the step did behind it is
replaced: the neuron rests there, or is put on the ray on which it leaves.
Source: docs/mathematics.md, "Crossing and sliding" and "Charts".
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from gflow.activations import AbstractActivation
from gflow.flow.charts import AbstractChart
from gflow.flow.crossings import Settled
from gflow.flow.departure import departure, descent
from gflow.flow.field import Field, Moment, Rates
from gflow.flow.flagged import on_flagged
from gflow.flow.modes import Modes, lengths, rounding
from gflow.network import inner


def through_tips(field: Field, modes: Modes, start: Moment, end: Rates, states, error, h, settled: Settled) -> Settled:
    """`settled` with what neurons do that passed the tip in this step, or rested there. `states`: z at its two ends."""
    X, activation, chart, (z0, z1) = field.hyperplanes, field.problem.activation, field.chart, states
    d = X.shape[1]
    resting = modes.at[d - 1] < len(X)
    before, after = chart.hidden(z0), chart.hidden(z1)
    step = after - before
    squared = inner(step, step)
    theta = jnp.clip(-inner(before, step) / jnp.where(squared > 0, squared, 1.0), 0.0, 1.0)
    theta = jnp.where(resting, 0.0, theta)
    miss = before + theta * step
    miss = jnp.where(resting, 0.0, jnp.sqrt(inner(miss, miss)))
    within = error + rounding(X.dtype) * jnp.sqrt(inner(before, before))
    passes = chart.may_vanish() & (resting | ((squared > 0) & (theta < 1) & (miss <= within)))
    lane = Lane(field.weighted(start.lam)[0], end.weight, end.drift, h * field.clock.rate(end.log_S))
    work = lambda columns, lanes, X: _at_tip(X, activation, columns, lanes, len(passes))  # noqa: E731
    return on_flagged(work, passes, _Passing(chart, z1, theta, miss, resting, settled), lane, X, settled)


class Lane(NamedTuple):
    """Weights of the hyperplanes at the step's start and end, the drift at its end (see Lines), and the step's length
    on the clock s."""

    lam0: Float[Array, "n ..."]
    lam: Float[Array, "n ..."]
    drift: Float[Array, "d ..."]
    length: Float[Array, "..."]


class _Passing(NamedTuple):
    """`theta`, `miss` (m,): where in the step a neuron was nearest to the tip, and how near. `resting` (m,): it started
    there."""

    chart: AbstractChart
    z: PyTree[Array]
    theta: Float[Array, " m"]
    miss: Float[Array, " m"]
    resting: Bool[Array, " m"]
    settled: Settled


def _at_tip(X, activation: AbstractActivation, neurons: _Passing, lane: Lane, width: int) -> Settled:
    chart, z, theta, miss, resting, settled = neurons
    orientation, overshoot = chart.orientation(z), chart.hidden(z)
    leaves = departure(X, activation, orientation, lane.lam, lane.drift)
    size = jnp.sqrt(inner(leaves.G, leaves.G))
    # a neuron that rested has left when the rate along its ray became positive, and its speed has grown since
    at_start = descent(X, activation, orientation, lane.lam0, lane.drift, leaves.u)
    theta = jnp.where(resting & (size > 0), at_start / jnp.where(at_start < size, at_start - size, 1.0), theta)
    theta = jnp.clip(theta, 0.0, 1.0)
    mean = jnp.where(resting, 0.5 * (1 + jnp.clip(at_start / jnp.where(size > 0, size, 1.0), 0.0, 1.0)), 1.0)
    tau = (1 - theta) * lane.length
    new = orientation * leaves.G * mean * tau
    z1 = chart.with_hidden(z, new)
    largest = jnp.sum(jnp.maximum(jnp.abs(lane.lam), jnp.abs(lane.lam0)) * lengths(X), axis=0)
    drift = jnp.sum(jnp.abs(lane.lam - lane.lam0) * lengths(X), axis=0)
    bent = jnp.minimum(1.0, jnp.abs(orientation) * largest * lane.length + drift / jnp.where(largest > 0, largest, 1.0))
    charge = miss + jnp.abs(orientation) * size * bent * tau
    # behind the tip it shifted margins, and so the multipliers that move every neuron
    far = jnp.sqrt(inner(overshoot, overshoot)) * chart.sizes(z) * jnp.max(lengths(X))
    charge += jnp.abs(orientation) * largest * far * 0.5 * tau * jnp.sqrt(jnp.asarray(width, X.dtype))
    details = settled.details
    if details is not None:
        no = jnp.zeros_like(details.turned)
        details = details._replace(
            theta=jnp.broadcast_to(theta, no.shape), turned=no, repelled=no.at[0].set(leaves.several)
        )
    return Settled(
        leaves.modes, jax.tree.map(jnp.subtract, z1, z), charge, theta, leaves.several.astype(X.dtype),
        details,
    )  # fmt: skip
