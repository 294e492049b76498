"""solve_max_margin: column generation over unit vectors. A linear program as master, exact pricing over faces.

Dual: max 1^T alpha s.t. alpha >= 0, |lambda^T (X u)_+| <= 1 for all |u| <= 1, lambda = Y alpha. A column is one
direction u with a sign; its constraint is linear in alpha, so the master is a linear program whose multipliers are the
masses of a network with these directions. Close to the optimum Newton's method on the faces that are tight makes it
exact. Source: arXiv 2002.10553, section 2; docs/mathematics.md, "The convex program over masks".
"""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from gflow import deadline
from gflow._types import REDUCED, RESULTS, Scope, result_of_gap
from gflow.convex.accurate import accurate_margins
from gflow.convex.arrangements import unit_rows
from gflow.convex.candidates import best_ascended, best_directions, equal, slid
from gflow.convex.faces import Faces, faces
from gflow.convex.leaky import activated, multipliers, opposite, rows
from gflow.convex.master import Master, Solution
from gflow.convex.oracle import arrays_of, ascended, gram_bound, price, require_float64, upper_bound
from gflow.convex.polish import Tight, polish
from gflow.convex.semidefinite import lower_bound
from gflow.network import TwoLayer
from gflow.problem import Problem

INFEASIBLE = 1e12
"""A lower bound of P* min|x_n| above this means that no width separates the data."""

SOLVED = 2.0
"""While the master pays for slack: its price is raised once the multipliers violate their bound by no more than this
factor."""

SLIGHTLY = 1e-2
"""Where sampled directions find no larger violation, ascents that slide take over."""

EVERY = 1e-9
"""Weight of every sample in the last semidefinite bound: all take part where they fit."""

PATIENCE = 4
"""Rounds in which a gap that is nearly closed has to halve."""

SHRINK = 0.1
"""Newton's method is tried again once the gap has shrunk by this factor."""

COLUMNS = 0.6
"""Share of the time that is left for columns where the lower bound is another program, solved after them."""


class MaxMargin(eqx.Module):
    """The max-margin program of a data set, bracketed: dual <= P* <= primal, P* over all networks (`scope`).

    `network`: q_min = 1 up to rounding of its weights; `primal` is its 1/2 |theta|^2 / q_min, as if computed without
    rounding. `alpha` (n,): dual feasible with value `dual`, proved over all faces if `complete`, otherwise by a
    semidefinite relaxation or the Gram bound, and then a gap is left. `result`: successful if primal - dual <= rtol
    primal; reduced_accuracy if it is <= 1e-6 primal; else max_steps_reached. An infeasible program (a row of zeros, or
    a lower bound of P* min|x_n| above 1e12) has primal = inf, `network` None, result infeasible.
    """

    primal: float
    dual: float
    alpha: np.ndarray
    network: TwoLayer | None
    result: RESULTS
    complete: bool = eqx.field(static=True)
    rounds: int = eqx.field(static=True)
    scope: Scope = eqx.field(static=True, default=Scope.ALL)

    @property
    def gap(self) -> float:
        """(primal - dual) / primal, 1 if no network is known."""
        return 1 - self.dual / self.primal if np.isfinite(self.primal) else 1.0


def solve_max_margin(
    problem: Problem,
    known_faces: Faces | None = None,
    *,
    directions=None,
    rtol: float = 1e-9,
    rounds: int | None = None,
    budget: float | None = None,
) -> MaxMargin:
    """P* of `problem`, its dual multipliers and an optimal network.

    `directions` (K, d): first columns, for instance the neurons of a limit. `rounds` of column generation at most,
    by default 100, and 25 where not all faces are known. `budget`: seconds, faces included, after which the bracket so
    far is returned; None for as long as it takes. Raises ValueError in float32.
    """
    problem.require_scalar()
    problem.require_max_margin()
    require_float64(problem.X)
    with deadline.within(budget):
        return _solved(problem, known_faces, directions, rtol, rounds)


def _solved(problem: Problem, known_faces: Faces | None, directions, rtol: float, rounds: int | None) -> MaxMargin:
    known = faces(problem.X) if known_faces is None else known_faces
    rounds = (100 if known.complete else 25) if rounds is None else rounds
    X, n = np.asarray(problem.X), problem.shape[0]
    lengths = np.linalg.norm(X, axis=1)
    if lengths.min() == 0:  # f(0) = 0
        return MaxMargin(np.inf, np.inf, np.zeros(n), None, RESULTS.infeasible, known.complete, 0)  # pyright: ignore
    middle = 4.0 ** np.round(np.mean(np.log(lengths)) / np.log(4.0))  # its root scales weights without rounding
    if not 1e-3 <= middle <= 1e3:  # the linear programs have absolute tolerances; P* scales like 1/|x|
        scaled = eqx.tree_at(lambda p: p.X, problem, problem.X / middle)
        with deadline.scaled(float(1 / middle)):
            solved = _solved(scaled, known, directions, rtol, rounds)
        network = None if solved.network is None else solved.network.scaled(jnp.asarray(float(middle) ** -0.5))
        bounds = (solved.primal / middle, solved.dual / middle, solved.alpha / middle, network)
        return MaxMargin(*bounds, solved.result, solved.complete, solved.rounds)
    method = ColumnGeneration(rtol)
    state = method.init(problem, known, directions)
    if not known.complete:
        method.begin(state)
    with deadline.within(share=1.0 if known.complete else COLUMNS):
        while state.rounds < rounds and not method.terminate(state) and not deadline.passed():
            method.step(state)
            deadline.tell(state.dual, state.primal)
    if not known.complete and not method.terminate(state, bounded=True):
        method.bound(state, EVERY + (np.zeros(n) if state.weight is None else state.weight))
    return method.result(state)


