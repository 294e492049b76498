"""TwoLayer(W1, w2): f(x) = sum_i a_i sigma(w_i . x), its activation patterns and its balance.

Source: arXiv 2110.06488, section 2.
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gflow.activations import AbstractActivation, ReLU


def column_norms(W: Float[Array, "... d m"]) -> Float[Array, "... m"]:
    """|w_i| of every column, without underflow for entries below 1e-160."""
    largest = jnp.max(jnp.abs(W), axis=-2)
    safe = jnp.where(largest > 0, largest, 1.0)
    return safe * jnp.sqrt(jnp.sum((W / safe[..., None, :]) ** 2, axis=-2))


def inner(A: Float[Array, "d ..."], B: Float[Array, "d ..."]) -> Float[Array, "..."]:
    """sum_j A_j B_j over the first axis."""
    return jnp.sum(A * B, axis=0)


class TwoLayer(eqx.Module):
    """A two-layer network without bias (append a constant column to X for one).

    `W1` (d, m): first-layer weights, column i is w_i. `w2` (m,): second-layer weights a_i.
    A leading axis on both holds a batch of networks.
    """

    W1: Float[Array, "... d m"]
    w2: Float[Array, "... m"]

    def __call__(self, X: Float[Array, "n d"], activation: AbstractActivation = ReLU()) -> Float[Array, " n"]:
        """f(x) for every row x of X, shape (n,)."""
        return activation(X @ self.W1) @ self.w2

    @property
    def width(self) -> int:
        return self.w2.shape[-1]

    def masks(self, X: Float[Array, "n d"]) -> Bool[Array, "n m"]:
        """1[x_n . w_i > 0], shape (n, m)."""
        return X @ self.W1 > 0

    def masses(self) -> Float[Array, "... m"]:
        """|a_i| |w_i|: what neuron i contributes to sum_i |a_i||w_i|."""
        return jnp.abs(self.w2) * column_norms(self.W1)

    def directions(self) -> Float[Array, "... d m"]:
        """u_i = w_i / |w_i|; a neuron with w_i = 0 has direction 0."""
        norms = column_norms(self.W1)
        return self.W1 / jnp.where(norms > 0, norms, 1.0)[..., None, :]

    def balance(self) -> Float[Array, "... m"]:
        """a_i^2 - |w_i|^2, constant along the flow."""
        norms = column_norms(self.W1)
        return (jnp.abs(self.w2) - norms) * (jnp.abs(self.w2) + norms)

    def balance_drift(self, start: TwoLayer) -> Float[Array, ""]:
        """The largest change of a_i^2 - |w_i|^2 since `start`, relative to a_i^2 + |w_i|^2; over a batch, of all."""
        size = jnp.sum(self.W1**2, axis=-2) + self.w2**2
        change = jnp.abs(self.balance() - start.balance())
        return jnp.max(jnp.where(size > 0, change / jnp.where(size > 0, size, 1.0), 0.0))

    def squared_norm(self) -> Float[Array, "..."]:
        """|theta|^2 = |W1|_F^2 + |w2|^2."""
        return jnp.sum(self.W1**2, axis=(-2, -1)) + jnp.sum(self.w2**2, axis=-1)

    def normalised(self) -> TwoLayer:
        """theta / max |theta_k|: nothing over- or underflows, and P(theta), c and directions stay the same."""
        largest = jnp.maximum(jnp.max(jnp.abs(self.W1), initial=0.0), jnp.max(jnp.abs(self.w2), initial=0.0))
        safe = jnp.where(largest > 0, largest, 1.0)
        return TwoLayer(self.W1 / safe, self.w2 / safe)

    def balanced(self) -> TwoLayer:
        """|a_i| = |w_i| for every neuron, masses relative to the largest: f up to a positive factor, in range.

        A network whose layers differ by 1e300 is turned into one that can be computed with.
        """
        norms, a = column_norms(self.W1), jnp.abs(self.w2)
        live = (norms > 0) & (a > 0)
        log = 0.5 * (jnp.log(jnp.where(live, norms, 1.0)) + jnp.log(jnp.where(live, a, 1.0)))
        log = log - jnp.max(jnp.where(live, log, -jnp.inf), initial=-1e300)
        size = jnp.where(live, jnp.exp(jnp.where(live, log, 0.0)), 0.0)
        return TwoLayer(size * self.directions(), size * jnp.sign(self.w2))

    def scaled(self, factor: Float[Array, ""]) -> TwoLayer:
        """The network factor * theta; its outputs are multiplied by factor^2."""
        return TwoLayer(factor * self.W1, factor * self.w2)
