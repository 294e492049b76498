"""gated_limit(problem, network): flows of gated ReLU networks, and the optimum over their gates.

With gates that do not move f is linear in v_i = a_i w_i, and neurons of one gate act as their sum v_k. The flow goes to
a KKT point of

    P_G = min sum_k |v_k|  s.t.  y o sum_k D_k X v_k >= 1,      max 1^T alpha  s.t.  |X^T D_k lambda| <= 1, alpha >= 0,

D_k the gates of the network, lambda = Y alpha. It is convex: multipliers that satisfy the dual constraint of every gate
prove that no network with these gates is better. A neuron whose gate violates it grows faster than the others, so that
a flow is under way as long as there is one. Nothing is said about other gates. With weight decay the program is that of
`solve_gated`. Source: Mishkin, Sahiner & Pilanci, arXiv 2202.01331, section 3; docs/mathematics.md, "The convex program
over masks".
"""

from __future__ import annotations

import itertools
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from gflow import deadline
from gflow._types import VERDICT, Scope, normal_numbers, positive
from gflow.convex.gated import solve_gated
from gflow.convex.newton import FAR, KKTPoint, Patterns, newton
from gflow.convex.oracle import require_float64
from gflow.gates import Gates
from gflow.network import TwoLayer, VectorTwoLayer, cast_like
from gflow.points import RESTING
from gflow.problem import Problem
from gflow.programs.base import ACCEPT, BAND, Judgement, agrees, decide

SUPPORT = (1e-2, 1e-4, 1e-6, 1e-9)
"""Tried in turn: multipliers below this share of the largest vanish."""


class GatedLimit(eqx.Module):
    """The end of a flow with fixed gates. `masks` (K, n): its distinct gates; `V` (K, d): the sums v_k, at q_min = 1 if
    the flow has a direction for a limit.

    `lam` (n,): the multipliers. `objective`: sum |v_k|, infinite where the data are not fitted, or with weight decay L
    + beta sum |v_k|; `lower_bound`: of the networks of `scope`, those with these gates, of any width; 0 where it would
    contradict `objective`. `c` >= objective / optimum, rounded up. `verdict`: GLOBAL if the two agree to 1e-6;
    NOT_GLOBAL, with weight decay only, if the flow is at rest and the program found less; else INCONCLUSIVE, always so
    for a flow under way that is not optimal. `polished`: V is the solved optimum over the gates, with which the flow's
    end agrees, or with weight decay a point at rest; otherwise V is the flow's own end.
    """

    masks: Bool[np.ndarray, "K n"]
    V: Float[np.ndarray, "K d"]
    lam: Float[np.ndarray, " n"]
    objective: float
    lower_bound: float
    c: float
    verdict: VERDICT = eqx.field(static=True)
    polished: bool = eqx.field(static=True)
    scope: Scope = eqx.field(static=True, default=Scope.GATES)


def gated(problem: Problem, network: TwoLayer) -> Problem:
    """`problem` for networks whose gates are those of the first weights of `network`, 1[w_i . x_n > 0], for ever."""
    problem.require_scalar()
    problem.check(network)
    decay = 0.0 if problem.weight_decay is None else float(problem.weight_decay)
    return Problem(problem.X, problem.y, problem.loss, Gates(network.masks(problem.X)), decay, classes=problem.classes)


@np.errstate(over="ignore")  # where a quotient is infinite, the code below looks for it
def gated_limit(problem: Problem, network: TwoLayer | VectorTwoLayer) -> GatedLimit:
    """The limit of a flow of `gated(...)` that ended at `network`, and what is proved of it among these gates.

    Raises ValueError in float32, for another activation, and for the squared loss without weight decay, whose limit
    depends on its start and of which nothing is proved here.
    """
    if not isinstance(problem.activation, Gates):
        raise ValueError("gated_limit is about fixed gates: make the problem with gflow.gated(problem, network)")
    problem.check(network)
    network = cast_like(network, problem.X)
    assert isinstance(network, TwoLayer), "gated() takes labels (n,)"
    network = normal_numbers(network)
    require_float64(problem.X, network.W1)
    if not (problem.of_margins or problem.weight_decay is not None):
        raise ValueError("the squared loss with fixed gates has a limit with weight decay only")
    masks, group = np.unique(np.asarray(problem.activation.masks).T, axis=0, return_inverse=True)
    V = np.zeros((len(masks), problem.shape[1]))
    np.add.at(V, group.ravel(), np.asarray(network.W1 * network.w2).T)
    return _direction(problem, masks, V) if problem.directional else _point(problem, network, masks, V)


def _outputs(X, masks, V) -> np.ndarray:
    return np.einsum("kn,nd,kd->n", masks, X, V, optimize=True)


def _rounding(X, masks, V, q_min: float) -> float:
    """A bound on the relative rounding error of the smallest margin."""
    terms = np.einsum("kn,nd,kd->n", masks, np.abs(X), np.abs(V), optimize=True)
    return (sum(V.shape) + 8) * np.finfo(float).eps * float(np.max(terms)) / q_min


