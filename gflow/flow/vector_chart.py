"""VectorPolar: the balanced polar chart of a network with K outputs.

w_i = e^{r_i} u_i, a_i = e^{r_i} v_i with v_i on the unit sphere of R^K, g_i = X^T D_i Lambda v_i:

    du/ds = (I - u u^T) g,   dr/ds = u . g,   dv/ds = (I - v v^T) Lambda^T (X u)_+.

Every neuron has multipliers of its own, Lambda v_i: which of its kinks are hostile may change as v_i turns.
Source: docs/mathematics.md, "Charts" and "Vector output"; arXiv 2110.06488, section 2.
"""

# a chart of another kind of network
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import ClassVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from gflow._types import positive
from gflow.flow.boost import log_size
from gflow.flow.charts import AbstractChart, unit
from gflow.network import VectorTwoLayer, column_norms, inner

TERMS = 16
"""Of the series by which a neuron is carried."""


class VectorPolar(AbstractChart):
    """z = (u, r, v), shapes (d, m), (m,), (K, m). Balance holds by construction; a neuron at zero stays there."""

    through_zero: ClassVar[bool] = False

    alive: Bool[Array, " m"]

    @classmethod
    def encode(cls, network: VectorTwoLayer) -> tuple[VectorPolar, PyTree[Array]]:
        """The chart and z. Raises ValueError unless |a_i| = |w_i| for every neuron, which is not seen inside jit."""
        a, w = network.output_norms(), column_norms(network.W1)
        if not isinstance(a, jax.core.Tracer):
            gap = np.abs(np.asarray(a) - np.asarray(w))
            if np.any(gap > 16 * np.finfo(gap.dtype).eps * np.maximum(a, w)):
                raise ValueError("flows with vector output start balanced: scale the rows of W2 to |a_i| = |w_i|")
        alive = positive(w)
        r = jnp.where(alive, jnp.log(jnp.where(alive, w, 1.0)), 0.0)
        return cls(alive), (network.directions(), r, network.output_directions())

    def decode(self, z: PyTree[Array]) -> VectorTwoLayer:
        u, r, v = z
        size = jnp.where(self.alive, jnp.exp(r), 0.0)
        return VectorTwoLayer(size * unit(u), (size * unit(v)).T)

    def hidden(self, z: PyTree[Array]) -> Float[Array, "d m"]:
        return unit(z[0])

    def with_hidden(self, z: PyTree[Array], U: Float[Array, "d m"]) -> PyTree[Array]:
        return unit(U), z[1], z[2]

    def orientation(self, z: PyTree[Array]) -> Float[Array, " m"]:
        return jnp.where(self.alive, 1.0, 0.0).astype(z[1].dtype)

    def pull(self, z: PyTree[Array], lam: Float[Array, "n K"]) -> Float[Array, "n m"]:
        return lam @ unit(z[2])

    def outputs(self, z: PyTree[Array], activated: Float[Array, "n m"]) -> Float[Array, "n K"]:
        return activated @ (self.sizes(z) * unit(z[2])).T

    def sizes(self, z: PyTree[Array]) -> Float[Array, " m"]:
        return jnp.where(self.alive, jnp.exp(2 * z[1]), 0.0)

    def measured(self, state):
        (u, r, v), anchor = state
        return (u, jnp.zeros_like(r), v), anchor

    def shrinking(self, z: PyTree[Array]) -> PyTree[Array]:
        raise ValueError("vector output has no weight decay")

    def velocity(self, z: PyTree[Array], G: Float[Array, "d m"]) -> PyTree[Array]:
        u, g = unit(z[0]), jnp.where(self.alive, G, 0.0)
        radial = inner(u, g)
        return g - radial * u, radial, jnp.zeros_like(z[2])

    def output_velocity(self, z: PyTree[Array], lam: Float[Array, "n K"], activated: Float[Array, "n m"]):
        v, h = unit(z[2]), jnp.where(self.alive, lam.T @ activated, 0.0)
        return h - inner(v, h) * v

    def lift(self, z: PyTree[Array]) -> PyTree[Array]:
        return unit(z[0]), jnp.where(self.alive, unit(z[2]), 0.0)

    def lowered(self, z: PyTree[Array], y: PyTree[Array]) -> PyTree[Array]:
        w, v = y
        return unit(w), z[1] + log_size(jnp.sqrt(inner(w, w))), unit(v)

    def carried(self, y: PyTree[Array], G: Float[Array, "d K m"]) -> PyTree[Array]:
        """By the Taylor series of d(w, v) = (G v, G^T w): good to TERMS |G|."""
        total = term = y
        for k in range(1, TERMS):
            w, v = term
            term = jnp.sum(G * v[None], axis=1) / k, jnp.sum(G * w[:, None], axis=0) / k
            total = jax.tree.map(jnp.add, total, term)
        return total

    def pulled(self, y: PyTree[Array], lam: Float[Array, "n K m"]) -> Float[Array, "n m"]:
        return jnp.sum(lam * unit(y[1])[None], axis=1)

    def turned(self, dz: PyTree[Array], turning: Float[Array, "K m"]) -> PyTree[Array]:
        return dz[0], dz[1], dz[2] + turning
