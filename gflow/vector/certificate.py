"""certify_vector: is this network with K outputs the global optimum of its max-margin problem?

For Lambda o Y >= 0 with sum |Lambda_nk| = 1, P* >= 1/B(Lambda), B = max_{|u|<=1} |Lambda^T (X u)_+|: from
1/2 |theta|^2 >= sum_i |a_i||w_i| and <Lambda, F(X)> >= q_min. Source: docs/mathematics.md, "Vector output".
"""

# Limit and Certificate are typed for one output
# pyright: reportArgumentType=false

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from gflow._types import VERDICT
from gflow.convex.faces import Faces, faces
from gflow.convex.oracle import require_float64
from gflow.network import VectorTwoLayer
from gflow.problem import Problem
from gflow.programs.base import Certificate, Limit
from gflow.vector.oracle import vector_maximum
from gflow.vector.program import VectorMaxMargin, solve_vector_max_margin

RTOL = 1e-6
"""GLOBAL and NOT_GLOBAL are said as in `certify`: up to this, relatively."""


def certify_vector(
    problem: Problem,
    limit: Limit | VectorTwoLayer,
    known_faces: Faces | None = None,
    optimum: VectorMaxMargin | None = None,
    search: bool = True,
) -> Certificate:
    """As `certify`. `p` is (n, K); a network that does not fit is INCONCLUSIVE: no proof of UNFITTED exists here.

    A network without multipliers is given those of its margins, p_nk ~ exp(-tau q_nk/q_min) for several tau.
    Raises ValueError as `certify` does.
    """
    network = limit.network if isinstance(limit, Limit) else limit
    problem.require_relu()
    if network.width:
        problem.check(network)
    require_float64(problem.X, network.W1)
    assert isinstance(network, VectorTwoLayer)
    if not all(bool(jnp.all(jnp.isfinite(a))) for a in (network.W1, network.W2)):
        raise ValueError("the weights are not finite")
    network = network.normalised()
    known = faces(problem.X) if known_faces is None else known_faces
    objective, rounding = float(problem.objective(network)), float(problem.rounding(network))
    Y = np.asarray(problem.y)
    bounds = [(vector_maximum(problem.X, Y * p, known), p) for p in _weights(problem, network, limit)]
    bound, p = min(bounds, key=lambda pair: pair[0].upper)
    lower = 1 / bound.upper if bound.upper > 0 else np.inf
    facts = {"objective": objective, "p": p, "exact": known.complete}
    nothing = {"missing_neuron": None, "better": None}
    if not np.isfinite(objective) or objective < lower * (1 - RTOL - rounding):  # the latter weak duality forbids
        c = np.inf if not np.isfinite(objective) else objective / lower
        return Certificate(VERDICT.INCONCLUSIVE, lower_bound=lower, c=c, optimum=None, **nothing, **facts)
    if 1 - lower / objective <= RTOL - rounding:
        return Certificate(
            VERDICT.GLOBAL, lower_bound=lower, c=objective / lower, optimum=objective, **nothing, **facts
        )
    if optimum is None and search:
        optimum = solve_vector_max_margin(problem, known, network=network)
    c = objective / lower
    verdict, better, value = VERDICT.INCONCLUSIVE, None, None
    if optimum is not None:
        lower = max(lower, optimum.dual)
        c = c if known.complete else objective / lower
        value = optimum.primal if optimum.gap <= RTOL else None
        if optimum.network is not None:
            gap = RTOL + rounding + float(problem.rounding(optimum.network))
            better = optimum.network if optimum.primal < (1 - gap) * objective else None
        if better is not None and (not isinstance(limit, Limit) or limit.polished):
            verdict = VERDICT.NOT_GLOBAL
        elif 1 - lower / objective <= RTOL - rounding:
            verdict = VERDICT.GLOBAL
    settled = isinstance(limit, Limit) and limit.polished
    accused = verdict != VERDICT.GLOBAL and settled and bound.lower * objective > 1 + RTOL + rounding
    missing = bound.u if accused else None
    return Certificate(verdict, lower_bound=lower, c=c, missing_neuron=missing, better=better, optimum=value, **facts)


def _weights(problem: Problem, network, limit) -> list[np.ndarray]:
    """Weights p (n, K) in the simplex to try: those of a limit, else guesses. Every one gives a valid bound."""
    asked = np.asarray(problem.y) != 0
    if isinstance(limit, Limit) and bool(jnp.any(limit.lam != 0)):
        p = np.abs(np.asarray(limit.lam))
        return [p / p.sum()]
    q = np.asarray(problem.margins(network))
    if q.min() <= 0:
        return [asked / asked.sum()]
    guesses = [np.where(asked, np.exp(-tau * (q / q.min() - 1)), 0.0) for tau in np.logspace(-1, 5, 13)]
    return [p / p.sum() for p in guesses]