def _direction(problem: Problem, masks, V) -> GatedLimit:
    X, y = np.asarray(problem.X), np.asarray(problem.y)
    q = y * _outputs(X, masks, V)
    p = np.asarray(problem.weights(jnp.asarray(q)))
    own, judged = _bracket(X, y, masks, V, p)
    if own < FAR:
        V = V / q.min()
        patterns = Patterns(np.ones(len(masks)), masks.T, np.zeros(masks.T.shape, bool))
        for start, share in itertools.product(_starts(X, y, masks, V, own * p), SUPPORT):
            point = newton(X, y, patterns, start, start.alpha > share * start.alpha.max(), prune=True)
            if point is None or point.alpha.sum() <= 0:
                continue
            alpha = np.maximum(point.alpha, 0.0)
            objective, solved = _bracket(X, y, masks, point.V.T, alpha)
            if 1 - solved.lower_bound / objective <= ACCEPT and agrees(objective, own, q.min()):
                return _limit(masks, point.V.T, y * alpha, objective, solved, True)
    return _limit(masks, V, y * p, own, judged, False)


def _limit(masks, V, lam, objective: float, judged: Judgement, polished: bool) -> GatedLimit:
    return GatedLimit(masks, V, lam, objective, judged.lower_bound, judged.c, judged.verdict, polished)


def _starts(X, y, masks, V, alpha):
    """Where Newton's method begins: the flow's own end, then what Clarabel finds."""
    yield KKTPoint(V.T, alpha)
    found = _by_clarabel(X, y, masks)
    if found is not None:
        size = np.linalg.norm(found.V, axis=0)
        for share in SUPPORT:  # which gates are in use
            yield KKTPoint(found.V * (size > share * size.max()), found.alpha)


def _by_clarabel(X, y, masks) -> KKTPoint | None:
    """max 1^T alpha s.t. alpha >= 0, |X^T D_k Y alpha| <= 1; the multipliers of the cones are (|v_k|, -v_k)."""
    import clarabel as cl
    import scipy.sparse as sp

    clarabel: Any = cl  # its stubs name none of its classes
    (K, n), d = masks.shape, X.shape[1]
    blocks, right = [-np.eye(n)], [np.zeros(n)]
    for mask in masks:
        blocks += [np.zeros((1, n)), -(mask * y)[None] * X.T]
        right.append(np.append(1.0, np.zeros(d)))
    settings = clarabel.DefaultSettings()
    settings.verbose, settings.max_threads = False, 1
    settings.time_limit = deadline.left()
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-10
    cones = [clarabel.NonnegativeConeT(n)] + [clarabel.SecondOrderConeT(d + 1) for _ in range(K)]
    A = sp.csc_matrix(np.concatenate(blocks))
    solved = clarabel.DefaultSolver(
        sp.csc_matrix((n, n)), -np.ones(n), A, np.concatenate(right), cones, settings
    ).solve()  # fmt: skip
    alpha, dual = np.maximum(np.asarray(solved.x), 0.0), np.asarray(solved.z)
    if not (np.all(np.isfinite(alpha)) and np.all(np.isfinite(dual)) and alpha.max(initial=0.0) > 0):
        return None
    return KKTPoint(-dual[n:].reshape(K, d + 1)[:, 1:].T, alpha)


def _bracket(X, y, masks, V, p) -> tuple[float, Judgement]:
    """The objective of V, and what the weights p >= 0 prove about it."""
    q_min = np.min(y * _outputs(X, masks, V))
    fits = positive(q_min)
    objective = float(np.linalg.norm(V, axis=1).sum() / q_min) if fits else np.inf
    lower = p.sum() / max(float(np.linalg.norm((masks * (p * y)) @ X, axis=1).max()), 1e-300)
    return objective, decide(objective, lower, rounding=_rounding(X, masks, V, q_min) if fits else 0.0)


def _point(problem: Problem, network: TwoLayer, masks, V) -> GatedLimit:
    beta = float(problem.weight_decay)  # pyright: ignore[reportArgumentType]
    X, c, b = np.asarray(problem.X), np.asarray(problem.signs()), np.asarray(problem.targets())
    q = jnp.asarray(c * _outputs(X, masks, V) - b)
    objective = float(problem.loss_value(q)) + beta * float(np.linalg.norm(V, axis=1).sum())
    solved, lam = solve_gated(problem, beta, masks), -c * np.asarray(problem.loss.slope(q))
    pull = jnp.asarray(lam)
    at_rest = float(problem.speed(network, problem.least_norm_gradients(network, pull, BAND), pull)) <= RESTING
    rounding = problem.total_rounding(q, _outputs(np.abs(X), masks, np.abs(V)), objective, len(masks) + 8)
    judged = decide(
        objective, solved.dual, rounding=rounding, better=solved.primal, better_rounding=rounding, settled=at_rest
    )
    return _limit(masks, V, lam, objective, judged, at_rest)


__all__ = ["GatedLimit", "gated", "gated_limit"]
