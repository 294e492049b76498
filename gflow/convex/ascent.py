"""Where small neurons go while the multipliers stand still: ascent of s lambda^T (X u)_+ on the sphere, exactly.

With lambda fixed and inside one set of modes the direction flow du = (I - u u^T) g has a constant g, so u runs along
the great circle towards g/|g|. It crosses hyperplanes, or slides on those that push it back from both sides.
Source: docs/mathematics.md, "Rectified ellipsoid and extreme points" (early phase); arXiv 2110.06488, section 2.
"""

from __future__ import annotations

import numpy as np

from gflow import deadline
from gflow.box import boxed
from gflow.convex.leaky import activated

EVENTS = 200
"""Crossings after which a neuron is left where it is."""


def resting_places(X, lam, sign, U, lower: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """(s lambda^T sigma(X u) (K,), u (d, K)) at the ends of the ascents of neurons of these signs (K,) from the
    directions U (d, K), all at once. `lower`: the slope of sigma for z < 0.

    A value never falls along the way; it is the rate at which a neuron that rests there grows.
    """
    pull = (1 - lower) * lam[:, None] * X  # (n, d): what sample n adds to s g where it is active
    always, nothing = lower * (lam @ X), ~X.any(axis=1)[:, None]
    ends, U = np.array(U), U
    on, kinks = X @ U > 0, np.zeros((len(X), len(sign)), bool)
    going, s = np.arange(len(sign)), np.asarray(sign, float)
    for _ in range(EVENTS):
        if deadline.passed():
            break
        on, kinks, G = _modes(pull, always, s, on, kinks)
        along = np.sum(G * U, axis=0)
        T = G - along * U
        size, speed = np.linalg.norm(T, axis=0), np.linalg.norm(G, axis=0)
        T, end = T / np.maximum(size, 1e-300), np.arctan2(size, along)
        Z, turning = X @ U, X @ T
        # z cos phi + turning sin phi = 0 with z moving towards the other side
        phi = np.arctan2(np.abs(Z), -np.where(on, 1.0, -1.0) * turning)
        phi = np.where(kinks | nothing | (phi <= 0), np.inf, phi)
        first = np.argmin(phi, axis=0)
        angle = phi[first, np.arange(len(first))]
        still = size <= 1e-12 * np.maximum(speed, 1e-300)
        there = still | (angle >= end)
        ends[:, going[there]] = np.where(still, U, G / np.maximum(speed, 1e-300))[:, there]
        if there.all():
            going = going[:0]
            break
        going, s, first, angle = going[~there], s[~there], first[~there], angle[~there]
        on, kinks = on[:, ~there], kinks[:, ~there]
        U = np.cos(angle) * U[:, ~there] + np.sin(angle) * T[:, ~there]
        U = U / np.linalg.norm(U, axis=0)
        at, crosses = np.arange(len(first)), s * lam[first] >= 0  # the friendly are crossed
        on[first, at] ^= crosses
        kinks[first, at] |= ~crosses
    ends[:, going] = U[:, : len(going)]
    return sign * (lam @ activated(X @ ends, lower)), ends


def _modes(pull, always, s, on: np.ndarray, kinks: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(on, slide, G) after the box problems min |always + sum_on pull + sum_kinks delta_k pull_k|, delta in [0, 1]."""
    on = on & ~kinks
    G, many = s * (always[:, None] + pull.T @ on), kinks.sum(axis=0)
    one = np.flatnonzero(many == 1)
    delta = np.zeros(kinks.shape)
    if len(one):  # mostly of one row: that is a projection
        which = np.argmax(kinks[:, one], axis=0)
        rows = s[one] * pull[which].T
        delta[which, one] = np.clip(-np.sum(rows * G[:, one], axis=0) / np.sum(rows**2, axis=0), 0.0, 1.0)
    for k in np.flatnonzero(many > 1):
        delta[kinks[:, k], k] = boxed(s[k] * pull[kinks[:, k]], G[:, k])
    return on | (delta >= 1), (delta > 0) & (delta < 1), G + s * (pull.T @ delta)
