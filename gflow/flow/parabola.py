"""The parabola through a pre-activation at both ends of a step and halfway: where it crosses or dips below zero.

Source: docs/mathematics.md, "The flow is a differential inclusion".
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.jit
def crossing(Z0: Float[Array, "n m"], Zm: Float[Array, "n m"], Z1: Float[Array, "n m"]) -> Float[Array, "n m"]:
    """Fraction of the step at which the parabola through Z0, Zm (halfway) and Z1 is zero, clipped to 0..1."""
    c = 2 * (Z0 - 2 * Zm + Z1)
    b = Z1 - Z0 - c
    # of the two roots the one where Z moves towards Z1's side, without cancellation and with one division
    root = jnp.sign(Z1) * jnp.sqrt(jnp.maximum(b**2 - 4 * c * Z0, 0.0))
    along = b * root > 0
    top, bottom = jnp.where(along, -2 * Z0, root - b), jnp.where(along, b + root, 2 * c)
    return jnp.clip(top / jnp.where(bottom == 0, 1.0, bottom), 0.0, 1.0)


@jax.jit
def dips(Z0, Zm, Z1):
    """(b, c, goes): the parabola Z0 + b x + c x^2 through Z0, Zm (x = 1/2) and Z1, and whether it is negative somewhere
    in the step although positive at both of its ends."""
    c = 2 * (Z0 - 2 * Zm + Z1)
    b = Z1 - Z0 - c
    return b, c, (Z0 > 0) & (Z1 > 0) & (c > 0) & (b < 0) & (-b < 2 * c) & (b * b > 4 * c * Z0)
