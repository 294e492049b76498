"""B(p) = max_{|u|<=1} |lambda^T (X u)_+|, lambda = Y p: exact over complete faces, else bounded from both sides.

P* >= 1/B(p) for every p in the simplex, whatever the width. Source: arXiv 2110.06488, section 4; docs/mathematics.md,
"The certificate".
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gflow.convex.faces import Faces

ASCENT_STEPS = 100

BLOCK = 4096
"""Faces that are priced at once."""


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
    upper = gram_bound(X, lam)
    if not faces.complete:
        values, U = ascended(X, lam, faces.masks)
        best = jnp.argmax(values)
        return Bound(values[best], jnp.maximum(upper, values[best]), U[best], False)
    values, over = price(X, lam, *arrays_of(faces))
    best = jnp.argmax(values)
    upper = jnp.minimum(upper, upper_bound(X, lam, values, over, faces.error))
    lower = values.ravel()[best]
    return Bound(lower, jnp.maximum(upper, lower), direction(X, lam, best, *arrays_of(faces)), True)


def dual_maxima(X: Float[Array, "n d"], lams: Float[Array, "W n"], faces: Faces) -> Bound:
    """`dual_maximum` for W multipliers at once: every field of the Bound has a leading axis W."""
    if faces.complete:
        return _exact(X, lams, *arrays_of(faces))
    bounds = [dual_maximum(X, lam, faces) for lam in lams]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *bounds)


def arrays_of(faces: Faces) -> tuple[Array, ...]:
    """The fields of Faces but the last, as jax arrays."""
    fields = (faces.masks, faces.cell, faces.span, faces.projectors, faces.accuracy, faces.error)
    return tuple(map(jnp.asarray, fields))


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
def price(X, lam, masks, cell, span, projectors, accuracy, error):
    """For the candidates u = +-P_L g / |P_L g|, g = X^T D lambda, of all faces: |lambda^T (X u)_+| and a bound, (F, 2).

    The true function is evaluated, so no face can lie. The bound is |P_L g| plus what rounding leaves open where the
    face holds u within the accuracy to which both are known, and 0 elsewhere.
    """
    G = sums(masks, lam[:, None] * X)
    size, eps = jnp.linalg.norm(X, axis=1), jnp.finfo(X.dtype).eps
    rounded = 2 * eps * _largest(X, lam)  # of the products lambda_n x_n; the sums add nothing to it

    def one(face):
        c, L = face
        g = projectors[L] @ G[c]
        norm = jnp.linalg.norm(g)
        safe = jnp.where(norm > 0, norm, 1.0)
        Z = X @ (g / safe)
        error = rounded + (accuracy[L] + 8 * eps) * jnp.linalg.norm(G[c])
        # the direction of g is known to within error / |P_L g|, rows through L to 4 accuracy
        off = (2 * error / safe + 8 * (accuracy[L] + X.shape[1] * eps)) * size
        outwards = jnp.where(masks[c], -Z, Z)
        inside = jnp.stack([jnp.all(outwards <= off), jnp.all(-outwards <= off)])
        values = jnp.abs(jnp.stack([jnp.maximum(Z, 0.0) @ lam, jnp.maximum(-Z, 0.0) @ lam]))
        return values, jnp.where(inside, norm + error, 0.0)

    return jax.lax.map(one, (cell, span), batch_size=BLOCK)


def sums(masks, terms):
    """masks (C, n) times terms (n, d), every sum as if rounded once.

    The leading bits of all terms, multiples of a power of two, are summed without rounding; the rest is at most n 2^-52
    of the largest. So the error of n additions, which cancellation would blow up, does not arise (the splitting of
    Ozaki et al., Numerical Algorithms 59, 2012).
    """
    n = terms.shape[0]
    exponent = jnp.ceil(jnp.log2(jnp.maximum(jnp.max(jnp.abs(terms)), 1e-250))) - 52 + np.ceil(np.log2(n)) + 1
    grid = jnp.ldexp(jnp.ones_like(exponent), exponent.astype(int))
    leading = jnp.round(terms / grid) * grid
    selected = masks.astype(terms.dtype)
    return selected @ leading + selected @ (terms - leading)


@jax.jit
def upper_bound(X, lam, values, over, error):
    """What no direction exceeds, from the two results of `price` over complete faces."""
    return jnp.maximum(jnp.max(over), jnp.max(values) * (1 + 1e-15)) + _largest(X, lam) * error


@jax.jit
def direction(X, lam, candidate, masks, cell, span, projectors, accuracy, error):
    """u (d,) of a candidate, numbered as `price` does in its flattened result."""
    g = projectors[span[candidate // 2]] @ (X.T @ (masks[cell[candidate // 2]] * lam))
    norm = jnp.linalg.norm(g)
    return (1 - 2 * (candidate % 2)) * g / jnp.where(norm > 0, norm, 1.0)


def one_sided(X: Float[Array, "n d"], lam: Float[Array, " n"], faces: Faces) -> tuple[float, float]:
    """Upper bounds of max_{|u|<=1} s lambda^T (X u)_+ for s = +1 and s = -1, never below 0, as in `dual_maximum`."""
    gram = float(gram_bound(X, lam))
    if not faces.complete:
        return gram, gram
    _, over = price(X, lam, *arrays_of(faces))
    open_ = float(_largest(X, lam)) * float(faces.error)
    # in a face of mask D and span L the function is g . u: s |P_L g| at u = s P_L g / |P_L g|
    above, below = (min(gram, float(jnp.max(over[:, side], initial=0.0)) + open_) for side in (0, 1))
    return above, below


def _largest(X, lam):
    """Lambda = sum |lambda_n||x_n|, a Lipschitz constant of u -> lambda^T (X u)_+."""
    return jnp.sum(jnp.abs(lam) * jnp.linalg.norm(X, axis=1))


@jax.jit
def ascended(X, lam, masks):
    """Ascents from +-X^T D lambda of the sampled masks (F, n): (|lambda^T (X u)_+|, u) at their best, (2F,), (2F, d).

    u <- normalised gradient. A lower bound, never a proof.
    """

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

    U = (masks * lam) @ X
    norms = jnp.linalg.norm(U, axis=1, keepdims=True)
    U = jnp.where(norms > 0, U / jnp.where(norms > 0, norms, 1.0), 0.0)
    U = jnp.concatenate([U, -U])
    _, best, best_U = jax.lax.fori_loop(0, ASCENT_STEPS, step, (U, value(X, lam, U), U))
    return best, best_U


def require_float64(*arrays) -> None:
    """Raise ValueError unless every array is float64: a certificate in float32 proves nothing."""
    if any(np.asarray(a).dtype != np.float64 for a in arrays):
        raise ValueError(
            "a certificate needs float64 arrays: run jax.config.update('jax_enable_x64', True) before making them "
            "(the flow itself may run in float32)"
        )
