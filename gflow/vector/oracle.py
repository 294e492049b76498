"""B(Lambda) = max_{|u|<=1} |Lambda^T (X u)_+|_2: exact over complete faces, else bounded from both sides.

On a face F with span L the function is |M^T u|, M = P_L X^T D Lambda (d, K), so a maximum in its relative interior is
the top left singular vector of M: the other ones are saddles. Source: docs/mathematics.md, "Vector output"; arXiv
2110.06488.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gflow.convex.faces import Faces
from gflow.convex.oracle import ASCENT_STEPS, BLOCK, arrays_of, gram_bound, sums
from gflow.convex.semidefinite import bound_of_dual

ASCENTS = 512
"""Sampled cells that ascents start from, with both signs."""


class VectorBound(eqx.Module):
    """`lower` <= B(Lambda) <= `upper`; `u` (d,) attains `lower`. `U` (C, d), `values` (C,): candidates, best first."""

    lower: float
    upper: float
    u: Float[np.ndarray, " d"]
    U: Float[np.ndarray, "C d"]
    values: Float[np.ndarray, " C"]
    exact: bool = eqx.field(static=True)


def vector_maximum(X, Lam: Float[np.ndarray, "n K"], known: Faces, *, candidates: int = 400) -> VectorBound:
    """Bounds on max_{|u|<=1} |Lambda^T (X u)_+| and the best `candidates` directions. Float64 only.

    Complete faces: `upper` is the largest singular value of the faces that hold their own top singular vector within
    its accuracy, plus rounding. Otherwise ascents from the sampled cells, and the smaller of two bounds that hold for
    every u: B^2 <= sum_k B(lambda_k)^2 over the outputs, each bounded as for one output (Gram or semidefinite), and
    B^2 <= sum_nk ((Lambda_n . Lambda_k)(x_n . x_k))_+.
    """
    X, Lam = jnp.asarray(X), jnp.asarray(Lam)  # pyright: ignore[reportAssignmentType]
    if known.complete:
        values, over, U = _priced(X, Lam, *arrays_of(known))
        upper = float(jnp.maximum(jnp.max(over), jnp.max(values) * (1 + 1e-15)) + _largest(X, Lam) * known.error)
    else:
        values, U = _ascended(X, Lam, jnp.asarray(known.masks[:ASCENTS]))
        upper = _in_any_dimension(X, Lam)
    values, U = np.asarray(values).ravel(), np.asarray(U).reshape(-1, X.shape[1])
    order = np.argsort(-values, kind="stable")[:candidates]
    values, U = values[order], U[order]
    return VectorBound(float(values[0]), max(upper, float(values[0])), U[0], U, values, known.complete)


def _in_any_dimension(X, Lam) -> float:
    columns = [lam for lam in np.asarray(Lam).T if lam.any()]
    single = [min(float(gram_bound(X, jnp.asarray(lam))), bound_of_dual(np.asarray(X), lam)) for lam in columns]
    gram = jnp.sum(jnp.maximum((X @ X.T) * (Lam @ Lam.T), 0.0))
    return (1 + 1e-14) * min(float(np.linalg.norm(single)), float(jnp.sqrt(gram)))


def value(X, Lam, U: Float[Array, "F d"]) -> Float[Array, " F"]:
    """|Lambda^T (X u)_+| for every row u of U."""
    return jnp.linalg.norm(jnp.maximum(U @ X.T, 0.0) @ Lam, axis=1)


@jax.jit
def _priced(X, Lam, masks, cell, span, projectors, accuracy, error):
    """As `price` for one output: values (F, 2) at both signs of every face's candidate, bounds (F, 2), U (F, 2, d).

    A singular value of a perturbed M is off by at most the perturbation, its vector by that over the distance to the
    second one: where the two are close, every face counts as holding it.
    """
    d, K = X.shape[1], Lam.shape[1]
    M = sums(masks, (X[:, :, None] * Lam[:, None, :]).reshape(len(X), d * K)).reshape(-1, d, K)
    size, eps = jnp.linalg.norm(X, axis=1), jnp.finfo(X.dtype).eps
    rounded = (2 * eps + error) * _largest(X, Lam)

    def one(face):
        c, L = face
        A = projectors[L] @ M[c]
        squares, V = jnp.linalg.eigh(A.T @ A)
        g = A @ V[:, -1]
        top = jnp.linalg.norm(g)
        second = jnp.sqrt(jnp.maximum(squares[-2], 0.0)) if K > 1 else jnp.zeros_like(top)
        safe = jnp.where(top > 0, top, 1.0)
        open_ = rounded + (accuracy[L] + 8 * (K + d) * eps) * jnp.linalg.norm(M[c])
        apart = jnp.maximum((top - second) - 2 * open_, 0.0)
        turned = jnp.where(apart > 0, 4 * open_ / jnp.where(apart > 0, apart, 1.0), jnp.inf)
        off = jnp.minimum(turned + 8 * (accuracy[L] + d * eps + error), 2.0) * size
        u = g / safe
        Z = X @ u
        outwards = jnp.where(masks[c], -Z, Z)
        inside = jnp.stack([jnp.all(outwards <= off), jnp.all(-outwards <= off)])
        return value(X, Lam, jnp.stack([u, -u])), jnp.where(inside, top + open_, 0.0), jnp.stack([u, -u])

    return jax.lax.map(one, (cell, span), batch_size=BLOCK)


def _largest(X, Lam):
    """A Lipschitz constant of u -> |Lambda^T (X u)_+|."""
    return jnp.sum(jnp.linalg.norm(Lam, axis=1) * jnp.linalg.norm(X, axis=1))


@jax.jit
def _ascended(X, Lam, masks):
    """Ascents u <- X^T D Lambda v, v = Lambda^T (X u)_+, normalised, from the top singular vectors of sampled masks."""

    def begin(mask):
        A = X.T @ (mask[:, None] * Lam)
        _, V = jnp.linalg.eigh(A.T @ A)
        return A @ V[:, -1]

    def unit(U):
        norms = jnp.linalg.norm(U, axis=1, keepdims=True)
        return jnp.where(norms > 0, U / jnp.where(norms > 0, norms, 1.0), 0.0)

    def step(_, carry):
        U, best, best_U = carry
        Z = U @ X.T
        V = jnp.maximum(Z, 0.0) @ Lam
        U = unit(((Z > 0) * (V @ Lam.T)) @ X)
        new = value(X, Lam, U)
        better = new > best
        return U, jnp.where(better, new, best), jnp.where(better[:, None], U, best_U)

    U = unit(jax.lax.map(begin, masks, batch_size=BLOCK))
    U = jnp.concatenate([U, -U])
    _, best, best_U = jax.lax.fori_loop(0, ASCENT_STEPS, step, (U, value(X, Lam, U), U))
    return best, best_U
