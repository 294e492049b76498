"""What happened at kinks inside a step whose modes were held fixed: new modes, the correction, and what it leaves.

Most neurons meet no hyperplane in a step: `met` finds those that do, and only these travel through it once more.
Source: docs/mathematics.md, "Crossing and sliding"; arXiv 2110.06488, section 2.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from gflow.activations import AbstractActivation
from gflow.flow.charts import AbstractChart
from gflow.flow.field import Field, Moment, Rates
from gflow.flow.flagged import on_flagged
from gflow.flow.modes import Modes, at_rows, lengths, rounding, slopes
from gflow.flow.parabola import dips
from gflow.flow.path import Traveller, travel
from gflow.flow.pull import Given
from gflow.flow.sides import on_sides
from gflow.network import inner


class Neurons(NamedTuple):
    """What a step did to each neuron. `start`, `middle`, `end` (n, m): x_n . hidden_i. `chart`, and the state at the
    step's start, `z0`, and end, `z`; `error` (m,): of the smooth step; `modes`: those that were held; `feel` (m,): how
    many neurons feel that margins are off."""

    start: Float[Array, "n m"]
    middle: Float[Array, "n m"]
    end: Float[Array, "n m"]
    chart: AbstractChart
    z0: PyTree[Array]
    z: PyTree[Array]
    error: Float[Array, " m"]
    modes: Modes
    feel: Float[Array, " m"]

    @property
    def size(self) -> Float[Array, " m"]:
        """|hidden_i|."""
        hidden = self.chart.hidden(self.z)
        return jnp.sqrt(inner(hidden, hidden))

    @property
    def orientation(self) -> Float[Array, " m"]:
        """The chart's."""
        return self.chart.orientation(self.z)


class Details(NamedTuple):
    """For the log of kinks, all (n, m): `theta`, where in the step a pair's mode ceased to hold; `turned`: it slid
    until a_i changed its sign; `repelled`: it is on a hyperplane that pushes away on both sides."""

    theta: Float[Array, "n m"]
    turned: Bool[Array, "n m"]
    repelled: Bool[Array, "n m"]


class Settled(NamedTuple):
    """After the step, per neuron: `modes`; `correction` of z; `charge` (m,): the error that is left; `theta` (m,):
    where the first event was; `repelled` (m,): repelling hyperplanes met; `details` or None."""

    modes: Modes
    correction: PyTree[Array]
    charge: Float[Array, " m"]
    theta: Float[Array, " m"]
    repelled: Float[Array, " m"]
    details: Details | None


def after_step(
    field: Field,
    modes: Modes,
    start: Moment,
    middle: Moment,
    end: Rates,
    states,
    error,
    h,
    log: bool,
    free: bool = True,
) -> Settled:
    """`start`, `middle`, `end`: the field with the modes that were held, and `states` z at both ends; `error` (m,):
    that of the smooth step; `log`: whether details are wanted; `free`: whether multipliers follow the margins."""
    X, activation, (z0, z1) = field.hyperplanes, field.problem.activation, states
    feel = jnp.broadcast_to(jnp.sum(field.present(z0)) if free else 0, error.shape).astype(error.dtype)
    no, lines = jnp.zeros_like(modes.on), field.problem.lines
    leading = lambda Z: Z if lines is None else jnp.where(lines.first[:, None], Z, 0.0)  # noqa: E731
    moments = (start, middle, end)
    moving = [[h * field.clock.rate(at.log_S) * a for a in field.weighted(at.lam)] for at in moments]
    given = Given.through(*(jnp.stack(three) for three in zip(*moving, strict=True)))
    Z0, Zm, Z1 = (leading(at.Z) for at in moments)
    neurons = Neurons(Z0, Zm, Z1, field.chart, z0, z1, error, modes, feel)
    weight = at_rows(end.weight, modes.at)
    wanted = modes.wanted(X, end.force, weight)
    nothing = jnp.zeros_like(error)
    details = Details(jnp.ones_like(end.Z), no, no) if log else None
    still = jax.tree.map(jnp.zeros_like, z1)
    quiet = Settled(modes._replace(delta=wanted), still, nothing, nothing + 1, nothing, details)

    def work(columns, given, X):
        return settle(X, activation, columns, given, log)

    return on_flagged(work, met(X, activation, neurons, weight, wanted), neurons, given, X, quiet)


def on_kink(X: Float[Array, "n d"], Z: Float[Array, "n m"], size: Float[Array, " m"]) -> Bool[Array, "n m"]:
    """Pairs whose pre-activation is zero up to rounding. Rows of zeros have no kink."""
    sizes = lengths(X) * size
    return (jnp.abs(Z) <= rounding(Z.dtype) * sizes) & (sizes > 0)


