"""The tip w = 0, where all hyperplanes meet: whether a neuron rests there, and the ray on which it leaves.

Near the tip a is constant and the loss falls along u at the rate a u . g(u), g(u) = X^T D(u) lambda, whatever |w| is: a
ray whose g(u) is parallel to it leads straight out or in. A neuron rests at the tip as long as no direction leads down,
and then leaves along the steepest one found,

    max over |u| <= 1 of  sum_F c_n (x_n . u)_+ - sum_H |c_n| (x_n . u)_+,   c = sign(a) lambda,

a difference of convex functions over friendly rows F, c > 0, and hostile ones H: the friendly half is replaced by its
tangent at the last u, and what is left is the box problem of the hostile entries, a few times from several starts.
A direction counts only if its own rate, which is computed without error, is positive. Only neurons with a^2 > |w|^2 get
here. Source: docs/mathematics.md, "Crossing and sliding" and "Charts".
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from gflow.activations import AbstractActivation
from gflow.box import orthonormal
from gflow.flow.modes import Modes, at_rows, choose, first_rows, lengths, put, rows_at, slopes
from gflow.network import inner

STARTS = 8
"""Friendly rows from which the steepest direction is looked for, those of the largest weights; and all of them."""

ROUNDS = 6
"""Tangents taken from each start."""

GRADIENTS = 120
"""Steps of the accelerated gradient method on the box problem of one tangent."""

SPARE = 4
"""Hyperplanes beyond d that a ray may lie in before the last digits decide."""

PROBES = 8
"""Directions, besides those of the samples, around the tip."""

SIDES = 1e-3
"""Directions further apart than this are two."""


class Departure(NamedTuple):
    """`modes` in which a neuron leaves; `G` (d, m) with them, 0 where it rests; `u` (d, m): the direction found;
    `several` (m,): there is more than one ray."""

    modes: Modes
    G: Float[Array, "d m"]
    u: Float[Array, "d m"]
    several: Bool[Array, " m"]


def descent(
    X, activation: AbstractActivation, orientation, lam: Float[Array, "n m"], drift, u: Float[Array, "... d m"]
):
    """The rates (..., m) at which the loss falls along the directions u, per unit of |a|."""
    c, line = _weights(X, activation, orientation, lam, drift)
    active = jnp.maximum(jnp.einsum("nd,...dm->...nm", X, u), 0.0)
    return jnp.sum(line * u, axis=-2) + jnp.sum(c * active, axis=-2)


def _weights(X, activation: AbstractActivation, orientation, lam, drift):
    """c (n, m), and the part of the velocity (d, m) that all directions share."""
    lower, upper = activation.slope_interval()
    sign = jnp.sign(orientation)
    return sign * lam * (upper - lower), sign * (drift + lower * (X.T @ lam))


def departure(X, activation: AbstractActivation, orientation, lam: Float[Array, "n m"], drift: Float[Array, "d m"]):
    """How every neuron, at the tip, goes on. `orientation` (m,): the chart's; `lam`, `drift`: see Lines."""
    n, d, sign = *X.shape, jnp.sign(orientation)
    c, line = _weights(X, activation, orientation, lam, drift)
    u, delta = _directions(X, c, line)
    rate = descent(X, activation, orientation, lam, drift, u)
    scale = jnp.sqrt(inner(line, line)) + jnp.sum(jnp.abs(c) * lengths(X), axis=0)
    down = rate > 64 * float(jnp.finfo(X.dtype).eps) ** 0.75 * scale
    best = jnp.argmax(rate, axis=0)
    pick = lambda a: jnp.take_along_axis(a, best[None, None], axis=0)[0]  # noqa: E731
    same = jnp.sum(u * pick(u), axis=1)
    several = jnp.any(down & (same < 1 - SIDES**2 / 2), axis=0)
    u, inside = pick(u), pick((delta > 0) & (delta < 1))
    Z = X @ u
    # the hyperplanes in which the ray lies, nearest first: u is known to the accuracy of a gradient method
    near = jnp.where(
        (c < 0) & (inside | (jnp.abs(Z) <= SIDES * lengths(X))), jnp.abs(Z) / _positive(lengths(X)), jnp.inf
    )
    at = _smallest(near, min(n, d + SPARE))
    modes = choose(X, activation, (Z > 0) & ~put(at, at < n, n), at, lam, drift).modes
    at = first_rows(modes.slide, d)
    modes = Modes(modes.on, modes.slide, at, at_rows(put(modes.at, modes.delta, n), at), orthonormal(rows_at(X, at), 2))
    G = modes.project(drift + X.T @ (slopes(activation, modes.on, X.dtype) * lam))
    u = sign * G / _positive(jnp.sqrt(inner(G, G)))
    leaves = jnp.any(down, axis=0) & (descent(X, activation, orientation, lam, drift, u) > 0)
    several = leaves & (several | ~_parts(X, c, line, u))
    return Departure(_either(leaves, modes, at_rest(X, lam.shape[1])), jnp.where(leaves, G, 0.0), u, several)