@dataclasses.dataclass
class State:
    """Where column generation stands: the program, the best network and the best multipliers so far."""

    problem: Problem
    faces: tuple
    known: Faces
    lower: float
    master: Master
    price: float
    ceiling: float
    primal: float = np.inf
    dual: float = 0.0
    alpha: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))
    weight: np.ndarray | None = None
    neurons: tuple[np.ndarray, np.ndarray] | None = None
    rounds: int = 0
    polish_at: float = np.inf
    halved: tuple[int, float] = (0, np.inf)
    stalled: bool = False

    @property
    def gap(self) -> float:
        """Relative; infinite while there is no network."""
        return 1 - self.dual / self.primal if np.isfinite(self.primal) else np.inf


@dataclasses.dataclass(frozen=True)
class ColumnGeneration:
    """The method: `rtol` relative gap at which it ends, `polish` the gap from which Newton's method is tried."""

    rtol: float = 1e-9
    polish: float = 1e-3

    def init(self, problem: Problem, known: Faces, directions=None) -> State:
        """The master with the data's own directions as columns, and slack."""
        X, y = np.asarray(problem.X), np.asarray(problem.y)
        lengths = np.linalg.norm(X, axis=1)
        # slack costs `price`: as long as P* may be above it the master is happy to pay, so it is raised on demand
        first = 1e3 / lengths.max()
        slope = problem.lower_slope
        known, master = opposite(known, slope), Master(X, y, first, slope)
        state = State(problem, arrays_of(known), known, slope, master, first, INFEASIBLE / lengths.min())
        state.alpha, state.polish_at = np.zeros(len(y)), self.polish
        state.master.add(unit_rows(X), y)
        if directions is not None:
            U = np.asarray(directions)
            U = unit_rows(U[U.any(axis=1)])
            state.master.add(np.vstack([U, U]), np.repeat([1.0, -1.0], len(U)))
        return state

    def step(self, state: State) -> None:
        """Solve the master, price all faces, polish where that may end it, add the violated columns."""
        state.rounds += 1
        solved, master = state.master.solve(), state.master
        if solved is None:
            state.stalled = True
            return
        if solved.slack <= 1e-9 * max(1.0, solved.mass.sum()):
            self._network(state, master.U.T, master.sign * master.repaired(solved))
        state.weight, added = solved.alpha, 0
        upper, tight = self._price(state, solved.alpha)
        # without all faces the proved gap says little: how far the multipliers violate what was found does
        distance = state.gap if state.known.complete else 1 - 1 / max(upper * solved.alpha.sum(), 1.0)
        if distance <= state.polish_at and state.neurons is not None and not self.terminate(state):
            if state.known.complete:
                state.polish_at = SHRINK * distance
            alpha = self._polished(state, solved, tight)
            if alpha is not None and not self.terminate(state):
                _, better = self._price(state, alpha)
                added = self._add(state, better)
        if state.gap <= 0.5 * state.halved[1]:
            state.halved = (state.rounds, state.gap)
        # at the limit of rounding the master goes on finding columns for ever
        state.stalled = state.gap <= REDUCED and state.rounds - state.halved[0] >= PATIENCE
        if self.terminate(state):
            return
        added += self._add(state, tight)
        if (
            state.neurons is None
            and state.price < state.ceiling
            and (not added or upper <= SOLVED / solved.alpha.sum())
        ):
            state.price *= 1e3
            master.reprice(state.price)
        elif not added:
            state.stalled = True

    def begin(self, state: State) -> None:
        """A bound at once, of equal weights, where the first round takes long: the Gram bound."""
        n, y = state.problem.shape[0], np.asarray(state.problem.y)
        B = float(gram_bound(rows(np.asarray(state.problem.X), state.lower), multipliers(y / n, state.lower)))
        if B > 0:
            state.dual, state.alpha = 1 / B, np.full(n, 1 / (n * B))
            deadline.tell(state.dual, state.primal)

    def terminate(self, state: State, bounded: bool = False) -> bool:
        """The gap is reached, the program is infeasible, or (unless only what is `bounded` counts) nothing is left."""
        return state.gap <= self.rtol or state.dual > state.ceiling or (state.stalled and not bounded)

    def bound(self, state: State, weight: np.ndarray | None) -> None:
        """Where pricing proves nothing: the semidefinite lower bound, on the samples that have multipliers."""
        X, y = np.asarray(state.problem.X), np.asarray(state.problem.y)
        lower = lower_bound(X, y, weight) if state.lower == 0 else None
        if lower is not None and lower.value > state.dual:
            state.dual, state.alpha = lower.value, lower.alpha
            deadline.tell(state.dual, state.primal)

    def result(self, state: State) -> MaxMargin:
        """What is known at the end."""
        network = self._judged(state)
        if state.neurons is None and state.dual > state.ceiling:
            how = RESULTS.infeasible
        else:
            how = result_of_gap(state.gap, self.rtol)
        return MaxMargin(
            state.primal, state.dual, state.alpha, network, how,  # pyright: ignore[reportArgumentType]
            state.known.complete, state.rounds,
        )  # fmt: skip

    def _judged(self, state: State) -> TwoLayer | None:
        """The network of the best neurons; from here on `state.primal` is the objective of its rounded weights."""
        if state.neurons is None:
            return None
        U, mass = state.neurons
        root = np.sqrt(np.abs(mass))
        W1, w2 = U * root, np.sign(mass) * root
        X, y = np.asarray(state.problem.X), np.asarray(state.problem.y)
        q_min = accurate_margins(X, y, W1, w2, state.lower).min()
        if q_min <= 0:
            state.primal, state.neurons = np.inf, None
            return None
        up = 1 + (W1.size + 8) * np.finfo(float).eps
        state.primal = float(up * 0.5 * (np.sum(W1**2) + np.sum(w2**2)) / q_min)
        return TwoLayer(jnp.asarray(W1), jnp.asarray(w2))

    def _network(self, state: State, U: np.ndarray, mass: np.ndarray) -> None:
        """Neurons with unit directions U (d, K) and signed masses: kept if their objective is the best so far."""
        X, y = np.asarray(state.problem.X), np.asarray(state.problem.y)
        q_min = np.min(y * (activated(X @ U, state.lower) @ mass))
        objective = np.sum(np.abs(mass)) / q_min if q_min > 0 else np.inf
        if objective < state.primal:
            live = mass != 0
            state.primal, state.neurons = float(objective), (U[:, live], mass[live] / q_min)

    def _price(self, state: State, alpha: np.ndarray) -> tuple[float, Tight]:
        """The dual bound of these multipliers is kept if it is the best; also the tight and violated directions."""
        problem, total = state.problem, alpha.sum()
        p = alpha / total if total > 0 else np.full(len(alpha), 1 / len(alpha))
        lam, level = multipliers(p * np.asarray(problem.y), state.lower), 1 / max(total, 1e-300)
        X = rows(problem.X, state.lower)
        if state.known.complete:
            values, over = price(X, lam, *state.faces)
            upper = proved = float(upper_bound(X, lam, values, over, state.known.error))
            tight = best_directions(X, lam, values, level, state.known)
        else:
            values, U = ascended(X, lam, state.known.masks)
            upper, proved = float(values.max()), float(gram_bound(X, lam))
            tight = best_ascended(X, lam, np.asarray(values), np.asarray(U), level)
            if not np.any(tight.value > 1 + SLIGHTLY):
                tight = slid(
                    problem.X, p * np.asarray(problem.y), np.vstack([state.master.U, tight.U]), level, state.lower
                )
        dual = 1 / max(proved, 1e-300)
        if dual > state.dual:
            state.dual, state.alpha = dual, p * dual
        return upper, tight

    def _polished(self, state: State, solved: Solution, tight: Tight) -> np.ndarray | None:
        """The multipliers that Newton's method found, if any; a better network and bound are kept."""
        X, y = np.asarray(state.problem.X), np.asarray(state.problem.y)
        alpha = None
        for sign, point in polish(
            X, y, state.master.U, state.master.sign, solved.mass, solved.alpha, tight, state.lower
        ):
            mass, before = np.linalg.norm(point.V, axis=0), state.primal
            self._network(state, point.V / np.where(mass > 0, mass, 1.0), sign * mass)
            alpha = np.maximum(point.alpha, 0.0)
            self._price(state, alpha)
            if not state.known.complete and state.primal < before and not self.terminate(state):
                self.bound(state, alpha)
            if self.terminate(state) or deadline.passed():
                break
        return alpha

    def _add(self, state: State, tight: Tight) -> int:
        """Add the violated directions that are not columns already; how many they were."""
        master = state.master
        violated = tight.value > 1 + 1e-12
        U, sign = tight.U[violated], tight.sign[violated]
        if len(U):
            known = np.any(equal(U, master.U) & (sign[:, None] == master.sign), axis=1)
            U, sign = U[~known], sign[~known]
        if len(U):
            master.add(U, sign)
        return len(U)
