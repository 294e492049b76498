"""The boost that a neuron makes while what pulls at it is given: d(w, a) = (a G, w . G).

It conserves c = a^2 - |w|^2. Source: docs/mathematics.md, "Crossing and sliding"; arXiv 2110.06488, section 2.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gflow.network import inner


@jax.jit
def boosted(w: Float[Array, "d m"], a: Float[Array, " m"], G: Float[Array, "d m"], c):
    """(w, a) moved by d(w, a) = (a G, w . G) for the time 1; c = a^2 - |w|^2 of each neuron.

    With r = |G|, e = G/r: a + w . e grows by e^r and a - w . e shrinks by it. Whichever is small has cancelled digits:
    it is found from (a + w . e) (a - w . e) = c + |w - (w . e) e|^2.
    """
    r = jnp.sqrt(jnp.maximum(inner(G, G), jnp.finfo(G.dtype).tiny))
    e = G / r
    r = jnp.minimum(r, 0.4 * math.log(float(jnp.finfo(G.dtype).max)))
    along = inner(w, e)
    across = w - along * e
    product = c + inner(across, across)
    up, down = a + along, a - along
    same = a * along
    up = jnp.where((same < 0) & (down != 0), product / jnp.where(down == 0, 1.0, down), up)
    down = jnp.where((same > 0) & (up != 0), product / jnp.where(up == 0, 1.0, up), down)
    up, down = up * jnp.exp(r), down * jnp.exp(-r)
    return across + 0.5 * (up - down) * e, 0.5 * (up + down)


def log_size(a: Float[Array, " m"]) -> Float[Array, " m"]:
    """log |a|, 0 where that is 0."""
    return jnp.log(jnp.where(a == 0, 1.0, jnp.abs(a)))
