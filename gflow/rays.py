"""Rows on one ray: f(c x) = c f(x) for c > 0, so that labels which differ there are separated by no network.

Which rows are multiples of each other is decided exactly: floating-point numbers are integers times powers of two.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np

NEAR = 1e-12
"""Rows whose directions differ by at most this in every entry are nearly on one ray."""


def never_separable(X, y) -> list[str]:
    """Why no network without bias can have all margins positive: one sentence per reason, rows counted from 1.

    Two reasons exist: a row of zeros (f(0) = 0), and rows x and c x, c > 0, with different labels.
    """
    return [reason for reason, exact in _reasons(X, y) if exact]


def barely_separable(X, y) -> list[str]:
    """Rows with different labels whose directions agree to NEAR and are not the same: a network that separates them
    has weights beyond what float64 can compute with."""
    return [reason for reason, exact in _reasons(X, y) if not exact]


def _reasons(X, y) -> list[tuple[str, bool]]:
    X, y = np.asarray(X, float), np.asarray(y, float)
    if y.ndim == 2:
        return list(dict.fromkeys(reason for column in y.T for reason in _reasons(X, column)))
    size = np.max(np.abs(X), axis=1)
    reasons = [(f"row {n + 1} is all zeros", True) for n in np.flatnonzero((size == 0) & (y != 0))]
    for group in _close(X / np.where(size > 0, size, 1.0)[:, None], (size > 0) & (y != 0)):
        if len(set(y[group])) == 1:
            continue
        first: dict[tuple[int, ...], int] = {}
        for n in group:
            k = first.setdefault(_ray(X[n]), n)
            if y[k] != y[n]:
                same = "equal" if np.array_equal(X[k], X[n]) else "positive multiples of each other"
                reasons.append((f"rows {k + 1} and {n + 1} are {same} but have different labels", True))
        for n in sorted(first.values()):
            k = next((k for k in sorted(first.values()) if k < n and y[k] != y[n]), None)
            if k is not None:
                text = f"rows {k + 1} and {n + 1} are positive multiples of each other up to {NEAR:g}"
                reasons.append((f"{text} but have different labels", False))
    return reasons


def _close(U: np.ndarray, asked: np.ndarray) -> list[list[int]]:
    """Groups (of two and more) of the rows of U that are `asked` for, near to each other in every entry, in order."""
    which = np.flatnonzero(asked)
    if len(which) < 2:
        return []
    # by one projection: rows that are near are near in it, and hardly any others are
    along = U[which] @ np.random.default_rng(0).standard_normal(U.shape[1])
    order = np.argsort(along, kind="stable")
    reach = NEAR * 8 * U.shape[1]
    chains = np.split(which[order], np.flatnonzero(np.diff(along[order]) > reach) + 1)
    groups: list[list[int]] = []
    for chain in chains:
        left = sorted(map(int, chain))
        while len(left) > 1:
            near = [n for n in left if np.max(np.abs(U[n] - U[left[0]])) <= NEAR]
            groups += [near] if len(near) > 1 else []
            left = [n for n in left if n not in set(near)]
    return sorted(groups)


def _ray(row: np.ndarray) -> tuple[int, ...]:
    """The smallest integers that are positive multiples of a row."""
    exact = [Fraction(v) for v in row.tolist()]
    common = math.lcm(*(v.denominator for v in exact))
    whole = [int(v * common) for v in exact]
    divisor = math.gcd(*whole)
    return tuple(v // divisor for v in whole)
