"""What pulls at the neurons of a step: the weights of its hyperplanes as functions of time, and their sum on a neuron.

A sum over all samples at every moment of interest would be most of the work of a neuron that meets many hyperplanes. It
is a smooth function of time as long as modes hold, so it is kept as a polynomial, and a sample that turns on or off
adds or takes its own. Source: docs/mathematics.md, "A step across hyperplanes"; arXiv 2110.06488, section 2.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

NODES = 8
"""Of the polynomials: what falls by e^-10 in a step is met to 2e-3 of its largest value, by e^-1 to 5e-10."""

_ANGLES = (np.arange(NODES) + 0.5) * np.pi / NODES
_AT = 0.5 * (1 - np.cos(_ANGLES))
_TRANSFORM = (2 / NODES) * np.cos(np.outer(np.arange(NODES), np.pi - _ANGLES))
_TRANSFORM[0] /= 2
"""Values at the Chebyshev nodes `_AT` of 0..1 to coefficients of T_k(2 tau - 1)."""


class Given(NamedTuple):
    """What moves the neurons of a step, times its length, as parabolas c_0 + c_1 tau + c_2 tau^2 of tau in 0..1: the
    `weight` (3, n, C) of the hyperplanes and the `drift` (3, d, C) (see Lines), with vector output (3, n, K, C) and
    (3, d, K, C). Where `sign` is not 0 a weight is sign exp(its parabola): logarithms follow the margins."""

    weight: Float[Array, "3 n *K C"]
    sign: Float[Array, "n *K C"]
    drift: Float[Array, "3 d *K C"]

    @classmethod
    def through(cls, weight: Float[Array, "3 n *K C"], drift: Float[Array, "3 d *K C"]) -> Given:
        """The values at the start, middle and end of the step; logarithms of weights that keep their sign."""
        sign = jnp.sign(weight[0])
        sign = jnp.where(jnp.all(sign * weight > 0, axis=0), sign, 0.0)
        weight = jnp.where(sign == 0, weight, jnp.log(jnp.where(sign == 0, 1.0, jnp.abs(weight))))
        return cls(_parabola(*weight), sign, _parabola(*drift))

    @jax.jit
    def at(self, tau: Float[Array, "*C"]) -> tuple[Array, Array]:
        """Weight and drift at `tau`."""
        weight, drift = (c[0] + tau * (c[1] + tau * c[2]) for c in (self.weight, self.drift))
        return jnp.where(self.sign == 0, weight, self.sign * jnp.exp(jnp.where(self.sign == 0, 0.0, weight))), drift

    def of(self, at: Int[Array, "R C"]) -> Given:
        """The weights of those rows alone, 0 where there is none."""
        n = self.sign.shape[0]
        index = jnp.minimum(at, n - 1).reshape(len(at), *(1,) * (self.sign.ndim - 2), -1)
        picked = lambda a: jnp.where(at.reshape(index.shape) < n, jnp.take_along_axis(a, index, axis=0), 0.0)  # noqa: E731
        return Given(jax.vmap(picked)(self.weight), picked(self.sign), self.drift)


def _parabola(start: Array, middle: Array, end: Array) -> Array:
    """(c_0, c_1, c_2) of the parabola through three values at 0, 1/2 and 1."""
    return jnp.stack([start, 4 * middle - 3 * start - end, 2 * (start - 2 * middle + end)])


class Pull(NamedTuple):
    """sum_n D_n weight_n x_n + drift of every neuron: Chebyshev `coefficients` (NODES, d, C) over the step, with vector
    output (NODES, d, K, C)."""

    coefficients: Float[Array, "P d *K C"]

    @classmethod
    def of(cls, given: Given, X: Float[Array, "n d"], D: Float[Array, "n C"]) -> Pull:
        """With slopes D."""

        def value(tau):
            weight, drift = given.at(tau)
            return drift + jnp.einsum("nd,n...c->d...c", X, _beside(D, weight) * weight)

        values = jax.lax.map(value, jnp.asarray(_AT, X.dtype))
        return cls(jnp.tensordot(jnp.asarray(_TRANSFORM, X.dtype), values, 1))

    def at(self, tau: Float[Array, " C"]) -> Float[Array, "d *K C"]:
        """Of every neuron at its `tau`."""
        return _sum_of_series(self.coefficients, tau)

    def turned(self, given: Given, X: Float[Array, "n d"], change: Float[Array, "n C"]) -> Pull:
        """After slopes changed by `change`, few of a neuron."""
        n, rows, nodes = len(X), jnp.arange(len(X))[:, None], jnp.asarray(_AT, X.dtype)
        transform = jnp.asarray(_TRANSFORM, X.dtype)

        def one(carry):
            c, change = carry
            row = jnp.min(jnp.where(change != 0, rows, n), axis=0)
            here = rows == row
            amount = jnp.sum(jnp.where(here, change, 0.0), axis=0)
            weight = jax.vmap(lambda tau: given.of(row[None]).at(tau)[0][0])(nodes)
            weight = jnp.tensordot(transform, amount * weight, 1)
            x = jnp.take(X, row, axis=0, mode="fill", fill_value=0.0).T
            return c + _beside(x, weight) * weight[:, None], jnp.where(here, 0.0, change)

        carry = (self.coefficients, change)
        return Pull(jax.lax.while_loop(lambda carry: jnp.any(carry[1] != 0), one, carry)[0])


@jax.jit
def _sum_of_series(c: Float[Array, "P d *K C"], tau: Float[Array, " C"]) -> Float[Array, "d *K C"]:
    """sum_k c_k T_k(2 tau - 1) by Clenshaw's recurrence."""
    x = 2 * tau - 1
    b, later = c[-1], 0.0
    for k in range(NODES - 2, 0, -1):
        b, later = c[k] + 2 * x * b - later, b
    return c[0] + x * b - later


def _beside(a: Float[Array, "n C"], weight: Float[Array, "_ *K C"]) -> Float[Array, "n *1 C"]:
    """`a` with axes for the outputs that a weight has."""
    return a.reshape(len(a), *(1,) * (weight.ndim - 2), -1)


__all__ = ["Given", "Pull"]
