"""CATALOGUE of laws of the first weights: law(key, problem, width) -> TwoLayer.

Signs of a_i are fair coins, |a_i| = |w_i| (balanced), so that the flow keeps every sign.
Initialisation i of a sweep depends on (seed, i) alone: `key_of(seed, i)`.
"""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from gflow.network import TwoLayer, column_norms
from gflow.problem import Problem


def key_of(seed, index) -> PRNGKeyArray:
    """The key of initialisation `index` of a sweep with this seed, whatever batch or device it runs in."""
    return jax.random.fold_in(jax.random.key(seed), index)


class AbstractInitializer(eqx.Module):
    """A law of first weights. `scale` is between 1e-150 and 1e100. Raises ValueError otherwise."""

    scale: eqx.AbstractVar[float]

    def __check_init__(self):
        if not 1e-150 <= self.scale <= 1e100:
            raise ValueError(f"the scale of an initialisation must be positive, 1e-150 to 1e100, got {self.scale}")

    @abc.abstractmethod
    def hidden(self, key: PRNGKeyArray, d: int, width: int) -> Float[Array, "d m"]:
        """First-layer weights before scaling, shape (d, width)."""

    def __call__(self, key: PRNGKeyArray, problem: Problem, width: int) -> TwoLayer:
        """A balanced network: w_i from the law, a_i = +-|w_i| with fair signs."""
        if width < 1:
            raise ValueError(f"the width must be at least 1, got {width}")
        key_w, key_a = jax.random.split(key)
        W1 = self.scale * self.hidden(key_w, problem.shape[1], width).astype(problem.X.dtype)
        signs = jnp.where(jax.random.bernoulli(key_a, 0.5, (width,)), 1.0, -1.0).astype(W1.dtype)
        return TwoLayer(W1, signs * column_norms(W1))


class Gaussian(AbstractInitializer):
    """w_i ~ scale * N(0, I_d), balanced."""

    scale: float = 1e-3

    def hidden(self, key: PRNGKeyArray, d: int, width: int) -> Float[Array, "d m"]:
        return jax.random.normal(key, (d, width))


class Sphere(AbstractInitializer):
    """w_i uniform on the sphere of radius scale, balanced: every neuron starts with the same mass."""

    scale: float = 1e-3

    def hidden(self, key: PRNGKeyArray, d: int, width: int) -> Float[Array, "d m"]:
        W = jax.random.normal(key, (d, width))
        return W / column_norms(W)


__all__ = ["Gaussian", "Sphere"]
