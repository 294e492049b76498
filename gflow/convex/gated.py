"""solve_gated: training with weight decay and fixed gates, the convex program that gated ReLU networks are.

f(x) = sum_j 1[g_j . x > 0] a_j (w_j . x) with gates g_j that do not move is linear in v_j = a_j w_j, and weight decay
on (w_j, a_j) is a group lasso on v_j, since |a|^2 + |w|^2 >= 2 |a w|:

    min  sum_n l(q_n) + beta sum_j |v_j|,   f = sum_j D_j X v_j,
    max  b . alpha - sum_n l*(-alpha_n)   s.t.  |X^T D_j lambda| <= beta for every gate, lambda = c o alpha.

ReLU has the same program with a cone per mask (`solve_penalized`); without the cones it is smaller, and so is its
optimum over the same masks. Source: Mishkin, Sahiner & Pilanci, arXiv 2202.01331, section 3; arXiv 2002.10553.
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from gflow import deadline
from gflow._types import RESULTS, Scope, result_of_gap
from gflow.convex.accurate import dual_value, gated_outputs, primal_value
from gflow.convex.arrangements import Arrangement
from gflow.convex.oracle import require_float64
from gflow.convex.threads import one_thread
from gflow.losses import Linear
from gflow.problem import Problem

ROUNDS = 50
NEWTON = 60
SMOOTHING = 10.0 ** -np.arange(1, 13)
"""|v| becomes sqrt(|v|^2 + eps^2), eps in turn these times the size of V: the gap that is left is below beta eps."""

LARGEST = 4000
"""Coefficients of gates in use up to which Newton's equations are solved."""

DISTINCT = 64 * 2.0**-52
"""Where `Faces.error` is larger, hyperplanes counted as one that are two, and gates between them are missing."""


class Gated(eqx.Module):
    """`primal` = sum_n l(q_n) + beta sum_j |v_j| at `V` (G, d), rounded up, >= optimum over the networks of `scope` >=
    `dual`, proved by `alpha` (n,) = -l'(q), scaled until it is feasible. `result`: as that of Penalized."""

    primal: float
    dual: float
    alpha: Float[np.ndarray, " n"]
    V: Float[np.ndarray, "G d"]
    result: RESULTS
    rounds: int = eqx.field(static=True)
    scope: Scope = eqx.field(static=True, default=Scope.GATES)

    @property
    def gap(self) -> float:
        """(primal - dual) / primal; 0 where both are 0."""
        return (self.primal - self.dual) / self.primal if self.primal > 0 else 0.0


def scope_of(gates: Arrangement) -> Scope:
    """What a bound over these gates, of `gate_masks`, holds for: ALL_GATES if none is missing, else GATES."""
    return Scope.ALL_GATES if gates.complete else Scope.GATES


@one_thread
def solve_gated(
    problem: Problem,
    beta: float,
    masks: Bool[np.ndarray, "G n"],
    *,
    rtol: float = 1e-9,
    budget: float | None = None,
    scope: Scope = Scope.GATES,
) -> Gated:
    """The program over the gates with these activation masks, row j being 1[g_j . x_n > 0].

    `scope`: that of the masks, from `scope_of`: ALL_GATES only if they are all there are.

    Gates that violate the dual constraint are added until none does; on those in use Newton's method, with |v| smoothed
    less and less. `budget`: seconds after which the bracket so far is returned. Raises ValueError in float32, for
    beta <= 0, masks that do not fit, vector output, the linear loss.
    """
    problem.require_scalar()
    require_float64(problem.X)
    if not 0 < beta < np.inf:
        raise ValueError(f"the weight decay beta must be a positive number, got {beta}")
    if isinstance(problem.loss, Linear):
        raise ValueError("the linear loss has no minimum: use Logistic, Exponential or Squared")
    masks = np.asarray(masks)
    if masks.dtype != bool and not np.all(np.isin(masks, (0, 1))):
        raise ValueError("masks must be boolean: 1[g_j . x_n > 0]")
    masks = masks.astype(bool)
    if masks.ndim != 2 or masks.shape[1] != problem.shape[0]:
        raise ValueError(f"masks must be (G, n) with n = {problem.shape[0]}, got {masks.shape}")
    with deadline.within(budget):
        return _solved(problem, beta, masks, rtol, scope)


