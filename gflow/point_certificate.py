"""certify_point: is the point at which a flow came to rest the optimum of its own program?

With weight decay beta, every alpha with B = max_{|u|<=1} |lambda^T (X u)_+| <= beta, lambda = c o alpha, bounds the
optimum: L + beta/2 |theta|^2 >= b . alpha - sum_n l*(-alpha_n). Without it an interpolating network competes with the
one of least norm, and one that does not interpolate with any that does. Everything is recomputed in float64.
Source: arXiv 2002.10553, section 2; theory, "Squared loss and weight decay".
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from gflow._types import VERDICT
from gflow.convex.faces import Faces, faces
from gflow.convex.min_norm import MinNorm, solve_min_norm
from gflow.convex.oracle import Bound, dual_maximum, require_float64
from gflow.convex.penalized import Penalized, solve_penalized
from gflow.convex.semidefinite import bound_of_dual
from gflow.network import TwoLayer
from gflow.problem import Problem
from gflow.programs import Limit
from gflow.proof import Certificate

RTOL = 1e-6
"""GLOBAL and NOT_GLOBAL are said as in `certify`: up to this, relatively."""

INTERPOLATES = 1e-12
"""Largest loss of an interpolating network, relative to the zero network's."""


def certify_point(
    problem: Problem,
    limit: Limit | TwoLayer,
    known_faces: Faces | None = None,
    optimum: Penalized | MinNorm | None = None,
    search: bool = True,
) -> Certificate:
    """What is proved about a network at rest; a limit that is not `polished` is under way, and INCONCLUSIVE.

    With weight decay c = B/beta, and `better` a network with a lower penalised objective. Squared loss without it:
    GLOBAL if the network interpolates and no interpolating one is shorter; NOT_GLOBAL if one is shorter, or if this one
    does not interpolate and another one does; c = |theta|^2 / 2 over the proved lower bound, infinite where the loss is
    not 0. Raises ValueError as `certify` does.
    """
    network = limit.network if isinstance(limit, Limit) else limit
    problem.check(network)
    problem.require_relu()
    require_float64(problem.X, network.W1)
    if not (np.all(np.isfinite(network.W1)) and np.all(np.isfinite(network.w2))):
        raise ValueError("the weights are not finite")
    known = faces(problem.X) if known_faces is None else known_faces
    settled = limit.polished if isinstance(limit, Limit) else True
    if problem.weight_decay is None:
        return _least_norm(problem, network, known, optimum, search, settled)
    return _penalised(problem, network, known, optimum, search, settled)


def _penalised(problem: Problem, network: TwoLayer, known: Faces, optimum, search: bool, settled: bool) -> Certificate:
    beta = float(problem.weight_decay)  # pyright: ignore[reportArgumentType]
    c, b, q = problem.signs(), problem.targets(), problem.margins(network)
    objective = float(problem.total_loss(network))
    alpha = -problem.loss.slope(q)
    bound = dual_maximum(problem.X, c * alpha, known)
    B = float(bound.upper)
    if not known.complete:
        B = min(B, bound_of_dual(np.asarray(problem.X), np.asarray(c * alpha)))
    feasible = alpha * min(1.0, beta / B) if B > 0 else alpha
    lower = float(b @ feasible - jnp.sum(problem.loss.conjugate(feasible)))
    rounding = _rounding(problem, network, objective)
    facts = {"objective": objective, "p": np.asarray(alpha), "exact": known.complete, "c": B / beta}
    if objective - lower <= (RTOL - rounding) * objective:
        return Certificate(
            VERDICT.GLOBAL, lower_bound=lower, missing_neuron=None, better=None, optimum=objective, **facts
        )
    if optimum is None and search:
        optimum = solve_penalized(problem, beta, known)
    verdict, better, value = VERDICT.INCONCLUSIVE, None, None
    if optimum is not None:
        lower = max(lower, optimum.lower_bound)
        value = optimum.primal if optimum.primal - optimum.lower_bound <= RTOL * optimum.primal else None
        if optimum.primal < (1 - RTOL - 2 * rounding) * objective:
            better = optimum.network
            verdict = VERDICT.NOT_GLOBAL if settled else verdict
        elif objective - lower <= (RTOL - rounding) * objective:
            verdict = VERDICT.GLOBAL
    missing = _missing(problem, network, c * alpha, bound, beta) if verdict != VERDICT.GLOBAL else None
    return Certificate(verdict, lower_bound=lower, missing_neuron=missing, better=better, optimum=value, **facts)


