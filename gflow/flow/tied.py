"""Weights that the margins at the end of a stage confirm: p = weights(u), u = v + M p, M symmetric, positive.

With the multipliers held at p the margins of a flow grow at the rate K p, K the tangent kernel, so that over a time h
they become q + h K p; p is what it must be for these margins. Where margins are large this is min 1/2 p^T M p + v^T p
over the simplex, up to 1: the multipliers that keep the smallest margins equal. An interior-point method finds them, in
as many steps for margins of 1e8 as for 1e2, and Newton's method what is left. Source: Mehrotra, SIAM J. Optim. 2
(1992); docs/mathematics.md, "Large margins".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from gflow.flow.traced import traced_once
from gflow.problem import Problem

STEPS, LAST = 16, 6
"""Of the interior-point method and of Newton's method at most. What is then missing is found in the next stage."""

CENTRED = 0.01
"""Share of equal weights in the first ones of the interior-point method: a guess on the border could not leave it."""

NEAR = 0.1
"""The interior-point method ends where p_n times what margin n lies above the smallest is about this."""

CLOSE = 1e-6
"""How much of p a step of Newton's method may have predicted wrongly for the next one not to be needed,"""

BAD = 0.5
"""and for it to be taken whole."""

SEEN = 1e-6
"""Weights below this do not count where Newton's method shortens a step."""

KNOWN = 1e-8
"""Guessed weights below this say only that their margins are larger than those of the others."""


ELIMINATED = 100
"""Rows above which a matrix leaves a processor's cache, and every row that is eliminated moves all of it: with 1,000
rows an inverse takes 4.4 s so and 0.13 s by factors, with 100 0.002 and 0.0006 s."""


class Weights(NamedTuple):
    """`p` in the simplex, and margins `u` with weights(u) = p."""

    p: Float[Array, " n"]
    u: Float[Array, " n"]


@traced_once
def confirmed(problem: Problem, v: Float[Array, " n"], M: Float[Array, "n n"], guess: Float[Array, " n"]) -> Weights:
    """From p = `guess`: Newton's method starts at margins that have these weights, where its equations are those of the
    right samples, and not at v + M p, whose weights may all be on one of them."""
    tail = problem.loss.log_weight  # pyright: ignore[reportAttributeAccessIssue]

    def newton(carry):
        u, p, count, _ = carry
        root = jnp.sqrt(p)
        F = u - v - M @ p
        one, two = solved(root[:, None] * M * root + jnp.eye(len(p)), jnp.stack([root * F, root], axis=1)).T
        dp = root * (one - jnp.sum(root * one) / jnp.sum(root * two) * two)
        du = M @ dp - F
        new = jax.nn.softmax(tail(u + du))
        missed = jnp.sum(jnp.abs(new - p - dp))
        turn = jnp.where(jnp.maximum(p, new) > SEEN, du - jnp.sum(p * du), 0.0)
        share = jnp.minimum(0.5, 1 / jnp.maximum(jnp.max(jnp.abs(turn)), 1.0))
        u = u + jnp.where(missed < BAD, 1.0, share) * du
        return u, jax.nn.softmax(tail(u)), count + 1, missed

    def polished(u, going):
        carry = (u, jax.nn.softmax(tail(u)), jnp.asarray(0), jnp.where(going, 1.0, 0.0))
        return jax.lax.while_loop(lambda carry: (carry[2] < LAST) & (carry[3] >= CLOSE), newton, carry)

    u, p, _, missed = polished(_weighed(v + M @ guess, guess), True)
    far = missed >= CLOSE
    # on the tail log_weight(u) = -u, up to a constant that is not felt
    other = -jnp.log(_extreme(v, M, guess, far))
    other, q, _, _ = polished(other - jnp.min(other) + jnp.min(v), far)
    return Weights(jnp.where(far, q, p), jnp.where(far, other, u))


