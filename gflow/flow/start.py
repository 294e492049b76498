"""Modes at a state that no step has led to: the start of a flow, and states between steps.

Source: docs/mathematics.md, "Crossing and sliding"; arXiv 2110.06488, section 2.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from gflow.box import orthonormal
from gflow.flow.crossings import on_kink, repelling
from gflow.flow.departure import at_rest
from gflow.flow.field import Field
from gflow.flow.modes import Modes, at_rows, first_rows, lengths, rounding, rows_at, slopes
from gflow.inclusion import box_entries
from gflow.lines import columns
from gflow.network import inner


def initial_modes(field: Field, z: PyTree[Array]) -> Modes:
    """Modes at a state: the sign of the pre-activation; the least-norm choice for pairs exactly on a kink."""
    X = field.hyperplanes
    Z = X @ field.chart.hidden(z)
    lam, drift = field.weighted(field.chart.pull(z, field.problem.multipliers(field.margins(z))))
    kink = _on_kink(field, z, Z)
    hostile = jnp.sign(field.chart.orientation(z)) * columns(lam) < 0
    lower, upper = field.problem.activation.slope_interval()
    jump = upper - lower
    on = (Z > 0) & ~kink
    delta = box_entries(X, lam, slopes(field.problem.activation, on, X.dtype), kink, field.problem.activation, drift)
    # a friendly pair cannot rest on its kink. An entry at its upper end means that the velocity across a friendly
    # kink points off, across a hostile one on
    slide = kink & hostile & (delta > 0) & (delta < jump)
    # more sliding rows than independent hyperplanes: the first ones do
    slide = slide & (jnp.cumsum(slide, axis=0) <= field.room)
    # nor does it leave a side on which nothing moves it
    G = columns(drift) + X.T @ ((slopes(field.problem.activation, on, X.dtype) + delta) * columns(lam))
    away = jnp.abs(X @ G) > rounding(X.dtype) * lengths(X) * jnp.sum(jnp.abs(columns(lam)) * lengths(X), axis=0)
    side = jnp.where(hostile, delta >= 0.5 * jump, (delta < 0.5 * jump) & (away | (delta > 0)))
    return _modes(field, z, on | (kink & ~slide & side), slide, delta)


def resting_modes(field: Field, z: PyTree[Array]) -> Modes:
    """Modes at a state that the flow has reached: hostile pairs on their kink slide there. No box problem is solved."""
    Z, weight = field.hyperplanes @ field.chart.hidden(z), field.problem.y
    if field.problem.lines is not None or not field.problem.of_margins or field.problem.outputs is not None:
        weight, _ = field.weighted(field.chart.pull(z, field.problem.multipliers(field.margins(z))))
    hostile = jnp.sign(field.chart.orientation(z)) * columns(weight) < 0
    slide = _on_kink(field, z, Z) & hostile
    return _modes(field, z, (Z > 0) & ~slide, slide, jnp.zeros_like(Z))


def repelling_start(field: Field, z: PyTree[Array], modes: Modes) -> Float[Array, ""]:
    """How many pairs start on a hyperplane that pushes away on both of its sides, and neurons on several hyperplanes,
    or at w = 0, of which one is friendly: whether the flow is unique there is not looked into. a_i = 0 has the sign
    that it is about to get."""
    rates, hidden, orientation = field.rates(z, modes), field.chart.hidden(z), field.chart.orientation(z)
    orientation = jnp.where(orientation == 0, inner(hidden, rates.G), orientation)
    lower, upper = field.problem.activation.slope_interval()
    X = field.hyperplanes
    pushes = repelling(X, orientation, modes, columns(rates.weight), upper - lower, rates.G)
    kink = _on_kink(field, z, X @ hidden) | (_at_tip(field, hidden) & (lengths(X) > 0))
    friendly = jnp.any(kink & (orientation * columns(rates.weight) > 0), axis=0)
    alone = jnp.sum(kink, axis=0) == 1
    return jnp.sum(pushes & kink & alone) + jnp.sum(friendly & ~alone)


def _at_tip(field: Field, hidden: Float[Array, "d m"]) -> Bool[Array, " m"]:
    return (inner(hidden, hidden) == 0) & field.chart.may_vanish()


def _modes(field: Field, z, on: Bool[Array, "n m"], slide: Bool[Array, "n m"], delta: Float[Array, "n m"]) -> Modes:
    X = field.hyperplanes
    at = first_rows(slide, field.room)
    modes = Modes(on, slide, at, at_rows(delta, at), orthonormal(rows_at(X, at), 2))
    if not field.tips:
        return modes
    tip = _at_tip(field, field.chart.hidden(z))
    return jax.tree.map(lambda a, b: jnp.where(tip, a, b), at_rest(X, tip.shape[0]), modes)


def _on_kink(field: Field, z: PyTree[Array], Z: Float[Array, "n m"]) -> Bool[Array, "n m"]:
    hidden = field.chart.hidden(z)
    return on_kink(field.hyperplanes, Z, jnp.sqrt(inner(hidden, hidden)))
