"""frozen_limit(problem, network): where a flow of the first layer alone ends, and how short that layer could be.

With w2 = a held fixed W1/|W1| goes to a KKT point of

    P_a = min 1/2 |W1|^2  s.t.  q_n >= 1:    w_i = a_i X^T D_i lambda,  lambda = Y alpha,  1^T alpha = |W1|^2.

Neurons of one sign and pattern share |a_i| w_i = (a_i^2 / A_k) v_k, A_k the sum of their a_i^2, so that with patterns
fixed P_a is a least-distance program in z_k = v_k / sqrt(A_k). Minimising the Lagrangian neuron by neuron, for every p
in the simplex, lambda = Y p and B_s = max_{|u|<=1} s lambda^T (X u)_+:

    P_a >= 1 / (2 sum_i a_i^2 B_{sign a_i}^2)      at every W1 of this width, whatever its patterns.

Source: docs/mathematics.md, "Network and loss" and "The certificate"; Lyu & Li, arXiv 1906.05890 (degree 1 in W1);
least distance by non-negative least squares: Lawson & Hanson, Solving Least Squares Problems, chapter 23.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gflow._types import VERDICT, Scope, normal_numbers, positive
from gflow.convex.ascent import resting_places
from gflow.convex.faces import Faces, faces
from gflow.convex.leaky import multipliers, opposite, rows
from gflow.convex.newton import FAR, complement, slopes_of
from gflow.convex.nonnegative import nonnegative
from gflow.convex.oracle import one_sided, require_float64
from gflow.network import TwoLayer, VectorTwoLayer
from gflow.patterns import grouped
from gflow.problem import Problem
from gflow.programs.base import ACCEPT, BAND, agrees, decide

MASSES = (1e-6, 1e-2)
"""Tried in turn: neurons below this share of the largest |a_i||w_i| are left behind by the direction."""

GROWS = 1e-6
"""A neuron left behind is not if it grows at more than this share of the fastest neuron's rate."""

INSIDE = 1e-12
"""A neuron outside of its cone by more than this, relatively, has another pattern."""


class FrozenLimit(eqx.Module):
    """The end of a flow with a frozen second layer, its first one scaled to q_min = 1.

    `network`: W1 (d, m) and the w2 (m,) of the flow. `lam` (n,): Y alpha, up to a factor. `objective`: 1/2 |W1|^2,
    infinite where the data are not fitted. `lower_bound` <= P_a, proved for this w2 and every W1, which is the `scope`;
    0 where it would contradict `objective`. `c` >= objective / P_a, objective / lower_bound rounded up, >= 1: 1 proves
    that no first layer is shorter, more than 1 says nothing, since P_a may be above its bound. `kkt_residual`: 1 -
    cos(W1, v), v the least-norm velocity of W1. `polished`: the KKT point was solved for and accepted; otherwise W1 is
    the flow's own end. `optimal`: proved, no first layer is shorter by more than a relative 1e-6, rounding included.
    """

    network: TwoLayer
    lam: Float[Array, " n"]
    objective: float
    lower_bound: float
    c: float
    kkt_residual: float
    polished: bool = eqx.field(static=True)
    optimal: bool = eqx.field(static=True)
    scope: Scope = eqx.field(static=True, default=Scope.SECOND_LAYER)


@np.errstate(over="ignore")
def frozen_limit(problem: Problem, network: TwoLayer | VectorTwoLayer, known_faces: Faces | None = None) -> FrozenLimit:
    """The limit of a flow of the first layer alone that ended at `network`, and its certificate.

    `known_faces`: `gflow.faces(X)`; where they are not all there `lower_bound` is the Gram bound's. Raises ValueError
    for vector output, losses without margins, weight decay, in float32, for a second layer that is 0 or not finite.
    """
    problem.require_scalar()
    problem.check(network)
    assert isinstance(network, TwoLayer)
    network = normal_numbers(network)
    problem.require_max_margin()
    require_float64(problem.X, network.W1)
    size = float(jnp.max(jnp.abs(network.w2)))
    if not (1e-150 <= size <= 1e150 and np.all(np.isfinite(network.W1)) and np.all(np.isfinite(network.w2))):
        raise ValueError("the weights must be finite, and the largest of a frozen second layer 1e-150 to 1e150")
    known = faces(problem.X) if known_faces is None else known_faces
    # P_a is 1/size^2 of that of a second layer of size 1
    unit = TwoLayer(network.W1 * size, network.w2 / size)
    found = _limit(problem, unit)
    W1, lam, polished = (
        (unit.W1, problem.multipliers(problem.margins(unit)), False) if found is None else (*found, True)
    )
    end = TwoLayer(W1, unit.w2)
    q_min = jnp.min(problem.margins(end))
    fits = bool(positive(q_min))
    end = TwoLayer(W1 / (q_min if fits else 1.0), unit.w2)
    objective = 0.5 * float(jnp.sum(end.W1**2)) if fits else np.inf
    lower = _lower_bound(problem, unit.w2, lam, known)
    # the objective holds q_min twice
    judged = decide(objective, lower, rounding=2 * float(problem.rounding(end)))
    return FrozenLimit(
        TwoLayer(end.W1 / size, network.w2), lam, objective / size**2, judged.lower_bound / size**2, judged.c,
        float(_residual(problem, end, lam)), polished, judged.verdict == VERDICT.GLOBAL,
    )  # fmt: skip


