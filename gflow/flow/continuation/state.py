"""Where a flow stands whose margins are infinite: unit directions, logarithms of masses, and the weights of samples.

At q_min = infinity only the direction of theta is left, and what moves it are weights p on the samples whose margins
are tied: dtheta/ds = sum_n p_n dq_n/dtheta. A balanced neuron is its sign s, its unit direction u and the logarithm of
its mass |a||w|; masses are counted in parts of q_min, so that q_min = 1 after every step, and log_q adds up by how much
it has grown. Source: docs/mathematics.md, "The limit at infinity"; arXiv 2110.06488, section 2.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gflow._types import Module
from gflow.flow.modes import Modes, most_sliding, slopes
from gflow.lines import Lines
from gflow.problem import Problem

NEGLIGIBLE = 1e-14
"""A force of this share of sum_n p_n |x_n| is rounding: the neuron stays where it is."""


TINY = 1e-9
"""Neurons below this share of the largest mass are no part of the limit."""


class Neurons(NamedTuple):
    """The moving part of a state: `u` (d, m) unit directions, `log_mass` (m,), -inf for neurons that are not there, and
    the `modes` of the pairs (n, m)."""

    u: Float[Array, "d m"]
    log_mass: Float[Array, " m"]
    modes: Modes


class Place(NamedTuple):
    """One flow: `sign` (m,) of the second layer, its `neurons`, weights `p` (n,) in the simplex, `log_q`, the growth of
    log q_min since the continuation began, `final`, the log_q since which the neurons of the limit have had the same
    patterns, and `length`, the length of the next step on the clock s, where q_min = 1.

    `steps`, `rejected`: attempted steps and those of them that were not accepted; `events`: how often a pair has
    crossed or met its hyperplane or left it.
    """

    sign: Float[Array, " m"]
    neurons: Neurons
    p: Float[Array, " n"]
    log_q: Float[Array, ""]
    final: Float[Array, ""]
    length: Float[Array, ""]
    steps: Int[Array, ""]
    rejected: Int[Array, ""]
    events: Int[Array, ""]

    @property
    def masses(self) -> Float[Array, " m"]:
        """|a_i||w_i| in parts of q_min."""
        return jnp.exp(self.neurons.log_mass)

    @property
    def large(self) -> Bool[Array, " m"]:
        """The neurons of the limit: those above the share TINY of the largest mass."""
        return self.neurons.log_mass - jnp.max(self.neurons.log_mass) > math.log(TINY)

    @property
    def objective(self) -> Float[Array, ""]:
        """P(theta) = sum_i |a_i||w_i| / q_min."""
        return jnp.sum(self.masses)


class Data(Module):
    """What neurons feel: the samples `X` (n, d), labels `y` (n,), the slopes `lower` and 1, and samples on one line."""

    problem: Problem

    @property
    def X(self) -> Float[Array, "n d"]:
        return self.problem.X

    @property
    def y(self) -> Float[Array, " n"]:
        return self.problem.y

    @property
    def lines(self) -> Lines | None:
        return self.problem.lines

    @property
    def hyperplanes(self) -> Float[Array, "n d"]:
        """The rows that have a hyperplane of their own; zeros for those that share an earlier one."""
        return self.X if self.lines is None else self.lines.rows(self.X)

    @property
    def lengths(self) -> Float[Array, "n 1"]:
        """|x_n|."""
        return jnp.sqrt(jnp.sum(self.X**2, axis=1))[:, None]

    @property
    def room(self) -> int:
        """On how many hyperplanes a neuron can slide."""
        return most_sliding(*self.X.shape)

    def slopes(self, on: Bool[Array, "n m"]) -> Float[Array, "n m"]:
        """Of all samples, from the sides of the hyperplanes."""
        on = on if self.lines is None else self.lines.everywhere(on)
        return slopes(self.problem.activation, on, self.X.dtype)

    def weighted(self, p: Float[Array, "n *m"]) -> tuple[Float[Array, "n *m"], Float[Array, "d *m"]]:
        """lambda (n,) of the hyperplanes, and the part (d,) of the force that their sides do not enter; or a column of
        each for every column of p."""
        lam = p * (self.y if p.ndim == 1 else self.y[:, None])
        if self.lines is None:
            return lam, jnp.zeros((self.X.shape[1], *p.shape[1:]), self.X.dtype)
        return self.lines.weight(lam), self.lines.drift(self.X, lam, self.problem.activation)

    def force(self, sign: Float[Array, " m"], modes: Modes, p: Float[Array, " n"]) -> Float[Array, "d m"]:
        """s_i X^T D_i lambda (d, m), along the hyperplanes on which neuron i slides; 0 where only rounding is left."""
        weight, drift = self.weighted(p)
        D = slopes(self.problem.activation, modes.on, self.X.dtype)
        G = modes.project(drift[:, None] + self.X.T @ (D * weight[:, None]))
        felt = jnp.sum(G**2, axis=0) > (NEGLIGIBLE * (p @ self.lengths[:, 0])) ** 2
        return sign * jnp.where(felt, G, 0.0)

    def margins(self, sign: Float[Array, " m"], neurons: Neurons, log_scale) -> Float[Array, "n"]:
        """q (n,) divided by e^log_scale, with modes held."""
        mass = sign * jnp.exp(neurons.log_mass - log_scale)
        return self.y * ((self.slopes(neurons.modes.on) * (self.X @ neurons.u)) @ mass)


__all__ = ["Data", "Neurons", "Place"]
