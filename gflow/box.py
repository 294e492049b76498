"""Box-constrained least squares with a handful of rows, one problem per column, and the Gram-Schmidt it rests on.

    min |v0 + sum_k delta_k row_k|^2  over  0 <= delta_k <= upper

is what the kinks of one neuron ask of its velocity (arXiv 2110.06488, section 2; docs/mathematics.md, "The flow is a
differential inclusion").
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

UNROLL = 4
"""Loops over at most this many rows are unrolled: faster to run; longer ones are loops: faster to compile."""

BLOCK = 8
"""Of longer ones a row is made orthogonal to so many at once: fewer are few operations, more mostly rows of zeros."""

UNROLLED = 64
"""Sums over at most this many products are written out: a processor vectorises them over the columns."""

ROUNDING = 1e-14
"""A gradient below this, relative to row_k, v0 and what the entries add to it, is zero."""


SEARCHED = 8
"""With more rows than this the normal equations are asked for a guess first."""

RIDGE = 1e-11
"""Added to their diagonal, relatively: with dependent rows they are positive definite beyond rounding."""

LOOSE = 1e-9
"""They are at their minimum where the gradient is below this, relatively."""


class Box(NamedTuple):
    """`delta` (K, m): a minimiser. `free` (K, m): entries inside the box, whose rows are independent; the others are at
    0 or `upper`. `settled` (m,): the optimality conditions hold."""

    delta: Float[Array, "K m"]
    free: Bool[Array, "K m"]
    settled: Bool[Array, " m"]


def bounded(
    rows: Float[Array, "K d m"], v0: Float[Array, "d m"], upper: float, guess: Float[Array, "K m"] | None = None
) -> Box:
    """The primal active-set method of every column: to the minimum over the free entries, or to the first bound on the
    way; there the entry whose gradient points most into the box is freed.

    Such a row is independent of the free ones, since at their minimum v is orthogonal to them: duplicate, collinear
    and too many rows need no care. The norm falls in every round. `guess`: entries of which those inside the box are
    freed first. Rows of zeros stay at 0.
    """
    K = rows.shape[0]
    squared = jnp.sum(rows**2, axis=1)
    scale = ROUNDING * (jnp.sqrt(jnp.sum(v0**2, axis=0)) + jnp.sum(jnp.sqrt(squared), axis=0) * upper)

    def minimum(delta, free):
        Q = orthonormal(jnp.where(free[:, None], rows, 0.0), 2)
        free = free & jnp.any(Q != 0, axis=1)
        # a guess may name dependent rows: those that are left over go to a bound
        delta = jnp.where(free | (delta >= upper), delta, 0.0)
        fixed = v0 + jnp.sum(jnp.where(free, 0.0, delta)[:, None] * rows, axis=0)
        return delta, free, entries(Q, lambda k: rows[k], fixed)

    def gradient(delta):
        return jnp.sum(rows * (v0 + jnp.sum(delta[:, None] * rows, axis=0)), axis=1)

    if K > SEARCHED and guess is not None:
        guess = _searched(rows, v0, upper, guess, scale)
    return _active_set(minimum, gradient, squared, upper, guess, scale)


def _searched(rows, v0, upper: float, guess: Float[Array, "K m"], scale: Float[Array, " m"]) -> Float[Array, "K m"]:
    """A better guess, by the same method on the normal equations: a round costs K^3 operations of one library call in
    place of K^2 d ones of many; what they lose is made good from there."""
    K = rows.shape[0]
    G = jnp.einsum("kdm,jdm->mkj", rows, rows)
    g = jnp.sum(rows * v0, axis=1)
    diagonal = jnp.einsum("mkk->km", G)
    ridge = RIDGE * jnp.max(diagonal, axis=0)

    def minimum(delta, free):
        both = (free[:, None] & free[None]).transpose(2, 0, 1)
        A = jnp.where(both, G, 0.0) + jnp.eye(K, dtype=G.dtype) * jnp.where(free, ridge, 1.0).T[:, None]
        fixed = g + jnp.einsum("mkj,jm->km", G, jnp.where(free, 0.0, delta))
        # by Cholesky: what LU makes of its pivots is a loop, and takes as long as the rest of a round
        c = jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(A), True), -jnp.where(free, fixed, 0.0).T[..., None])
        return delta, free, c[..., 0].T

    def gradient(delta):
        return g + jnp.einsum("mkj,jm->km", G, delta)

    return _active_set(minimum, gradient, diagonal, upper, guess, scale / ROUNDING * LOOSE).delta


def _active_set(minimum, gradient, squared: Float[Array, "K m"], upper: float, guess, scale: Float[Array, " m"]) -> Box:
    """`minimum(delta, free)`: delta, free without dependent rows, and the entries at the minimum over the free ones.
    `gradient(delta)` (K, m): row_k . v. `squared` (K, m): |row_k|^2."""
    K, exists = squared.shape[0], squared > 0
    inverse = 1 / jnp.sqrt(jnp.where(exists, squared, 1.0))

    def solve(carry):
        count, box = carry
        delta, free, settled = box
        delta, free, wanted = minimum(delta, free)
        move = jnp.where(free, wanted - delta, 0.0)
        room = jnp.where(move > 0, upper - delta, delta) / jnp.where(move == 0, 1.0, jnp.abs(move))
        room = jnp.where(move == 0, jnp.inf, room)
        reach = jnp.minimum(1.0, jnp.min(room, axis=0))
        blocked = free & (room <= reach) & (reach < 1)
        delta = jnp.clip(delta + reach * move, 0.0, upper)
        delta = jnp.where(blocked, jnp.where(move > 0, upper, 0.0), delta)
        free = free & ~blocked
        into = -gradient(delta) * inverse * jnp.where(delta > 0, -1.0, 1.0)
        into = jnp.where(free | ~exists, -jnp.inf, into)
        best = jnp.max(into, axis=0)
        enters = (reach >= 1) & (best > scale)
        free = free | (enters & (into == best))
        done = (reach >= 1) & ~enters
        # a settled column stays as it is, however many rounds its neighbours take
        delta, free = jnp.where(settled, box.delta, delta), jnp.where(settled, box.free, free)
        return count + 1, Box(delta, free, settled | done)

    none = jnp.zeros_like(exists)
    delta, free = jnp.zeros_like(squared), none
    if guess is not None:
        free = exists & (guess > 0) & (guess < upper)
        delta = jnp.clip(guess, 0.0, upper) * exists
    start = (0, Box(delta, free, none[0]))
    return jax.lax.while_loop(lambda c: (c[0] < 6 * K + 6) & ~jnp.all(c[1].settled), solve, start)[1]


def boxed(rows: np.ndarray, v0: np.ndarray) -> np.ndarray:
    """`bounded` with upper = 1 of one column, rows (K, d) and v0 (d,), by NumPy: a minimiser delta (K,)."""
    from scipy.optimize import lsq_linear

    delta = np.linalg.lstsq(rows.T, -v0, rcond=None)[0]
    if np.all((delta >= 0) & (delta <= 1)):
        return delta
    return lsq_linear(rows.T, -v0, (0.0, 1.0), method="bvls", tol=1e-14).x


def total(terms: Iterable[Array]) -> Array:
    """The sum of the terms, written out."""
    return functools.reduce(jnp.add, terms)


@functools.partial(jax.jit, static_argnums=1)
def orthonormal(rows: Float[Array, "K d m"], passes: int) -> Float[Array, "K d m"]:
    """Q of Gram-Schmidt: row_k is a combination of Q_0 to Q_k. Rows of zeros and dependent ones give Q_k = 0."""
    K = rows.shape[0]
    if K <= UNROLL:
        basis = rows[:0]
        for k in range(K):
            outside = functools.partial(_outside, basis)
            basis = jnp.concatenate([basis, _reduced(outside, rows[k], passes)[None]])
        return basis
    room = -(-K // BLOCK) * BLOCK

    def add(k, Q):
        block = lambda b: jax.lax.dynamic_slice_in_dim(Q, b * BLOCK, BLOCK)  # noqa: E731
        outside = lambda v: jax.lax.fori_loop(0, -(-k // BLOCK), lambda b, v: _outside(block(b), v), v)  # noqa: E731
        return Q.at[k].set(_reduced(outside, rows[k], passes))

    return jax.lax.fori_loop(0, used(rows), add, jnp.zeros((room, *rows.shape[1:]), rows.dtype))[:K]


def _outside(Q: Float[Array, "k d m"], v: Float[Array, "d m"]) -> Float[Array, "d m"]:
    """v without its part in the span of Q, whose rows are orthonormal or zero."""
    return v - jnp.sum(Q * jnp.sum(Q * v, axis=1)[:, None], axis=0)


def used(rows: Float[Array, "K d m"]):
    """Up to which row there are any: the last ones are often zeros in every column."""
    return last(jnp.any(rows != 0, axis=1))


@jax.custom_batching.custom_vmap
def last(present: Bool[Array, "K m"]) -> Int[Array, ""]:
    """Up to which row there are any. Under vmap one number for all lanes: a loop to it remains a loop."""
    return jnp.max(jnp.where(jnp.any(present, axis=1), jnp.arange(1, len(present) + 1), 0))


@last.def_vmap
def _last_of_lanes(_size, _in_batched, present):
    return last(jnp.any(present, axis=0)), False


def _reduced(outside: Callable, row: Float[Array, "d m"], passes: int) -> Float[Array, "d m"]:
    """The unit vector along what is left of `row` outside the span of earlier rows."""
    v = row
    for _ in range(passes):
        v = outside(v)
    left = jnp.sum(v**2, axis=0)
    # of a dependent row rounding is left
    independent = left > (64 * jnp.finfo(v.dtype).eps) ** 2 * jnp.sum(row**2, axis=0)
    return jnp.where(independent, v / jnp.sqrt(jnp.where(independent, left, 1.0)), 0.0)


def entries(
    Q: Float[Array, "K d m"],
    row: Callable[[Int[Array, ""] | int], Float[Array, "d m"]],
    v: Float[Array, "d m"],
    rows: Int[Array, ""] | int | None = None,
) -> Float[Array, "K m"]:
    """c (K, m) with v + sum_k c_k row(k) orthogonal to all rows, Q = `orthonormal` of these; 0 where Q_k = 0.

    From the last row on: no row before it has a part along its Q_k. `rows`: beyond how many all Q_k are 0, if known.
    """
    K, d, _ = Q.shape

    def along(q, u):
        return total(q[j] * u[j] for j in range(d)) if K * d <= UNROLLED else jnp.sum(q * u, axis=0)

    def entry(k, v):
        x, q = row(k), Q[k]
        pivot = along(q, x)
        c = jnp.where(pivot == 0, 0.0, -along(q, v) / jnp.where(pivot == 0, 1.0, pivot))
        return c, v + c * x

    if K <= UNROLL:
        found: list[Array] = []
        for k in reversed(range(K)):
            c, v = entry(k, v)
            found.append(c)
        return jnp.stack(found[::-1])
    count = used(Q) if rows is None else rows

    def solve(i, carry):
        k = count - 1 - i
        found, v = carry
        c, v = entry(k, v)
        return found.at[k].set(c), v

    return jax.lax.fori_loop(0, count, solve, (jnp.zeros_like(Q[:, 0]), v))[0]
