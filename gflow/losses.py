"""CATALOGUE of losses l(q): value, slope, curvature and conjugate; q = y f(x) is a margin, or q = f(x) - y a residual.

Everything that exponentiates a margin is returned as a logarithm, so that margins of 1e10 stay finite.
Source: arXiv 2110.06488, section 2; Lyu & Li, arXiv 1906.05890.
"""

from __future__ import annotations

import abc

import jax
import jax.numpy as jnp
from jax.scipy.special import entr
from jaxtyping import Array, Float

from gflow._types import Module


class AbstractLoss(Module):
    """l(q) for one sample, convex; the training loss is L = sum_n l(q_n)."""

    @abc.abstractmethod
    def value(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        """l(q)."""

    @abc.abstractmethod
    def slope(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        """l'(q)."""

    @abc.abstractmethod
    def curvature(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        """l''(q)."""

    def moved(self, q: Float[Array, "..."], dq: Float[Array, "..."]) -> Float[Array, "..."]:
        """q after a Newton step `dq`: of q + dq and the q at which -l'(q) has changed by -l''(q) dq, the nearer one.

        Far out on a tail -l' is tiny, and what Newton's method says about q there is worth nothing.
        """
        return q + dq

    @abc.abstractmethod
    def conjugate(self, alpha: Float[Array, "..."]) -> Float[Array, "..."]:
        """l*(-alpha) = sup_q -alpha q - l(q), the cost of a multiplier alpha = -l'(q); infinite where no q has it."""


class AbstractMarginLoss(AbstractLoss):
    """A decreasing loss of the margin q = y f(x), labels -1 or +1."""

    @abc.abstractmethod
    def log_weight(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        """log(-l'(q))."""

    def slope(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        """l'(q) = -exp(log_weight(q))."""
        return -jnp.exp(self.log_weight(q))


class Logistic(AbstractMarginLoss):
    """l(q) = log(1 + e^-q)."""

    def value(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        return jax.nn.softplus(-q)

    def log_weight(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        return -jax.nn.softplus(q)

    def curvature(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.exp(-jax.nn.softplus(q) - jax.nn.softplus(-q))

    def moved(self, q: Float[Array, "..."], dq: Float[Array, "..."]) -> Float[Array, "..."]:
        # l' is odd about q = 0 up to a constant; towards 0 the multiplier of |q| grows, and decides
        side = jnp.where(q >= 0, 1.0, -1.0)
        far, back = side * q, jnp.maximum(-side * dq, 0.0)
        log = -jax.nn.softplus(far) + jnp.log1p(jax.nn.sigmoid(far) * back)
        tame = jnp.where(log < 0, jnp.log1p(-jnp.exp(jnp.minimum(log, -1e-16))) - log, -jnp.inf)
        return jnp.where(back > 0, side * jnp.maximum(far - back, tame), q + dq)

    def conjugate(self, alpha: Float[Array, "..."]) -> Float[Array, "..."]:
        inside = (alpha >= 0) & (alpha <= 1)
        # 1 - alpha has no digits of a small alpha: a dual value could exceed the optimum by that
        rest = jnp.where(inside & (alpha < 1), alpha, 0.0)
        return jnp.where(inside, -entr(alpha) + (1 - rest) * jnp.log1p(-rest), jnp.inf)


class Exponential(AbstractMarginLoss):
    """l(q) = e^-q."""

    def value(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.exp(-q)

    def log_weight(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        return -q

    def curvature(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.exp(-q)

    def moved(self, q: Float[Array, "..."], dq: Float[Array, "..."]) -> Float[Array, "..."]:
        return q + jnp.where(dq < 0, -jnp.log1p(-jnp.minimum(dq, 0.0)), dq)

    def conjugate(self, alpha: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.where(alpha >= 0, -entr(alpha) - alpha, jnp.inf)


class Linear(AbstractMarginLoss):
    """l(q) = -q: the frozen-multiplier early phase, where every sample weighs the same.

    Source: docs/mathematics.md, "Rectified ellipsoid and extreme points".
    """

    def value(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        return -q

    def log_weight(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.zeros_like(q)

    def curvature(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.zeros_like(q)

    def conjugate(self, alpha: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.where(alpha == 1, 0.0, jnp.inf)


class Squared(AbstractLoss):
    """l(q) = q^2 / 2 of the residual q = f(x) - y, for real labels y.

    Source: docs/mathematics.md, "Limits that are points".
    """

    def value(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        return 0.5 * q**2

    def slope(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        return q

    def curvature(self, q: Float[Array, "..."]) -> Float[Array, "..."]:
        return jnp.ones_like(q)

    def conjugate(self, alpha: Float[Array, "..."]) -> Float[Array, "..."]:
        return 0.5 * alpha**2


TRAINED = {"logistic": Logistic, "exponential": Exponential, "squared": Squared}
"""Those that have a minimum or an infimum of 0, by the name that commands and stores give them."""

__all__ = ["Exponential", "Linear", "Logistic", "Squared"]
