"""From an approximate solution of the max-margin program to an exact one: name the faces, then Newton's method.

Near the optimum the columns in use gather at the maximisers of the dual constraint, one on each tight face. Merged per
face they are the neurons of the optimum up to the error of the multipliers; Newton's method on the reduced KKT system
removes it. Nothing here is a proof: both results are judged by whoever called. Source: docs/mathematics.md, "The convex
program over masks".
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from gflow.convex.newton import KKTPoint, Patterns, newton, slopes_of
from gflow.convex.threads import one_thread

LADDER = (1e-2, 1e-4, 1e-6)
"""Tried in turn, with local maxima only and then without: a face is tight if its maximum is within this of 1."""

LOOSE = 1e-2
"""Faces further from tight than this do not matter."""

SUPPORT = (1e-9, 1e-6, 1e-4)
"""Tried in turn: multipliers below this share of the largest vanish."""

CLOSE = 1e-6
"""Residual of a solution: where multipliers are large or not unique rounding leaves no less than 1e-8. The bounds that
come of it judge it."""

ON = 1e-9
"""|x_n . u| <= ON |x_n| lies on the hyperplane of x_n."""


class Tight(NamedTuple):
    """Maximisers of the dual constraint on their faces: unit vectors `U` (K, d), `sign` (K,), `value` (K,)."""

    U: np.ndarray
    sign: np.ndarray
    value: np.ndarray


def polish(X, y, U, sign, mass, alpha, tight: Tight, lower: float = 0.0):
    """Yields KKT points (sign (K,), KKTPoint) near the network of directions U (k, d), signs and masses (k,).

    `tight`: for these alpha. Every choice of faces and support vectors that differs from those before is tried.
    """
    tried: set[bytes] = set()
    live = mass > 1e-12 * max(mass.max(initial=0.0), 1e-300)
    U, sign, mass = U[live], sign[live], mass[live]
    faces, local = faces_at(X, tight.U, tight.sign), peaks(X, y * alpha, tight, lower)
    choices = [local & (tight.value >= 1 - level) for level in LADDER] + [tight.value >= 1 - level for level in LADDER]
    for chosen in choices:
        found = gathered(X, U, sign, mass, Patterns(*(a[..., chosen] for a in faces)), tight.U[chosen])
        if found is None:
            continue
        patterns, V = found
        for share in SUPPORT:
            support = alpha > share * alpha.max()
            key = b"".join(np.packbits(a > 0).tobytes() for a in (*patterns, support))
            if key in tried:
                continue
            tried.add(key)
            point = newton(X, y, patterns, KKTPoint(V, alpha), support, prune=True, lower=lower, close=CLOSE)
            if point is not None:
                yield patterns.sign, point


def gathered(X, U, sign, mass, faces: Patterns, peak) -> tuple[Patterns, np.ndarray] | None:
    """Every direction joins the nearest of the `peak` (K, d) of its sign, equal faces are one."""
    if len(peak) == 0:
        return None
    cosine = np.where(sign[:, None] == faces.sign[None, :], U @ peak.T, -2.0)
    nearest = np.argmax(cosine, axis=1)
    if np.min(cosine[np.arange(len(U)), nearest], initial=1.0) < 0.5:
        return None
    code = np.concatenate([faces.sign[None] > 0, faces.mask, faces.sliding])
    _, first, group = np.unique(code, axis=1, return_index=True, return_inverse=True)
    used, group = np.unique(group.ravel()[nearest], return_inverse=True)
    V = np.zeros((X.shape[1], len(used)))
    np.add.at(V.T, group.ravel(), mass[:, None] * U)
    first = first[used]
    return Patterns(faces.sign[first], faces.mask[:, first], faces.sliding[:, first]), V


def faces_at(X: np.ndarray, U: np.ndarray, sign: np.ndarray) -> Patterns:
    """The faces on which the unit vectors U (K, d) lie."""
    Z, row = X @ U.T, np.linalg.norm(X, axis=1)[:, None]
    sliding = (np.abs(Z) <= ON * row) & (row > 0)
    return Patterns(sign, (Z > 0) & ~sliding, sliding)


@one_thread
def peaks(X: np.ndarray, lam: np.ndarray, tight: Tight, lower: float = 0.0) -> np.ndarray:
    """Which of the directions are local maxima of s lambda^T (X u)_+ on the sphere, shape (K,).

    With rows S on the hyperplane: g + sum_S delta_n s lambda_n x_n is a multiple of u for a delta in [0, 1]^S, and
    s lambda_n <= 0 on S.
    """
    faces = faces_at(X, tight.U, tight.sign)
    G = tight.sign[:, None] * ((slopes_of(faces.mask, lower) * lam[:, None]).T @ X)
    across = G - np.sum(G * tight.U, axis=1, keepdims=True) * tight.U
    size = np.linalg.norm(G, axis=1)
    local = np.zeros(len(size), bool)
    for k, S in enumerate(faces.sliding.T):
        rest = across[k]
        if S.any():
            push = (1 - lower) * tight.sign[k] * lam[S]
            A = (push[:, None] * X[S]).T
            delta, *_ = np.linalg.lstsq(A, -rest, rcond=1e-12)
            if np.any(push > 0) or np.any(delta < -1e-6) or np.any(delta > 1 + 1e-6):
                continue
            rest = rest + A @ delta
        local[k] = np.linalg.norm(rest) <= 1e-6 * size[k]
    return local