def near_kink(X, neurons: Neurons, Z, within: Float[Array, " m"]) -> Bool[Array, "n m"]:
    """Pairs that came, in this step, within an error of their hyperplane: on which side they are cannot be told."""
    row = lengths(X)
    close = (jnp.abs(Z) <= row * within) | on_kink(X, Z, neurons.size)
    return close & ~neurons.modes.slide & (jnp.abs(neurons.start) > row * within)


def met(X, activation: AbstractActivation, neurons: Neurons, weight: Float[Array, "K m"], wanted: Float[Array, "K m"]):
    """(m,): to how many pairs of a neuron something happened: crossed, went over and came back, came near, or may no
    longer slide. `weight`, `wanted` (K, m): lambda and the entry of sliding rows. `settle` finds out what it was.
    """
    lower, upper = activation.slope_interval()
    row, side = lengths(X), jnp.where(neurons.modes.on, 1.0, -1.0)
    first, middle, last = side * neurons.start, side * neurons.middle, side * neurons.end
    zero = rounding(row.dtype) * neurons.size * row
    near = jnp.maximum(row * neurons.error, zero)
    pairs = (last < -zero) | ((last <= near) & (first > near)) | dips(first, middle, last)[2]
    pairs = jnp.sum(pairs & ~neurons.modes.slide, axis=0)
    # an entry of 0 is what a row without weight has: it has nothing to slide on
    ends = ~((wanted > 0) & (wanted < upper - lower)) | (weight * neurons.orientation > 0)
    return pairs + jnp.sum((neurons.modes.at < len(X)) & ends, axis=0)


def settle(X, activation: AbstractActivation, neurons: Neurons, given: Given, log: bool) -> Settled:
    """New modes of every column, its correction and what that leaves."""
    chart, z = neurons.chart, neurons.z
    traveller = Traveller(
        X, activation, chart, neurons.z0, neurons.modes, given, neurons.middle, neurons.end, neurons.error
    )
    way, base = travel(traveller)
    one = jnp.ones_like(way.tau)
    modes, weight = way.modes, traveller.weights(way.y, one)
    modes = modes._replace(delta=traveller.wanted(way, way.y, one, at_rows(weight, modes.at)))
    along = [chart.lowered(neurons.z0, y) for y in (way.y, base)]
    correction = jax.tree.map(jnp.subtract, *along)
    z1 = jax.tree.map(jnp.add, z, correction)
    Z, row = X @ chart.hidden(z1), lengths(X)
    D = slopes(activation, modes.on, Z.dtype)
    G = modes.project(chart.pulled(way.y, way.pull.at(one)))
    pull = jnp.abs(weight * chart.orientation(z1)) * row
    # margins, and so the multipliers that move every neuron, were a little off since the first event
    held = slopes(activation, neurons.modes.on, Z.dtype) * neurons.end * chart.sizes(z)
    shift = jnp.abs(D * Z * chart.sizes(z1) - held)
    common = pull * shift * 0.5 * (1 - way.first) * jnp.sqrt(neurons.feel)
    # an event that is not accounted for: a pair may be off by what it moved since, or by its distance
    whole = jnp.minimum(pull * traveller.jump * (1 - way.theta), jnp.abs(Z) / jnp.where(row > 0, row, 1.0))
    charge = jnp.sum(common + pull * traveller.jump * way.late + jnp.where(way.open, whole, 0.0), axis=0)
    # what the path missed of the step with its modes held, it misses of the correction in proportion
    size = lambda U: jnp.sqrt(inner(U, U))  # noqa: E731
    missed = size(chart.hidden(z) - chart.hidden(along[1]))
    angle = jnp.abs(chart.orientation(z1)) * size(G)
    charge += missed * jnp.minimum(1.0, size(chart.hidden(z1) - chart.hidden(z)) / jnp.where(angle > 0, angle, 1.0))
    repelled = repelling(X, chart.orientation(z1), modes, weight, traveller.jump, G) | way.turned
    repelled &= way.turned | near_kink(X, neurons, Z, neurons.error + charge)
    sided = on_sides(X, modes, chart.hidden(z1))
    modes = modes._replace(on=sided.on)
    correction = jax.tree.map(jnp.subtract, chart.with_hidden(z1, sided.U), z)
    # a neuron is put where it should have ended, and the step's error is at least what that takes
    charge = jnp.maximum(charge, sided.moved)
    details = Details(way.theta, way.turned, repelled) if log else None
    return Settled(modes, correction, charge, way.first, jnp.sum(repelled, axis=0).astype(Z.dtype), details)


def repelling(X, orientation: Float[Array, " m"], modes: Modes, lam: Float[Array, "n m"], jump: float, G):
    """(n, m): pairs whose hyperplane pushes away on both of its sides: the flow is not unique there. `G` (d, m)."""
    gap = jump * orientation * lam * lengths(X) ** 2
    off = orientation * (X @ G) - jnp.where(modes.on, gap, 0.0)
    return ~modes.slide & (off <= 0) & (off + gap > 0)
