"""certify(problem, limit) -> Certificate: is this network the global optimum of the max-margin problem?

For every p in the simplex, lambda = Y p and B(p) = max_{|u|<=1} |lambda^T (X u)_+|, P* >= 1/B(p), so that
c = P(theta) B(p) >= 1 and (P(theta) - P*)/P(theta) <= 1 - 1/c. Everything is recomputed in float64 from the returned
arrays. Source: arXiv 2110.06488, sections 4 and 5; theory, "Certificate of a limit".
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from gflow._types import VERDICT
from gflow.convex.column_generation import MaxMargin, solve_max_margin
from gflow.convex.faces import Faces, faces
from gflow.convex.oracle import Bound, dual_maxima, require_float64
from gflow.limit import Limit, merge
from gflow.network import TwoLayer
from gflow.problem import Problem

GLOBAL_RTOL = 1e-6
"""GLOBAL is said if P* is proved to be within this relative distance of P(theta)."""

BETTER_RTOL = 1e-6
"""NOT_GLOBAL is said if a feasible network is in hand whose objective is lower by more than this, relatively."""

SHARPNESS = np.logspace(-1, 8, 46)
"""Trained networks come without multipliers: p ~ exp(-tau q_n/q_min) for these tau, the best bound is taken."""


class Certificate(eqx.Module):
    """What is proved about a network.

    `objective`: P(theta). `lower_bound`: proved, P* >= lower_bound at every width. `c` = P(theta) B(p) >= 1, an upper
    bound of P(theta)/P*; infinite where the data are not fitted. `exact`: B(p) was maximised over all masks; otherwise
    c comes from a bound that holds for all masks. `p` (n,): the weights used. `missing_neuron` (d,): a direction with
    |lambda^T (X u)_+| P(theta) > 1, whose absence keeps the network from the optimum; None if none was found.
    `better`: a feasible network (q_min = 1) with a lower objective, the proof of NOT_GLOBAL, or None. `optimum`: P*
    where it is proved to a relative gap of 1e-6 (by this certificate or by the solved program), else None.
    """

    verdict: VERDICT = eqx.field(static=True)
    objective: float
    lower_bound: float
    c: float
    p: Float[np.ndarray, " n"]
    missing_neuron: Float[np.ndarray, " d"] | None
    better: TwoLayer | None
    optimum: float | None
    exact: bool = eqx.field(static=True)


def certify(
    problem: Problem,
    limit: Limit | TwoLayer,
    *,
    known_faces: Faces | None = None,
    optimum: MaxMargin | None = None,
    search: bool = True,
) -> Certificate:
    """The certificate of a limit, or of any trained network without multipliers.

    `known_faces`: `gflow.faces(X)`, to share it between many limits. `optimum`: the solved program, likewise; if it is
    not given and the network is not proved GLOBAL, `search` solves it, looking for a better network. Raises ValueError
    in float32 or for weights that are not finite.
    """
    network = limit.network if isinstance(limit, Limit) else limit
    problem.check(network)
    require_float64(problem.X, network.W1)
    if not bool(jnp.all(jnp.isfinite(network.W1))) or not bool(jnp.all(jnp.isfinite(network.w2))):
        raise ValueError("the weights are not finite")
    known = faces(problem.X) if known_faces is None else known_faces
    objective = float(problem.objective(network))
    q = problem.margins(network)
    if isinstance(limit, Limit) and float(jnp.sum(jnp.abs(limit.lam))) > 0:
        weights = [np.abs(np.asarray(limit.lam))]
    else:
        weights = _guess_weights(problem, network, np.asarray(q))
    p, bound = _best_bound(problem, weights, known)
    B = float(bound.upper)
    c, lower = (objective * B if np.isfinite(objective) else np.inf), (1 / B if B > 0 else np.inf)
    if not np.isfinite(objective):
        stuck = isinstance(limit, Limit) and limit.stuck
        verdict = VERDICT.UNFITTED if stuck or not isinstance(limit, Limit) else VERDICT.INCONCLUSIVE
        return Certificate(verdict, objective, lower, c, p, None, None, _value(optimum), known.complete)
    if 1 - 1 / c <= GLOBAL_RTOL:
        return Certificate(VERDICT.GLOBAL, objective, lower, c, p, None, None, objective, known.complete)
    if optimum is None and search:
        directions = np.asarray(network.directions()).T
        optimum = solve_max_margin(problem, known, directions=directions)
    verdict, better = VERDICT.INCONCLUSIVE, None
    if optimum is not None:
        if optimum.network is not None and optimum.primal < (1 - BETTER_RTOL) * objective:
            verdict, better = VERDICT.NOT_GLOBAL, optimum.network
        elif optimum.dual >= (1 - GLOBAL_RTOL) * objective:
            verdict = VERDICT.GLOBAL
        lower = max(lower, optimum.dual)
    violated = verdict != VERDICT.GLOBAL and float(bound.lower) * objective > 1 + GLOBAL_RTOL
    missing = np.asarray(bound.u) if violated else None
    return Certificate(verdict, objective, lower, c, p, missing, better, _value(optimum), known.complete)


def _value(optimum: MaxMargin | None) -> float | None:
    if optimum is None or not np.isfinite(optimum.primal) or optimum.dual < (1 - GLOBAL_RTOL) * optimum.primal:
        return None
    return optimum.primal


def _guess_weights(problem: Problem, network: TwoLayer, q: np.ndarray) -> list[np.ndarray]:
    """Candidate weights for a network that comes without multipliers; every one gives a valid bound.

    Uniform where it does not fit. Else p ~ exp(-tau (q_n/q_min - 1)) for a range of tau, and the multipliers that
    explain the weights best: min_{alpha >= 0} |theta - sum_n alpha_n y_n grad f(x_n)|.
    """
    from scipy.optimize import nnls

    if q.min() <= 0:
        return [np.full(len(q), 1 / len(q))]
    weights = [np.exp(-tau * (q / q.min() - 1)) for tau in SHARPNESS]
    X, y = np.asarray(problem.X), np.asarray(problem.y)
    # neurons of one pattern act together: one unit vector per pattern, |X^T D lambda| = 1 at a KKT point
    patterns, V = merge(problem, network, 1e-9, 1e-9)
    masses = np.linalg.norm(V, axis=0)
    rows = [
        y[:, None] * (s * D)[:, None] * X * np.sqrt(r)
        for s, D, r in zip(patterns.sign, patterns.mask.T, masses, strict=True)
    ]
    target = (V / np.sqrt(masses)).T.reshape(-1)
    alpha, _ = nnls(np.concatenate(rows, axis=1).T, target)
    if alpha.sum() > 0:
        weights.append(alpha)
    return weights


def _best_bound(problem: Problem, weights: list[np.ndarray], known: Faces) -> tuple[np.ndarray, Bound]:
    P = np.stack([w / w.sum() for w in weights])
    bounds = dual_maxima(problem.X, jnp.asarray(P) * problem.y, known)
    best = int(jnp.argmin(bounds.upper))
    return P[best], jax.tree.map(lambda leaf: leaf[best], bounds)
