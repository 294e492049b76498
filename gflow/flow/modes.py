"""Activation modes of the (sample, neuron) pairs: off, on or sliding, and which hostile pairs slide.

A neuron slides on the hyperplanes of a set of rows. Its velocity is G projected onto their complement, which is the
velocity of least norm if the entries delta of the sliding rows, solved from "normal velocity zero", lie inside the
activation's interval. Columns are neurons, of one network or of many.
Source: docs/mathematics.md, "The flow is a differential inclusion"; arXiv 2110.06488, section 2.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gflow.activations import AbstractActivation
from gflow.box import UNROLLED, bounded, entries, last, orthonormal, total

MINIMA = 16
"""Of so many rows at most each is found as a minimum; of more all at once, by their ranks."""


class Modes(NamedTuple):
    """`on`, `slide` (n, m), never both. A neuron's sliding rows are `at` (K, m), n where there are fewer than K, with
    their entries `delta` (K, m) and `Q` (K, d, m), which are `orthonormal`, or zero.
    """

    on: Bool[Array, "n m"]
    slide: Bool[Array, "n m"]
    at: Int[Array, "K m"]
    delta: Float[Array, "K m"]
    Q: Float[Array, "K d m"]

    @property
    def rows(self) -> Int[Array, ""] | int:
        """Beyond how many Q is 0, in all lanes of a batch: few neurons slide on as many hyperplanes as they may."""
        K, d, _ = self.Q.shape
        # K = d is only of neurons that may be at rest, w = 0: Q is the identity then, whatever rows there are
        return K if d == K else last(self.at < self.on.shape[0])

    def project(self, G: Float[Array, "d m"]) -> Float[Array, "d m"]:
        """(I - Q_i Q_i^T) G_i for every neuron."""
        return projected(self.Q, G, self.rows)

    @jax.jit
    def wanted(
        self, X: Float[Array, "n d"], G: Float[Array, "d m"], weight: Float[Array, "K m"]
    ) -> Float[Array, "K m"]:
        """Entries of the sliding rows of X that keep every neuron on its hyperplanes; `G` without them, `weight` their
        lambda_n: 0 where that is."""
        found = entries(self.Q, lambda k: rows_at(X, self.at[k]), G, self.rows)
        return jnp.where(weight == 0, 0.0, found / jnp.where(weight == 0, 1.0, weight))


@jax.jit
def projected(Q: Float[Array, "K d m"], G: Float[Array, "d m"], rows: Int[Array, ""] | int) -> Float[Array, "d m"]:
    """(I - Q_i Q_i^T) G_i for every neuron. `rows`: beyond how many Q is 0."""
    K, d, _ = Q.shape
    if K * d > UNROLLED:
        less = lambda k, left: left - Q[k] * jnp.sum(Q[k] * G, axis=0)  # noqa: E731
        return jax.lax.fori_loop(0, rows, less, G)
    along = total(Q[:, j] * G[j] for j in range(d))
    return G - total(Q[k] * along[k] for k in range(K))


def most_sliding(n: int, d: int) -> int:
    """Independent hyperplanes in which a direction can lie: a neuron slides on at most min(n, d - 1) rows."""
    return max(min(n, d - 1), 1)


def at_rows(values: Float[Array, "n ..."], at: Int[Array, "K m"]) -> Float[Array, "K m"]:
    """values[at], 0 where there is no row; `values` (n,) or (n, m)."""
    n = values.shape[0]
    index = jnp.minimum(at, n - 1)
    picked = values[index] if values.ndim == 1 else jnp.take_along_axis(values, index, axis=0)
    return jnp.where(at < n, picked, 0.0)


def put(at: Int[Array, "K m"], values: Array, n: int) -> Array:
    """values (K, m) at their rows (n, m), 0 (False) elsewhere."""
    # a scatter, since a reduction over K of (K, n, m) takes twenty times as long on a CPU
    return jnp.zeros((n, at.shape[1]), values.dtype).at[at, jnp.arange(at.shape[1])].set(values, mode="drop")


def first_rows(chosen: Bool[Array, "n m"], K: int, ahead: Bool[Array, "n m"] | None = None) -> Int[Array, "K m"]:
    """The first K chosen rows of every neuron, n where there are fewer; those `ahead` before the others."""
    n, m = chosen.shape
    rows = jnp.arange(n)[:, None]
    if K > MINIMA:
        ahead = chosen if ahead is None else chosen & ahead
        after = chosen & ~ahead
        rank = jnp.where(ahead, jnp.cumsum(ahead, axis=0), jnp.sum(ahead, axis=0) + jnp.cumsum(after, axis=0)) - 1
        rank = jnp.where(chosen, rank, K)
        return jnp.full((K, m), n).at[rank, jnp.arange(m)].set(rows, mode="drop")
    place = jnp.where(chosen, rows if ahead is None else jnp.where(ahead, rows, rows + n), 2 * n)
    taken = [jnp.min(place, axis=0)]
    for _ in range(K - 1):
        taken.append(jnp.min(jnp.where(place > taken[-1], place, 2 * n), axis=0))
    place = jnp.stack(taken)
    return jnp.where(place < 2 * n, place % n, n)


def rows_at(X: Float[Array, "n d"], at: Int[Array, "*K m"]) -> Float[Array, "*K d m"]:
    """X[at], zeros where there is no row."""
    return jnp.swapaxes(jnp.take(X, at, axis=0, mode="fill", fill_value=0.0), -1, -2)


def slopes(activation: AbstractActivation, on: Bool[Array, "n m"], dtype) -> Float[Array, "n m"]:
    """The upper slope where `on`, else the lower one."""
    return activation.sided(on, dtype)


def rounding(dtype) -> float:
    """|x_n . u_i| / |x_n| up to which a direction counts as lying on a hyperplane: where rounding leaves it."""
    return 64 * float(jnp.finfo(dtype).eps)


def lengths(X: Float[Array, "n d"]) -> Float[Array, "n 1"]:
    """|x_n|, shape (n, 1)."""
    return jnp.sqrt(jnp.sum(X**2, axis=1))[:, None]


class Choice(NamedTuple):
    """New modes of the candidates. `unsettled` (m,): neurons whose box problem was not solved to its end."""

    modes: Modes
    unsettled: Bool[Array, " m"]


def choose(
    X: Float[Array, "n d"],
    activation: AbstractActivation,
    on: Bool[Array, "n m"],
    at: Int[Array, "K m"],
    lam: Float[Array, "n m"],
    drift: Float[Array, "d m"] | float = 0.0,
) -> Choice:
    """Which of the candidate rows `at` slide, and the modes of the others: the box problem of the least-norm velocity.

    `lam` (n, m), `drift` (d, m): weights of the hyperplanes and what does not depend on their sides, for every neuron
    those of its network. All candidates are tried as sliding first.
    """
    n = X.shape[0]
    lower, upper = activation.slope_interval()
    on = on & ~put(at, at < n, n)
    v0 = drift + X.T @ (slopes(activation, on, X.dtype) * lam)
    x, weight = rows_at(X, at), at_rows(lam, at)
    wanted = entries(orthonormal(x, 1), lambda k: x[k], v0) / jnp.where(weight == 0, 1.0, weight)
    box = bounded(x * weight[:, None], v0, upper - lower, wanted)
    # the factors are of the rows themselves, whose length does not depend on a multiplier that may tend to 0
    Q = orthonormal(jnp.where(box.free[:, None], x, 0.0), 2)
    on = on | put(at, ~box.free & (box.delta > 0), n)
    modes = Modes(on, put(at, box.free, n), jnp.where(box.free, at, n), jnp.where(box.free, box.delta, 0.0), Q)
    return Choice(modes, ~box.settled)
