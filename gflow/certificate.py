"""certify(problem, limit) -> Certificate: is this network the global optimum of the max-margin problem?

For every p in the simplex, lambda = Y p and B(p) = max_{|u|<=1} |lambda^T (X u)_+|, P* >= 1/B(p), so that
c = P(theta) B(p) >= 1 and (P(theta) - P*)/P(theta) <= 1 - 1/c. Everything is recomputed in float64 from the returned
arrays. Source: arXiv 2110.06488, sections 4 and 5; docs/mathematics.md, "The certificate".
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from gflow import deadline
from gflow._types import VERDICT, Scope, kept_on_host, normal_numbers, on_host, positive
from gflow.convex.column_generation import MaxMargin, solve_max_margin
from gflow.convex.faces import Faces, faces
from gflow.convex.leaky import multipliers, opposite, rows
from gflow.convex.oracle import Bound, dual_maxima, require_float64
from gflow.convex.semidefinite import bound_of_dual
from gflow.flow.solve import Flow
from gflow.network import TwoLayer, VectorTwoLayer, cast_like, require_network
from gflow.optimum import Optimum
from gflow.parts import require_part
from gflow.patterns import cannot_fit, distinct, explaining, merge, undetermined
from gflow.point_certificate import certify_point
from gflow.problem import Problem
from gflow.programs.base import TOLERANCE, Certificate, Limit, decide, proved_optimum
from gflow.programs.max_margin import Programs
from gflow.vector.certificate import certify_vector
from gflow.vector.program import VectorMaxMargin

RELAXED = 0.5
"""Share of the time that is left for the semidefinite bound of the limit's own multipliers."""

SHARPNESS = np.logspace(-1, 8, 46)
"""Trained networks come without multipliers: p ~ exp(-tau q_n/q_min) for these tau, the best bound is taken."""


@np.errstate(over="ignore")  # where JAX would say inf, and the code below looks for it
def certify(
    problem: Problem,
    limit: Limit | TwoLayer | VectorTwoLayer,
    *,
    known_faces: Faces | None = None,
    optimum: Optimum | VectorMaxMargin | None = None,
    search: bool = True,
    budget: float | None = None,
) -> Certificate:
    """The certificate of a limit, or of any trained network without multipliers; of points see `certify_point`.

    GLOBAL needs 1 - lower_bound/P(theta) <= 1e-6, NOT_GLOBAL a network whose objective is lower by more than that, each
    less what rounding leaves open. A limit that is not `polished` is a flow under way: a better network proves nothing
    about where it goes, and the verdict stays INCONCLUSIVE. UNFITTED: a margin is not positive and a linear program
    proves that no weights with the same signs of a_i and of x_n . w_i (or 0 in their place) have margins q_n >= 1e-9
    |x_n| sum_i |a_i||w_i|; with other signs of a, which a flow from balanced weights keeps, there may be some.

    Where the faces are too many, and the program was not solved before, the semidefinite bound is computed for p.
    `known_faces`: `gflow.faces(X)`, to share it between many limits. `optimum`: the solved program, likewise; if it is
    not given and the network is not proved GLOBAL, `search` solves it, looking for a better network. `budget`: seconds,
    faces included, after which the certificate says what is proved by then; None for as long as it takes. Raises
    ValueError in float32 or for weights that are not finite.
    """
    with deadline.within(budget):
        return _certified(problem, limit, known_faces, optimum, search)


def _certified(problem: Problem, limit, known_faces: Faces | None, optimum, search: bool) -> Certificate:
    require_part("problem", problem, Problem)
    if isinstance(limit, Flow):
        raise ValueError("certify takes the limit of a flow: certify(problem, gflow.find_limit(problem, flow))")
    if not isinstance(limit, Limit):
        require_network(limit)
        limit = cast_like(limit, problem.X)
    network = limit.network if isinstance(limit, Limit) else limit
    problem.require_sides()
    if not isinstance(limit, Limit):
        problem.check(network)
    if problem.outputs is not None:
        if optimum is not None and not isinstance(optimum, VectorMaxMargin):
            raise ValueError(
                "`optimum` is of another problem: with labels (n, K) it comes from solve_vector_max_margin"
            )
        return certify_vector(problem, limit, known_faces, optimum, search)  # pyright: ignore[reportArgumentType]
    if not problem.directional:
        return certify_point(problem, limit, known_faces, optimum, search)  # pyright: ignore[reportArgumentType]
    problem.require_max_margin()
    assert isinstance(network, TwoLayer)
    network = normal_numbers(on_host(network))
    assert optimum is None or isinstance(optimum, MaxMargin), "the program of another problem"
    given = limit if isinstance(limit, Limit) else None
    require_float64(problem.X, network.W1)
    for name, array in (("weights", network.W1), ("weights", network.w2), ("multipliers", given and given.lam)):
        if array is not None and not np.all(np.isfinite(array)):
            raise ValueError(f"the {name} are not finite")
    known = faces(problem.X) if known_faces is None else known_faces
    return _of_direction(problem, network, given, known, optimum, search)


