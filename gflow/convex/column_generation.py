"""solve_max_margin: column generation over unit vectors. A linear program as master, exact pricing over faces.

Dual: max 1^T alpha s.t. alpha >= 0, |lambda^T (X u)_+| <= 1 for all |u| <= 1, lambda = Y alpha. A column is one
direction u, whose two constraints are linear in alpha, so the master is a linear program (HiGHS); its multipliers are
the masses of a network with these directions. Source: arXiv 2002.10553, section 2; theory, "The convex program".
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from gflow._types import RESULTS
from gflow.convex.arrangements import unit_rows
from gflow.convex.faces import Faces, faces
from gflow.convex.oracle import _candidates, arrays_of, dual_maximum, require_float64
from gflow.network import TwoLayer
from gflow.problem import Problem

INFEASIBLE = 1e12
"""A lower bound of P* min|x_n| above this means that no width separates the data."""


class MaxMargin(eqx.Module):
    """The max-margin program of a data set, bracketed: dual <= P* <= primal.

    `network`: feasible (q_min = 1) with objective `primal`. `alpha` (n,): dual feasible with value `dual`, proved over
    all masks if `complete`, otherwise only over the sampled ones, and then `dual` is the Gram bound's value.
    `result`: successful if primal - dual <= rtol primal, else max_steps_reached; an infeasible program (a row of zeros,
    or a lower bound of P* min|x_n| above 1e12) has primal = inf, `network` None, result infeasible.
    """

    primal: float
    dual: float
    alpha: np.ndarray
    network: TwoLayer | None
    result: RESULTS
    complete: bool = eqx.field(static=True)
    rounds: int = eqx.field(static=True)


def solve_max_margin(
    problem: Problem, known_faces: Faces | None = None, *, directions=None, rtol: float = 1e-6, rounds: int = 60
) -> MaxMargin:
    """P* of `problem`, its dual multipliers and an optimal network.

    `directions` (K, d): first columns, for instance the neurons of a limit. Raises ValueError in float32.
    """
    problem.require_relu()
    require_float64(problem.X)
    known = faces(problem.X) if known_faces is None else known_faces
    X, y = np.asarray(problem.X), np.asarray(problem.y)
    lengths = np.linalg.norm(X, axis=1)
    if lengths.min() == 0:  # f(0) = 0
        return MaxMargin(np.inf, np.inf, np.zeros(len(y)), None, RESULTS.infeasible, known.complete, 0)  # pyright: ignore
    largest = lengths.max()
    middle = float(np.exp(np.mean(np.log(lengths))))
    if not 1e-3 <= middle <= 1e3:  # the linear programs have absolute tolerances; P* scales like 1/|x|
        scaled = eqx.tree_at(lambda p: p.X, problem, problem.X / middle)
        solved = solve_max_margin(scaled, known, directions=directions, rtol=rtol, rounds=rounds)
        network = None if solved.network is None else solved.network.scaled(jnp.asarray(middle**-0.5))
        bounds = (solved.primal / middle, solved.dual / middle, solved.alpha / middle, network)
        return MaxMargin(*bounds, solved.result, solved.complete, solved.rounds)
    start = unit_rows(X)
    U = start if directions is None else np.vstack([np.asarray(directions), start])
    U = np.vstack([U, -U])
    best, alpha_best, network, primal = 0.0, np.zeros(len(y)), None, np.inf
    # slack costs `price`: as long as P* may be above it the master is happy to pay, so it is raised on demand
    price, ceiling = 1e3 / largest, INFEASIBLE / lengths.min()
    round_ = 0
    for round_ in range(1, rounds + 1):  # noqa: B007
        solved = _master(X, y, U, price)
        if solved is None:
            break
        mass, alpha, slack = solved
        if slack <= 1e-9 * max(1.0, np.sum(np.abs(mass))):
            candidate = _network(U, mass)
            objective = float(problem.objective(candidate))
            if objective < primal:
                q_min = jnp.min(problem.margins(candidate))
                primal, network = objective, candidate.scaled(1 / jnp.sqrt(q_min))
        total = alpha.sum()
        p = alpha / total if total > 0 else np.full(len(y), 1 / len(y))
        bound = dual_maximum(problem.X, jnp.asarray(p * y), known)
        if 1 / max(float(bound.upper), 1e-300) > best:
            best = 1 / max(float(bound.upper), 1e-300)
            alpha_best = p * best
        if best >= (1 - rtol) * primal or best > ceiling:
            break
        fresh = _violated(problem, alpha * y, known, U)
        if len(fresh):
            U = np.vstack([U, fresh])
        elif network is None and price < ceiling:
            price *= 1e3
        else:
            break
    done = np.isfinite(primal) and best >= (1 - rtol) * primal
    result = RESULTS.successful if done else RESULTS.max_steps_reached
    if network is None and best > ceiling:
        result = RESULTS.infeasible
    return MaxMargin(
        primal,
        best,
        alpha_best,
        network,
        result,  # pyright: ignore[reportArgumentType]
        known.complete,
        round_,
    )


def _master(X, y, U, price: float):
    """min sum |mass| + price sum slack s.t. Y (X U^T)_+ mass + slack >= 1: (mass (K,), alpha (n,), total slack).

    None if HiGHS fails with both of its methods.
    """
    from scipy.optimize import linprog

    A = y[:, None] * np.maximum(X @ U.T, 0.0)  # (n, K)
    n, K = A.shape
    cost = np.concatenate([np.ones(2 * K), np.full(n, price)])
    tight = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
    for method, options in (("highs-ds", tight), ("highs-ipm", tight), ("highs", {})):
        A_ub, b_ub = -np.hstack([A, -A, np.eye(n)]), -np.ones(n)
        sol = linprog(cost, A_ub=A_ub, b_ub=b_ub, bounds=(0, None), method=method, options=options)
        if sol.x is not None:
            slack = float(sol.x[2 * K :].sum())
            return sol.x[:K] - sol.x[K : 2 * K], np.maximum(-sol.ineqlin.marginals, 0.0), slack
    return None


def _violated(problem: Problem, lam, known: Faces, U: np.ndarray) -> np.ndarray:
    """At most 4n directions that violate |lambda^T (X u)_+| <= 1 most, none of them a column already."""
    values, V, *_ = _candidates(problem.X, jnp.asarray(lam), *arrays_of(known))
    values, V = np.asarray(values), np.asarray(V)
    order = np.argsort(-values)
    order = order[values[order] > 1 + 1e-12]
    fresh: list[np.ndarray] = []
    limit = 4 * len(np.asarray(problem.y))
    for index in order[: 8 * limit]:
        others = np.array([*fresh]) if fresh else np.zeros((0, V.shape[1]))
        if len(fresh) < limit and np.all(np.abs(others @ V[index] - 1) > 1e-14):
            fresh.append(V[index])
    fresh = [v for v in fresh if np.all(np.abs(U @ v - 1) > 1e-15)]
    return np.array(fresh).reshape(-1, V.shape[1])


def _network(U: np.ndarray, mass: np.ndarray) -> TwoLayer:
    """Direction u_k with signed mass -> the balanced neuron w = sqrt|mass| u, a = sign sqrt|mass|."""
    live = np.abs(mass) > 0
    root = np.sqrt(np.abs(mass[live]))
    return TwoLayer(jnp.asarray(U[live].T * root), jnp.asarray(np.sign(mass[live]) * root))
