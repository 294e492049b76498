"""vector_limit(problem, network) -> Limit: the exact KKT point with the patterns of a flow's end, K outputs.

Source: docs/mathematics.md, "The max-margin problem and its KKT points" and "Vector output".
"""

# Limit is typed for one output
# pyright: reportArgumentType=false

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np

from gflow._types import kept_on_host
from gflow.convex.oracle import require_float64
from gflow.inclusion import least_norm_slopes
from gflow.network import VectorTwoLayer
from gflow.problem import Problem
from gflow.programs.base import ACCEPT, BAND, MOVING, Limit, agrees
from gflow.vector.kkt import Neurons, Patterns, grouped, solve_kkt
from gflow.vector.local import local_minimum
from gflow.vector.subsampled import Optimum, Path, distinct, onward, released, solve_subsampled

SHARES = (1e-6, 1e-3)
"""Tried in turn: neurons below this share of the largest mass are left out."""

SUPPORT = (1e-6, 1e-4, 1e-8)
"""Tried in turn: entries with alpha_nk above this share of the largest are support vectors."""

CHANGES = 30
"""Changes of patterns that are followed."""

DESCENTS = 8
"""The same of local minima within cones."""

ASCENT_STEPS = 2000
"""Steps after which a neuron that was left out has come to rest."""

OUTGROWN = 1e-4
"""A neuron outgrows a limit if its rate exceeds 1 by this."""

LARGE = 30.0
"""Smallest q_min from which patterns are taken for those of the limit."""


def vector_limit(problem: Problem, network: VectorTwoLayer, *, polish: bool = True, always: bool = False) -> Limit:
    """As `limit_of_network`, with `network` a VectorTwoLayer and `lam`, `margins` (n, K).

    Neurons of one pattern are merged where that changes nothing. The KKT point is accepted if all its multipliers are
    >= 0 and margins >= 1, its neurons have the patterns, KKT residual and slackness are <= 1e-9, and the objective
    agrees with the flow's, and if no neuron that was left out would outgrow it. It is looked for where q_min >= LARGE,
    or `always`. A flow that does not fit is never `stuck`: there is no proof of it here. Raises ValueError as
    `find_limit` does, and for other activations than ReLU.
    """
    problem.check(network)
    problem.require_relu()
    require_float64(problem.X, network.W1)
    if not all(bool(jnp.all(jnp.isfinite(a))) for a in (network.W1, network.W2)):
        raise ValueError("the weights are not finite")
    size, unit = float(jnp.max(network.masses(), initial=0.0)), network.balanced()
    X, Y, q = np.asarray(problem.X), np.asarray(problem.y), np.asarray(problem.margins(unit))
    p, q_min = np.asarray(problem.weights(problem.margins(network))), q.min()
    if polish and q_min > 0 and (q_min * size >= LARGE or always):
        limit = _polished(problem, unit, q_min * size)
        if limit is not None:
            return limit
    neurons, patterns = grouped(X, np.asarray(unit.W1), np.asarray(unit.W2).T, BAND, 0.0)
    return limit_of(problem, neurons, patterns, p * Y, polished=False)


def _polished(problem: Problem, unit: VectorTwoLayer, q_min: float) -> Limit | None:
    """`unit` is the flow's end, balanced; `q_min`: its smallest margin at its true scale.

    The optimum over its patterns either is a KKT point, or has neurons behind borders of their cones, which the flow
    would cross; so do the patterns, and the next program is solved.
    """
    X, objective = np.asarray(problem.X), float(problem.objective(unit))
    for share in SHARES:
        neurons, patterns = grouped(X, np.asarray(unit.W1), np.asarray(unit.W2).T, BAND, share)
        for leads in (_by_programs, _by_descent):
            for changes, limit in leads(problem, neurons, patterns):
                if limit is not None and agrees(limit.objective, objective, q_min):
                    return None if _outgrown(problem, unit, limit, share) else replace(limit, changes=changes)
    return None


def _by_programs(problem: Problem, neurons: Neurons, patterns: Patterns) -> Iterator[tuple[int, Limit | None]]:
    """(changes of patterns, KKT point or None) by the convex program over the patterns at hand, without cones."""
    X, Y = np.asarray(problem.X), np.asarray(problem.y)
    path = Path(neurons.W / np.linalg.norm(neurons.W, axis=0), patterns)
    for changes in range(CHANGES):
        path = distinct(path)
        optimum = solve_subsampled(X, Y, path.patterns)
        if optimum is None or not len(optimum.origin):
            return
        Lam = Y * optimum.alpha
        path, met = onward(X, Lam, optimum, path)
        if not met:
            path, met = released(optimum, path, _slopes(problem, optimum.neurons, Lam))
        if not met:
            yield changes, _solved(problem, optimum, path.patterns)
            return


