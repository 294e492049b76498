"""The subsampled max-margin program: only the (sign, mask) pairs of a network's live neurons.

    P = min sum_k |v_k|   s.t.   Y sum_k s_k D_k X v_k >= 1,   v_k in the closed cone C_k of pattern k.

Its optimum is the max-margin KKT point with these patterns, the limit of a flow whose patterns have settled. Column
generation, with unit vectors of the cones as columns and the projection onto a cone (non-negative least squares) as
pricing, finds it whatever the start; Newton's method on what it identifies makes it exact.
Source: arXiv 2006.05900, section 3; docs/mathematics.md, "The convex program over masks".
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gflow import deadline
from gflow.convex.master import Master
from gflow.convex.newton import KKTPoint, Patterns, complement, far, newton, slopes_of
from gflow.convex.nonnegative import nonnegative
from gflow.convex.threads import one_thread

ROUNDS = 60

REWEIGHTED = 30
"""Steps of iteratively reweighted least squares."""

CLOSE = 1e-3
"""Newton's method is tried from this relative gap on, and again whenever it has shrunk tenfold."""

THRESHOLDS = (1e-7, 1e-5, 1e-3)
"""Tried in turn: rows with |x_n . v_k| <= threshold |x_n||v_k| slide, masses and multipliers below it vanish."""

SLACK_PRICE = 1e6
"""What a margin below 1 costs in the master, relative to 1/max|x|."""


class Optimum(NamedTuple):
    """`cones` (K,): which of the given patterns have v_k != 0. `V` (d, K), `alpha` (n,): as in KKTPoint.

    `patterns`: theirs, where rows on which v_k lies on the border of its cone count as sliding.
    """

    cones: np.ndarray
    patterns: Patterns
    V: np.ndarray
    alpha: np.ndarray


def solve_subsampled(
    X: np.ndarray, y: np.ndarray, patterns: Patterns, near: KKTPoint | None = None, lower: float = 0.0
) -> Optimum | None:
    """The optimum of the program of `patterns`; `near`: a point close to it, from which Newton's method is tried first.
    `lower`: the activation's slope off the masks.

    None if no solution was found: the program is infeasible, or Newton's method did not close in on it. The point
    returned satisfies its own reduced KKT system; that it is a KKT point of the whole problem is for the caller to
    check.
    """
    scale = max(np.max(np.linalg.norm(X, axis=1)), 1e-300)
    unit = X / scale
    if near is not None and not far(X, near):
        point = _identify(unit, y, patterns, near.V * scale, near.alpha * scale, lower)
        if point is None:
            point = _identify(unit, y, patterns, *_reweighted(unit, y, patterns, near.V * scale, lower), lower)
        if point is not None:
            return Optimum(point.cones, point.patterns, point.V / scale, point.alpha / scale)
    cones, master = _cones(unit, y, patterns, lower), Master(unit, y, SLACK_PRICE, lower)
    alpha, V, owner, due = np.ones(len(y)), None, np.zeros(0, int), CLOSE
    for _ in range(ROUNDS):
        priced = None if deadline.passed() else _price(cones, alpha, X.shape[1])
        if priced is None:
            return None
        values, new, U = priced
        gap = max(values.max(initial=0.0), 1.0) - 1.0
        if V is not None and gap <= due:
            point = _identify(unit, y, patterns, V, alpha, lower)
            if point is not None:
                return Optimum(point.cones, point.patterns, point.V / scale, point.alpha / scale)
            due = 0.1 * gap
            if gap <= 1e-12:
                return None
        master.add(U, patterns.sign[new])
        owner = np.append(owner, new)
        solved = master.solve()
        if solved is None:
            return None
        alpha, V = solved.alpha, np.zeros((X.shape[1], len(cones)))
        np.add.at(V.T, owner, solved.mass[:, None] * master.U)
    return None


@one_thread
def _reweighted(X, y, patterns: Patterns, V: np.ndarray, lower: float) -> tuple[np.ndarray, np.ndarray]:
    """(V, alpha) after steps of iteratively reweighted least squares on min sum_k |v_k| s.t. sum_k B_k z_k >= 1.

    With eta_k = |v_k| of the step before, min sum_k |z_k|^2 / eta_k under the same constraints is a least-distance
    problem, which non-negative least squares solves exactly, whatever the number of support vectors.
    """
    bases = [complement(X[slide]) for slide in patterns.sliding.T]
    blocks = [
        (y * s * D)[:, None] * (X @ Q)
        for s, D, Q in zip(patterns.sign, slopes_of(patterns.mask, lower).T, bases, strict=True)
    ]
    eta, alpha = np.linalg.norm(V, axis=0), np.ones(len(y))
    for _ in range(REWEIGHTED):
        if deadline.passed():
            break
        M = np.concatenate([np.sqrt(r) * B for r, B in zip(eta, blocks, strict=True)], axis=1)
        u = nonnegative(np.vstack([M.T, np.ones(len(y))]), np.append(np.zeros(M.shape[1]), 1.0), 20 * len(y))
        if u is None or not 1.0 - u.sum() > 1e-12:  # the constraints contradict each other
            break
        alpha = u / (1.0 - u.sum())
        z = [r * (B.T @ alpha) for r, B in zip(eta, blocks, strict=True)]
        V = np.stack([Q @ zk for Q, zk in zip(bases, z, strict=True)], axis=1)
        eta = np.linalg.norm(V, axis=0)
    return V, alpha


