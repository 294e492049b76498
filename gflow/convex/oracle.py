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

    `exact`: `lower` is the maximum over all faces, up to rounding.
    """

    lower: Float[Array, ""]
    upper: Float[Array, ""]
    u: Float[Array, " d"]
    exact: bool = eqx.field(static=True)


def dual_maximum(X: Float[Array, "n d"], lam: Float[Array, " n"], faces: Faces) -> Bound:
    """Bounds on max_{|u|<=1} |lambda^T (X u)_+| for one lambda (n,).

    Complete faces: the maximum itself, enlarged by a rounding margin of 1e-13 n |lambda|^T |x|. Sampled ones: the best
    of ascents from the sampled cells as `lower`, and the Gram bound as `upper`. Float64 only.
    """
    values, U = _candidates(X, lam, jnp.asarray(faces.masks), jnp.asarray(faces.span), jnp.asarray(faces.projectors))
    upper = gram_bound(X, lam)
    if not faces.complete:
        values, U = _ascend(X, lam, U)
    best = jnp.argmax(values)
    lower = values[best]
    if faces.complete:
        rounding = 1e-13 * X.shape[0] * jnp.sum(jnp.abs(lam) * jnp.linalg.norm(X, axis=1))
        upper = jnp.minimum(upper, lower + rounding)
    return Bound(lower, jnp.maximum(upper, lower), U[best], faces.complete)


def dual_maxima(X: Float[Array, "n d"], lams: Float[Array, "W n"], faces: Faces) -> Bound:
    """`dual_maximum` for W multipliers at once: every field of the Bound has a leading axis W."""
    if faces.complete:
        return _exact(X, lams, jnp.asarray(faces.masks), jnp.asarray(faces.span), jnp.asarray(faces.projectors))
    bounds = [dual_maximum(X, lam, faces) for lam in lams]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *bounds)


@jax.jit
def _exact(X, lams, masks, span, projectors) -> Bound:
    faces = Faces(masks, span, projectors, True)
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
def _candidates(X, lam, masks, span, projectors):
    """+-P_L X^T D lambda normalised, for every face. The true function is evaluated, so no face can lie."""
    g = jnp.einsum("fij,fj->fi", projectors[span], (masks * lam) @ X)
    norms = jnp.linalg.norm(g, axis=1, keepdims=True)
    U = jnp.where(norms > 0, g / jnp.where(norms > 0, norms, 1.0), 0.0)
    U = jnp.concatenate([U, -U])
    return value(X, lam, U), U


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
