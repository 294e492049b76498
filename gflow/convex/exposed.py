"""Are the neurons extreme points of the dual program? Their distance from the face that lambda exposes.

Q = {(X u)_+ : |u| <= 1}. The points of conv(Q u -Q) where lambda^T z is largest form the face that lambda exposes: the
convex hull of s (X u)_+ over all u that attain B = max_{|u|<=1} |lambda^T (X u)_+| with sign s. At a global optimum
every live neuron lies on it, and along a flow to one the distance goes to 0. Source: arXiv 2110.06488, section 4;
docs/mathematics.md, "Rectified ellipsoid and extreme points".
"""

from __future__ import annotations

import numpy as np

from gflow.convex.candidates import best_directions
from gflow.convex.faces import Faces, faces
from gflow.convex.nonnegative import nonnegative
from gflow.convex.oracle import arrays_of, price, require_float64
from gflow.network import TwoLayer
from gflow.problem import Problem


def exposed_points(problem: Problem, lam, known_faces: Faces | None = None, *, rtol: float = 1e-6) -> np.ndarray:
    """Points (K, n) whose convex hull is the exposed face: s (X u)_+ for the u with |lambda^T (X u)_+| >= (1 - rtol) B.

    `lam` (n,): any multiple of the multipliers. Raises ValueError in float32, for lam = 0, and where the faces of X are
    too many to enumerate: the maximisers are not known then.
    """
    problem.require_scalar()
    problem.require_relu()
    require_float64(problem.X)
    known = faces(problem.X) if known_faces is None else known_faces
    if not known.complete:
        raise ValueError("the exposed face needs all faces of X, and these are too many: use fewer samples or columns")
    X, lam = np.asarray(problem.X), np.asarray(lam, float)
    if lam.shape != X.shape[:1] or not np.all(np.isfinite(lam)) or not lam.any():
        raise ValueError(f"lam must hold n = {len(X)} finite multipliers, not all of them 0")
    lam = lam / np.abs(lam).sum()
    values, _ = price(problem.X, lam, *arrays_of(known))
    tight = best_directions(X, lam, values, float(np.max(np.abs(values))), known)
    chosen = tight.value >= 1 - rtol
    return tight.sign[chosen, None] * np.maximum(tight.U[chosen] @ X.T, 0.0)


def distance_from_exposed_face(
    problem: Problem, network: TwoLayer, lam, known_faces: Faces | None = None, *, rtol: float = 1e-6
) -> np.ndarray:
    """Distance (m,) of sign(a_i) (X u_i)_+, u_i = w_i/|w_i|, from the face that lambda exposes.

    NaN for w_i = 0 or a_i = 0, and where the nearest point was not found. `lam`, `rtol`, errors: as for
    `exposed_points`. Along a flow take the multipliers of its limit: those on the way expose a single point, for no two
    maxima of |lambda^T (X u)_+| are equal yet.
    """
    problem.check(network)
    corners = exposed_points(problem, lam, known_faces, rtol=rtol)
    sign, live = np.sign(np.asarray(network.w2)), np.asarray(network.live())
    points = sign[:, None] * np.maximum(np.asarray(network.directions()).T @ np.asarray(problem.X).T, 0.0)
    return np.array([_distance(corners, z) if alive else np.nan for z, alive in zip(points, live, strict=True)])


def _distance(corners: np.ndarray, z: np.ndarray) -> float:
    """From z (n,) to the convex hull of corners (K, n).

    min |A^T c|^2 + (1^T c - 1)^2 over c >= 0, A = corners - z: with c = t p, 1^T p = 1, the best t leaves a function
    that grows with |A^T p|, so that c is a multiple of the coefficients of the nearest point.
    """
    A = corners - z
    size = np.max(np.abs(A))
    if size == 0:
        return 0.0
    target = np.zeros(A.shape[1] + 1)
    target[-1] = 1.0
    c = nonnegative(np.vstack([A.T / size, np.ones(len(A))]), target)
    return np.nan if c is None else float(np.linalg.norm(A.T @ (c / c.sum())))
