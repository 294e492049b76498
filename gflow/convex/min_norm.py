"""solve_min_norm: the interpolating network of least norm, bracketed.

    P* = min 1/2 |theta|^2  s.t.  f(x_n) = y_n      D* = max lambda . y  s.t.  max_{|u|<=1} |lambda^T sigma(X u)| <= 1,

lambda of either sign, sigma ReLU or leaky (see `leaky`). Columns are unit vectors and the master is a linear program,
as for max-margin; every sample is a support vector. Near the optimum Newton's method on the tight faces makes it exact.
Source: arXiv 2002.10553, section 2; docs/mathematics.md, "Limits that are points".
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from gflow import deadline
from gflow._types import REDUCED, RESULTS, Scope, result_of_gap
from gflow.convex.arrangements import unit_rows
from gflow.convex.candidates import best_ascended, best_directions, equal, slid
from gflow.convex.faces import Faces, faces
from gflow.convex.leaky import activated, multipliers, opposite, rows
from gflow.convex.master import Interpolation
from gflow.convex.newton import Patterns, complement, slopes_of
from gflow.convex.oracle import arrays_of, ascended, gram_bound, price, require_float64, upper_bound
from gflow.convex.polish import LADDER, Tight, faces_at, gathered, peaks
from gflow.convex.semidefinite import bound_of_dual
from gflow.convex.threads import one_thread
from gflow.network import TwoLayer
from gflow.problem import Problem

SLACK = 1e-9
"""A network interpolates if it misses no label by more than this share of the largest."""

POLISH = 1e-3
"""Newton's method is tried from this gap on, and again whenever it has shrunk by SHRINK."""

SHRINK = 0.1

DEAREST = 1e12
"""A price of a missed label, relative to 1/|x|, at which data are said not to be interpolated by any network."""

ITERATIONS = 30

COLUMNS = 0.6
"""Share of the time that is left for columns where the lower bound is another program, solved after them."""

PATIENCE = 4
"""Rounds in which a gap that is nearly closed has to halve."""


class MinNorm(eqx.Module):
    """The least norm of an interpolating network, bracketed: dual <= P* <= primal.

    `network`: interpolates up to `miss`, the largest |f(x_n) - y_n|, with 1/2 |theta|^2 = `primal`. `lam` (n,): dual
    feasible with value `dual`, over all faces if `complete`, else by a bound for all directions, and then a gap is
    left. `result`: successful if primal - dual <= rtol primal; reduced_accuracy if it is <= 1e-6 primal; else
    max_steps_reached; infeasible if no network interpolates (a row of zeros or two rows c x, x, c > 0, whose labels
    differ by another factor): primal = inf, `network` None.
    """

    primal: float
    dual: float
    lam: np.ndarray
    network: TwoLayer | None
    miss: float
    result: RESULTS
    complete: bool = eqx.field(static=True)
    rounds: int = eqx.field(static=True)
    scope: Scope = eqx.field(static=True, default=Scope.ALL)

    @property
    def gap(self) -> float:
        """(primal - dual) / primal; 0 where both are 0, 1 if no network is known."""
        if not np.isfinite(self.primal):
            return 1.0
        return (self.primal - self.dual) / self.primal if self.primal > 0 else 0.0


def solve_min_norm(
    problem: Problem,
    known_faces: Faces | None = None,
    *,
    rtol: float = 1e-9,
    rounds: int | None = None,
    budget: float | None = None,
) -> MinNorm:
    """P*, its multipliers and an optimal network. `rounds` of column generation at most, by default 100, and 25 where
    not all faces are known. `budget`: seconds, faces included, after which the bracket so far is returned. Raises
    ValueError in float32 and for losses of margins."""
    problem.require_scalar()
    require_float64(problem.X)
    if problem.of_margins:
        raise ValueError("labels of a loss of margins are not interpolated: use solve_max_margin")
    with deadline.within(budget):
        return _solved(problem, known_faces, rtol, rounds)


