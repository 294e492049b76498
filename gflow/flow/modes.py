"""Activation modes of the (sample, neuron) pairs: off, on or sliding, and which hostile pairs slide.

A neuron slides on the hyperplanes of a set of rows. Its velocity is G projected onto their complement, which is the
velocity of least norm if the entries delta of the sliding rows, solved from "normal velocity zero", lie inside the
activation's interval. Columns are neurons, of one network or of many.
Source: theory, "Network, loss, flow"; arXiv 2110.06488, section 2.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gflow.activations import AbstractActivation

UNROLL = 4
"""Loops over at most this many sliding rows are unrolled: faster to run; longer ones are loops: faster to compile."""

UNROLLED = 64
"""Sums over at most this many products are written out: a processor vectorises them over the neurons."""


class Modes(NamedTuple):
    """`on`, `slide` (n, m), never both. A neuron's sliding rows are `at` (K, m), n where there are fewer than K, with
    their entries `delta` (K, m) and the factors X[at] = R^T Q, `Q` (K, d, m) orthonormal or zero, `R` (K, K, m) upper.
    """

    on: Bool[Array, "n m"]
    slide: Bool[Array, "n m"]
    at: Int[Array, "K m"]
    delta: Float[Array, "K m"]
    Q: Float[Array, "K d m"]
    R: Float[Array, "K K m"]

    def project(self, G: Float[Array, "d m"]) -> Float[Array, "d m"]:
        """(I - Q_i Q_i^T) G_i for every neuron."""
        K, d, _ = self.Q.shape
        if K * d > UNROLLED:
            return G - jnp.sum(self.Q * jnp.sum(self.Q * G, axis=1)[:, None], axis=0)
        along = sum(self.Q[:, j] * G[j] for j in range(d))
        return G - sum(self.Q[k] * along[k] for k in range(K))

    def wanted(self, G: Float[Array, "d m"], weight: Float[Array, "K m"]) -> Float[Array, "K m"]:
        """Entries of the sliding rows that keep every neuron on its hyperplanes; `G` without them, `weight` their
        lambda_n: 0 where that is."""
        return jnp.where(weight == 0, 0.0, entries(self.Q, self.R, G) / jnp.where(weight == 0, 1.0, weight))


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
    chosen = at[:, None] == jnp.arange(n)[:, None]
    if values.dtype == bool:
        return jnp.any(chosen & values[:, None], axis=0)
    return jnp.sum(jnp.where(chosen, values[:, None], 0), axis=0)


def first_rows(chosen: Bool[Array, "n m"], K: int, ahead: Bool[Array, "n m"] | None = None) -> Int[Array, "K m"]:
    """The first K chosen rows of every neuron, n where there are fewer; those `ahead` before the others."""
    n = chosen.shape[0]
    place = jnp.arange(n)[:, None]
    place = jnp.where(chosen, place if ahead is None else jnp.where(ahead, place, place + n), 2 * n)
    taken = [jnp.min(place, axis=0)]
    for _ in range(K - 1):
        taken.append(jnp.min(jnp.where(place > taken[-1], place, 2 * n), axis=0))
    place = jnp.stack(taken)
    return jnp.where(place < 2 * n, place % n, n)


def rows_at(X: Float[Array, "n d"], at: Int[Array, "K m"]) -> Float[Array, "K d m"]:
    """X[at], zeros where there is no row."""
    return jnp.moveaxis(jnp.take(X, at, axis=0, mode="fill", fill_value=0.0), -1, 1)


def orthonormal(rows: Float[Array, "K d m"], passes: int) -> tuple[Float[Array, "K d m"], Float[Array, "K K m"]]:
    """Gram-Schmidt: rows_k = sum_j R_jk Q_j. Rows of zeros and dependent ones give Q_k = 0, R_kk = 0."""
    K = rows.shape[0]
    if K <= UNROLL:
        basis, columns = rows[:0], []
        for k in range(K):
            q, along, size = _reduce(basis, rows[k], passes)
            basis = jnp.concatenate([basis, q[None]])
            columns.append(jnp.concatenate([along, size[None], jnp.zeros((K - 1 - k, rows.shape[2]), rows.dtype)]))
        return basis, jnp.stack(columns, axis=1)

    def add(k, carry):
        Q, R = carry
        q, along, size = _reduce(Q, rows[k], passes)
        return Q.at[k].set(q), R.at[:, k].set(along.at[k].set(size))

    return jax.lax.fori_loop(0, K, add, (jnp.zeros_like(rows), jnp.zeros((K, K, rows.shape[2]), rows.dtype)))


def _reduce(Q: Float[Array, "k d m"], row: Float[Array, "d m"], passes: int):
    """(unit vector, components along Q, length) of what is left of `row` outside the span of Q."""
    v, along = row, jnp.zeros((Q.shape[0], row.shape[1]), row.dtype)
    for _ in range(passes):
        part = jnp.sum(Q * v, axis=1)
        v, along = v - jnp.sum(Q * part[:, None], axis=0), along + part
    left = jnp.sum(v**2, axis=0)
    # of a dependent row rounding is left
    independent = left > (64 * jnp.finfo(v.dtype).eps) ** 2 * jnp.sum(row**2, axis=0)
    size = jnp.sqrt(jnp.where(independent, left, 1.0))
    return jnp.where(independent, v / size, 0.0), along, jnp.where(independent, size, 0.0)


def entries(Q: Float[Array, "K d m"], R: Float[Array, "K K m"], v: Float[Array, "d m"]) -> Float[Array, "K m"]:
    """c (K, m) with v + sum_k c_k rows_k orthogonal to all rows (0 for dependent rows): back substitution."""
    K, d, _ = Q.shape
    target = -(sum(Q[:, j] * v[j] for j in range(d)) if K * d <= UNROLLED else jnp.sum(Q * v, axis=1))
    pivot = jnp.stack([R[k, k] for k in range(K)])
    inverse = jnp.where(pivot == 0, 0.0, 1 / jnp.where(pivot == 0, 1.0, pivot))
    if K <= UNROLL:
        c: list[Array] = []
        for j in reversed(range(K)):
            done = sum((R[j, k] * c[K - 1 - k] for k in range(j + 1, K)), jnp.zeros_like(pivot[0]))
            c.append((target[j] - done) * inverse[j])
        return jnp.stack(c[::-1])

    def solve(i, c):
        j = K - 1 - i
        return c.at[j].set((target[j] - jnp.sum(c * R[j], axis=0)) * inverse[j])

    return jax.lax.fori_loop(0, K, solve, jnp.zeros_like(target))


def slopes(activation: AbstractActivation, on: Bool[Array, "n m"], dtype) -> Float[Array, "n m"]:
    """The upper slope where `on`, else the lower one."""
    lower, upper = activation.slope_interval()
    return jnp.where(on, jnp.asarray(upper, dtype), jnp.asarray(lower, dtype))


class Choice(NamedTuple):
    """New modes of the candidates. `wanted` (n, m): the entry that keeps a candidate on its hyperplane together with
    all others; `candidate` (n, m); `unsettled` (m,): neurons for which the pivots ran out."""

    modes: Modes
    wanted: Float[Array, "n m"]
    candidate: Bool[Array, "n m"]
    unsettled: Bool[Array, " m"]


PIVOTS = 6
"""Rounds of pivoting after the first; one is the rule."""


def choose(
    X: Float[Array, "n d"],
    activation: AbstractActivation,
    on: Bool[Array, "n m"],
    at: Int[Array, "K m"],
    lam: Float[Array, "n m"],
) -> Choice:
    """Which of the candidate rows `at` slide, and the modes of the others: the box problem of the least-norm velocity.

    `lam` (n, m): the multipliers, for every neuron those of its network. By pivoting: all candidates slide at first.
    Those whose entry leaves the interval go to that end of it; one that rests at an end although the velocity points
    back to its hyperplane slides again.
    """
    n = X.shape[0]
    lower, upper = activation.slope_interval()
    jump = upper - lower
    exists, x = at < n, rows_at(X, at)
    candidate = put(at, exists, n)
    on = on & ~candidate
    weight = at_rows(lam, at)
    live, safe = weight != 0, jnp.where(weight == 0, 1.0, weight)
    pull = weight[:, None] * x  # what a unit of the entry adds to v
    v0 = X.T @ (slopes(activation, on, X.dtype) * lam)
    first = entries(*orthonormal(x, 1), v0) / safe
    high = live & (first >= jump)

    def solve(slides, high):
        Q, R = orthonormal(jnp.where(slides[:, None], x, 0.0), 2)
        v = v0 + jump * jnp.sum(jnp.where(high[:, None], pull, 0.0), axis=0)
        # a dependent row, and one without weight, has nothing to slide on: it is off
        slides = slides & (R.diagonal().T != 0)
        delta = jnp.where(slides, entries(Q, R, v) / safe, 0.0)
        v = v + jnp.sum(jnp.where(slides[:, None], delta[:, None] * pull, 0.0), axis=0)
        across = jnp.sum(pull * v, axis=1)  # the gradient of |v|^2 / 2 in the entry
        small = 1e-9 * jnp.sqrt(jnp.sum(pull**2, axis=1) * (jnp.sum(v**2, axis=0) + jnp.sum(v0**2, axis=0)))
        low_ok = ~live | slides | high | (across >= -small)
        high_ok = ~high | (across <= small)
        inside = ~slides | ((delta >= 0) & (delta <= jump))
        return (Q, R), slides, delta, low_ok, high_ok, inside

    def wrong(carry):
        *_, low_ok, high_ok, inside = carry[1]
        return (carry[0] < PIVOTS) & ~jnp.all(low_ok & high_ok & inside)

    def pivot(carry):
        count, (_, slides, delta, low_ok, high_ok, _), high = carry
        to_high, to_low = slides & (delta > jump), slides & (delta < 0)
        high = (high & high_ok) | to_high
        slides = (slides & ~to_high & ~to_low) | ~low_ok | ~high_ok
        return count + 1, solve(slides, high), high

    start = (0, solve(live & (first > 0) & ~high, high), high)
    _, ((Q, R), slides, delta, *settled), high = jax.lax.while_loop(wrong, pivot, start) if len(at) > 1 else start
    unsettled = ~jnp.all(settled[0] & settled[1] & settled[2], axis=0)
    on = on | put(at, high, n)
    modes = Modes(on, put(at, slides, n), jnp.where(slides, at, n), jnp.clip(delta, 0.0, jump), Q, R)
    return Choice(modes, put(at, first, n), candidate, unsettled)
