"""CATALOGUE of laws of the first weights: law(key, problem, width) -> TwoLayer.

Signs of a_i are fair coins. Most laws are balanced, |a_i| = |w_i|, so that the flow keeps every sign.
Initialisation i of a sweep depends on (seed, i) alone: `key_of(seed, i)`.
"""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from gflow.network import TwoLayer, VectorTwoLayer, column_norms
from gflow.parts import require_part
from gflow.problem import Problem


def key_of(seed, index) -> PRNGKeyArray:
    """The key of initialisation `index` of a sweep with this seed, whatever batch or device it runs in."""
    return jax.random.fold_in(jax.random.key(seed), index)


class AbstractInitializer(eqx.Module):
    """A law of first weights. `scale` is between 1e-150 and 1e100. Raises ValueError otherwise."""

    scale: eqx.AbstractVar[float]

    balanced: ClassVar[bool] = True
    """Whether |a_i| = |w_i| for every neuron."""

    def __check_init__(self):
        if not 1e-150 <= self.scale <= 1e100:
            raise ValueError(f"the scale of an initialisation must be positive, 1e-150 to 1e100, got {self.scale}")

    def hidden(self, key: PRNGKeyArray, d: int, width: int) -> Float[Array, "d m"]:
        """First-layer weights before scaling, shape (d, width): N(0, I_d) unless a law says otherwise."""
        return jax.random.normal(key, (d, width))

    def network(self, key: PRNGKeyArray, W1: Float[Array, "d m"], signs: Float[Array, " m"]) -> TwoLayer:
        """The network of scaled first weights and signs of a: balanced unless a law says otherwise."""
        return TwoLayer(W1, signs * column_norms(W1))

    def __call__(self, key: PRNGKeyArray, problem: Problem, width: int) -> TwoLayer | VectorTwoLayer:
        """A network of this width; with K outputs the directions of the a_i are uniform on the sphere of R^K.

        Raises ValueError for a width that the law has no network of, and for K outputs if it is not balanced.
        """
        require_part("problem", problem, Problem)
        if isinstance(key, int):
            raise ValueError(f"key takes a key of JAX: write gflow.key_of(seed, index), for instance ({key}, 0)")
        if width < 1:
            raise ValueError(f"the width must be at least 1, got {width}")
        key_w, key_a = jax.random.split(key)
        W1 = self.scale * self.hidden(key_w, problem.shape[1], width).astype(problem.X.dtype)
        if problem.outputs is not None:
            if not self.balanced:
                raise ValueError(f"{type(self).__name__} is no law for vector output, which starts balanced")
            V = jax.random.normal(key_a, (problem.outputs, width), W1.dtype)
            return VectorTwoLayer(W1, (V * (column_norms(W1) / column_norms(V))).T)
        signs = jnp.where(jax.random.bernoulli(key_a, 0.5, (width,)), 1.0, -1.0).astype(W1.dtype)
        return self.network(key_a, W1, signs)


class Gaussian(AbstractInitializer):
    """w_i ~ scale * N(0, I_d), balanced."""

    scale: float = 1e-3


class Sphere(AbstractInitializer):
    """w_i uniform on the sphere of radius scale, balanced: every neuron starts with the same mass."""

    scale: float = 1e-3

    def hidden(self, key: PRNGKeyArray, d: int, width: int) -> Float[Array, "d m"]:
        W = jax.random.normal(key, (d, width))
        return W / column_norms(W)


class Symmetric(AbstractInitializer):
    """Pairs (w_i, a_i) and (w_i, -a_i), w_i ~ scale * N(0, I_d), balanced: f = 0 at the start. The width is even."""

    scale: float = 1e-3

    def __call__(self, key: PRNGKeyArray, problem: Problem, width: int) -> TwoLayer | VectorTwoLayer:
        if width < 2 or width % 2:
            raise ValueError(f"symmetric pairs need an even width, got {width}")
        half = super().__call__(key, problem, width // 2)
        if isinstance(half, VectorTwoLayer):
            return VectorTwoLayer(jnp.concatenate([half.W1, half.W1], axis=1), jnp.concatenate([half.W2, -half.W2]))
        return TwoLayer(jnp.concatenate([half.W1, half.W1], axis=1), jnp.concatenate([half.w2, -half.w2]))


class Dominated(AbstractInitializer):
    """w_i ~ scale * N(0, I_d), |a_i| = ratio |w_i|, ratio >= 1: the second layer dominates, and no sign ever flips."""

    scale: float = 1e-3
    ratio: float = 2.0

    balanced: ClassVar[bool] = False

    def __check_init__(self):
        if not 1 <= self.ratio <= 1e100:
            raise ValueError(f"the ratio |a|/|w| of a dominated network is at least 1, got {self.ratio}")

    def network(self, key: PRNGKeyArray, W1: Float[Array, "d m"], signs: Float[Array, " m"]) -> TwoLayer:
        return TwoLayer(W1, signs * self.ratio * column_norms(W1))


class Unbalanced(AbstractInitializer):
    """a_i^2 - |w_i|^2 = c scale^2 for every neuron: of a_i and w_i ~ scale * N(0, I_d) the one that may be smaller is
    drawn, |w_i| for c >= 0, |a_i| for c < 0, and the other follows."""

    scale: float = 1e-3
    c: float = 1.0

    balanced: ClassVar[bool] = False

    def __check_init__(self):
        if not abs(self.c) <= 1e100:
            raise ValueError(f"c = (a^2 - |w|^2) / scale^2 must be finite, got {self.c}")

    def network(self, key: PRNGKeyArray, W1: Float[Array, "d m"], signs: Float[Array, " m"]) -> TwoLayer:
        c, size = self.c * self.scale**2, column_norms(W1)
        drawn = self.scale * jnp.abs(jax.random.normal(jax.random.fold_in(key, 1), signs.shape, W1.dtype))
        a = jnp.where(c >= 0, jnp.sqrt(size**2 + jnp.maximum(c, 0.0)), drawn)
        w = jnp.where(c >= 0, size, jnp.sqrt(drawn**2 - jnp.minimum(c, 0.0)))
        return TwoLayer(W1 * (w / jnp.where(size > 0, size, 1.0)), signs * a)


class Independent(AbstractInitializer):
    """w_i ~ scale * N(0, I_d) and a_i ~ output * N(0, 1), independent, as most code draws them; `output` is the scale
    of the second layer, that of the first if it is None."""

    scale: float = 1e-3
    output: float | None = None

    balanced: ClassVar[bool] = False

    def __check_init__(self):
        if self.output is not None and not 0 <= self.output <= 1e100:
            raise ValueError(f"the scale of the output weights must be at least 0 and finite, got {self.output}")

    def network(self, key: PRNGKeyArray, W1: Float[Array, "d m"], signs: Float[Array, " m"]) -> TwoLayer:
        size = self.scale if self.output is None else self.output
        drawn = jnp.abs(jax.random.normal(jax.random.fold_in(key, 1), signs.shape, W1.dtype))
        return TwoLayer(W1, signs * size * drawn)


__all__ = ["Dominated", "Gaussian", "Independent", "Sphere", "Symmetric", "Unbalanced"]