def _weighed(u: Float[Array, " n"], p: Float[Array, " n"]) -> Float[Array, " n"]:
    """Margins on the tail whose weights are p, and in the mean over p those `u`; `u` where p says nothing."""
    known = p > KNOWN
    p = jnp.where(known, p, 0.0) / jnp.sum(jnp.where(known, p, 0.0))
    log_p = jnp.log(jnp.where(known, p, 1.0))
    level = jnp.sum(p * (u + log_p))
    return jnp.where(known, level - log_p, jnp.maximum(u, level - math.log(KNOWN)))


def _extreme(v: Float[Array, " n"], M: Float[Array, "n n"], guess: Float[Array, " n"], wanted) -> Float[Array, " n"]:
    """p > 0 of min 1/2 p^T M p + v^T p over the simplex, by Mehrotra's predictor and corrector.

    s = v + M p - nu >= 0 is what margins lie above the smallest, and p_n s_n = mu falls to NEAR.
    """
    n = len(v)
    p = (1 - CENTRED) * guess + CENTRED / n
    g = v + M @ p
    least = jnp.min(g)
    mu = jnp.maximum(p @ (g - least), 1.0)

    def onward(carry):
        p, s, nu, mu, count = carry
        root = jnp.sqrt(p / s)
        inverse = _inverse(root[:, None] * M * root + jnp.eye(n))
        off, short = v + M @ p - nu - s, 1 - jnp.sum(p)
        two = inverse(root)

        def direction(product):
            one = inverse(root * (product / p - off))
            dnu = (short - root @ one) / (root @ two)
            dp = root * (one + dnu * two)
            return dp, (product - s * dp) / p, dnu

        dp, ds, _ = direction(-p * s)
        length = _inside(p, s, dp, ds)
        centring = (((p + length * dp) @ (s + length * ds)) / (n * mu)) ** 3
        dp, ds, dnu = direction(jnp.maximum(centring * mu, 0.5 * NEAR) - p * s - dp * ds)
        length = jnp.minimum(1.0, 0.99 * _inside(p, s, dp, ds))
        p, s = p + length * dp, s + length * ds
        return p, s, nu + length * dnu, p @ s / n, count + 1

    s = g - least + mu
    carry = (p, s, least - mu, jnp.where(wanted, p @ s / n, 0.0), jnp.asarray(0))
    p = jax.lax.while_loop(lambda carry: (carry[3] > NEAR) & (carry[4] < STEPS), onward, carry)[0]
    return p / jnp.sum(p)


def _inside(p, s, dp, ds) -> Float[Array, ""]:
    """How far p and s may go to stay positive."""
    reach = lambda a, da: jnp.min(jnp.where(da < 0, -a / jnp.where(da < 0, da, -1.0), jnp.inf))  # noqa: E731
    return jnp.minimum(1.0, jnp.minimum(reach(p, dp), reach(s, ds)))


def _inverse(A: Float[Array, "n n"]) -> Callable[[Float[Array, " n"]], Float[Array, " n"]]:
    """b -> A^-1 b for several b, one after the other; A as in `solved`."""
    if len(A) > ELIMINATED:
        factor = jax.scipy.linalg.cho_factor(A)
        return lambda b: jax.scipy.linalg.cho_solve(factor, b)
    inverse = solved(A, jnp.eye(len(A)))
    return lambda b: inverse @ b


def solved(A: Float[Array, "n n"], B: Float[Array, "n k"]) -> Float[Array, "n k"]:
    """A^-1 B, A symmetric and positive: elimination without pivots, which a batch does together, or, of more than
    ELIMINATED rows, by Cholesky factors in blocks."""
    if len(A) > ELIMINATED:
        return jax.scipy.linalg.cho_solve(jax.scipy.linalg.cho_factor(A), B)

    def eliminate(k, both):
        row = both[k] / both[k, k]
        column = both[:, k].at[k].add(-1.0)
        return both - column[:, None] * row

    return jax.lax.fori_loop(0, len(A), eliminate, jnp.concatenate([A, B], axis=1))[:, len(A) :]


__all__ = ["Weights", "confirmed", "solved"]
