"""Activation modes of the (sample, neuron) pairs: off, on or sliding, and which hostile pairs slide.

A neuron slides on the hyperplanes of a set of rows. Its velocity is G projected onto their complement, which is the
velocity of least norm if the entries delta of the sliding rows, solved from "normal velocity zero", lie inside the
activation's interval. Source: theory, "Network, loss, flow"; arXiv 2110.06488, section 2.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from gflow.flow.field import Field, Frozen
from gflow.inclusion import SWEEPS, box_entries

UNROLL = 4
"""Loops over at most this many sliding rows are unrolled: faster to run; longer ones are loops: faster to compile."""


class Modes(NamedTuple):
    """`on`, `slide` (n, m), never both; `delta` (n, m): the entry of sliding pairs, 0 elsewhere."""

    on: Bool[Array, "n m"]
    slide: Bool[Array, "n m"]
    delta: Float[Array, "n m"]


class Rows(NamedTuple):
    """K chosen rows of every neuron: `at` (K, m), >= n where there are fewer, and `x` (K, d, m), 0 there."""

    at: Int[Array, "K m"]
    x: Float[Array, "K d m"]

    def put(self, values: Array, n: int) -> Array:
        """values (K, m) at their rows (n, m), 0 (False) elsewhere."""
        chosen = self.at[:, None] == jnp.arange(n)[:, None]
        if values.dtype == bool:
            return jnp.any(chosen & values[:, None], axis=0)
        return jnp.sum(jnp.where(chosen, values[:, None], 0), axis=0)


def most_sliding(field: Field) -> int:
    """Independent hyperplanes in which a direction can lie: a neuron slides on at most min(n, d - 1) rows."""
    n, d = field.problem.shape
    return max(min(n, d - 1), 1)


def gather(X: Float[Array, "n d"], chosen: Bool[Array, "n m"], K: int, first: Bool[Array, "n m"] | None = None) -> Rows:
    """K chosen rows of every neuron in order; those in `first` before the others."""
    n = X.shape[0]
    place = jnp.arange(n)[:, None]
    place = jnp.where(chosen, place if first is None else jnp.where(first, place, place + n), 2 * n)
    taken = [jnp.min(place, axis=0)]
    for _ in range(K - 1):
        taken.append(jnp.min(jnp.where(place > taken[-1], place, 2 * n), axis=0))
    place = jnp.stack(taken)
    index = jnp.where(place < 2 * n, place % n, n)
    return Rows(index, jnp.moveaxis(jnp.take(X, index, axis=0, mode="fill", fill_value=0.0), -1, 1))


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
    K = Q.shape[0]
    target = -jnp.sum(Q * v, axis=1)
    pivot = R.diagonal().T
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


def freeze(field: Field, modes: Modes) -> Frozen:
    """Slopes of the modes, and an orthonormal basis of every neuron's sliding rows."""
    rows = gather(field.problem.X, modes.slide, most_sliding(field))
    return Frozen(slopes(field, modes.on), orthonormal(rows.x, 2)[0])


def slopes(field: Field, on: Bool[Array, "n m"]) -> Float[Array, "n m"]:
    """The upper slope where `on`, else the lower one."""
    lower, upper = field.problem.activation.slope_interval()
    return jnp.where(on, upper, lower).astype(field.problem.X.dtype)


class Choice(NamedTuple):
    """New modes of the candidates. `wanted` (n, m): the entry that keeps a candidate on its hyperplane together with
    all others; `frozen`: for the next step; `unsettled` (m,): neurons for which the pivots ran out."""

    modes: Modes
    wanted: Float[Array, "n m"]
    frozen: Frozen
    unsettled: Bool[Array, " m"]


PIVOTS = 6
"""Rounds of pivoting after the first; one is the rule."""


def choose(field: Field, on: Bool[Array, "n m"], rows: Rows, lam: Float[Array, " n"]) -> tuple[Choice, Array]:
    """Which of the candidate `rows` slide, and the modes of the others: the box problem of the least-norm velocity.

    By pivoting: all candidates slide at first. Those whose entry leaves the interval go to that end of it; one that
    rests at an end although the velocity points back to its hyperplane slides again.
    """
    X, n = field.problem.X, field.problem.shape[0]
    lower, upper = field.problem.activation.slope_interval()
    jump = upper - lower
    candidate = rows.put(rows.at < n, n)
    on = on & ~candidate
    weight = jnp.take(lam, rows.at, mode="fill", fill_value=0.0)
    live, safe = weight != 0, jnp.where(weight == 0, 1.0, weight)
    pull = weight[:, None] * rows.x  # what a unit of the entry adds to v
    v0 = X.T @ (slopes(field, on) * lam[:, None])
    first = entries(*orthonormal(rows.x, 1), v0) / safe
    high = live & (first >= jump)

    def solve(slides, high):
        Q, R = orthonormal(jnp.where(slides[:, None], rows.x, 0.0), 2)
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
        return Q, slides, delta, low_ok, high_ok, inside

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
    _, (Q, slides, delta, *settled), high = jax.lax.while_loop(wrong, pivot, start) if len(rows.at) > 1 else start
    unsettled = ~jnp.all(settled[0] & settled[1] & settled[2], axis=0)
    on = on | rows.put(high, n)
    modes = Modes(on, rows.put(slides, n), rows.put(jnp.clip(delta, 0.0, jump), n))
    return Choice(modes, rows.put(first, n), Frozen(slopes(field, on), Q), unsettled), candidate


def initial_modes(field: Field, z: PyTree[Array]) -> Modes:
    """Modes at a state: the sign of the pre-activation; the least-norm choice for pairs exactly on a kink."""
    X = field.problem.X
    Z, lam = field.preactivations(z), field.problem.multipliers(field.margins(z))
    kink = on_kink(field, z, Z)
    hostile = jnp.sign(field.chart.orientation(z)) * lam[:, None] < 0
    lower, upper = field.problem.activation.slope_interval()
    jump = upper - lower
    on = (Z > 0) & ~kink
    delta = box_entries(X, lam, slopes(field, on), kink, field.problem.activation, SWEEPS)
    # a friendly pair cannot rest on its kink. An entry at its upper end means that the velocity across a friendly
    # kink points off, across a hostile one on
    slide = kink & hostile & (delta > 0) & (delta < jump)
    # more sliding rows than independent hyperplanes: the first ones do
    slide = slide & (jnp.cumsum(slide, axis=0) <= most_sliding(field))
    side = jnp.where(hostile, delta >= 0.5 * jump, delta < 0.5 * jump)
    return Modes(on | (kink & ~slide & side), slide, jnp.where(slide, delta, 0.0))


def resting_modes(field: Field, z: PyTree[Array]) -> Modes:
    """Modes at a state that the flow has reached: hostile pairs on their kink slide there. No box problem is solved."""
    Z = field.preactivations(z)
    hostile = jnp.sign(field.chart.orientation(z)) * field.problem.y[:, None] < 0
    slide = on_kink(field, z, Z) & hostile
    return Modes((Z > 0) & ~slide, slide, jnp.zeros_like(Z))


def on_kink(field: Field, z: PyTree[Array], Z: Float[Array, "n m"]) -> Bool[Array, "n m"]:
    """Pairs whose pre-activation is zero up to rounding. Rows of zeros have no kink."""
    hidden = jnp.sqrt(jnp.sum(field.chart.hidden(z) ** 2, axis=0))
    sizes = jnp.linalg.norm(field.problem.X, axis=1)[:, None] * hidden
    return (jnp.abs(Z) <= 64 * jnp.finfo(Z.dtype).eps * sizes) & (sizes > 0)
