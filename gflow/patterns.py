"""Which neurons act as one: groups of equal sign and activation pattern, and whether such patterns can fit the data.

Neurons in one closed cone add up without changing f on the data. Source: arXiv 2006.05900, section 3;
docs/mathematics.md, "The convex program over masks".
"""

from __future__ import annotations

import dataclasses

import numpy as np

from gflow import deadline
from gflow._types import normal_numbers, on_host, positive
from gflow.convex.arrangements import unit_rows
from gflow.convex.newton import Patterns, complement, slopes_of
from gflow.convex.nonnegative import nonnegative
from gflow.network import TwoLayer, VectorTwoLayer
from gflow.problem import Problem

NO_MARGIN = 1e-9
"""UNFITTED: no networks with the same signs have margins of this times |x_n| sum_i |a_i||w_i|."""

ERROR, NONE = 3.0, 40.0
"""Of a margin in parts of the tolerance, and -log of a weight that is none."""

PROGRAM = 2e7
"""Largest number of non-zeros of that proof."""


def merge(problem: Problem, network: TwoLayer, band: float, mass: float) -> tuple[Patterns, np.ndarray]:
    """Patterns and V (d, K), v_k = sum of |a_i| w_i over the neurons of equal sign and pattern.

    Neurons in one closed cone add up without changing f, and |v_k| <= the sum of their masses. Neurons below `mass`
    times the largest one, and neurons that are nowhere active (dead), are left out.
    """
    patterns, V, _ = grouped(problem, network, band, mass)
    return patterns, V


def grouped(problem: Problem, network: TwoLayer, band: float, mass: float) -> tuple[Patterns, np.ndarray, np.ndarray]:
    """`merge`, and the column (m,) to which every neuron was added, -1 for those that were left out."""
    X = np.asarray(problem.X)
    network = on_host(network)
    directions, masses, sign = network.directions(), network.masses(), np.sign(network.w2)
    row = np.linalg.norm(X, axis=1)[:, None]
    Z = normal_numbers(X @ directions)
    sliding = (np.abs(Z) <= band * row) & (row > 0)
    active = (Z > 0) & ~sliding
    live = (
        network.live() & (masses >= mass * masses.max(initial=0.0)) & (active.any(axis=0) | (problem.lower_slope > 0))
    )
    keys: dict[bytes, list[int]] = {}
    codes = np.packbits(np.concatenate([sign[None] > 0, active, sliding]), axis=0).T.copy()
    for i in np.flatnonzero(live):
        keys.setdefault(codes[i].tobytes(), []).append(int(i))
    # heaviest first: the order of a result must not depend on the order of the neurons
    groups = sorted(keys.values(), key=lambda g: -masses[g].sum())
    V = (
        np.stack([(directions[:, g] * masses[g]).sum(axis=1) for g in groups], axis=1)
        if groups
        else np.zeros((X.shape[1], 0))
    )
    member = np.full(len(masses), -1)
    for k, group in enumerate(groups):
        member[group] = k
    first = [g[0] for g in groups]
    return Patterns(sign[first], active[:, first], sliding[:, first]), V, member


def explaining(
    problem: Problem, patterns: Patterns, V: np.ndarray, support: np.ndarray | None = None
) -> np.ndarray | None:
    """Multipliers alpha (n,), of sum 1, that explain merged weights V (d, K) best; None if none were found.

    min_{alpha >= 0} sum_k |v_k| |v_k/|v_k| - s_k P_k X^T D_k Y alpha|^2, P_k the projection along the hyperplanes on
    which pattern k slides, where the gradient is one of many. 0 where `support` (n,) is false, if it is given.
    """
    X, y = np.asarray(problem.X), np.asarray(problem.y)
    kept = np.arange(len(y)) if support is None else np.flatnonzero(support)
    largest = np.abs(V).max(initial=0.0)
    if not positive(largest):
        return None
    V = V / largest
    size = np.linalg.norm(V, axis=0)
    blocks, targets = [np.zeros((0, len(kept)))], [np.zeros(0)]
    for k in np.flatnonzero(positive(size)):
        basis, root = complement(X[patterns.sliding[:, k]]), np.sqrt(size[k] / size.max())
        D = slopes_of(patterns.mask[:, k], problem.lower_slope)
        blocks.append(root * patterns.sign[k] * basis.T @ (X.T * (D * y))[:, kept])
        targets.append(root * basis.T @ (V[:, k] / size[k]))
    scale = max(np.max(np.abs(X)), 1e-300)
    found = nonnegative(np.concatenate(blocks) / scale, np.concatenate(targets), 100 * len(kept))
    if found is None or not found.any():
        return None
    alpha = np.zeros(len(y))
    alpha[kept] = found
    return alpha / alpha.sum()


def explained(problem: Problem, network: TwoLayer, q: np.ndarray, rtol: float, band: float) -> np.ndarray | None:
    """p (n,), of sum 1, under which the neurons of a network grow along themselves as nearly as can be (`explaining`).

    `q` (n,): its margins, right to `rtol` of the smallest: p is 0 where one is larger by more than its error and
    exp(-NONE) of weight. Pairs within `band` slide. None if none was found.
    """
    support = q <= (1 + ERROR * rtol) * q.min() + NONE
    return explaining(problem, *merge(problem, network, band, 0.0), support)


