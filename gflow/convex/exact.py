"""Floating-point numbers as what they are, integers times powers of two: which rows are multiples of each other.

No tolerance enters: two rows that differ in their last bit are two rows.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np


def integers(X: np.ndarray) -> list[list[int]]:
    """Row by row integers proportional to X (n, d), finite: a row is divided by one power of two."""
    mantissa, exponent = np.frexp(np.asarray(X, float))
    whole = (mantissa * 2.0**53).astype(np.int64)
    rows = []
    for numbers, powers in zip(whole.tolist(), exponent.tolist(), strict=True):
        least = min((e for m, e in zip(numbers, powers, strict=True) if m), default=0)
        rows.append([m << (e - least) if m else 0 for m, e in zip(numbers, powers, strict=True)])
    return rows


def multiples(X: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(lead (n,), sign (n,)): row n is exactly a multiple of row lead[n] <= n, the first such, of this sign; 0 for a
    row of zeros, its own lead."""
    first: dict[tuple[int, ...], int] = {}
    lead, side = np.arange(len(X)), np.zeros(len(X), int)
    for n, row in enumerate(integers(X)):
        common = math.gcd(*row)
        if common:
            side[n] = 1 if next(a for a in row if a) > 0 else -1
            lead[n] = first.setdefault(tuple(int(side[n]) * a // common for a in row), n)
    return lead, side * side[lead]


def independent_columns(X: np.ndarray) -> np.ndarray:
    """As many columns of X (n, d) as its rank is, independent, by elimination without rounding."""
    held: dict[int, list[Fraction]] = {}
    for row in integers(X):
        rest = [Fraction(a) for a in row]
        for pivot, other in held.items():
            if rest[pivot]:
                rest = [a - rest[pivot] * b for a, b in zip(rest, other, strict=True)]
        pivot = next((j for j, a in enumerate(rest) if a), None)
        if pivot is not None:
            held[pivot] = [a / rest[pivot] for a in rest]
        if len(held) == X.shape[1]:
            break
    return np.array(sorted(held), int)


def octaves(size: np.ndarray) -> np.ndarray:
    """The largest powers of four that are at most `size`, 1 for 0: scaling by them, and by their roots, is exact."""
    _, exponent = np.frexp(size)
    return np.where(size > 0, np.ldexp(1.0, 2 * ((exponent - 1) // 2)), 1.0)
