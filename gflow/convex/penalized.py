"""solve_penalized: the optimum of training with weight decay, bracketed.

    min sum_n l(q_n) + beta/2 |theta|^2     (q = y f or f - y)

equals, over all masks and from a width of n + 1 on, the group-lasso program of `interior_point`; its dual constraint is
|lambda^T sigma(X u)| <= beta for all |u| <= 1, sigma ReLU or leaky (see `leaky`). Masks are generated: the program is
solved over a few of them, exact pricing over all faces names those that are missing. Source: arXiv 2002.10553, section
2; docs/mathematics.md, "Limits that are points".
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from gflow import deadline
from gflow._types import RESULTS, Scope, result_of_gap
from gflow.convex.accurate import accurate_margins, accurate_residuals, dual_value, primal_value
from gflow.convex.arrangements import row_space, unit_rows
from gflow.convex.candidates import best_directions
from gflow.convex.faces import Faces, faces
from gflow.convex.interior_point import InteriorPoint, Program
from gflow.convex.leaky import multipliers, opposite, rows
from gflow.convex.newton import slopes_of
from gflow.convex.oracle import arrays_of, gram_bound, price, require_float64, upper_bound
from gflow.convex.polish import faces_at
from gflow.convex.reduced import refined
from gflow.convex.semidefinite import bound_of_dual
from gflow.losses import Linear
from gflow.network import TwoLayer
from gflow.problem import Problem

WORKING = 256
"""Masks with which a large program begins; smaller ones have all of theirs from the start."""

SHAPES = 16
"""Programs are made up to a multiple of so many masks."""

COLUMNS = 0.6
"""Share of the time that is left for the program over sampled masks, whose bound is not that of all networks."""

ROUNDING = 1e-12
"""Objectives that differ by less, relatively, are the same."""

TINY = 1e-12
"""Neurons below this share of the largest are left out of a network."""


class Penalized(eqx.Module):
    """A penalised program, bracketed: dual <= optimum over the masks <= primal.

    `network`: attains `primal` = sum_n l(q_n) + beta/2 |theta|^2, rounded up. `alpha` (n,) = -l'(q), dual feasible with
    value `dual`, a bound for the networks of `scope`. `lower_bound`: no network of any width is below; equal to `dual`
    if all masks are there (`complete`), otherwise from the semidefinite or the Gram bound. `result`: successful if
    primal - dual <= rtol primal, reduced_accuracy if it is <= 1e-6 primal, else max_steps_reached.
    """

    primal: float
    dual: float
    lower_bound: float
    alpha: np.ndarray
    network: TwoLayer
    result: RESULTS
    complete: bool = eqx.field(static=True)
    rounds: int = eqx.field(static=True)

    @property
    def scope(self) -> Scope:
        """For which networks `dual` is a lower bound; `lower_bound` is one for all."""
        return Scope.ALL if self.complete else Scope.MASKS

    @property
    def gap(self) -> float:
        """(primal - dual) / primal; 0 where both are 0."""
        return (self.primal - self.dual) / self.primal if self.primal > 0 else 0.0


def solve_penalized(
    problem: Problem,
    beta: float,
    known_faces: Faces | None = None,
    *,
    rtol: float = 1e-9,
    rounds: int = 30,
    budget: float | None = None,
) -> Penalized:
    """The least sum_n l(q_n) + beta/2 |theta|^2, its multipliers and an optimal network.

    `known_faces`: `gflow.faces(X)`; sampled ones give the program over these masks alone. `budget`: seconds, faces
    included, after which the bracket so far is returned. Raises ValueError in float32,
    for beta <= 0, and for the linear loss, which has no minimum.
    """
    problem.require_scalar()
    require_float64(problem.X)
    if not 0 < beta < np.inf:
        raise ValueError(f"the weight decay beta must be a positive number, got {beta}")
    if isinstance(problem.loss, Linear):
        raise ValueError("the linear loss has no minimum: use Logistic, Exponential or Squared")
    with deadline.within(budget):
        return _solved(problem, beta, known_faces, rtol, rounds)


def _solved(problem: Problem, beta: float, known_faces: Faces | None, rtol: float, rounds: int) -> Penalized:
    known = faces(problem.X) if known_faces is None else known_faces
    best = _Best(problem, float(beta), known)
    cells = np.unique(known.masks[known.cell[known.span == 0]][:, best.rows], axis=0)
    working = best.steepest(cells) if known.complete and len(cells) > WORKING else np.ones(len(cells), bool)
    done = 0
    with deadline.within(share=1.0 if known.complete else COLUMNS):
        while done < rounds and best.rows.any() and len(cells) and not deadline.passed():
            best.solve(cells[working], rtol)
            done += 1
            deadline.tell(best.dual if known.complete else 0.0, best.primal)
            if best.gap <= rtol or working.all():
                break
            missing = best.missing(cells) & ~working
            if not missing.any():
                break
            working |= missing
    return best.result(rtol, done)


class _Best:
    """The best network and the best multipliers so far.

    The programs are solved for `X` (n', r): rows that are not zero, divided by `scale`, in coordinates of their space.
    """

    def __init__(self, problem: Problem, beta: float, known: Faces):
        X = np.asarray(problem.X)
        self.problem, self.beta, self.known = problem, beta, known
        lengths = np.linalg.norm(X, axis=1)
        self.rows, self.scale = lengths > 0, float(lengths.max()) or 1.0
        self.basis, *_ = row_space(unit_rows(X))
        self.X = X[self.rows] @ self.basis / self.scale
        self.c, self.b = np.asarray(problem.signs()), np.asarray(problem.targets())
        # what is priced: for a leaky ReLU also the opposites of the rows
        self.lower = problem.lower_slope
        self.priced, self.seen = rows(X, self.lower), opposite(known, self.lower)
        self.faces = arrays_of(self.seen)
        self.V, self.sign, self.alpha = np.zeros((X.shape[1], 0)), np.zeros(0), np.zeros(len(X))
        self.primal, self.dual, self.shrink, self.values = np.inf, -np.inf, 1.0, None
        self._network(np.zeros((self.basis.shape[1], 0)), self.sign)
        alpha = -np.asarray(problem.loss.slope(jnp.asarray(-self.b)))  # the zero network's
        if known.complete:
            self._multipliers(alpha)
        else:
            self._kept(alpha, self._shrink(self._bound(self.c * alpha)), None)

    @property
    def gap(self) -> float:
        return (self.primal - self.dual) / self.primal if self.primal > 0 else 0.0

    def solve(self, masks: np.ndarray, rtol: float) -> None:
        """The program over `masks` (P, n')."""
        size = -(-len(masks) // SHAPES) * SHAPES  # few shapes are compiled; a mask may be there twice
        masks = np.concatenate([masks, np.repeat(masks[:1], size - len(masks), axis=0)])
        masks, sign = np.concatenate([masks, masks]), np.repeat([1.0, -1.0], size)
        program = Program(
            jnp.asarray(self.X), jnp.asarray(self.c[self.rows]), jnp.asarray(self.b[self.rows]), jnp.asarray(masks),
            jnp.asarray(sign), jnp.asarray(self.beta / self.scale), self.problem.loss, self.lower,
        )  # fmt: skip
        end, close = InteriorPoint(rtol).solve(program)
        self._network(np.asarray(end.z).T, sign)
        alpha = -np.asarray(self.problem.loss.slope(jnp.asarray(-self.b)))
        if self.known.complete:
            alpha[self.rows] = -np.asarray(self.problem.loss.slope(end.q))
            self._multipliers(alpha)
        else:  # proved by the multipliers of the cones
            alpha[self.rows] = np.asarray(program.feasible(end.q, end.mu))
            self._kept(alpha, 1.0, None)
        self._refine(program, np.asarray(end.z), rtol)
        if self.gap > 0.1 * rtol:  # rounding may have ended the method before it came down to a very small beta
            self._network(np.asarray(close.z).T, sign)
            self._refine(program, np.asarray(close.z), rtol)

    def _refine(self, program: Program, z: np.ndarray, rtol: float) -> None:
        """Newton's method on the blocks that live in z."""
        for V, signs, alpha in refined(program, z):
            better = self._network(V, signs)
            if self.known.complete:
                full = np.zeros(len(self.alpha))
                full[self.rows] = alpha
                self._multipliers(full)
                if better:
                    self._multipliers(-np.asarray(self.problem.loss.slope(self._margins())))
            if self.gap <= 0.1 * rtol or deadline.passed():
                break

    def missing(self, cells: np.ndarray) -> np.ndarray:
        """Which of the cells (P, n') hold a direction that violates the dual constraint."""
        X, lam = np.asarray(self.problem.X), multipliers(self.c * self.alpha, self.lower)
        found = best_directions(self.priced, lam, self.values, self.beta, self.seen)
        violated = found.value > 1
        at = faces_at(X[self.rows], found.U[violated], found.sign[violated])
        on, off = at.mask.astype(np.float32), (~at.mask & ~at.sliding).astype(np.float32)
        wrong = (~cells).astype(np.float32) @ on + cells.astype(np.float32) @ off
        chosen = np.zeros(len(cells), bool)
        chosen[np.argmin(wrong, axis=0)] = True
        return chosen

    def steepest(self, cells: np.ndarray) -> np.ndarray:
        """The cells on which the zero network's |X^T S lambda| is largest."""
        lam = (self.c * self.alpha)[self.rows]
        size = np.linalg.norm((slopes_of(cells, self.lower) * lam) @ self.X, axis=1)
        chosen = np.zeros(len(cells), bool)
        chosen[np.argsort(-size)[:WORKING]] = True
        return chosen

    def result(self, rtol: float, rounds: int) -> Penalized:
        """What is known at the end."""
        lower = self.dual
        if not self.known.complete:
            lower = self._value(self.alpha * self._shrink(self._bound(self.c * self.alpha)))
        network = self._balanced(self.V, self.sign)
        self.primal = self._objective(np.asarray(network.W1), np.asarray(network.w2))
        return Penalized(
            self.primal, self.dual, lower, self.shrink * self.alpha, network,
            result_of_gap(self.gap, rtol), self.known.complete, rounds,
        )  # fmt: skip

    def _objective(self, W1: np.ndarray, w2: np.ndarray) -> float:
        """Of these weights as they are."""
        X, exact = np.asarray(self.problem.X), accurate_margins if self.problem.of_margins else accurate_residuals
        q = exact(X, self.c if self.problem.of_margins else self.b, W1, w2, self.lower)
        return primal_value(self.problem.loss, q, 0.5 * self.beta * float(np.sum(W1**2) + np.sum(w2**2)))

    def _balanced(self, V, sign) -> TwoLayer:
        root = np.sqrt(np.linalg.norm(V, axis=0))
        return TwoLayer(jnp.asarray(V / np.where(root > 0, root, 1.0)), jnp.asarray(sign * root))

    def _margins(self):
        return self.problem.margins(self._balanced(self.V, self.sign))

    def _network(self, V: np.ndarray, sign: np.ndarray) -> bool:
        """Blocks V (r, K) of the scaled program with their signs: kept if their objective is the best so far.

        Of equally good networks, up to rounding, the one with fewer neurons is.
        """
        V = self.basis @ V / self.scale
        size = np.linalg.norm(V, axis=0)
        live = size > TINY * size.max(initial=0.0)
        V, sign = V[:, live], sign[live]
        network = self._balanced(V, sign)
        primal = float(self.problem.loss_value(self.problem.margins(network)) + self.beta * jnp.sum(network.masses()))
        lower = primal < (1 - ROUNDING) * self.primal
        same = primal <= (1 + ROUNDING) * self.primal
        if lower or (same and len(sign) < len(self.sign)):
            self.primal, self.V, self.sign = primal, V, sign
            return True
        return False

    def _multipliers(self, alpha: np.ndarray) -> None:
        """Price alpha over all faces."""
        X, lam = jnp.asarray(self.priced), jnp.asarray(multipliers(self.c * alpha, self.lower))
        values, over = price(X, lam, *self.faces)
        B = float(upper_bound(X, lam, values, over, self.known.error))
        self._kept(alpha, self._shrink(B), values)

    def _kept(self, alpha: np.ndarray, shrink: float, values) -> None:
        """`shrink` alpha is feasible: kept if it is the best. `values`: those of `price` for alpha itself."""
        dual = self._value(shrink * alpha)
        if dual > self.dual:
            self.dual, self.alpha, self.shrink, self.values = dual, alpha, shrink, values

    def _shrink(self, B: float) -> float:
        return min(1.0, self.beta / B) if B > 0 else 1.0

    def _bound(self, lam: np.ndarray) -> float:
        X, lam = self.priced, multipliers(lam, self.lower)
        return min(float(gram_bound(jnp.asarray(X), jnp.asarray(lam))), bound_of_dual(X, lam))

    def _value(self, alpha: np.ndarray) -> float:
        return dual_value(self.b, self.problem.loss, np.asarray(alpha))