def _of_direction(
    problem: Problem, network: TwoLayer, given: Limit | None, known: Faces, optimum: MaxMargin | None, search: bool
) -> Certificate:
    """By weak duality alone where that is enough, else with the program."""
    host, original, network = kept_on_host(problem), network, network.normalised()
    objective, rounding = float(host.objective(network)), float(host.rounding(network))
    p, bound = _best_bound(problem, _candidate_weights(host, network, given), known)
    B = float(bound.upper)
    deadline.tell(1 / B if B > 0 else 0.0, objective)
    if not known.complete and optimum is None and search and np.isfinite(objective):
        slope = problem.lower_slope
        with deadline.within(share=RELAXED):
            lam = multipliers(p * np.asarray(problem.y), slope)
            B = min(B, bound_of_dual(rows(np.asarray(problem.X), slope), lam))
    judged = decide(
        objective, 1 / B if B > 0 else np.inf, rounding=rounding,
        unfitted=not np.isfinite(objective) and (given.stuck if given is not None else _unfitted(host, original)),
    )  # fmt: skip
    proved = Certificate(
        judged.verdict, Scope.ALL, objective=objective, lower_bound=judged.lower_bound, c=judged.c, p=p,
        exact=known.complete, missing_neuron=None, better=None,
        optimum=objective if judged.verdict == VERDICT.GLOBAL else _value(optimum),
    )  # fmt: skip
    if judged.verdict == VERDICT.GLOBAL or not np.isfinite(objective) or not judged.sound:
        return proved
    deadline.tell(proved.lower_bound, objective)
    if optimum is None and search and not deadline.passed():
        optimum = solve_max_margin(problem, known, directions=network.directions().T)
    if optimum is not None:
        proved = _with_program(proved, host, given, optimum, rounding)
    # guessed multipliers accuse nobody, and a flow that has not reached its limit may yet go on to a better one
    accused = proved.better is not None or (given is not None and given.polished)
    if proved.verdict == VERDICT.GLOBAL or not accused:
        return proved
    return dataclasses.replace(proved, missing_neuron=_missing_neuron(host, network, p, bound))


def _with_program(
    proved: Certificate, host: Problem, given: Limit | None, optimum: MaxMargin, rounding: float
) -> Certificate:
    """The same with the bound of the solved program and its network, where these say more."""
    other = optimum.network
    judged = decide(
        proved.objective, max(proved.lower_bound, optimum.dual), rounding=rounding, better=optimum.primal,
        better_rounding=0.0 if other is None else float(host.rounding(on_host(other))),
        settled=given is None or given.polished,
    )  # fmt: skip
    figures = {"verdict": judged.verdict, "lower_bound": judged.lower_bound, "optimum": _value(optimum)}
    figures["better"] = other if judged.better else None
    guess = judged.verdict == VERDICT.GLOBAL and given is None and optimum.dual > proved.lower_bound
    if guess:  # better than all guesses
        figures["p"] = optimum.alpha / optimum.alpha.sum()
    if guess or not proved.exact or not judged.sound:
        figures["c"] = judged.c
    return dataclasses.replace(proved, **figures)


def _unfitted(problem: Problem, network: TwoLayer) -> bool:
    """Whether no weights with the signs of a given network fit, by a linear program."""
    balanced = network.balanced()
    fits = bool(positive(problem.margins(balanced).min()))  # P(theta) may overflow all the same
    return not (fits or undetermined(problem, network)) and cannot_fit(problem, merge(problem, balanced, 0.0, 0.0)[0])


def _missing_neuron(problem: Problem, network: TwoLayer, p, bound: Bound) -> np.ndarray | None:
    """The maximiser u of |lambda^T (X u)_+| if it exceeds 1/P(theta) and no neuron of its sign has this direction."""
    objective, u = float(problem.objective(network)), np.asarray(bound.u)
    if float(bound.lower) * objective <= 1 + TOLERANCE + float(problem.rounding(network)):
        return None
    sign = np.sign((p * np.asarray(problem.y)) @ np.asarray(problem.activation(problem.X @ u)))
    same = (np.sign(np.asarray(network.w2)) == sign) & np.asarray(network.live())
    present = same & (u @ np.asarray(network.directions()) >= 1 - 1e-12)
    return None if present.any() else u


def _value(optimum: MaxMargin | None) -> float | None:
    return None if optimum is None else proved_optimum(optimum.primal, optimum.dual)


def _candidate_weights(problem: Problem, network: TwoLayer, given: Limit | None) -> list[np.ndarray]:
    """The weights p to try: those of a limit, else guesses. Every one gives a valid bound."""
    n, q = problem.shape[0], np.asarray(problem.margins(network))
    if given is not None and np.any(positive(np.abs(np.asarray(given.lam)))):
        return [np.abs(np.asarray(given.lam))]
    if not np.isfinite(problem.objective(network)):
        return [np.ones(n)]
    return _guess_weights(problem, network, q)


def _guess_weights(problem: Problem, network: TwoLayer, q: np.ndarray) -> list[np.ndarray]:
    """Candidate weights for a network that fits but comes without multipliers.

    p ~ exp(-tau (q_n/q_min - 1)) for a range of tau, the multipliers that explain the weights best (`explaining`), and
    those of the KKT point with the same patterns.
    """
    weights = [np.exp(-tau * (q / q.min() - 1)) for tau in SHARPNESS]
    # neurons of one pattern act together: one unit vector per pattern, |X^T D lambda| = 1 at a KKT point
    patterns, V = merge(problem, network, 1e-9, 1e-9)
    point = Programs(problem).near(distinct(patterns), None)
    if point is not None and np.any(positive(np.abs(np.asarray(point.limit.lam)))):
        weights.append(np.abs(np.asarray(point.limit.lam)))
    alpha = explaining(problem, patterns, V)
    return weights if alpha is None else [*weights, alpha]


def _best_bound(problem: Problem, weights: list[np.ndarray], known: Faces) -> tuple[np.ndarray, Bound]:
    P = np.stack([w / w.max() / np.sum(w / w.max()) for w in weights])
    lower = problem.lower_slope
    lams = multipliers(P * np.asarray(problem.y), lower)
    bounds = on_host(dual_maxima(rows(problem.X, lower), lams, opposite(known, lower)))
    best = int(np.argmin(bounds.upper))
    return P[best], jax.tree.map(lambda leaf: leaf[best], bounds)
