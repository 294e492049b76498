"""certify_point: is the point at which a flow came to rest the optimum of its own program?

With weight decay beta, every alpha with B = max_{|u|<=1} |lambda^T sigma(X u)| <= beta, lambda = c o alpha, bounds the
optimum: L + beta/2 |theta|^2 >= b . alpha - sum_n l*(-alpha_n). Without it an interpolating network competes with the
one of least norm, and one that does not interpolate with any that does. Everything is recomputed in float64.
Source: arXiv 2002.10553, section 2; docs/mathematics.md, "Limits that are points".
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from gflow import deadline
from gflow._types import VERDICT, Scope
from gflow.convex.accurate import accurate_residuals
from gflow.convex.faces import Faces, faces
from gflow.convex.leaky import multipliers, opposite, rows
from gflow.convex.min_norm import MinNorm, rays_of, solve_min_norm
from gflow.convex.oracle import Bound, dual_maximum, require_float64
from gflow.convex.penalized import Penalized, solve_penalized
from gflow.convex.semidefinite import bound_of_dual
from gflow.convex.supply import Supply
from gflow.network import TwoLayer
from gflow.problem import Problem
from gflow.programs.base import TOLERANCE, Certificate, Limit, decide, proved_optimum

STEEPEST = 1e100
"""No multiplier that is guessed from a network is larger: sums over faces would overflow."""


def certify_point(
    problem: Problem,
    limit: Limit | TwoLayer,
    known_faces: Faces | None = None,
    optimum: Penalized | MinNorm | None = None,
    search: bool = True,
) -> Certificate:
    """What is proved about a network at rest; a limit that is not `polished` is under way, and INCONCLUSIVE.

    c is the objective over the proved lower bound. With weight decay `better` has a lower penalised objective. Squared
    loss without it: GLOBAL if the network, with the neurons of least norm that supply what it misses of the labels, is
    no longer than 1 + 1e-6 times any that interpolates; NOT_GLOBAL if one is shorter, or if this one would need more
    than 1e-6 of its own norm to interpolate or misses a label by more than 1e-6 of it, and another one does not; c is
    infinite where the network does not interpolate.
    Raises ValueError as `certify` does.
    """
    network = limit.network if isinstance(limit, Limit) else limit
    if network.width:  # an optimal network may have no neurons
        problem.check(network)
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
    # the slope of exp at -1e8 is no number; whatever multipliers are guessed, a bound comes of them
    alpha = jnp.clip(-problem.loss.slope(q), -STEEPEST, STEEPEST)
    bound = _largest(problem, c * alpha, known)
    B = float(bound.upper)
    if not known.complete:
        lower = problem.lower_slope
        B = min(B, bound_of_dual(rows(np.asarray(problem.X), lower), multipliers(np.asarray(c * alpha), lower)))
    feasible = alpha * min(1.0, beta / B) if B > 0 else alpha
    lower = float(b @ feasible - jnp.sum(problem.loss.conjugate(feasible)))
    rounding, value = _rounding(problem, network, objective), None
    judged, better = decide(objective, lower, rounding=rounding), None
    search = search and not deadline.passed()
    if optimum is None and search and judged.verdict != VERDICT.GLOBAL:
        optimum = solve_penalized(problem, beta, known)
    if optimum is not None and judged.verdict != VERDICT.GLOBAL:
        judged = decide(
            objective, max(lower, optimum.lower_bound), rounding=rounding, better=optimum.primal,
            better_rounding=_rounding(problem, optimum.network, optimum.primal), settled=settled,
        )  # fmt: skip
        better = optimum.network if judged.better else None
        value = proved_optimum(optimum.primal, optimum.lower_bound)
    proved = judged.verdict == VERDICT.GLOBAL
    return Certificate(
        judged.verdict, Scope.ALL, objective=objective, lower_bound=judged.lower_bound, c=judged.c,
        p=np.asarray(alpha), exact=known.complete, better=better,
        missing_neuron=None if proved else _missing(problem, network, c * alpha, bound, beta),
        optimum=objective if proved and value is None else value,
    )  # fmt: skip


def _least_norm(problem: Problem, network: TwoLayer, known: Faces, optimum, search: bool, settled: bool) -> Certificate:
    objective, lam = 0.5 * float(network.squared_norm()), -np.asarray(problem.loss.slope(problem.margins(network)))
    if optimum is None and search and not deadline.passed():
        optimum = solve_min_norm(problem, known)
    facts = {"objective": objective, "exact": known.complete, "p": np.abs(lam), "missing_neuron": None}
    if optimum is None:
        return Certificate(
            VERDICT.INCONCLUSIVE, Scope.ALL, lower_bound=0.0, c=np.inf, better=None, optimum=None, **facts
        )
    # with neurons that supply what is missed, it interpolates exactly
    least, needed = _repair(problem, network, known)
    whole, meets = objective + needed, _meets(problem, network)
    interpolates, other = whole <= (1 + TOLERANCE) * objective and meets, optimum.network
    if meets and not interpolates and objective + least <= (1 + TOLERANCE) * objective:
        settled = False  # it may yet: the time was too short
    judged = decide(
        whole if interpolates else np.inf, optimum.dual, rounding=_summed(network),
        better=np.inf if other is None else optimum.primal, better_rounding=0.0 if other is None else _summed(other),
        settled=settled, falls=False,
    )  # fmt: skip
    if not interpolates and np.any(lam):
        bound = _largest(problem, jnp.asarray(lam), known)
        facts["missing_neuron"] = np.asarray(bound.u) if float(bound.lower) > 0 else None
    return Certificate(
        judged.verdict, Scope.ALL, lower_bound=judged.lower_bound, c=judged.c, better=other if judged.better else None,
        optimum=proved_optimum(optimum.primal, optimum.dual), **facts,
    )  # fmt: skip


def _largest(problem: Problem, lam, known: Faces) -> Bound:
    """B, over all faces or bounded."""
    lower = problem.lower_slope
    return dual_maximum(rows(problem.X, lower), multipliers(lam, lower), opposite(known, lower))


def _meets(problem: Problem, network: TwoLayer) -> bool:
    """Whether no label is missed by more than a relative 1e-6; what a label 0 is missed by only has its price."""
    missed, y = _missed(problem, network), np.abs(np.asarray(problem.y))
    return bool(np.all((np.abs(missed) <= TOLERANCE * y) | (y == 0)))


def _missed(problem: Problem, network: TwoLayer) -> np.ndarray:
    """y - f (n,) of these weights, rounded once."""
    X, y, W1, w2 = (np.asarray(a) for a in (problem.X, problem.y, network.W1, network.w2))
    return -accurate_residuals(X, y, W1, w2, problem.lower_slope)


def _repair(problem: Problem, network: TwoLayer, known: Faces) -> tuple[float, float]:
    """Bounds of the least norm of a network that supplies y - f: infinite if there is none."""
    X, y, missed = np.asarray(problem.X), np.asarray(problem.y), _missed(problem, network)
    rays = rays_of(X, y)
    if rays is None:
        return np.inf, np.inf
    if not missed.any():
        return 0.0, 0.0
    kept, size = rays.kept, rays.size
    objective = 0.5 * float(network.squared_norm())
    cost = Supply(X[kept] / size[:, None], problem.lower_slope).cost(missed[kept] / size, y[kept] / size, objective)
    if cost <= TOLERANCE * objective:
        return 0.0, cost
    # rows on one ray miss alike, f(c x) = c f(x)
    with deadline.aside():
        fix = solve_min_norm(eqx.tree_at(lambda p: p.y, problem, jnp.asarray(rays.factor * missed[rays.first])), known)
    return fix.dual, min(cost, fix.primal)


def _summed(network: TwoLayer) -> float:
    """A bound on the relative rounding error of 1/2 |theta|^2."""
    return (network.W1.size + network.w2.size + 8) * float(np.finfo(float).eps)


def _rounding(problem: Problem, network: TwoLayer, objective: float) -> float:
    """A bound on the relative rounding error of the objective."""
    terms = jnp.abs(problem.X) @ jnp.abs(network.W1) @ jnp.abs(network.w2)
    return problem.total_rounding(problem.margins(network), terms, objective, network.width + 8)


def _missing(problem: Problem, network: TwoLayer, lam, bound: Bound, beta: float) -> np.ndarray | None:
    """The maximiser u of |lambda^T sigma(X u)| if it exceeds beta and no neuron of its sign has this direction."""
    u = np.asarray(bound.u)
    if float(bound.lower) <= beta * (1 + TOLERANCE):
        return None
    sign = np.sign(np.asarray(lam) @ np.asarray(problem.activation(problem.X @ u)))
    same = (np.sign(np.asarray(network.w2)) == sign) & np.asarray(network.live())
    present = same & (u @ np.asarray(network.directions()) >= 1 - 1e-12)
    return None if present.any() else u