def _solved(problem: Problem, known_faces: Faces | None, rtol: float, rounds: int | None) -> MinNorm:
    known = faces(problem.X) if known_faces is None else known_faces
    X, y = np.asarray(problem.X), np.asarray(problem.y)
    size = np.linalg.norm(X, axis=1)
    if not y.any() or _contradicts(X, y):
        return _trivial(X, y, known)
    # f(x_n) = y_n is f(x_n/|x_n|) = y_n/|x_n|: rows of different lengths count alike
    target = y / np.where(size > 0, size, 1.0)
    label = float(np.max(np.abs(target)))
    state = _Interpolating(unit_rows(X), target / label, known, problem.lower_slope)
    with deadline.within(share=1.0 if known.complete else COLUMNS):
        for _ in range((100 if known.complete else 25) if rounds is None else rounds):
            if state.gap <= rtol or state.stalled or deadline.passed():
                break
            state.step(rtol)
            deadline.tell(label * state.dual, label * state.primal)
    return state.result(rtol, size, label)


def _trivial(X: np.ndarray, y: np.ndarray, known: Faces) -> MinNorm:
    n, d = X.shape
    if not y.any():
        nothing = TwoLayer(jnp.zeros((d, 1)), jnp.zeros(1))
        return MinNorm(0.0, 0.0, np.zeros(n), nothing, 0.0, RESULTS.successful, known.complete, 0)  # pyright: ignore
    return MinNorm(np.inf, np.inf, np.zeros(n), None, 0.0, RESULTS.infeasible, known.complete, 0)  # pyright: ignore


def _contradicts(X: np.ndarray, y: np.ndarray) -> bool:
    """Whether a row of zeros has a label, or f(c x) = c f(x) is violated by two rows on one ray."""
    lengths = np.linalg.norm(X, axis=1)
    if np.any(y[lengths == 0] != 0):
        return True
    U, values = unit_rows(X)[lengths > 0], (y[lengths > 0]) / lengths[lengths > 0]
    same = np.max(np.abs(U[:, None] - U[None]), axis=2) <= 1e-14
    return bool(np.any(same & (np.abs(values[:, None] - values[None]) > 1e-12 * np.max(np.abs(values)))))