class Cone(NamedTuple):
    """The cone of a pattern, {`basis` z: `sides` z >= 0}, and what multipliers alpha pull there: `pull` alpha."""

    basis: np.ndarray
    sides: np.ndarray
    pull: np.ndarray


def _cones(X, y, patterns: Patterns, lower: float) -> list[Cone]:
    out = []
    for s, mask, sliding in zip(patterns.sign, patterns.mask.T, patterns.sliding.T, strict=True):
        basis = complement(X[sliding])
        sides = np.where(mask, 1.0, -1.0)[~sliding, None] * (X[~sliding] @ basis)
        out.append(Cone(basis, sides, basis.T @ (s * X.T * (slopes_of(mask, lower) * y))))
    return out


def _price(cones: list[Cone], alpha, d: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """max over unit vectors u of every cone of s_k (Y alpha)^T D_k X u, (K,); the cones (k,) where it is positive, and
    the maximisers (k, d) there. None if one was not found."""
    values, new, U = np.zeros(len(cones)), [], []
    for k, (basis, sides, pull) in enumerate(cones):
        g = pull @ alpha
        z = nonnegative(sides.T, -g, 30 * len(g) + 10 * len(sides))
        if z is None:
            return None
        u = g + sides.T @ z
        values[k] = np.linalg.norm(u)
        if values[k] > 1e-12 * max(np.linalg.norm(g), 1e-300):
            new.append(k)
            U.append(basis @ (u / values[k]))
    return values, np.array(new, int), np.reshape(U, (len(new), d))


def _identify(X, y, patterns: Patterns, V, alpha, lower: float) -> Optimum | None:
    """Newton's method on the rows, cones and support vectors that the approximate solution names."""
    size = np.linalg.norm(V, axis=0)
    row = np.linalg.norm(X, axis=1)[:, None]
    for threshold in THRESHOLDS:
        live = size > threshold * size.max(initial=0.0)
        sliding = (patterns.sliding | (np.abs(X @ V) <= threshold * row * size)) & (row > 0)
        given = Patterns(patterns.sign[live], patterns.mask[:, live], patterns.sliding[:, live])
        sliding, start = sliding[:, live], KKTPoint(V[:, live], alpha)
        for _ in range(2 * sliding.sum() + 1):
            kept = Patterns(given.sign, given.mask & ~sliding, sliding)
            point = newton(X, y, kept, start, start.alpha > threshold * start.alpha.max(), prune=True, lower=lower)
            if point is None:
                break
            present = point.V.any(axis=0)
            if not present.all():
                live, sliding, point = _without(live, sliding, point, present)
                given = Patterns(given.sign[present], given.mask[:, present], given.sliding[:, present])
                kept = Patterns(kept.sign[present], kept.mask[:, present], kept.sliding[:, present])
            wrong = _pulled_inside(X, y, given, kept, point, lower)
            if not wrong.any():
                Z = X @ point.V
                if np.all(np.where(kept.mask, Z > 0, Z < 0) | sliding | (row == 0)):
                    return Optimum(np.flatnonzero(live), kept, point.V, point.alpha)
                break
            sliding, start = sliding & ~wrong, point
    return None


def _without(live, sliding, point: KKTPoint, kept):
    """The same without the cones whose neurons have vanished."""
    live = live.copy()
    live[np.flatnonzero(live)[~kept]] = False
    return live, sliding[:, kept], KKTPoint(point.V[:, kept], point.alpha)


def _pulled_inside(X, y, given: Patterns, kept: Patterns, point: KKTPoint, lower: float) -> np.ndarray:
    """Of the rows held on the border of a cone, for every cone the one whose multiplier has the wrong sign most.

    s_k X^T D_k Y alpha + sum_n z_n (+-x_n) = v_k / |v_k| with z >= 0, + where the cone is on x_n's positive side: a
    negative z_n means that the objective pulls v_k off the border, into the cone. Given sliding rows have any sign.
    """
    wrong = np.zeros_like(kept.sliding)
    for k, s in enumerate(kept.sign):
        held = np.flatnonzero(kept.sliding[:, k])
        if len(held) == 0:
            continue
        side = np.where(given.mask[held, k], 1.0, -1.0)
        missing = point.V[:, k] / np.linalg.norm(point.V[:, k]) - s * X.T @ (
            slopes_of(given.mask[:, k], lower) * y * point.alpha
        )
        z, *_ = np.linalg.lstsq((side[:, None] * X[held]).T, missing, rcond=None)
        z = np.where(given.sliding[held, k], 0.0, z)
        if z.min() < -1e-9:
            wrong[held[np.argmin(z)], k] = True
    return wrong