def _lower_bound(problem: Problem, a: Float[Array, " m"], lam, known: Faces) -> float:
    lower, total = problem.lower_slope, jnp.sum(jnp.abs(lam))
    X, p = rows(problem.X, lower), multipliers(lam / total, lower)
    above, below = one_sided(X, p, opposite(known, lower))
    bound = (
        float(jnp.sum(jnp.where(a > 0, a**2, 0.0))) * above**2 + float(jnp.sum(jnp.where(a < 0, a**2, 0.0))) * below**2
    )
    return 1 / (2 * bound) if bound > 0 else np.inf


def _limit(problem: Problem, network: TwoLayer):
    """(W1, lambda) of the KKT point with the patterns of `network`, or None if it is not one or not the flow's."""
    q_min = float(jnp.min(problem.margins(network)))
    own = 0.5 * float(jnp.sum((network.W1 / q_min) ** 2)) if q_min > 0 else np.inf
    if not own <= FAR:
        return None
    for mass in MASSES:
        found = _solved(problem, network, mass, np.sqrt(2 * own))
        if found is None:
            continue
        W1, lam, left = found
        end = TwoLayer(jnp.asarray(W1), network.w2)
        reached = float(jnp.min(problem.margins(end)))
        exact = reached > 1 / FAR and float(_residual(problem, end, jnp.asarray(lam))) <= ACCEPT
        if (
            exact
            and agrees(0.5 * np.sum(W1**2) / reached**2, own, q_min)
            and not _grows(problem, end, network, lam, left)
        ):
            return jnp.asarray(W1), jnp.asarray(lam)
    return None


def _solved(problem: Problem, network: TwoLayer, mass: float, length: float):
    """(W1, lambda, neurons left behind) of min 1/2 |z|^2 s.t. M z >= 1 over the patterns, or None out of their cones.

    `length`: about that of z.
    """
    X, y, a = np.asarray(problem.X), np.asarray(problem.y), np.asarray(network.w2)
    patterns, _, member = grouped(problem, network, BAND, mass)
    K = len(patterns.sign)
    if K == 0:
        return None
    shares = np.array([np.sum(a[member == k] ** 2) for k in range(K)])
    bases = [complement(X[slide]) for slide in patterns.sliding.T]
    slopes = slopes_of(patterns.mask, problem.lower_slope)
    blocks = [
        np.sqrt(A) * (s * y * D)[:, None] * (X @ Q)
        for A, s, D, Q in zip(shares, patterns.sign, slopes.T, bases, strict=True)
    ]
    M = length * np.concatenate(blocks, axis=1)  # margins of z / length
    E, target = np.vstack([M.T, np.ones(len(y))]), np.append(np.zeros(M.shape[1]), 1.0)
    u = nonnegative(E, target)
    if u is None:
        return None
    rest = 1 - u.sum()
    if rest <= 0:
        return None
    alpha = u / rest
    parts = np.split(M.T @ alpha, np.cumsum([Q.shape[1] for Q in bases])[:-1])
    V = np.stack([np.sqrt(A) * (Q @ z) for A, Q, z in zip(shares, bases, parts, strict=True)], axis=1)
    out = np.where(patterns.mask, -1.0, 1.0) * (X @ V)
    row = np.linalg.norm(X, axis=1)[:, None] * np.linalg.norm(V, axis=0)
    if not np.all((out <= INSIDE * row) | patterns.sliding):
        return None
    inside = member >= 0
    W1 = np.where(inside, np.abs(a) * V[:, member] / shares[member], 0.0)
    return W1, y * alpha, ~inside


def _grows(problem: Problem, end: TwoLayer, flow: TwoLayer, lam, left: np.ndarray) -> bool:
    """Whether a neuron that was left behind would still grow where it comes to rest: s lambda^T (X u)_+ > 0."""
    X, U, a = np.asarray(problem.X), np.asarray(flow.directions()), np.asarray(flow.w2)
    fastest = np.max(np.linalg.norm(np.asarray(end.W1), axis=0) / np.maximum(np.abs(a), 1e-300))
    fastest *= np.sum(np.abs(lam)) / float(jnp.sum(end.W1**2))  # w_i = a_i X^T D_i lambda at sum |lambda| = |W1|^2
    left = left & U.any(axis=0) & (a != 0)
    rates, _ = resting_places(X, np.asarray(lam), np.sign(a[left]), U[:, left], problem.lower_slope)
    return bool(np.any(rates > GROWS * fastest))


@jax.jit
def _residual(problem: Problem, network: TwoLayer, lam) -> Float[Array, ""]:
    """1 - cos(W1, a o G), G the least-norm gradients; 1 where either is 0."""
    dW = network.w2 * problem.least_norm_gradients(network, lam, BAND)
    size, speed = jnp.linalg.norm(network.W1), jnp.linalg.norm(dW)
    chord = jnp.sum((network.W1 / jnp.where(size > 0, size, 1.0) - dW / jnp.where(speed > 0, speed, 1.0)) ** 2)
    return jnp.where(positive(size) & positive(speed), 0.5 * chord, 1.0)


__all__ = ["FrozenLimit", "frozen_limit"]