def _parts(X, c: Float[Array, "n m"], line: Float[Array, "d m"], u: Float[Array, "d m"]) -> Bool[Array, " m"]:
    """Whether all velocities around the tip lead along u: else 0 may be one of their means, and resting there longer be
    a solution too. Looked at on both sides of every sample's direction, and of PROBES per dimension."""
    probes = np.random.default_rng(0).standard_normal((PROBES * X.shape[1], X.shape[1]))
    rows = jnp.concatenate([X, jnp.asarray(probes, X.dtype)])
    on = (X @ jnp.concatenate([rows, -rows]).T > 0).astype(X.dtype)
    no_side = jnp.tile(lengths(rows) == 0, (2, 1))
    return jnp.all(no_side | (inner(line, u) + on.T @ (c * (X @ u)) > 0), axis=0)


def _smallest(values: Float[Array, "n m"], K: int):
    """Rows (K, m) of the smallest finite values of every column, n where there are fewer."""
    n, rows = len(values), []
    for _ in range(K):
        row = jnp.argmin(values, axis=0)
        rows.append(jnp.where(jnp.min(values, axis=0) < jnp.inf, row, n))
        values = jnp.where(jnp.arange(n)[:, None] == row, jnp.inf, values)
    return jnp.stack(rows)


def _positive(a):
    return jnp.where(a > 0, a, 1.0)


def at_rest(X: Float[Array, "n d"], m: int) -> Modes:
    """Modes of m neurons that stay where they are, on d hyperplanes: nothing is left of any velocity."""
    n, d = X.shape
    at = jnp.broadcast_to(jnp.arange(d)[:, None], (d, m))
    identity = jnp.broadcast_to(jnp.eye(d, dtype=X.dtype)[..., None], (d, d, m))
    slide = jnp.broadcast_to(jnp.arange(n)[:, None] < d, (n, m))
    return Modes(jnp.zeros((n, m), bool), slide, at, jnp.zeros((d, m), X.dtype), identity)


def _directions(X, c: Float[Array, "n m"], line: Float[Array, "d m"]):
    """(u (k, d, m), entries / jump (k, n, m)) from every start."""
    n, m = c.shape
    weight = jnp.where(c > 0, c, 0.0) * lengths(X)
    # one row at a time: a sort of the columns is slower
    starts, left = [jnp.broadcast_to(c > 0, c.shape)], weight
    for _ in range(min(n, STARTS)):
        first = jnp.argmax(left, axis=0)
        starts += [(c > 0) & (X @ X[first].T > 0), jnp.arange(n)[:, None] == first]
        left = jnp.where(jnp.arange(n)[:, None] == first, -1.0, left)
    friendly = jnp.stack(starts).astype(X.dtype)
    hostile = jnp.where(c < 0, c, 0.0)
    step = 1 / jnp.maximum(jnp.sum((hostile * lengths(X)) ** 2, axis=0), jnp.finfo(X.dtype).tiny)
    pull = lambda entries: jnp.einsum("nd,knm->kdm", X, entries)  # noqa: E731

    def tangent(_, carry):
        S, delta, _ = carry
        fixed = line + pull(S * c)

        def gradient(_, carry):
            before, ahead, t = carry
            slope = jnp.einsum("nd,kdm->knm", X, fixed + pull(ahead * hostile)) * hostile
            delta = jnp.clip(ahead - step * slope, 0.0, 1.0)
            # momentum that points uphill is dropped
            uphill = jnp.sum((ahead - delta) * (delta - before), axis=1, keepdims=True) > 0
            t = jnp.where(uphill, 1.0, t)
            new = 0.5 * (1 + jnp.sqrt(1 + 4 * t**2))
            return delta, delta + jnp.where(uphill, 0.0, (t - 1) / new) * (delta - before), new

        one = jnp.ones((len(S), 1, m), X.dtype)
        delta = jax.lax.fori_loop(0, GRADIENTS, gradient, (delta, delta, one))[0]
        v = fixed + pull(delta * hostile)
        side = jnp.einsum("nd,kdm->knm", X, v) > 0
        return ((c > 0) & side).astype(v.dtype), delta, v

    nothing = (friendly, jnp.zeros_like(friendly), jnp.zeros((len(friendly), *line.shape), X.dtype))
    _, delta, v = jax.lax.fori_loop(0, ROUNDS, tangent, nothing)
    size = jnp.sqrt(jnp.sum(v**2, axis=1, keepdims=True))
    return v / _positive(size), delta


def _either(which: Bool[Array, " m"], a, b):
    return jax.tree.map(lambda x, y: jnp.where(which, x, y), a, b)
