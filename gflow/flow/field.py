"""The right-hand side of the flow: margins, multipliers and velocity in a chart and on a clock.

Source: arXiv 2110.06488, section 2; clock and polar chart: theory, "Clock".
"""

from __future__ import annotations

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from gflow.flow.charts import AbstractChart
from gflow.problem import Problem


class AbstractClock(eqx.Module):
    """A time variable for the same curve, carrying the other clock along as one more coordinate."""

    @abc.abstractmethod
    def start(self, log_S: Float[Array, ""]) -> Float[Array, ""]:
        """Initial value of the carried coordinate, from log S at the start."""

    @abc.abstractmethod
    def rates(self, log_S: Float[Array, ""], carried: Float[Array, ""]) -> tuple[Array, Array]:
        """(ds / d time, d carried / d time)."""

    @abc.abstractmethod
    def read(self, time, carried, log_S0) -> tuple[Array, Array]:
        """(s, log t) from the time variable, the carried coordinate and log S at the start."""


class ScaledClock(AbstractClock):
    """ds = S dt. Carries log(t + t0), t0 = 1/S(0), so that t may be e^(10000) and the start is not log(0)."""

    def start(self, log_S):
        return -log_S

    def rates(self, log_S, carried):
        return jnp.ones_like(log_S), jnp.exp(-log_S - carried)

    def read(self, time, carried, log_S0):
        elapsed = jnp.maximum(carried + log_S0, 0.0)  # log((t + t0)/t0)
        # log(t/t0) = log(expm1(elapsed)), without overflow
        log_ratio = elapsed + jnp.log(-jnp.expm1(-elapsed))
        return time, log_ratio - log_S0


class PhysicalClock(AbstractClock):
    """Physical time t, carrying s. Overflows at t = 1e308, where the direction is still far from its limit."""

    def start(self, log_S):
        return jnp.zeros_like(log_S)

    def rates(self, log_S, carried):
        S = jnp.exp(log_S)
        return S, S

    def read(self, time, carried, log_S0):
        return carried, jnp.log(time)


class Field(eqx.Module):
    """Velocity of the state (z, carried): z in the chart, carried the other clock."""

    problem: Problem
    chart: AbstractChart
    clock: AbstractClock

    def margins(self, z: PyTree[Array]) -> Float[Array, " n"]:
        """q (n,) at chart state z."""
        return self.problem.y * self.chart.outputs(z, self.problem.X, self.problem.activation)

    def velocity(self, time, state, D: Float[Array, "n m"] | None = None) -> PyTree[Array]:
        """d(z, carried)/d time. `D` (n, m): slopes to use; by default sigma'(x_n . w_i), the lower one at kinks."""
        z, carried = state
        q = self.margins(z)
        if D is None:
            D = self.problem.activation.slope(self.problem.X @ self.chart.hidden(z))
        G = self.problem.X.T @ (D * self.problem.multipliers(q)[:, None])
        ds, dcarried = self.clock.rates(self.problem.log_S(q), carried)
        dz = self.chart.velocity(z, G)
        return tuple(ds * component for component in dz), dcarried
