"""solve_vector_max_margin: P* of K outputs by column generation over unit vectors, with bounds from both sides.

A column is a neuron (u, v), |u| = |v| = 1; the master is linear in the sizes c >= 0 of those at hand,

    min sum_j c_j   s.t.   Y o sum_j c_j (X u_j)_+ v_j^T >= 1,    multipliers Lambda = Y o alpha,

and any Lambda gives P* >= <Lambda, Y> / B(Lambda). New columns are u with the largest |Lambda^T (X u)_+| and
v = Lambda^T (X u)_+ normalised. Once the gap is small Newton's method on the KKT equations ends it.
Source: docs/mathematics.md, "Vector output" and "The convex program over masks"; arXiv 2110.06488, section 4.
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from gflow import deadline
from gflow._types import RESULTS, Scope, result_of_gap
from gflow.convex.column_generation import solve_max_margin
from gflow.convex.faces import Faces, faces
from gflow.convex.oracle import require_float64
from gflow.network import VectorTwoLayer
from gflow.problem import Problem
from gflow.vector.kkt import grouped, solve_kkt
from gflow.vector.oracle import VectorBound, vector_maximum

ROUNDS = 80
SAMPLED_ROUNDS = 12
"""The same where not all faces are known."""

POLISH = 1e-2
"""Gap from which Newton's method is tried."""


class VectorMaxMargin(eqx.Module):
    """`primal` >= P* >= `dual`, P* over all networks (`scope`); `alpha` (n, K): multipliers that prove `dual`;
    `network`: of `primal`, q_min = 1, or None. `result`: successful (gap <= rtol), reduced_accuracy (<= 1e-6),
    max_steps_reached, or infeasible."""

    primal: float
    dual: float
    alpha: Float[np.ndarray, "n K"]
    network: VectorTwoLayer | None
    result: RESULTS
    complete: bool = eqx.field(static=True)
    rounds: int = eqx.field(static=True)
    scope: Scope = eqx.field(static=True, default=Scope.ALL)

    @property
    def gap(self) -> float:
        """(primal - dual) / primal, 1 if no network is known."""
        return 1 - self.dual / self.primal if np.isfinite(self.primal) else 1.0


def solve_vector_max_margin(
    problem: Problem,
    known_faces: Faces | None = None,
    *,
    network: VectorTwoLayer | None = None,
    rtol: float = 1e-9,
    rounds: int | None = None,
    budget: float | None = None,
) -> VectorMaxMargin:
    """P* of a problem with labels (n, K), its multipliers and an optimal network. `network`: first columns.

    Where not all faces are known columns come from ascents, and `dual` from bounds that hold for every direction: a gap
    is left. `budget`: seconds, faces included, after which the bracket so far is returned. Raises ValueError in
    float32, for labels (n,) and other activations than ReLU.
    """
    if problem.outputs is None:
        raise ValueError("labels (n,) are for solve_max_margin")
    problem.require_relu()
    require_float64(problem.X)
    with deadline.within(budget):
        return _solved(problem, known_faces, network, rtol, rounds)


def _solved(
    problem: Problem, known_faces: Faces | None, network: VectorTwoLayer | None, rtol: float, rounds: int | None
) -> VectorMaxMargin:
    known = faces(problem.X) if known_faces is None else known_faces
    rounds = (ROUNDS if known.complete else SAMPLED_ROUNDS) if rounds is None else rounds
    X, Y = np.asarray(problem.X), np.asarray(problem.y)
    nothing = np.zeros_like(Y)
    if np.any(Y[np.all(X == 0, axis=1)] != 0):  # F(0) = 0
        return VectorMaxMargin(np.inf, np.inf, nothing, None, RESULTS.infeasible, known.complete, 0)  # pyright: ignore
    lengths = np.linalg.norm(X, axis=1)
    middle = float(np.exp(np.mean(np.log(lengths[lengths > 0]))))
    if not 1e-2 <= middle <= 1e2:  # the linear programs have absolute tolerances; P* scales like 1/|x|
        scaled = eqx.tree_at(lambda p: p.X, problem, problem.X / middle)
        with deadline.scaled(float(1 / middle)):
            solved = _solved(scaled, known, network, rtol, rounds)
        best = None if solved.network is None else solved.network.scaled(jnp.asarray(middle**-0.5))
        bounds = (solved.primal / middle, solved.dual / middle, solved.alpha / middle, best)
        return VectorMaxMargin(*bounds, solved.result, solved.complete, solved.rounds)
    if network is not None:
        problem.check(network)
    U, V = _first(X, Y, network)
    primal, dual, best, alpha, k = np.inf, 0.0, None, nothing, 0
    while k < rounds and not deadline.passed():
        k += 1
        sizes, weights, slack = _master(X, Y, U, V)
        bound = vector_maximum(X, Y * weights, known)
        lower = weights.sum() / bound.upper
        if lower > dual:
            dual, alpha = lower, weights / bound.upper
        if slack <= 1e-9:
            found = _scaled(problem, U * np.sqrt(sizes), V * np.sqrt(sizes))
            primal, best = min((primal, best), found, key=lambda pair: pair[0])
            if 1 - dual / primal <= POLISH:
                end = _polished(problem, known, U * np.sqrt(sizes), V * np.sqrt(sizes), weights)
                if end is not None:
                    primal, best = min((primal, best), end[:2], key=lambda pair: pair[0])
                    dual, alpha = max((dual, alpha), end[2:], key=lambda pair: pair[0])
        deadline.tell(dual, primal)
        if 1 - dual / primal <= rtol:
            break
        U, V = _more(X, Y * weights, U, V, bound)
    gap = 1 - dual / primal if np.isfinite(primal) else 1.0
    result = result_of_gap(gap, rtol)
    if best is None:
        alone = _infeasible(problem, known)
        if alone is not None:
            dual, result = max(dual, alone), RESULTS.infeasible
    return VectorMaxMargin(primal, dual, alpha, best, result, known.complete, k)


