"""B(p) = max_{|u|<=1} |lambda^T (X u)_+|, lambda = Y p: exact over complete faces, else bounded from both sides.

P* >= 1/B(p) for every p in the simplex, whatever the width. Source: arXiv 2110.06488, section 4; docs/mathematics.md,
"The certificate".
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gflow import deadline
from gflow._types import namespace
from gflow.convex.faces import Faces

ASCENT_STEPS = 100

AT_ONCE = 1e9
"""Products of two numbers between two looks at the clock: a second, or a few on a busy machine."""

BLOCK = 4096
"""Faces that are priced at once."""

FEW = 10_000
"""Faces that NumPy prices: XLA, whose threads may be taken by flows for a second, compiles longer than that takes."""

CACHED = 512
"""Faces that NumPy prices at once: what lies between its operations then stays in a processor's cache."""


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
    |x_n| nothing changes by more than Lambda times the angle by which u, a row or a face is known. Sampled ones: the
    best of ascents from the sampled cells as `lower`, and the Gram bound as `upper`. Float64 only.
    """
    upper = gram_bound(X, lam)
    if not faces.complete:
        values, U = ascended(X, lam, faces.masks)
        best = jnp.argmax(values)
        return Bound(values[best], jnp.maximum(upper, values[best]), U[best], False)
    arrays = arrays_of(faces, X, lam)
    if isinstance(arrays[0], np.ndarray):
        X, lam = np.asarray(X), np.asarray(lam)  # pyright: ignore[reportAssignmentType]
    values, over = price(X, lam, *arrays)
    xp = namespace(values)
    best = xp.abs(values).argmax()
    upper = xp.minimum(upper, upper_bound(X, lam, values, over, faces.error))
    lower = xp.abs(values).ravel()[best]
    return Bound(lower, xp.maximum(upper, lower), direction(X, lam, best, *arrays), True)


def dual_maxima(X: Float[Array, "n d"], lams: Float[Array, "W n"], faces: Faces) -> Bound:
    """`dual_maximum` for W multipliers at once: every field of the Bound has a leading axis W."""
    if faces.complete and len(lams) * len(faces) > FEW:
        return _exact(X, lams, *map(jnp.asarray, arrays_of(faces)))
    if faces.complete:
        X, lams = np.asarray(X), np.asarray(lams)  # pyright: ignore[reportAssignmentType]
    bounds = [dual_maximum(X, lam, faces) for lam in lams]
    return jax.tree.map(lambda *leaves: namespace(*leaves).stack(leaves), *bounds)


def arrays_of(faces: Faces, *others) -> tuple[Any, ...]:
    """The fields of Faces but the last, as arrays of NumPy where these are FEW, else, or where one of them or of
    `others` is traced, of JAX."""
    fields = (faces.masks, faces.cell, faces.span, faces.projectors, faces.accuracy, faces.error)
    few = len(faces) <= FEW and not any(isinstance(field, jax.core.Tracer) for field in (*fields, *others))
    return tuple(map(np.asarray if few else jnp.asarray, fields))


@jax.jit
def _exact(X, lams, *arrays) -> Bound:
    faces = Faces(*arrays, complete=True)
    return jax.lax.map(lambda lam: dual_maximum(X, lam, faces), lams)


def gram_bound(X: Float[Array, "n d"], lam: Float[Array, " n"]) -> Float[Array, ""]:
    """A proved upper bound in any dimension, tight on orthogonally separable data: the larger of `gram_bounds`."""
    return gram_bounds(X, lam).max()


def gram_bounds(X: Float[Array, "n d"], lam: Float[Array, " n"]) -> Float[Array, " 2"]:
    """Proved upper bounds of max_{|u|<=1} s lambda^T (X u)_+ for s = +1 and s = -1, rounding included.

    Let F = {n : s lambda_n > 0}. Dropping the terms outside F,
    (s lambda^T (X u)_+)^2 <= max_{z in [0,1]^F} |sum_F z_n lambda_n x_n|^2
                           <= sum_{n,k in F} lambda_n lambda_k (x_n . x_k)_+.
    """
    xp = namespace(X, lam)
    gram, sides = xp.maximum(X @ X.T, 0.0), xp.maximum(xp.stack([lam, -lam]), 0.0)
    rounded = 2 * (sum(X.shape) + 4) * xp.finfo(X.dtype).eps * (sides @ xp.linalg.norm(X, axis=1)) ** 2
    return xp.sqrt(xp.sum(sides * (sides @ gram), axis=1) + rounded)


def value(X: Float[Array, "n d"], lam: Float[Array, " n"], U: Float[Array, "F d"]) -> Float[Array, " F"]:
    """|lambda^T (X u)_+| for every row u of U."""
    return jnp.abs(jnp.maximum(U @ X.T, 0.0) @ lam)


def price(X, lam, masks, cell, span, projectors, accuracy, error):
    """For the candidates u = +-P_L g / |P_L g|, g = X^T D lambda, of all faces: lambda^T (X u)_+ and a bound, (F, 2).

    The true function is evaluated, so no face can lie. The bound is |P_L g| plus what rounding leaves open where the
    face holds u within the accuracy to which both are known, and 0 elsewhere; inside the face of mask D the function is
    g . u, so that the bound at +P_L g is one of s = +1, that at -P_L g one of s = -1. By NumPy where the faces are
    arrays of it (see `arrays_of`), and X and lam no tracers.
    """
    if isinstance(masks, np.ndarray) and not any(isinstance(a, jax.core.Tracer) for a in (X, lam)):
        X, lam = np.asarray(X), np.asarray(lam)
        with np.errstate(over="ignore", invalid="ignore"):  # as JAX, which says inf or nan
            G = sums(masks, lam[:, None] * X)
            parts = [
                _candidates(X, lam, G, masks[c], c, L, projectors, accuracy, error)
                for c, L in zip(*(np.split(a, range(CACHED, len(a), CACHED)) for a in (cell, span)), strict=True)
            ]
        return tuple(np.concatenate(part) for part in zip(*parts, strict=True))
    return _price(X, lam, masks, cell, span, projectors, accuracy, error)


@jax.jit
def _price(X, lam, masks, cell, span, projectors, accuracy, error):
    G = sums(masks, lam[:, None] * X)

    def one(face):
        c, L = face
        return _candidates(X, lam, G, masks[c], c, L, projectors, accuracy, error)

    return jax.lax.map(one, (cell, span), batch_size=BLOCK)


def _candidates(X, lam, G, masks, cell, span, projectors, accuracy, angle):
    """Of faces (...,), with `masks` (..., n): lambda^T (X u)_+ and the bounds, (..., 2); `G` (C, d) of all cells.

    `angle`: Faces.error; the faces are those of rows that are off by as much.
    """
    xp = namespace(X, lam, masks)
    size, eps = xp.linalg.norm(X, axis=1), xp.finfo(X.dtype).eps
    rounded = (2 * eps + angle) * _largest(X, lam)  # of the products lambda_n x_n; the sums add nothing to it
    accuracy, whole = accuracy[span], G[cell]
    g = (projectors[span] @ whole[..., None])[..., 0]
    norm = xp.linalg.norm(g, axis=-1)
    safe = xp.where(norm > 0, norm, 1.0)
    u = g / safe[..., None]
    error = rounded + (accuracy + 2 * (X.shape[1] + 4) * eps) * xp.linalg.norm(whole, axis=-1)
    # the direction of g is known to within error / |P_L g|, rows through L to 4 accuracy
    off = 2 * error / safe + 8 * (accuracy + X.shape[1] * eps + angle)
    outwards = (u @ (X / xp.where(size > 0, size, 1.0)[:, None]).T) * xp.where(masks, -1.0, 1.0)
    inside = xp.stack([xp.max(outwards, axis=-1) <= off, xp.min(outwards, axis=-1) >= -off], axis=-1)
    Z = u @ X.T
    even, odd = xp.abs(Z) @ lam, Z @ lam  # (z)_+ = (|z| + z)/2, (-z)_+ = (|z| - z)/2
    values = xp.stack([even + odd, even - odd], axis=-1) / 2
    return values, xp.where(inside, (norm + error)[..., None], 0.0)


def sums(masks, terms):
    """masks (C, n) times terms (n, d), every sum as if rounded once.

    The leading bits of all terms, multiples of a power of two, are summed without rounding; the rest is at most n 2^-52
    of the largest. So the error of n additions, which cancellation would blow up, does not arise (the splitting of
    Ozaki et al., Numerical Algorithms 59, 2012).
    """
    n = terms.shape[0]
    xp = namespace(masks, terms)
    exponent = xp.ceil(xp.log2(xp.maximum(xp.max(xp.abs(terms)), 1e-250))) - 52 + np.ceil(np.log2(n)) + 1
    grid = xp.ldexp(xp.ones_like(exponent), exponent.astype(int))
    leading = xp.round(terms / grid) * grid
    selected = masks.astype(terms.dtype)
    return selected @ leading + selected @ (terms - leading)


def upper_bound(X, lam, values, over, error):
    """What |lambda^T (X u)_+| exceeds for no |u| <= 1, from the two results of `price` over complete faces."""
    return upper_bounds(X, lam, values, over, error).max()


def upper_bounds(X, lam, values, over, error):
    """The same of s lambda^T (X u)_+ for s = +1 and s = -1, (2,), never below 0 nor below a value that was found."""
    xp = namespace(values)
    attained = xp.stack([values.max(), -values.min()]) * (1 + 1e-15)
    return xp.maximum(over.max(axis=0), attained) + _largest(X, lam) * error


def direction(X, lam, candidate, masks, cell, span, projectors, accuracy, error):
    """u (d,) of a candidate, numbered as `price` does in its flattened result."""
    g = projectors[span[candidate // 2]] @ (X.T @ (masks[cell[candidate // 2]] * lam))
    xp = namespace(g)
    norm = xp.linalg.norm(g)
    return (1 - 2 * (candidate % 2)) * g / xp.where(norm > 0, norm, 1.0)


def one_sided(X: Float[Array, "n d"], lam: Float[Array, " n"], faces: Faces) -> tuple[float, float]:
    """Upper bounds of max_{|u|<=1} s lambda^T (X u)_+ for s = +1 and s = -1, never below 0, as in `dual_maximum`."""
    bounds = np.asarray(gram_bounds(X, lam))
    if faces.complete:
        values, over = price(X, lam, *arrays_of(faces))
        bounds = np.minimum(bounds, upper_bounds(X, lam, values, over, faces.error))
    return float(bounds[0]), float(bounds[1])


def _largest(X, lam):
    """Lambda = sum |lambda_n||x_n|, a Lipschitz constant of u -> lambda^T (X u)_+."""
    xp = namespace(X, lam)
    return xp.sum(xp.abs(lam) * xp.linalg.norm(X, axis=1))


def ascended(X, lam, masks):
    """Ascents from +-X^T D lambda of the sampled masks (F, n): (|lambda^T (X u)_+|, u) at their best, (2F,), (2F, d).

    u <- normalised gradient. A lower bound, never a proof. Where they are much work, those that begin highest come
    first, and those that the deadline leaves out stay where they begin.
    """
    U = _begun(X, lam, masks)
    block = max(int(AT_ONCE // (ASCENT_STEPS * X.shape[0] * X.shape[1])), 1)
    if len(U) <= block:
        return _ascended(X, lam, U)
    values, U = np.array(value(X, lam, U)), np.array(U)
    order = np.argsort(-values, kind="stable")
    for at in range(0, len(U), block):
        if deadline.passed():
            break
        some = order[np.arange(at, at + block) % len(U)]  # blocks of one size: few shapes are compiled
        values[some], U[some] = _ascended(X, lam, jnp.asarray(U[some]))
    return values, U


@jax.jit
def _begun(X, lam, masks):
    U = (masks * lam) @ X
    norms = jnp.linalg.norm(U, axis=1, keepdims=True)
    U = jnp.where(norms > 0, U / jnp.where(norms > 0, norms, 1.0), 0.0)
    return jnp.concatenate([U, -U])


@jax.jit
def _ascended(X, lam, U):
    """From U (F, d): the best values on the way, and where."""

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
