"""The right-hand side of the flow: margins, multipliers and velocity in a chart and on a clock.

Source: arXiv 2110.06488, section 2; clock and polar chart: theory, "Clock".
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from gflow.flow.charts import AbstractChart
from gflow.flow.clocks import AbstractClock, Anchor, log_integral
from gflow.problem import Problem


class Frozen(NamedTuple):
    """Activation modes held fixed, so that the field is smooth: slopes and the hyperplanes in which neurons slide.

    `D` (n, m): slope of every pair. `Q` (K, d, m): for each neuron an orthonormal basis of the rows it slides on,
    padded with zeros; its velocity is projected onto their complement.
    """

    D: Float[Array, "n m"]
    Q: Float[Array, "K d m"]

    def project(self, G: Float[Array, "d m"]) -> Float[Array, "d m"]:
        """(I - Q_i Q_i^T) G_i for every neuron."""
        for basis in self.Q:
            G = G - basis * jnp.sum(basis * G, axis=0)
        return G


class Field(eqx.Module):
    """Velocity of the state (z, carried): z in the chart, carried the other clock."""

    problem: Problem
    chart: AbstractChart
    clock: AbstractClock

    def preactivations(self, z: PyTree[Array]) -> Float[Array, "n m"]:
        """x_n . hidden_i, shape (n, m)."""
        return self.problem.X @ self.chart.hidden(z)

    def margins(self, z: PyTree[Array]) -> Float[Array, " n"]:
        """q (n,) at chart state z."""
        return self.problem.y * self.chart.outputs(z, self.problem.activation(self.preactivations(z)))

    def velocity(self, time, state, frozen: Frozen | None = None) -> tuple[PyTree[Array], Anchor]:
        """d(z, anchor)/d time; slopes sigma'(x_n . w_i) unless `frozen` fixes them. An anchor does not move."""
        z, anchor = state
        Z = self.preactivations(z)
        D = self.problem.activation.slope(Z) if frozen is None else frozen.D
        q = self.problem.y * self.chart.outputs(z, D * Z)
        G = self.problem.X.T @ (D * self.problem.multipliers(q)[:, None])
        ds = self.clock.rate(self.problem.log_S(q))
        dz = self.chart.velocity(z, G if frozen is None else frozen.project(G))
        return tuple(ds * component for component in dz), jax.tree.map(jnp.zeros_like, anchor)

    def exponent(self, z: PyTree[Array]) -> Float[Array, ""]:
        """phi = log of the other clock's rate."""
        return self.clock.phi(self.problem.log_S(self.margins(z)))

    def start(self, z: PyTree[Array], frozen: Frozen | None = None) -> Anchor:
        """The anchor at the start."""
        zero = jnp.zeros_like(self.exponent(z))
        anchor = Anchor(zero, self.clock.start(self.problem.log_S(self.margins(z))), zero, zero)
        return self._anchored(zero, z, anchor, anchor.other, frozen)

    def advance(self, time, z: PyTree[Array], anchor: Anchor, frozen: Frozen | None = None, middle=None):
        """The anchor moved to `time`, where the state is z, and an estimate of the quadrature's error.

        `middle`: the chart state halfway, which raises the order by one and gives the estimate (else it is 0).
        """
        new = self._anchored(time, z, anchor, anchor.other, frozen)
        ends = (time - anchor.time, anchor.phi, anchor.slope, new.phi, new.slope)
        other = self.clock.add(anchor.other, log_integral(*ends))
        if middle is None:
            return new._replace(other=other), jnp.zeros_like(other)
        better = self.clock.add(anchor.other, log_integral(*ends, self.exponent(middle)))
        return new._replace(other=better), jnp.abs(better - other)

    def _anchored(self, time, z, anchor, other, frozen) -> Anchor:
        dz, _ = self.velocity(time, (z, anchor), frozen)
        phi, slope = jax.jvp(self.exponent, (z,), (dz,))
        return Anchor(time, other, phi, slope)