def _infeasible(problem: Problem, known: Faces) -> float | None:
    """The lower bound of an output that alone cannot be fitted, at any width, or None: what fits all outputs fits each
    of them, with neurons that are no longer."""
    for labels in np.asarray(problem.y).T:
        asked = labels != 0
        if not asked.any():
            continue
        single = Problem(np.asarray(problem.X)[asked], labels[asked], problem.loss)
        with deadline.aside():
            solved = solve_max_margin(single, known if asked.all() else None)
        if solved.result == RESULTS.infeasible:
            return solved.dual
    return None


def _first(X, Y, network: VectorTwoLayer | None):
    """The data's own directions with every output, and the neurons of a network: unit columns."""
    rows = X[X.any(axis=1)]
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    K = Y.shape[1]
    U, V = np.repeat(rows.T, 2 * K, axis=1), np.tile(np.hstack([np.eye(K), -np.eye(K)]), len(rows))
    if network is None:
        return U, V
    own = np.asarray(network.live())
    return (
        np.hstack([np.asarray(network.directions())[:, own], U]),
        np.hstack([np.asarray(network.output_directions())[:, own], V]),
    )


def _master(X, Y, U, V) -> tuple[np.ndarray, np.ndarray, float]:
    """(c, alpha (n, K), slack): the linear program over these columns; slack > 0 while they cannot fit the data."""
    from scipy.optimize import linprog

    asked = Y != 0
    H = np.maximum(X @ U, 0.0)
    A = (Y[:, :, None] * H[:, None, :] * V[None]).reshape(-1, U.shape[1])[asked.ravel()]
    size = np.abs(A).max(axis=0)
    A = A / np.where(size > 0, size, 1.0)
    # what slack costs is far above any multiplier of a fitting program in these units
    price = 1e6 / max(np.median(size[size > 0]), 1e-300) if (size > 0).any() else 1e6
    cost = np.append(1 / np.where(size > 0, size, np.inf), price)
    cost[:-1] = np.where(size > 0, cost[:-1], 1.0)
    program = linprog(
        cost, A_ub=-np.hstack([A, np.ones((len(A), 1))]), b_ub=-np.ones(len(A)), bounds=(0, None), method="highs",
        options={
            "primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10, "time_limit": deadline.left(),
        },
    )  # fmt: skip
    if program.status != 0:
        return np.zeros(U.shape[1]), asked / asked.sum(), np.inf
    alpha = np.zeros(Y.shape)
    alpha[asked] = np.maximum(-program.ineqlin.marginals, 0.0)
    sizes = np.maximum(program.x[:-1], 0.0) / np.where(size > 0, size, 1.0)
    return sizes, alpha if alpha.sum() > 0 else asked / asked.sum(), float(program.x[-1])


def _scaled(problem: Problem, W, A):
    """(P(theta) rounded up, network at q_min = 1), infinite and None where it does not fit."""
    used = np.any(W != 0, axis=0)
    network = VectorTwoLayer(jnp.asarray(W[:, used]), jnp.asarray(A[:, used].T))
    q_min = float(jnp.min(problem.margins(network)))
    if q_min <= 0:
        return np.inf, None
    network = network.scaled(jnp.asarray(q_min**-0.5))
    return float(problem.objective(network) * (1 + problem.rounding(network))), network


def _polished(problem: Problem, known: Faces, W, A, alpha):
    """(primal, network, dual, alpha) of the KKT point near the master's solution, or None."""
    X, Y = np.asarray(problem.X), np.asarray(problem.y)
    neurons, patterns = grouped(X, W, A, 1e-7, 1e-7)
    found = solve_kkt(X, Y, neurons, patterns, alpha, alpha > 1e-7 * alpha.max())
    if found is None:
        return None
    neurons, alpha = found[0], np.maximum(found[1], 0.0)
    primal, network = _scaled(problem, neurons.W, neurons.A)
    bound = vector_maximum(X, Y * alpha, known)
    return primal, network, alpha.sum() / bound.upper, alpha / bound.upper


def _more(X, Lam, U, V, bound: VectorBound):
    """The columns with those directions added that violate the dual constraint, each once."""
    good = bound.values > max(1.0, 0.5 * bound.values[0])
    new = bound.U[good][: 2 * len(X)]
    v = Lam.T @ np.maximum(X @ new.T, 0.0)
    v = v / np.maximum(np.linalg.norm(v, axis=0), 1e-300)
    same = np.abs(np.triu((new @ new.T) * (v.T @ v) - 1, 1) + np.tril(np.ones((len(new), len(new))))) <= 1e-12
    keep = ~same.any(axis=0)
    return np.hstack([U, new.T[:, keep]]), np.hstack([V, v[:, keep]])