def on_hyperplanes(problem: Problem, network: TwoLayer | VectorTwoLayer, band: float):
    """The network with neurons put onto the hyperplanes that are nearer than rounding, |x_n . u_i| <= band |x_n|.

    A flow in float32 holds a sliding neuron on its hyperplanes to seven digits; a limit needs nine to tell it from one
    that is only close to them. A neuron that near to hyperplanes which meet at 0 alone stays where it is.
    """
    X, W1 = np.asarray(problem.X), np.array(network.W1)
    row, size = np.linalg.norm(X, axis=1)[:, None], np.linalg.norm(W1, axis=0)
    near = (np.abs(X @ W1) <= band * row * size) & (row > 0)
    for i in np.flatnonzero(near.any(axis=0)):
        rows, w = X[near[:, i]], W1[:, i]
        moved = w - np.linalg.pinv(rows) @ (rows @ w)
        if np.linalg.norm(moved) > 0.5 * size[i]:
            W1[:, i] = moved
    return dataclasses.replace(network, W1=W1)


def pattern_key(patterns: Patterns) -> bytes:
    """Equal for equal patterns in the same order, and only for those."""
    return repr(patterns.mask.shape).encode() + b"".join(np.packbits(a > 0).tobytes() for a in patterns)


def distinct(patterns: Patterns) -> Patterns:
    """Every pattern once, in an order that depends on the patterns alone."""
    return canonical(patterns, np.zeros((0, len(patterns.sign))))[0]


def canonical(patterns: Patterns, V: np.ndarray) -> tuple[Patterns, np.ndarray]:
    """The same with the columns of V (d, K): of equal patterns the first."""
    packed = np.packbits(np.concatenate([patterns.sign[None] > 0, patterns.mask, patterns.sliding]), axis=0)
    columns = [column.tobytes() for column in packed.T]
    where = {code: k for k, code in reversed(list(enumerate(columns)))}
    first = np.array([where[code] for code in sorted(where)], int)
    return Patterns(patterns.sign[first], patterns.mask[:, first], patterns.sliding[:, first]), V[:, first]


def positions(patterns: Patterns, among: Patterns) -> np.ndarray:
    """The column of `among` that equals each column of `patterns`, (K,)."""
    codes = [np.concatenate([p.sign[None] > 0, p.mask, p.sliding]).T for p in (patterns, among)]
    where = {code.tobytes(): k for k, code in enumerate(np.ascontiguousarray(codes[1]))}
    return np.array([where[code.tobytes()] for code in np.ascontiguousarray(codes[0])], int)


def joined(first: Patterns, second: Patterns) -> Patterns:
    """The patterns of both, as in `distinct`."""
    return distinct(Patterns(*(np.concatenate([a, b], axis=-1) for a, b in zip(first, second, strict=True))))


def undetermined(problem: Problem, network: TwoLayer) -> bool:
    """Whether a neuron has one layer 0 and may have either sign, or any pattern, as soon as that is not: `merge` leaves
    it out, and about such networks `cannot_fit` proves nothing. One that is 0 altogether stays so, unless it leaks."""
    X, (W1, w2), leaky = (
        np.asarray(problem.X),
        (np.asarray(network.W1), np.asarray(network.w2)),
        problem.lower_slope > 0,
    )
    sees = (X @ np.asarray(network.directions()) > 0).any(axis=0) | leaky
    return bool(np.any(np.where(W1.any(axis=0), (w2 == 0) & sees, (w2 != 0) | leaky)))


def cannot_fit(problem: Problem, patterns: Patterns) -> bool:
    """Whether no weights with these signs of a_i and of x_n . w_i (0 is allowed) separate the data: the best margin of
    a linear program is 0. Other signs of a may fit; a flow from balanced weights keeps them.

    max tau  s.t.  Y sum_k s_k D_k (x_n/|x_n|) . v_k >= tau, v_k in the closed cone of pattern k, |v_k|_inf <= 1,
    is at most 1e-9. False where that is not proved, also for programs that are too large.
    """
    import scipy.sparse as sp
    from scipy.optimize import linprog

    X, y, lower = unit_rows(np.asarray(problem.X)), np.asarray(problem.y), problem.lower_slope
    (n, d), K = X.shape, len(patterns.sign)
    if K == 0 or not X.any(axis=1).all():
        return True
    if 2 * K * n * d > PROGRAM:
        return False
    margins = np.concatenate(
        [(y * s * D)[:, None] * X for s, D in zip(patterns.sign, slopes_of(patterns.mask, lower).T, strict=True)],
        axis=1,
    )
    sides = [sp.csr_array(np.where(mask, -1.0, 1.0)[:, None] * X) for mask in patterns.mask.T]
    slide = patterns.sliding.T.ravel()
    cones = sp.csr_array(sp.hstack([sp.block_diag(sides), sp.csr_array((len(slide), 1))]))
    A_ub = sp.vstack([sp.csr_array(np.hstack([-margins, np.ones((n, 1))])), cones[~slide]])
    border = {"A_eq": cones[slide], "b_eq": np.zeros(slide.sum())} if slide.any() else {}
    tight = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10, "time_limit": deadline.left()}
    sol = linprog(
        np.append(np.zeros(K * d), -1.0), A_ub=A_ub, b_ub=np.zeros(n + np.sum(~slide)), **border,
        bounds=[(-1, 1)] * (K * d) + [(0, 1)], method="highs", options=tight,
    )  # fmt: skip
    return bool(sol.status == 0 and -sol.fun <= NO_MARGIN)
