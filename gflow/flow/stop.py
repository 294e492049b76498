"""When to stop a flow: each criterion is a condition on the state and the RESULTS that it stands for."""

from __future__ import annotations

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool

from gflow._types import RESULTS
from gflow.flow.field import Field


class AbstractStop(eqx.Module):
    """A condition that is looked at after every step."""

    @abc.abstractmethod
    def reached(self, field: Field, state) -> Bool[Array, ""]:
        """Whether to stop at this state."""

    @property
    @abc.abstractmethod
    def result(self) -> RESULTS:
        """What to report if it did."""


class MarginTarget(AbstractStop):
    """q_min >= target. By 1e2..1e4 the activation patterns have usually settled (docs/mathematics.md, "The exact
    limit of a flow")."""

    target: float = 1e3

    def reached(self, field: Field, state) -> Bool[Array, ""]:
        return state[1].q_min >= self.target

    @property
    def result(self) -> RESULTS:
        return RESULTS.margin_reached


class KKTTarget(AbstractStop):
    """1 - cos(theta, least-norm velocity) <= target, max_n p_n (q_n/q_min - 1) <= slackness and n l(q_min) < l(0).

    The first alone is also small near the start, where directions align with their own growth, and so is the second
    where margins grow alike; the third implies L < l(0), the phase in which the direction converges.
    """

    target: float = 1e-5
    slackness: float = 0.01

    def reached(self, field: Field, state) -> Bool[Array, ""]:
        _, anchor = state
        value, q_min = field.problem.loss.value, anchor.q_min
        separated = (q_min > 0) & (field.problem.y.size * value(q_min) < value(jnp.zeros_like(q_min)))
        return separated & (anchor.residual <= self.target) & (anchor.slackness <= self.slackness)

    @property
    def result(self) -> RESULTS:
        return RESULTS.kkt_reached


class Unfitted(AbstractStop):
    """q_min <= 0 and all neurons have come to rest: under the least-norm velocity none turns or grows faster than
    `speed` * sum_n p_n |x_n| while some |q_n| >= `size`, or than `rest` * sum_n p_n |x_n| whatever the margins.

    A speed v means that no weights with the present patterns have P(theta) < 1/v: sum_n p_n q_n <= v sum_i |a_i||w_i|.
    A small network that moves slowly is not at rest: it grows exponentially (two samples that nearly cancel). Whether
    the data could be fitted at all with the patterns found is proved later, by `find_limit`.
    """

    speed: float = 1e-3
    size: float = 0.1
    rest: float = 1e-10

    def reached(self, field: Field, state) -> Bool[Array, ""]:
        _, anchor = state
        return (anchor.q_min <= 0) & (anchor.speed <= jnp.where(anchor.q_size >= self.size, self.speed, self.rest))

    @property
    def result(self) -> RESULTS:
        return RESULTS.unfitted


class Stationary(AbstractStop):
    """A point is reached: `Problem.speed` is at most this. For losses without margins and for weight decay; a direction
    never gets there."""

    speed: float = 1e-9

    def reached(self, field: Field, state) -> Bool[Array, ""]:
        return state[1].speed <= self.speed

    @property
    def result(self) -> RESULTS:
        return RESULTS.stationary