def _solved(problem: Problem, beta: float, masks: np.ndarray, rtol: float, scope: Scope) -> Gated:
    X = np.asarray(problem.X)
    V, used, rounds = np.zeros((len(masks), X.shape[1])), np.zeros(len(masks), bool), 0
    best, best_V = _bracket(problem, beta, masks, V), V.copy()
    while rounds < ROUNDS and best[0] - best[1] > rtol * abs(best[0]) and not deadline.passed():
        rounds += 1
        pull = best[3]
        late = np.argsort(-np.where(used, 0.0, pull))[: 2 * X.shape[1] + 8]
        used[late[pull[late] > beta]] = True
        if used.sum() * X.shape[1] > LARGEST:
            break
        V[used] = _newton(problem, beta, masks[used], V[used])
        new = _bracket(problem, beta, masks, V)
        if new[0] - new[1] > best[0] - best[1] and rounds > 1:  # nothing more is gained
            break
        best, best_V = new, V.copy()
        deadline.tell(best[1], best[0])
    primal, dual, alpha, _ = best
    gap = (primal - dual) / primal if primal > 0 else 0.0
    return Gated(primal, dual, alpha, best_V, result_of_gap(gap, rtol), rounds, scope)


def _bracket(problem: Problem, beta: float, masks, V):
    """(primal, dual, alpha, |X^T D_j lambda| of every gate) at V."""
    X, c, b = (np.asarray(a) for a in (problem.X, problem.signs(), problem.targets()))
    q = c * gated_outputs(X, masks, V) - b
    primal = primal_value(problem.loss, q, beta * float(np.linalg.norm(V, axis=1).sum()))
    alpha = -np.asarray(problem.loss.slope(jnp.asarray(q)))
    terms = (c * alpha)[:, None] * X
    G, eps = masks @ terms, np.finfo(float).eps
    largest = np.abs(G).max(initial=0.0)  # squares of 1e-200 are 0
    pull = largest * np.linalg.norm(G / (largest if largest > 0 else 1.0), axis=1)
    most = pull.max(initial=0.0) + (len(X) + X.shape[1] + 8) * eps * np.linalg.norm(np.abs(terms).sum(axis=0))
    feasible = alpha * min(1.0, beta / most if most > 0 else 1.0)
    return primal, dual_value(b, problem.loss, feasible), feasible, pull


def _newton(problem: Problem, beta: float, masks, V):
    """V (G, d) at the optimum over these gates."""
    X, c, b, loss = np.asarray(problem.X), np.asarray(problem.signs()), np.asarray(problem.targets()), problem.loss
    G, d = V.shape
    A = (masks[:, :, None] * X).transpose(1, 0, 2).reshape(len(X), G * d)  # f = A v
    unit = max(float(np.linalg.norm(V, axis=1).max()), 1.0 / np.linalg.norm(X, axis=1).max())

    def value(V, eps):
        f = A @ V.ravel()
        return float(jnp.sum(loss.value(jnp.asarray(c * f - b)))) + beta * np.sqrt((V**2).sum(1) + eps**2).sum()

    for eps in SMOOTHING * unit:
        for _ in range(NEWTON):
            if deadline.passed():
                return V
            q = jnp.asarray(c * (A @ V.ravel()) - b)
            s = np.sqrt((V**2).sum(axis=1) + eps**2)[:, None]
            slope = A.T @ (c * np.asarray(loss.slope(q))) + (beta * V / s).ravel()
            H = A.T @ (np.asarray(loss.curvature(q))[:, None] * A)
            blocks = beta / s[:, :, None] * (np.eye(d) - V[:, :, None] * V[:, None, :] / s[:, :, None] ** 2)
            for j in range(G):
                H[j * d : (j + 1) * d, j * d : (j + 1) * d] += blocks[j]
            scale = np.sqrt(np.diag(H) + 1e-300)
            step = np.linalg.lstsq(H / scale[:, None] / scale, slope / scale, rcond=1e-15)[0] / scale
            decrease, before, t = slope @ step, value(V, eps), 1.0
            while t > 1e-8 and value(V - t * step.reshape(G, d), eps) > before - 1e-4 * t * decrease:
                t /= 2
            if t <= 1e-8:
                break
            V = V - t * step.reshape(G, d)
            if decrease <= 1e-14 * before:
                break
    return V
