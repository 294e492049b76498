"""solve_min_norm: the interpolating network of least norm, bracketed.

    P* = min 1/2 |theta|^2  s.t.  f(x_n) = y_n      D* = max lambda . y  s.t.  max_{|u|<=1} |lambda^T sigma(X u)| <= 1,

lambda of either sign, sigma ReLU or leaky (see `leaky`). Columns are unit vectors and the master is a linear program,
as for max-margin; every sample is a support vector. Near the optimum Newton's method on the tight faces makes it exact.
P* is that of networks that interpolate exactly: what a network in float64 misses is counted (see `supply`).
Source: arXiv 2002.10553, section 2; docs/mathematics.md, "Limits that are points".
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from gflow import deadline
from gflow._types import REDUCED, RESULTS, Scope, result_of_gap
from gflow.convex.accurate import accurate_residuals, dot
from gflow.convex.arrangements import unit_rows
from gflow.convex.candidates import best_ascended, best_directions, equal, slid
from gflow.convex.exact import multiples, octaves
from gflow.convex.faces import Faces, faces
from gflow.convex.leaky import multipliers, opposite, rows
from gflow.convex.master import Interpolation
from gflow.convex.newton import Patterns, complement, slopes_of
from gflow.convex.oracle import arrays_of, ascended, gram_bound, price, require_float64, upper_bound
from gflow.convex.polish import LADDER, Tight, faces_at, gathered, peaks
from gflow.convex.semidefinite import bound_of_dual
from gflow.convex.supply import Supply
from gflow.convex.threads import one_thread
from gflow.network import TwoLayer
from gflow.problem import Problem

SLACK = 1e-9
"""A network that misses a label by more than this share of it (of the largest, for a label 0) gets neurons that supply
it; the master pays for slack as long as there is more of it."""

NEARLY = 1e4
"""Rows nearly follow from others where a unit of a label may cost more than this."""

CORRECTED = 0.5
"""Neurons that supply what is missed, rounded too, are added as long as at most this share of it is then left."""

SAME_LABEL = 8 * np.finfo(float).eps
"""Labels of rows x and c x are c times each other if they are so up to this, relatively."""

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

    `network`: interpolates up to `miss`, the largest |f(x_n) - y_n|. `primal`: its 1/2 |theta|^2 and no less than the
    length of neurons with which it would interpolate exactly (rows of which some follow from others, as of antipodal
    pairs: on independent rows, and up to rounding on the others). `lam` (n,): dual
    feasible with value `dual`, over all faces if `complete`, else by a bound for all directions, and then a gap is
    left. `result`: successful if primal - dual <= rtol primal; reduced_accuracy if it is <= 1e-6 primal; else
    max_steps_reached; infeasible if no network interpolates (a row of zeros with a label, or two rows exactly c x,
    x, c > 0, whose labels differ by another factor). primal = inf, `network` None where none is known.
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
    n, d = X.shape
    if not y.any():
        nothing = TwoLayer(jnp.zeros((d, 1)), jnp.zeros(1))
        return MinNorm(0.0, 0.0, np.zeros(n), nothing, 0.0, RESULTS.successful, known.complete, 0)  # pyright: ignore
    rays = rays_of(X, y)
    if rays is None:
        return MinNorm(np.inf, np.inf, np.zeros(n), None, 0.0, RESULTS.infeasible, known.complete, 0)  # pyright: ignore
    # f(c x) = c f(x): rows of different lengths count alike
    kept, size = rays.kept, rays.size
    label = float(octaves(np.max(np.abs(y[kept] / size))))
    own = eqx.tree_at(lambda f: f.masks, known, np.asarray(known.masks)[:, kept])
    state = _Interpolating(X[kept] / size[:, None], y[kept] / size / label, own, problem.lower_slope)
    with deadline.within(share=1.0 if known.complete else COLUMNS):
        for _ in range((100 if known.complete else 25) if rounds is None else rounds):
            if state.gap <= rtol or state.stalled or deadline.passed():
                break
            state.step(rtol)
            deadline.tell(label * state.dual, label * state.primal)
    found = state.result(rtol, size, label)
    lam = np.zeros(n)
    lam[kept] = found.lam
    return dataclasses.replace(found, lam=lam)


class Rays(NamedTuple):
    """Rows by the rays on which they lie: row n is `factor[n]` times row `first[n]` <= n, 0 times it if it is zero.

    `kept` (n',): the first rows of all rays, of lengths `size` to 4 `size`, powers of two, which round nothing.
    """

    kept: np.ndarray
    size: np.ndarray
    first: np.ndarray
    factor: np.ndarray


def rays_of(X: np.ndarray, y: np.ndarray) -> Rays | None:
    """The rays of X (n, d); None if a row of zeros has a label, or two rows of one ray contradict each other."""
    lead, sign = multiples(X)
    if np.any(y[sign == 0] != 0):
        return None
    _, first, ray = np.unique(np.where(sign == 0, -1, 2 * lead + (sign > 0)), return_index=True, return_inverse=True)
    kept, first = np.sort(first[sign[first] != 0]), first[ray]
    widest = np.argmax(np.abs(X), axis=1)[:, None]
    entry, other = np.take_along_axis(X, widest, 1)[:, 0], np.take_along_axis(X[first], widest, 1)[:, 0]
    factor = np.where(sign == 0, 0.0, entry / np.where(other == 0, 1.0, other))
    if np.any(np.abs(y - factor * y[first]) > SAME_LABEL * np.abs(y)):
        return None
    return Rays(kept, octaves(np.linalg.norm(X[kept], axis=1)), first, factor)


class _Interpolating:
    """Where column generation stands. Rows are 1 to 4 long, all on rays of their own, and labels less than 4."""

    def __init__(self, X: np.ndarray, y: np.ndarray, known: Faces, lower: float):
        self.X, self.y, self.known, self.lower = X, y, opposite(known, lower), lower
        self.faces, self.rows, self.supply = arrays_of(self.known), rows(X, lower), Supply(X, lower)
        self.price = 1e3
        independent = self.supply.proved and len(self.supply.rows) == len(X)
        nearly = independent and np.abs(self.supply.inverse).max() > NEARLY
        self.master = Interpolation(X, y, self.price, lower, self.supply.inverse if nearly else None)
        units = np.vstack([unit_rows(X), self.supply.U]) if nearly else unit_rows(X)
        self.master.add(np.vstack([units, units]), np.repeat([1.0, -1.0], len(units)))
        self.primal, self.dual, self.lam = np.inf, 0.0, np.zeros(len(y))
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
        if solved.slack > SLACK and self.price < DEAREST and (not added or upper <= 2.0):
            self.price *= 1e3
            self.master.reprice(self.price)
        elif not added:
            self.stalled = True

    def result(self, rtol: float, size: np.ndarray, label: float) -> MinNorm:
        """What is known at the end, of the data before they were scaled: f and 1/2 |theta|^2 scale like `label`."""
        network, miss = None, 0.0
        if np.isfinite(self.primal):
            W1, w2, missed, self.primal = self._supplied(size)
            network = TwoLayer(jnp.asarray(W1 * np.sqrt(label)), jnp.asarray(w2 * np.sqrt(label)))
            miss = label * float(np.max(np.abs(missed) * size))
        if not self.known.complete:
            lam = multipliers(self.lam, self.lower)
            B = min(float(gram_bound(jnp.asarray(self.rows), jnp.asarray(lam))), bound_of_dual(self.rows, lam))
            self.dual = max(self.dual, self._value(self.lam, B))
        found = result_of_gap(self.gap, rtol) if np.isfinite(self.primal) else RESULTS.max_steps_reached
        return MinNorm(
            float(self.primal * label), float(self.dual * label), self.lam / size, network, miss, found,  # pyright: ignore
            self.known.complete, self.rounds,
        )  # fmt: skip

    def _supplied(self, size: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        """(W1, w2, f - y, primal) of the best network, with the neurons that supply what its rounded weights miss of
        labels of rows of this `size`."""
        mass = np.linalg.norm(self.V, axis=0)
        root = np.sqrt(mass)
        W1, w2 = self.V / root, self.sign * root
        allowed = SLACK * np.where(self.y == 0, np.max(np.abs(self.y * size)) / size, np.abs(self.y))
        missed = accurate_residuals(self.X, self.y, W1, w2, self.lower)
        before = np.inf
        while self.supply.proved and 1 < (left := float(np.max(np.abs(missed) / allowed))) <= CORRECTED * before:
            mass, before = self.supply.masses(-missed), left
            root, live = np.sqrt(np.abs(mass)), mass != 0
            W1 = np.hstack([W1, (self.supply.U.T * root)[:, live]])
            w2 = np.append(w2, (np.sign(mass) * root)[live])
            missed = accurate_residuals(self.X, self.y, W1, w2, self.lower)
        length = 0.5 * float(np.sum(W1**2) + np.sum(w2**2))
        return W1, w2, missed, length + self.supply.cost(missed, self.y, length)

    def _network(self, V: np.ndarray, sign: np.ndarray) -> None:
        """The network of blocks V (d, K): kept if it is, with what supplies the labels that it misses, the shortest."""
        V, sign = V[:, V.any(axis=0)], sign[V.any(axis=0)]
        length = float(np.linalg.norm(V, axis=0).sum())
        if V.shape[1] == 0 or length >= self.primal:
            return
        length += self.supply.cost(accurate_residuals(self.X, self.y, V, sign, self.lower), self.y, length)
        if length < self.primal:
            self.primal, self.V, self.sign = length, V, sign

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
        dual = self._value(lam, proved)
        if dual > self.dual:
            self.dual, self.lam = dual, lam / proved
        return upper, tight

    def _value(self, lam: np.ndarray, B: float) -> float:
        """lambda . y / B, never more than it is: large multipliers cancel."""
        return dot(lam, self.y) / B * (1 - 4 * np.finfo(float).eps) if B > 0 else 0.0

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
