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
    """q_min >= target. By 1e2..1e4 the activation patterns have usually settled (theory, "The convex program")."""

    target: float = 1e3

    def reached(self, field: Field, state) -> Bool[Array, ""]:
        return state[1].q_min >= self.target

    @property
    def result(self) -> RESULTS:
        return RESULTS.margin_reached


class KKTTarget(AbstractStop):
    """1 - cos(theta, least-norm velocity) <= target and max_n p_n (q_n/q_min - 1) <= slackness, all margins positive.

    The first alone is also small near the start, where directions align with their own growth.
    """

    target: float = 1e-3
    slackness: float = 0.1

    def reached(self, field: Field, state) -> Bool[Array, ""]:
        _, anchor = state
        return (anchor.q_min > 0) & (anchor.residual <= self.target) & (anchor.slackness <= self.slackness)

    @property
    def result(self) -> RESULTS:
        return RESULTS.kkt_reached


class Unfitted(AbstractStop):
    """q_min <= 0 and no neuron turns or grows faster than speed * max_n |x_n| under the least-norm velocity.

    The test is free of scale. It holds for dead neurons (active nowhere) and for stuck ones (in balance between
    samples); whether the data could still be fitted with the patterns found is proved later, by `find_limit`.
    """

    speed: float = 1e-3

    def reached(self, field: Field, state) -> Bool[Array, ""]:
        _, anchor = state
        limit = self.speed * jnp.max(jnp.linalg.norm(field.problem.X, axis=1))
        return (anchor.q_min <= 0) & (anchor.speed <= limit)

    @property
    def result(self) -> RESULTS:
        return RESULTS.unfitted
