"""CATALOGUE of losses l(q) of a margin q = y f(x): value, slope, logarithms of both, in log-sum-exp form.

Everything that exponentiates a margin is returned as a logarithm, so that margins of 1e10 stay finite.
Source: arXiv 2110.06488, section 2; Lyu & Li, arXiv 1906.05890.
"""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class AbstractLoss(eqx.Module):
    """l(q) for one sample; the training loss is L = sum_n l(q_n)."""

    @abc.abstractmethod
    def value(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        """l(q)."""

    @abc.abstractmethod
    def log_weight(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        """log(-l'(q))."""

    def slope(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        """l'(q) = -exp(log_weight(q))."""
        return -jnp.exp(self.log_weight(q))


class Logistic(AbstractLoss):
    """l(q) = log(1 + e^-q)."""

    def value(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        return jax.nn.softplus(-q)

    def log_weight(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        return -jax.nn.softplus(q)


class Exponential(AbstractLoss):
    """l(q) = e^-q."""

    def value(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.exp(-q)

    def log_weight(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        return -q


class Linear(AbstractLoss):
    """l(q) = -q: the frozen-multiplier early phase, where every sample weighs the same (theory, "Geometry")."""

    def value(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        return -q

    def log_weight(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.zeros_like(q)


__all__ = ["Exponential", "Linear", "Logistic"]