def _by_descent(problem: Problem, neurons: Neurons, patterns: Patterns) -> Iterator[tuple[int, Limit | None]]:
    """The same by the local minimum within the cones near the neurons themselves: always a prediction."""
    X, Y = np.asarray(problem.X), np.asarray(problem.y)
    q_min = float(jnp.min(problem.margins(VectorTwoLayer(jnp.asarray(neurons.W), jnp.asarray(neurons.A.T)))))
    if q_min <= 0:
        return
    neurons = Neurons(neurons.W / np.sqrt(q_min), neurons.A / np.sqrt(q_min))
    for changes in range(DESCENTS):
        found = local_minimum(X, Y, neurons, patterns)
        if found is None:
            return
        optimum, path = found
        slopes = _slopes(problem, optimum.neurons, Y * optimum.alpha)
        path, _ = released(optimum, path, slopes)
        yield changes + 1, _solved(problem, optimum, path.patterns)
        neurons, patterns = optimum.neurons, path.patterns


def _slopes(problem: Problem, neurons: Neurons, Lam: np.ndarray) -> np.ndarray:
    """(n, k): slopes of the least-norm velocity of every neuron."""
    host = kept_on_host(problem)
    return np.asarray(least_norm_slopes(host.X, Lam @ neurons.A, neurons.W, problem.activation, MOVING, host.lines))


def _solved(problem: Problem, optimum: Optimum, patterns: Patterns) -> Limit | None:
    """Newton's method from the optimum of a program whose neurons have these patterns: a KKT point, or None."""
    X, Y, k = np.asarray(problem.X), np.asarray(problem.y), len(optimum.origin)
    patterns = Patterns(patterns.active[:, :k], patterns.sliding[:, :k])
    for least in SUPPORT:
        support = optimum.alpha > least * optimum.alpha.max()
        found = solve_kkt(X, Y, optimum.neurons, patterns, optimum.alpha, support)
        limit = None if found is None else _judged(problem, *found, patterns)
        if limit is not None:
            return limit
    return None


def _outgrown(problem: Problem, unit: VectorTwoLayer, limit: Limit, share: float) -> bool:
    """Whether a neuron below `share`, however small, would grow faster than the limit's own, whose rate is 1.

    With Lambda held fixed its (u, v) goes uphill on v . Lambda^T (X u)_+ and comes to rest; explicit steps show where.
    """
    masses = unit.masses()
    small = np.asarray((masses > 0) & (masses <= share * jnp.max(masses)))
    if not small.any():
        return False
    U, V = (np.asarray(a)[:, small] for a in (unit.directions(), unit.output_directions()))
    X, Lam = np.asarray(problem.X), np.asarray(limit.lam)
    h = 0.1 / np.sum(np.linalg.norm(Lam, axis=1) * np.linalg.norm(X, axis=1))
    for _ in range(ASCENT_STEPS):
        Z = X @ U
        G, H = X.T @ ((Z > 0) * (Lam @ V)), Lam.T @ np.maximum(Z, 0.0)
        U, V = U + h * G, V + h * H
        U, V = U / np.linalg.norm(U, axis=0), V / np.linalg.norm(V, axis=0)
    return bool(np.any(np.linalg.norm(Lam.T @ np.maximum(X @ U, 0.0), axis=0) > 1 + OUTGROWN))


def _judged(problem: Problem, neurons: Neurons, alpha: np.ndarray, patterns: Patterns) -> Limit | None:
    """The Limit, or None where it is no KKT point of the whole problem or its neurons have left their patterns."""
    X = np.asarray(problem.X)
    norms = np.linalg.norm(neurons.W, axis=0)
    if not norms.all() or alpha.min() < -1e-9 * alpha.max():
        return None
    side = np.where(patterns.active, 1.0, -1.0) * (X @ (neurons.W / norms))
    row = np.linalg.norm(X, axis=1)[:, None]
    if np.any(np.where(patterns.sliding, 0.0, side) < -1e-9 * row):
        return None
    limit = limit_of(problem, neurons, patterns, np.asarray(problem.y) * np.maximum(alpha, 0.0), polished=True)
    return limit if limit.kkt_residual <= ACCEPT and limit.slackness <= ACCEPT else None


def limit_of(problem: Problem, neurons: Neurons, patterns: Patterns, lam: np.ndarray, *, polished: bool) -> Limit:
    """The Limit of these neurons, scaled to q_min = 1 where they fit, with multipliers `lam` (n, K)."""
    network = VectorTwoLayer(jnp.asarray(neurons.W), jnp.asarray(neurons.A.T))
    q_min = float(jnp.min(problem.margins(network)))
    if q_min > 0:
        network = network.scaled(jnp.asarray(q_min**-0.5))
    p = np.abs(lam) / max(np.abs(lam).sum(), 1e-300)
    residual, slackness, objective = _judge(problem, network, jnp.asarray(lam), jnp.asarray(p))
    if not polished and q_min > 0:
        lam = p * np.sign(lam) * float(objective)
    return Limit(
        network, jnp.asarray(lam), problem.margins(network), patterns.active, patterns.sliding, float(objective),
        float(residual), float(slackness), polished, False, 0,
    )  # fmt: skip


@jax.jit
def _judge(problem: Problem, network: VectorTwoLayer, lam, p):
    q = problem.margins(network)
    return problem.kkt_residual(network, lam, BAND), problem.slackness(q, p), problem.objective(network)
