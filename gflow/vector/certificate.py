"""certify_vector: is this network with K outputs the global optimum of its max-margin problem?

For Lambda o Y >= 0 with sum |Lambda_nk| = 1, P* >= 1/B(Lambda), B = max_{|u|<=1} |Lambda^T (X u)_+|: from
1/2 |theta|^2 >= sum_i |a_i||w_i| and <Lambda, F(X)> >= q_min. Source: docs/mathematics.md, "Vector output".
"""

# Limit and Certificate are typed for one output
# pyright: reportArgumentType=false

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from gflow import deadline
from gflow._types import VERDICT, Scope
from gflow.convex.faces import Faces, faces
from gflow.convex.oracle import require_float64
from gflow.network import VectorTwoLayer
from gflow.problem import Problem
from gflow.programs.base import TOLERANCE, Certificate, Limit, decide, proved_optimum
from gflow.vector.oracle import vector_maximum
from gflow.vector.program import VectorMaxMargin, solve_vector_max_margin


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
    settled, value = isinstance(limit, Limit) and limit.polished, None
    judged, better = decide(objective, 1 / bound.upper if bound.upper > 0 else np.inf, rounding=rounding), None
    c = judged.c
    if judged.verdict != VERDICT.GLOBAL and np.isfinite(objective) and judged.sound:
        if optimum is None and search and not deadline.passed():
            optimum = solve_vector_max_margin(problem, known, network=network)
        if optimum is not None:
            other = optimum.network
            judged = decide(
                objective, max(judged.lower_bound, optimum.dual), rounding=rounding, better=optimum.primal,
                better_rounding=0.0 if other is None else float(problem.rounding(other)),
                settled=settled or not isinstance(limit, Limit),
            )  # fmt: skip
            better, value = other if judged.better else None, proved_optimum(optimum.primal, optimum.dual)
    proved = judged.verdict == VERDICT.GLOBAL
    accused = not proved and settled and bound.lower * objective > 1 + TOLERANCE + rounding
    return Certificate(
        judged.verdict, Scope.ALL, objective=objective, lower_bound=judged.lower_bound,
        c=c if known.complete and judged.sound else judged.c, p=p, exact=known.complete,
        missing_neuron=bound.u if accused else None, better=better,
        optimum=objective if proved and value is None else value,
    )  # fmt: skip


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
