"""The right-hand side of the flow: margins, multipliers and velocity in a chart and on a clock.

Source: arXiv 2110.06488, section 2; clock and polar chart: theory, "Clock".
"""

from __future__ import annotations

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from gflow.flow.charts import AbstractChart
from gflow.flow.clocks import AbstractClock, Anchor, log_integral
from gflow.problem import Problem

NEGLIGIBLE = 1e-30
"""Multipliers below this are zero: they move nothing, and subnormal numbers would slow a processor down tenfold."""


class Frozen(NamedTuple):
    """Activation modes held fixed, so that the field is smooth: slopes and the hyperplanes in which neurons slide.

    `D` (n, m): slope of every pair. `Q` (K, d, m): for each neuron an orthonormal basis of the rows it slides on,
    padded with zeros; its velocity is projected onto their complement.
    """

    D: Float[Array, "n m"]
    Q: Float[Array, "K d m"]

    def project(self, G: Float[Array, "d m"]) -> Float[Array, "d m"]:
        """(I - Q_i Q_i^T) G_i for every neuron."""
        return G - jnp.sum(self.Q * jnp.sum(self.Q * G, axis=1)[:, None], axis=0)


class Rates(NamedTuple):
    """What one evaluation of the field yields: pre-activations, margins, log S, multipliers, G, and dz/d time."""

    Z: Float[Array, "n m"]
    q: Float[Array, " n"]
    log_S: Float[Array, ""]
    lam: Float[Array, " n"]
    G: Float[Array, "d m"]
    dz: PyTree[Array]


class Field(eqx.Module):
    """Velocity of the state (z, carried): z in the chart, carried the other clock."""

    problem: Problem
    chart: AbstractChart
    clock: AbstractClock
    modes: Any = None
    """Modes at the start, for Filippov: found once, outside the compiled integration."""

    def preactivations(self, z: PyTree[Array]) -> Float[Array, "n m"]:
        """x_n . hidden_i, shape (n, m)."""
        return self.problem.X @ self.chart.hidden(z)

    def margins(self, z: PyTree[Array]) -> Float[Array, " n"]:
        """q (n,) at chart state z."""
        return self.problem.y * self.chart.outputs(z, self.problem.activation(self.preactivations(z)))

    def rates(self, z: PyTree[Array], frozen: Frozen | None = None) -> Rates:
        """The field at z; slopes sigma'(x_n . w_i) unless `frozen` fixes them."""
        Z = self.preactivations(z)
        D = self.problem.activation.slope(Z) if frozen is None else frozen.D
        q = self.problem.y * self.chart.outputs(z, D * Z)
        lam, log_S = self.problem.multipliers(q), self.problem.log_S(q)
        lam = jnp.where(jnp.abs(lam) < NEGLIGIBLE, 0.0, lam)
        G = self.problem.X.T @ (D * lam[:, None])
        G = G if frozen is None else frozen.project(G)
        ds = self.clock.rate(log_S)
        return Rates(Z, q, log_S, lam, G, jax.tree.map(lambda v: ds * v, self.chart.velocity(z, G)))

    def velocity(self, time, state) -> tuple[PyTree[Array], Anchor]:
        """d(z, anchor)/d time with the slopes of the activation. An anchor does not move."""
        z, anchor = state
        return self.rates(z).dz, jax.tree.map(jnp.zeros_like, anchor)

    def anchor(self, time, z: PyTree[Array], rates: Rates, D: Float[Array, "n m"], old: Anchor | None = None) -> Anchor:
        """What is carried besides z at `time`; `old` is the anchor before (None at the start).

        The other clock is still that of `old`.
        """
        phi, slope = jax.jvp(lambda x: self.exponent(x, D), (z,), (rates.dz,))
        other = self.clock.start(rates.log_S) if old is None else old.other
        speed, q_size = self.speed(z, rates.G, rates.lam), jnp.max(jnp.abs(rates.q))
        residual = self.problem.misalignment(self.chart.decode(z), rates.G)
        # finite, since dense output multiplies it by zero
        slackness = jnp.minimum(self.problem.slackness(rates.q, jnp.abs(rates.lam)), 1e30)
        repelled = jnp.zeros_like(phi) if old is None else old.repelled
        return Anchor(time, other, phi, slope, jnp.min(rates.q), speed, q_size, residual, slackness, repelled)

    def speed(self, z: PyTree[Array], G: Float[Array, "d m"], lam: Float[Array, " n"]) -> Float[Array, ""]:
        """How fast the fastest neuron turns or grows, relative to sum_n p_n |x_n|; 0 at a stationary network.

        g_i = sign(a_i) G_i: it turns at |(I - u u^T) g_i| and grows at u . g_i. One that shrinks counts by what it
        still has to lose: a neuron that slides into nothing, as happens on a ray of d = 2, does not keep a flow alive.
        """
        hidden = self.chart.hidden(z)
        size = jnp.sqrt(jnp.sum(hidden**2, axis=0))
        radial = jnp.sign(self.chart.orientation(z)) * jnp.sum(hidden * G, axis=0) / jnp.where(size > 0, size, 1.0)
        turning = jnp.sqrt(jnp.maximum(jnp.sum(G**2, axis=0) - radial**2, 0.0))
        lengths = jnp.sqrt(jnp.sum(self.problem.X**2, axis=1))
        effect = jnp.minimum(1.0, self.chart.sizes(z) * size * jnp.max(lengths))
        # samples that are fitted carry no weight: what moves neurons is the rows of the others, however short
        scale = jnp.sum(jnp.abs(lam) * lengths)
        fastest = jnp.max(jnp.maximum(turning, jnp.where(radial > 0, radial, -radial * effect)))
        return fastest / jnp.where(scale > 0, scale, 1.0)

    def exponent(self, z: PyTree[Array], D: Float[Array, "n m"]) -> Float[Array, ""]:
        """phi = log of the other clock's rate, with slopes D."""
        outputs = self.chart.outputs(z, D * self.preactivations(z))
        return self.clock.phi(self.problem.log_S(self.problem.y * outputs))

    def elapsed(self, old: Anchor, new: Anchor, middle: Float[Array, ""] | None = None):
        """The other clock at `new`, integrated from `old`, and an estimate of the quadrature's error.

        `middle`: phi halfway, which raises the order by one and gives the estimate (else it is 0).
        """
        ends = (new.time - old.time, old.phi, old.slope, new.phi, new.slope)
        other = self.clock.add(old.other, log_integral(*ends))
        if middle is None:
            return other, jnp.zeros_like(other)
        better = self.clock.add(old.other, log_integral(*ends, middle))
        return better, jnp.abs(better - other)
