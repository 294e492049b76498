"""on_sides: neurons put where their modes say they are, on their side of every hyperplane.

Where a neuron meets a hyperplane is known up to the step's error. One that goes on from there leaves that error behind;
one that dies there, because the sample was the last on which it was active, stays where it was stopped, and the next
reader of its weights would find it active. What a mode says is exact, so the neuron is moved.
Source: docs/mathematics.md, "A step across hyperplanes".
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gflow.flow.modes import Modes, lengths, rounding, rows_at
from gflow.network import inner

INSIDE = 0.25
"""How far behind a hyperplane a neuron is put, in parts of what rounding leaves of a pre-activation."""

REMEMBERED = 8
"""Hyperplanes that a neuron was put behind and stays behind while it is put behind the next one."""

FARTHEST = 0.5
"""Of the length of a vector: what would have to be moved further has modes that no vector has."""


class Sided(NamedTuple):
    """`U` (d, m) with the lengths that they had; `on` (n, m); `moved` (m,): by how much, |U - U before|."""

    U: Float[Array, "d m"]
    on: Bool[Array, "n m"]
    moved: Float[Array, " m"]


def on_sides(X: Float[Array, "n d"], modes: Modes, U: Float[Array, "d m"]) -> Sided:
    """U turned by little so that x_n . u_i > 0 exactly for the pairs that are on, of those that do not slide.

    One hyperplane after the other, the farthest first, within those on which the neuron slides: it is put behind it by
    a move across those it was put behind before. Modes that no direction near U has, as events found in the wrong order
    leave them, follow U instead. Columns are neurons; one that is on its sides stays as it is, to the bit.
    """
    U0, (row, size) = modes.project(U), (lengths(X), jnp.sqrt(inner(U, U)))
    side = jnp.where(modes.on, 1.0, -1.0).astype(U.dtype)
    aim = INSIDE * rounding(U.dtype) * size
    unit = X / jnp.where(row > 0, row, 1.0)

    def wrong(U):
        """By how much (n, m) a pair is on the other side; 0 where it is not."""
        return jnp.where(modes.slide, 0.0, jnp.maximum(-side * (unit @ U), 0.0))

    def across(held, x):
        along = jnp.sum(held * x, axis=1, keepdims=True)
        return modes.project(x - jnp.sum(along * held, axis=0))

    def nearer(carry):
        count, U, gaps, held = carry
        farthest = jnp.argmax(gaps, axis=0)
        gap = jnp.max(gaps, axis=0)
        toward = jnp.take_along_axis(side, farthest[None], axis=0) * rows_at(unit, farthest)
        e = across(held, across(held, toward))
        length = jnp.sqrt(inner(e, e))
        e = e / jnp.where(length > 0, length, 1.0)
        reach = inner(e, toward)
        able = (gap > 0) & (reach > rounding(U.dtype))
        U = jnp.where(able, U + (gap + aim) / jnp.where(able, reach, 1.0) * e, U)
        held = held.at[count % len(held)].set(jnp.where(able, e, 0.0))
        return count + 1, U, jnp.where(able, wrong(U), 0.0), held

    held = jnp.zeros((min(*X.shape, REMEMBERED), *U.shape), U.dtype)
    most = X.shape[0] + X.shape[1]
    going = lambda carry: (carry[0] < most) & jnp.any(carry[2] > 0)  # noqa: E731
    new = jax.lax.while_loop(going, nearer, (0, U0, wrong(U0), held))[1]
    length, by = jnp.sqrt(inner(new, new)), new - U0
    # a row in the span of those on which a neuron slides is at 0 itself, up to rounding
    whole = jnp.all(wrong(new) <= rounding(U.dtype) * size, axis=0) & (inner(by, by) <= (FARTHEST * size) ** 2)
    turned = new * (size / jnp.where(length > 0, length, 1.0))
    U = jnp.where(whole & jnp.any(by != 0, axis=0), turned, U0)
    on = jnp.where(modes.slide | whole, modes.on, X @ U > 0)
    return Sided(U, on, jnp.sqrt(inner(U - U0, U - U0)))


__all__ = ["Sided", "on_sides"]