def _least_norm(problem: Problem, network: TwoLayer, known: Faces, optimum, search: bool, settled: bool) -> Certificate:
    q, objective = problem.margins(network), 0.5 * float(network.squared_norm())
    loss, at_zero = float(problem.loss_value(q)), float(problem.loss_value(-problem.targets()))
    interpolates = loss <= INTERPOLATES * at_zero
    lam = -np.asarray(problem.loss.slope(q))
    if optimum is None and search:
        optimum = solve_min_norm(problem, known)
    facts = {"objective": objective, "exact": known.complete}
    if optimum is None:
        nothing = {"missing_neuron": None, "better": None, "optimum": None, "p": np.abs(lam)}
        return Certificate(VERDICT.INCONCLUSIVE, lower_bound=0.0, c=np.inf, **nothing, **facts)
    # the network interpolates labels that are off by q: their least norm is at least lambda . (y + q)
    lower = optimum.dual - float(np.abs(optimum.lam) @ np.abs(np.asarray(q))) if interpolates else optimum.dual
    value = optimum.primal if optimum.gap <= RTOL else None
    verdict, better, rounding = VERDICT.INCONCLUSIVE, None, _rounding(problem, network, objective)
    if optimum.network is not None and (not interpolates or optimum.primal < (1 - RTOL - rounding) * objective):
        better = optimum.network
        verdict = VERDICT.NOT_GLOBAL if settled else verdict
    elif interpolates and objective - lower <= (RTOL - rounding) * objective:
        verdict = VERDICT.GLOBAL
    bound, missing = dual_maximum(problem.X, jnp.asarray(optimum.lam), known), None
    if not interpolates and np.any(lam):
        bound = dual_maximum(problem.X, jnp.asarray(lam), known)
        missing = np.asarray(bound.u) if float(bound.lower) > 0 else None
    c = objective / lower if interpolates and lower > 0 else 1.0 if interpolates and objective == 0 else np.inf
    return Certificate(
        verdict, lower_bound=max(lower, 0.0), c=c, p=np.abs(lam), missing_neuron=missing, better=better, optimum=value,
        **facts,
    )  # fmt: skip


def _rounding(problem: Problem, network: TwoLayer, objective: float) -> float:
    """A bound on the relative rounding error of the objective: sums of |x_nj||w_ji||a_i|, weighted by |l'(q_n)|."""
    terms = jnp.abs(problem.X) @ jnp.abs(network.W1) @ jnp.abs(network.w2)
    slopes = jnp.abs(problem.loss.slope(problem.margins(network)))
    count = network.width + sum(problem.shape) + 8
    size = float(slopes @ terms) + abs(objective)
    return count * float(jnp.finfo(problem.X.dtype).eps) * size / max(abs(objective), 1e-300)


def _missing(problem: Problem, network: TwoLayer, lam, bound: Bound, beta: float) -> np.ndarray | None:
    """The maximiser u of |lambda^T (X u)_+| if it exceeds beta and no neuron of its sign has this direction."""
    u = np.asarray(bound.u)
    if float(bound.lower) <= beta * (1 + RTOL):
        return None
    sign = np.sign(np.asarray(lam) @ np.maximum(np.asarray(problem.X) @ u, 0.0))
    same = (np.sign(np.asarray(network.w2)) == sign) & (np.asarray(network.masses()) > 0)
    present = same & (u @ np.asarray(network.directions()) >= 1 - 1e-12)
    return None if present.any() else u
