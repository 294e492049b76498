"""Weights of the samples that keep the smallest margins equal over a stage: Newton's method for a complementarity.

Given weights p in the simplex, neurons move exactly (`travel`); p is right if every sample with p_n > 0 has the
smallest margin at the end. Near p margins are v + J p, J symmetric and positive, and the p that is right for these is

    argmin 1/2 p^T J p + v^T p  over the simplex,

by a primal active-set method that begins with the samples that were tied. Events lie inside the path, so that what
Newton's method brings to equality are the margins themselves. Source: docs/mathematics.md, "The limit at infinity".
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gflow.flow.continuation.path import Arrived, Boost
from gflow.flow.continuation.state import Data, Neurons

ROUNDS = 14
"""Of Newton's method: a stage that needs more is too long."""

TIED = 1e-8
"""Margins with p_n > 0 that differ by this, relatively, are equal."""

PROGRESS, HALVINGS = 0.9, 3
"""A round has to bring the spread of tied margins below this share of the last one, or goes half as far, so often."""

SMALL = 1e-13
"""A neuron below this share of the largest mass is not seen by margins."""

RIDGE = 1e-13
"""Added to the diagonal of J, in parts of its mean: with more tied samples than parameters J is singular."""


class Search(NamedTuple):
    """Newton's method under way: the weights `p` (n,) to be looked at next, those `before`, the `spread` of margins
    there, how often the step since then was `halved`, and how many `looks` there were."""

    p: Float[Array, " n"]
    before: Float[Array, " n"]
    spread: Float[Array, ""]
    halved: Int[Array, ""]
    looks: Int[Array, ""]

    @classmethod
    def near(cls, p: Float[Array, " n"]) -> Search:
        zero = jnp.zeros((), int)
        return cls(p, p, jnp.asarray(jnp.inf, p.dtype), zero, zero)


class Look(NamedTuple):
    """What a path under `Search.p` has shown: whether the smallest margins are equal, whether to give up, and the
    search to go on with."""

    solved: Bool[Array, ""]
    failed: Bool[Array, ""]
    search: Search


def looked(data: Data, sign, start: Neurons, arrived: Arrived, time, search: Search) -> Look:
    """From the end of the path that began at `start` and took this time under the weights of `search`."""
    p = search.p
    top = jnp.max(arrived.neurons.log_mass)
    q = data.margins(sign, arrived.neurons, top)
    least = jnp.min(q)
    scale = jnp.maximum(least, 1e-3 * jnp.max(jnp.abs(q)))
    spread = jnp.where(least > 0, (jnp.max(jnp.where(p > 0, q, -jnp.inf)) - least) / scale, jnp.inf)
    solved = (spread < TIED) & arrived.there
    known = (search.looks > 0) & jnp.isfinite(search.spread)
    worse = known & ~(spread < PROGRESS * search.spread) & (search.halved < HALVINGS)
    J = derivative(data, sign, start, arrived, time, top) / scale
    onward = simplex_minimum(J, q / scale - J @ p, p, ~worse & ~solved)
    keep = lambda a, b: jnp.where(worse, a, b)  # noqa: E731
    new = Search(
        keep(0.5 * (p + search.before), onward), keep(search.before, p), keep(search.spread, spread),
        keep(search.halved + 1, 0), search.looks + 1,
    )  # fmt: skip
    failed = ~solved & ((new.looks >= ROUNDS) | ~jnp.all(jnp.isfinite(new.p)) | ~arrived.there)
    return Look(solved, failed, new)


