"""B(p) = max_{|u|<=1} |lambda^T (X u)_+|, lambda = Y p: exact over complete faces, else bounded from both sides.

P* >= 1/B(p) for every p in the simplex, whatever the width. Source: arXiv 2110.06488, section 4; theory,
"Certificate of a limit".
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gflow.convex.faces import Faces

ASCENT_STEPS = 100


class Bound(eqx.Module):
    """`lower` <= max_u |lambda^T (X u)_+| <= `upper`; `u` (d,) attains `lower`.

    `exact`: `upper` comes from all faces: the two agree up to rounding and to what nearly degenerate rows leave open.
    """

    lower: Float[Array, ""]
    upper: Float[Array, ""]
    u: Float[Array, " d"]
    exact: bool = eqx.field(static=True)


def dual_maximum(X: Float[Array, "n d"], lam: Float[Array, " n"], faces: Faces) -> Bound:
    """Bounds on max_{|u|<=1} |lambda^T (X u)_+| for one lambda (n,).

    Complete faces: the maximum lies on a face F with span L at u = P_L g / |P_L g|, where it is |P_L g|. `upper` is the
    largest |P_L g| among the faces that hold their u within its accuracy, plus rounding: with Lambda = sum |lambda_n|
    |x_n| nothing changes by more than Lambda times the angle by which u or a face is known. Sampled ones: the best of
    ascents from the sampled cells as `lower`, and the Gram bound as `upper`. Float64 only.
    """
    values, U, norms, known, Z = _candidates(X, lam, *arrays_of(faces))
    upper = gram_bound(X, lam)
    if not faces.complete:
        values, U = _ascend(X, lam, U)
    best = jnp.argmax(values)
    lower = values[best]
    if faces.complete:
        size = jnp.linalg.norm(X, axis=1)
        largest = jnp.sum(jnp.abs(lam) * size)
        # g is known to within Lambda known, its direction to within that over |P_L g|, rows through L to 4 known
        off = (2 * largest / jnp.where(norms > 0, norms, 1.0) + 8) * known
        side = jnp.where(jnp.concatenate([faces.masks, faces.masks]), -1.0, 1.0)
        inside = jnp.all(side * Z <= off[:, None] * size, axis=1)
        over_faces = jnp.maximum(jnp.max(jnp.where(inside, norms + largest * known, 0.0)), lower * (1 + 1e-15))
        upper = jnp.minimum(upper, over_faces + largest * faces.error)
    return Bound(lower, jnp.maximum(upper, lower), U[best], faces.complete)


def dual_maxima(X: Float[Array, "n d"], lams: Float[Array, "W n"], faces: Faces) -> Bound:
    """`dual_maximum` for W multipliers at once: every field of the Bound has a leading axis W."""
    if faces.complete:
        return _exact(X, lams, *arrays_of(faces))
    bounds = [dual_maximum(X, lam, faces) for lam in lams]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *bounds)


def arrays_of(faces: Faces) -> tuple[Array, ...]:
    """The fields of Faces but the last, as jax arrays."""
    return tuple(map(jnp.asarray, (faces.masks, faces.span, faces.projectors, faces.accuracy, faces.error)))


@jax.jit
def _exact(X, lams, *arrays) -> Bound:
    faces = Faces(*arrays, complete=True)
    return jax.lax.map(lambda lam: dual_maximum(X, lam, faces), lams)


def gram_bound(X: Float[Array, "n d"], lam: Float[Array, " n"]) -> Float[Array, ""]:
    """A proved upper bound in any dimension, tight on orthogonally separable data.

    For sign s let F = {n : s lambda_n > 0}. Dropping the terms outside F,
    (s lambda^T (X u)_+)^2 <= max_{z in [0,1]^F} |sum_F z_n lambda_n x_n|^2
                           <= sum_{n,k in F} lambda_n lambda_k (x_n . x_k)_+.
    """
    gram = jnp.maximum(X @ X.T, 0.0)
    return jnp.sqrt(jnp.maximum(*(jnp.maximum(s * lam, 0.0) @ gram @ jnp.maximum(s * lam, 0.0) for s in (1.0, -1.0))))


def value(X: Float[Array, "n d"], lam: Float[Array, " n"], U: Float[Array, "F d"]) -> Float[Array, " F"]:
    """|lambda^T (X u)_+| for every row u of U."""
    return jnp.abs(jnp.maximum(U @ X.T, 0.0) @ lam)


@jax.jit
def _candidates(X, lam, masks, span, projectors, accuracy, error):
    """+-P_L X^T D lambda normalised, for every face: |lambda^T (X u)_+|, u, |P_L g|, accuracy of u |P_L g| and X u.

    The true function is evaluated, so no face can lie.
    """
    g = jnp.einsum("fij,fj->fi", projectors[span], (masks * lam) @ X)
    norms = jnp.linalg.norm(g, axis=1)
    U = jnp.where(norms[:, None] > 0, g / jnp.where(norms > 0, norms, 1.0)[:, None], 0.0)
    U = jnp.concatenate([U, -U])
    known = accuracy[span] + X.shape[0] * jnp.finfo(X.dtype).eps
    return value(X, lam, U), U, jnp.tile(norms, 2), jnp.tile(known, 2), U @ X.T


@jax.jit
def _ascend(X, lam, U):
    """u <- normalised gradient of |lambda^T (X u)_+|, keeping the best seen: a lower bound, never a proof."""

    def step(_, carry):
        U, best, best_U = carry
        Z = U @ X.T
        sign = jnp.sign(jnp.maximum(Z, 0.0) @ lam)
        g = sign[:, None] * (((Z > 0) * lam) @ X)
        norms = jnp.linalg.norm(g, axis=1, keepdims=True)
        U = jnp.where(norms > 0, g / jnp.where(norms > 0, norms, 1.0), U)
        new = value(X, lam, U)
        better = new > best
        return U, jnp.where(better, new, best), jnp.where(better[:, None], U, best_U)

    _, best, best_U = jax.lax.fori_loop(0, ASCENT_STEPS, step, (U, value(X, lam, U), U))
    return best, best_U


def require_float64(*arrays) -> None:
    """Raise ValueError unless every array is float64: a certificate in float32 proves nothing."""
    if any(np.asarray(a).dtype != np.float64 for a in arrays):
        raise ValueError(
            "a certificate needs float64 arrays: run jax.config.update('jax_enable_x64', True) before making them "
            "(the flow itself may run in float32)"
        )