class _Interpolating:
    """Where column generation stands. Rows are 1 long (or 0) and labels at most 1."""

    def __init__(self, X: np.ndarray, y: np.ndarray, known: Faces, lower: float):
        self.X, self.y, self.known, self.lower = X, y, opposite(known, lower), lower
        self.faces, self.rows = arrays_of(self.known), rows(X, lower)
        self.price = 1e3
        self.master = Interpolation(X, y, self.price, lower)
        units = unit_rows(X)
        self.master.add(np.vstack([units, units]), np.repeat([1.0, -1.0], len(X)))
        self.primal, self.dual, self.lam, self.miss = np.inf, 0.0, np.zeros(len(y)), 0.0
        self.V, self.sign = np.zeros((X.shape[1], 0)), np.zeros(0)
        self.rounds, self.polish_at, self.halved, self.stalled = 0, POLISH, (0, np.inf), False

    @property
    def gap(self) -> float:
        return 1 - self.dual / self.primal if np.isfinite(self.primal) else np.inf

    def step(self, rtol: float) -> None:
        """Solve the master, price, polish where that may end it, add the violated columns."""
        self.rounds += 1
        solved = self.master.solve()
        if solved is None:
            self.stalled = True
            return
        self._network(self.master.U.T * solved.mass, self.master.sign)
        upper, tight = self._priced(solved.alpha)
        distance = self.gap if self.known.complete else 1 - 1 / max(upper, 1.0)
        added = 0
        if distance <= self.polish_at and np.isfinite(self.primal) and self.gap > rtol:
            if self.known.complete:
                self.polish_at = SHRINK * distance
            for lam in self._polished(solved.mass, solved.alpha, tight, rtol):
                added += self._add(self._priced(lam)[1])
        if self.gap <= 0.5 * self.halved[1]:
            self.halved = (self.rounds, self.gap)
        self.stalled = self.gap <= REDUCED and self.rounds - self.halved[0] >= PATIENCE
        added += self._add(tight)
        if not np.isfinite(self.primal) and self.price < DEAREST and (not added or upper <= 2.0):
            self.price *= 1e3
            self.master.reprice(self.price)
        elif not added:
            self.stalled = True

    def result(self, rtol: float, size: np.ndarray, label: float) -> MinNorm:
        """What is known at the end, of the data before they were scaled: f and 1/2 |theta|^2 scale like `label`."""
        network, scale = None, label
        if np.isfinite(self.primal):
            root = np.sqrt(np.linalg.norm(self.V, axis=0) * scale)
            units = self.V / np.maximum(np.linalg.norm(self.V, axis=0), 1e-300)
            network = TwoLayer(jnp.asarray(units * root), jnp.asarray(self.sign * root))
        if not self.known.complete:
            lam = multipliers(self.lam, self.lower)
            B = min(float(gram_bound(jnp.asarray(self.rows), jnp.asarray(lam))), bound_of_dual(self.rows, lam))
            self.dual = max(self.dual, float(self.lam @ self.y) / B if B > 0 else 0.0)
        found = result_of_gap(self.gap, rtol) if np.isfinite(self.primal) else RESULTS.max_steps_reached
        return MinNorm(
            self.primal * scale, self.dual * scale, self.lam / np.where(size > 0, size, 1.0), network,
            self.miss * label * float(np.max(size)), found,  # pyright: ignore
            self.known.complete, self.rounds,
        )  # fmt: skip

    def _network(self, V: np.ndarray, sign: np.ndarray) -> None:
        """The network of blocks V (d, K): kept if it interpolates and is the shortest so far."""
        V, sign = V[:, V.any(axis=0)], sign[V.any(axis=0)]
        missed = np.abs(activated(self.X @ V, self.lower) @ sign - self.y)
        miss = float(np.max(missed, initial=0.0))
        # what the missed labels are worth to the multipliers is added: it is no shorter than its own dual
        length = float(np.linalg.norm(V, axis=0).sum() + missed @ np.abs(self.lam))
        if miss <= SLACK and V.shape[1] and length < self.primal:
            self.primal, self.V, self.sign, self.miss = length, V, sign, miss

    def _priced(self, lam: np.ndarray) -> tuple[float, Tight]:
        """max_u |lambda^T sigma(X u)|; lambda over it is feasible, and kept if it is the best."""
        X, at = jnp.asarray(self.rows), jnp.asarray(multipliers(lam, self.lower))
        if self.known.complete:
            values, over = price(X, at, *self.faces)
            upper = proved = float(upper_bound(X, at, values, over, self.known.error))
            tight = best_directions(X, at, values, 1.0, self.known)
        else:
            values, U = ascended(X, at, self.known.masks)
            upper, proved = float(values.max()), float(gram_bound(X, at))
            tight = best_ascended(X, at, np.asarray(values), np.asarray(U), 1.0)
            if not np.any(tight.value > 1 + 1e-2):
                tight = slid(self.X, lam, np.vstack([self.master.U, tight.U]), 1.0, self.lower)
        dual = float(lam @ self.y) / proved if proved > 0 else 0.0
        if dual > self.dual:
            self.dual, self.lam = dual, lam / proved
        return upper, tight

    def _add(self, tight: Tight) -> int:
        """Add the violated directions that are not columns already; how many they were."""
        violated = tight.value > 1 + 1e-12
        U, sign = tight.U[violated], tight.sign[violated]
        if len(U):
            known = np.any(equal(U, self.master.U) & (sign[:, None] == self.master.sign), axis=1)
            U, sign = U[~known], sign[~known]
        if len(U):
            self.master.add(U, sign)
        return len(U)

    @one_thread
    def _polished(self, mass, lam, tight: Tight, rtol: float):
        """Yields the multipliers of Newton's method on every choice of tight faces."""
        live = mass > 1e-12 * max(mass.max(initial=0.0), 1e-300)
        U, sign, mass = self.master.U[live], self.master.sign[live], mass[live]
        on, local = faces_at(self.X, tight.U, tight.sign), peaks(self.X, lam, tight, self.lower)
        near = [tight.value >= 1 - level for level in LADDER]
        tried: set[bytes] = set()
        for chosen in [local & level for level in near] + near:
            if deadline.passed():
                return
            found = gathered(self.X, U, sign, mass, Patterns(*(a[..., chosen] for a in on)), tight.U[chosen])
            if found is None:
                continue
            patterns, V = found
            key = b"".join(np.packbits(a > 0).tobytes() for a in patterns)
            if key in tried:
                continue
            tried.add(key)
            point = interpolating_point(self.X, self.y, patterns, V, lam, self.lower)
            if point is not None:
                V, better = point
                self._network(V, patterns.sign)
                yield better
                if self.gap <= rtol:
                    return