def derivative(data: Data, sign, start: Neurons, arrived: Arrived, time, log_scale) -> Float[Array, "n n"]:
    """J (n, n), dq/dp at the end of a path from `start`, in parts of e^log_scale, as if its last modes had held."""
    X, end = data.X, arrived.neurons
    mass = jnp.exp(end.log_mass - log_scale)
    boost = Boost.of(start.u, arrived.force)
    mass = jnp.where((mass > SMALL * jnp.max(mass)) & (boost.size > 0), mass, 0.0)
    size = jnp.where(boost.size > 0, boost.size, 1.0)
    tau = size * time
    less = jnp.exp(-2 * tau)
    cosh, sinh = 0.5 * (1 + less), 0.5 * (1 - less)  # times e^-tau
    c = 0.5 * (boost.plus - boost.minus)
    grown = jnp.maximum(0.5 * (boost.plus + boost.minus * less), 1e-300)
    stretch = cosh - jnp.exp(-tau)  # (cosh tau - 1) e^-tau
    per = (c * stretch + sinh) / (grown * size)
    turn = (start.u - c * boost.e) / size
    ahead = time * boost.e + stretch / grown * turn
    along = time * 0.5 * (boost.plus - boost.minus * less) / grown * boost.e + sinh / grown * turn
    A = data.y[:, None] * sign * data.slopes(end.modes.on)
    on_e, on_u = A * (X @ boost.e), A * (X @ end.u)
    J = (X @ X.T) * ((A * (mass * per)) @ A.T)
    J = J + (on_e * mass) @ (A * (X @ ahead) - per * on_e).T + (on_u * mass) @ (A * (X @ along)).T

    def less_sliding(k, J):
        across = A * (X @ end.modes.Q[k])
        return J - (across * (mass * per)) @ across.T

    J = jax.lax.fori_loop(0, end.modes.rows, less_sliding, J)
    return 0.5 * (J + J.T)


def simplex_minimum(J: Float[Array, "n n"], v: Float[Array, " n"], start: Float[Array, " n"], wanted) -> Array:
    """argmin 1/2 p^T J p + v^T p over the simplex (n,), by a primal active-set method from `start`; NaN if it does not
    end. Nothing is computed, and `start` returned, where it is not `wanted`."""
    n = len(v)
    mean = jnp.trace(J) / n
    J = J + jnp.eye(n) * (RIDGE * mean)
    # on the simplex 1^T p is known: what is added along it moves no minimum, and J is far from singular there
    definite = J + mean
    scale = 1 + jnp.max(jnp.abs(v))

    def solved(free):
        # by Cholesky: what LU makes of its pivots is a loop over all rows, as long as the rest of a round
        L = jnp.linalg.cholesky(jnp.where(free[:, None] & free, definite, jnp.eye(n) * jnp.maximum(mean, 1e-300)))
        right = jnp.where(free, jnp.stack([-v, jnp.ones(n)]), 0.0)
        by_v, by_one = jax.scipy.linalg.cho_solve((L, True), right.T).T
        level = (1 - jnp.sum(by_v)) / jnp.sum(by_one)
        p = jnp.where(free, by_v + level * by_one, 0.0)
        return p, level - mean

    def onward(carry):
        count, p, free, _ = carry
        wanted, level = solved(free)
        inside = jnp.min(wanted) >= -1e-14
        move = wanted - p
        reach = jnp.where(free & (wanted < 0), p / jnp.where(wanted < p, -move, 1.0), jnp.inf)
        share = jnp.where(inside, 1.0, jnp.minimum(jnp.min(reach), 1.0))
        blocked = ~inside & (reach <= share + 1e-15)
        p = jnp.where(free & ~blocked, jnp.maximum(p + share * move, 0.0), 0.0)
        missed = jnp.where(free, 0.0, v + J @ p - level)
        enters = jnp.argmin(missed)
        done = inside & (missed[enters] >= -1e-13 * scale)
        more = inside & ~done & (jnp.arange(n) == enters)
        return count + 1, p, (free & ~blocked) | more, done

    start = start / jnp.sum(start)
    carry = (0, start, start > 0, ~wanted)
    going = lambda carry: (carry[0] < 6 * n + 40) & ~carry[3] & jnp.any(carry[2])  # noqa: E731
    _, p, _, done = jax.lax.while_loop(going, onward, carry)
    total = jnp.sum(p)
    return jnp.where(done & (total > 0), p / total, jnp.nan)


__all__ = ["Look", "Search", "derivative", "looked", "simplex_minimum"]
