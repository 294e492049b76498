"""Where a small neuron goes while the multipliers stand still: ascent of s lambda^T (X u)_+ on the sphere, exactly.

With lambda fixed and inside one set of modes the direction flow du = (I - u u^T) g has a constant g, so u runs along
the great circle towards g/|g|. It crosses hyperplanes, or slides on those that push it back from both sides.
Source: docs/mathematics.md, "Rectified ellipsoid and extreme points" (early phase); arXiv 2110.06488, section 2.
"""

from __future__ import annotations

import numpy as np

from gflow.convex.leaky import activated

EVENTS = 200
"""Crossings after which a neuron is left where it is."""


def resting_place(
    X: np.ndarray, lam: np.ndarray, sign: float, u: np.ndarray, lower: float = 0.0
) -> tuple[float, np.ndarray]:
    """(s lambda^T sigma(X u), u) at the end of the ascent of a neuron of this sign from the direction u (d,).
    `lower`: the slope of sigma for z < 0.

    The value never falls along the way; it is the rate at which a neuron that rests there grows.
    """
    on, slide = X @ u > 0, np.zeros(len(X), bool)
    pull = (1 - lower) * sign * lam[:, None] * X  # (n, d): what sample n adds to g where it is active
    always = lower * sign * (lam @ X)
    g, nothing = always + on @ pull, ~X.any(axis=1)
    for _ in range(EVENTS):
        along = g @ u
        t = g - along * u
        size = np.linalg.norm(t)
        if size <= 1e-12 * max(np.linalg.norm(g), 1e-300):
            break
        t, end = t / size, np.arctan2(size, along)
        z, turning = X @ u, X @ t
        # z cos phi + turning sin phi = 0 with z moving towards the other side
        phi = np.arctan2(np.abs(z), -np.where(on, 1.0, -1.0) * turning)
        phi = np.where(slide | nothing | (phi <= 0), np.inf, phi)
        first = int(np.argmin(phi))
        if phi[first] >= end:
            u = g / np.linalg.norm(g)
            break
        u = np.cos(phi[first]) * u + np.sin(phi[first]) * t
        u = u / np.linalg.norm(u)
        if sign * lam[first] > 0:  # friendly: it crosses
            on[first] = ~on[first]
        else:
            slide[first] = True
        on, slide, g = _modes(pull, always, on & ~slide, slide)
    return float(sign * lam @ activated(X @ u, lower)), u


def _modes(pull, always, on: np.ndarray, kinks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(on, slide, g) after the box problem min |always + sum_on pull + sum_kinks delta_k pull_k|, delta in [0, 1]."""
    g, at = always + on @ pull, np.flatnonzero(kinks)
    if len(at) == 0:
        return on, kinks, g
    delta = _entries(pull[at], g)
    on, slide = on.copy(), kinks.copy()
    on[at], slide[at] = delta >= 1, (delta > 0) & (delta < 1)
    return on, slide, g + delta @ pull[at]


def _entries(rows: np.ndarray, g: np.ndarray) -> np.ndarray:
    """delta (k,) of min |g + delta @ rows|, delta in [0, 1]. Mostly of one row: that is a projection."""
    from scipy.optimize import lsq_linear

    square = rows[0] @ rows[0]
    if len(rows) == 1 and square > 0:
        return np.clip([-(rows[0] @ g) / square], 0.0, 1.0)
    return lsq_linear(rows.T, -g, (0.0, 1.0), method="bvls").x
