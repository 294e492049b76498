"""Time variables for the same curve: the scaled clock s, ds = S dt, and physical time t.

The clock that is not the integration variable is a quadrature, not a differential equation: t = int e^(-log S) ds grows
like e^(q_min), and as a coordinate of the state it would be far stiffer than the flow itself. It is accumulated step
by step from an interpolant of the exponent, in logarithms, so that t may be e^(10000). Source: docs/mathematics.md,
"Clocks".
"""

from __future__ import annotations

import abc
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

# Gauss-Legendre nodes on intervals that halve towards the end of the step, where e^phi is largest
_LEVELS, _ORDER = 12, 6
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(_ORDER)
_EDGES = np.concatenate([[0.0], 1 - 0.5 ** np.arange(1, _LEVELS), [1.0]])
_X = (_EDGES[:-1, None] + (_EDGES[1:] - _EDGES[:-1])[:, None] * (1 + _NODES) / 2).ravel()
_LOG_W = np.log(((_EDGES[1:] - _EDGES[:-1])[:, None] * _WEIGHTS / 2).ravel())


class Anchor(NamedTuple):
    """The last accepted step's end: `time`, the `other` clock there, the exponent `phi` and d phi/d time, q_min, the
    `speed` of the fastest neuron, the largest |q_n| (`q_size`), the KKT `residual`, the `slackness`, and how many
    repelling hyperplanes were met (`repelled`).

    Its entries are constant between steps, so that dense output returns the anchor of the step it lies in.
    """

    time: Float[Array, ""]
    other: Float[Array, ""]
    phi: Float[Array, ""]
    slope: Float[Array, ""]
    q_min: Float[Array, ""]
    speed: Float[Array, ""]
    q_size: Float[Array, ""]
    residual: Float[Array, ""]
    slackness: Float[Array, ""]
    repelled: Float[Array, ""]


class AbstractClock(eqx.Module):
    """A time variable; the other clock grows at e^phi per unit of it."""

    @abc.abstractmethod
    def rate(self, log_S: Float[Array, ""]) -> Float[Array, ""]:
        """ds / d time."""

    @abc.abstractmethod
    def phi(self, log_S: Float[Array, ""]) -> Float[Array, ""]:
        """log of d other / d time."""

    @abc.abstractmethod
    def start(self, log_S: Float[Array, ""]) -> Float[Array, ""]:
        """The other clock's coordinate at the start."""

    @abc.abstractmethod
    def add(self, other: Float[Array, ""], log_increment: Float[Array, ""]) -> Float[Array, ""]:
        """The other clock's coordinate after an increment, given as a logarithm."""

    @abc.abstractmethod
    def goal(self, until: Float[Array, ""], log_S0: Float[Array, ""]) -> Float[Array, ""]:
        """The other clock's coordinate at the horizon `until`."""

    @abc.abstractmethod
    def scaled(self, time: Float[Array, ""], other: Float[Array, ""]) -> Float[Array, ""]:
        """s, from this time variable and the other clock."""

    @abc.abstractmethod
    def read(self, time, other, log_S0) -> tuple[Array, Array]:
        """(s, log t)."""


class ScaledClock(AbstractClock):
    """ds = S dt. The other coordinate is log(t + t0), t0 = 1/S(0), so that the start is not log(0)."""

    def rate(self, log_S):
        return jnp.ones_like(log_S)

    def phi(self, log_S):
        return -log_S

    def start(self, log_S):
        return -log_S

    def add(self, other, log_increment):
        return jnp.logaddexp(other, log_increment)

    def goal(self, until, log_S0):
        return jnp.logaddexp(jnp.log(until), -log_S0)

    def scaled(self, time, other):
        return time

    def read(self, time, other, log_S0):
        elapsed = jnp.maximum(other + log_S0, 0.0)  # log((t + t0)/t0)
        return time, elapsed + jnp.log(-jnp.expm1(-elapsed)) - log_S0


class PhysicalClock(AbstractClock):
    """Physical time t; the other coordinate is s. t = 1e308 ends it, where the direction is far from its limit."""

    def rate(self, log_S):
        return jnp.exp(log_S)

    def phi(self, log_S):
        return log_S

    def start(self, log_S):
        return jnp.zeros_like(log_S)

    def add(self, other, log_increment):
        return other + jnp.exp(log_increment)

    def goal(self, until, log_S0):
        return until

    def scaled(self, time, other):
        return other

    def read(self, time, other, log_S0):
        return other, jnp.log(time)


def log_integral(h, phi0, slope0, phi1, slope1, middle=None) -> Float[Array, ""]:
    """log of the integral over a step of length h of e^phi(x).

    phi is the cubic through both ends with their slopes, or the quartic that also passes through `middle` at h/2.
    """
    x = jnp.asarray(_X, jnp.result_type(phi0))
    rise, a, b = phi1 - phi0, slope0 * h, slope1 * h
    cubic = phi0 + x * (a + x * ((3 * rise - 2 * a - b) + x * (a + b - 2 * rise)))
    if middle is not None:
        at_half = phi0 + 0.5 * (a + 0.5 * ((3 * rise - 2 * a - b) + 0.5 * (a + b - 2 * rise)))
        cubic = cubic + 16 * (middle - at_half) * (x * (1 - x)) ** 2
    return logsumexp(cubic + jnp.asarray(_LOG_W, x.dtype)) + jnp.where(
        h > 0, jnp.log(jnp.where(h > 0, h, 1.0)), -jnp.inf
    )