def interpolating_point(X, y, patterns: Patterns, V, lam, lower: float = 0.0) -> tuple[np.ndarray, np.ndarray] | None:
    """(V (d, K), lambda) with sum_k B_k z_k = y, z_k = |z_k| B_k^T lambda, |B_k^T lambda| = 1, B_k = s_k S_k X Q_k, S_k
    the slopes on the mask, `lower` off it.

    Newton's method in least squares of least norm, since multipliers need not be unique; None where it does not
    converge, or a neuron leaves its pattern.
    """
    bases = [complement(X[slide]) for slide in patterns.sliding.T]
    slopes = slopes_of(patterns.mask, lower)
    blocks = [(s * D)[:, None] * (X @ Q) for s, D, Q in zip(patterns.sign, slopes.T, bases, strict=True)]
    mass, lam, left = np.linalg.norm(V, axis=0), lam.copy(), np.inf
    n = len(y)
    for _ in range(ITERATIONS):
        if deadline.passed():
            return None
        g = [B.T @ lam for B in blocks]
        size = np.array([np.linalg.norm(v) for v in g])
        if not np.all(np.isfinite(size)) or size.min() == 0:
            return None
        G = np.stack([B @ (v / r) for B, v, r in zip(blocks, g, size, strict=True)], axis=1)
        residual = np.concatenate([G @ mass - y, size - 1.0])
        left = np.max(np.abs(residual))
        weight = mass / size
        J = np.zeros((len(residual), len(residual)))
        J[:n, :n] = sum(w * (B @ B.T) for w, B in zip(weight, blocks, strict=True)) - (G * weight) @ G.T
        J[:n, n:], J[n:, :n] = G, G.T
        try:
            step = np.linalg.lstsq(J, -residual, rcond=1e-13)[0]
        except np.linalg.LinAlgError:  # entries beyond what an SVD can take
            return None
        if left <= 1e-15 or not np.all(np.isfinite(step)):
            break
        step *= min(1.0, 1.0 / max(np.max(np.abs(step)) / max(np.max(np.abs(lam)), np.max(mass)), 1e-300))
        lam, mass = lam + step[:n], mass + step[n:]
    if left > 1e-9 or mass.min() < 0:
        return None
    V = np.stack([Q @ (r * (B.T @ lam)) for r, Q, B in zip(mass, bases, blocks, strict=True)], axis=1)
    Z, row = X @ V, np.linalg.norm(X, axis=1)[:, None] * np.linalg.norm(V, axis=0)
    out = np.where(patterns.mask, -Z, Z)
    return (V, lam) if np.all((out <= 1e-12 * row) | patterns.sliding) else None


__all__ = ["MinNorm", "solve_min_norm"]
