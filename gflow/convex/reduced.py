"""Newton's method on the reduced penalised program: the blocks that live, with their sliding rows held.

    min F(z) = sum_n l(q_n) + beta sum_k |z_k|,   q = c o sum_k s_k S_k X Q_k z_k - b,

S_k the slopes on the mask of block k, Q_k a basis of the complement of the rows on whose hyperplane it lies. F is
smooth where no z_k vanishes. Source: docs/mathematics.md, "Limits that are points".
"""

from __future__ import annotations

from collections.abc import Iterator

import jax.numpy as jnp
import numpy as np

from gflow import deadline
from gflow.convex.interior_point import Program
from gflow.convex.newton import complement, slopes_of
from gflow.convex.threads import one_thread

THRESHOLDS = (1e-8, 1e-6, 1e-4, 1e-3)
"""Tried in turn: blocks below this share of the largest vanish, rows with |x_n . z_k| <= threshold |x_n||z_k| slide."""

INSIDE = 1e-12
"""A block outside of its cone by more than this, relatively, is a network of other masks: it is left out."""

LARGEST = 600
"""Unknowns up to which Newton's method is worth its matrices."""

ITERATIONS = 60

HALVINGS = 20


def refined(program: Program, z: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yields (V (d, K), signs (K,), alpha (n,)) near the blocks z (K', d), in their cones, for a caller to judge."""
    X, size = np.asarray(program.X), np.linalg.norm(z, axis=1)
    sign, masks, c = np.asarray(program.sign), np.asarray(program.masks), np.asarray(program.c)
    row = np.linalg.norm(X, axis=1)[:, None]
    for threshold in THRESHOLDS:
        live = np.flatnonzero(size > threshold * size.max(initial=0.0))
        slide = np.abs(X @ z[live].T) <= threshold * row * size[live]
        on = masks[live].T & ~slide
        # a face belongs to the cells on all its sides: blocks on it are one
        codes = np.concatenate([sign[live][None] > 0, on, slide])
        _, first, group = np.unique(codes, axis=1, return_index=True, return_inverse=True)
        if not 0 < len(first) * X.shape[1] - slide[:, first].sum() <= LARGEST:
            continue
        V = np.zeros((len(first), X.shape[1]))
        np.add.at(V, group.ravel(), z[live])
        faces = sign[live[first]], on[:, first], slide[:, first]
        bases, blocks = _reduced(X, c, *faces, program.lower)
        found = _newton(blocks, [Q.T @ v for Q, v in zip(bases, V, strict=True)], program)
        V = np.stack([Q @ v for Q, v in zip(bases, found, strict=True)], axis=1)
        if _inside(X, V, *faces[1:]):
            yield V, sign[live[first]], _multipliers(blocks, found, program)


def newton_on(program: Program, z: np.ndarray, sign, on, slide) -> np.ndarray | None:
    """V (d, K) of the minimum near the blocks z (K, d) with the given signs (K,), `on` and `slide` (n, K); None if a
    block leaves its cone or the program is too large."""
    X = np.asarray(program.X)
    if not 0 < len(sign) * X.shape[1] - slide.sum() <= LARGEST:
        return None
    bases, blocks = _reduced(X, np.asarray(program.c), sign, on, slide, program.lower)
    found = _newton(blocks, [Q.T @ v for Q, v in zip(bases, z, strict=True)], program)
    V = np.stack([Q @ v for Q, v in zip(bases, found, strict=True)], axis=1)
    return V if _inside(X, V, on, slide) else None


def _reduced(X: np.ndarray, c: np.ndarray, sign, on, slide, lower: float) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """The bases Q_k (d, e_k), and c s_k S_k X Q_k."""
    bases, slopes = [complement(X[s]) for s in slide.T], slopes_of(on & ~slide, lower)
    return bases, [(c * s * D)[:, None] * (X @ Q) for s, D, Q in zip(sign, slopes.T, bases, strict=True)]


def _inside(X: np.ndarray, V: np.ndarray, on, slide) -> bool:
    """Whether every block is in its closed cone."""
    out = np.where(on, -1.0, 1.0) * (X @ V)
    row = np.linalg.norm(X, axis=1)[:, None]
    return bool(np.all((out <= INSIDE * row * np.linalg.norm(V, axis=0)) | slide))


def _multipliers(blocks: list[np.ndarray], z: list[np.ndarray], program: Program) -> np.ndarray:
    """-l'(q), moved as little as possible to where B_k^T alpha = beta z_k/|z_k|: margins far above the multipliers, as
    of large labels and a small beta, leave few digits of -l'(q)."""
    B, x = np.concatenate(blocks, axis=1), np.concatenate(z)
    alpha = -np.asarray(program.loss.slope(jnp.asarray(B @ x - np.asarray(program.b))))
    units = np.concatenate([v / max(np.linalg.norm(v), 1e-300) for v in z])
    return alpha - np.linalg.lstsq(B.T, B.T @ alpha - float(program.beta) * units, rcond=1e-12)[0]


@one_thread
def _newton(blocks: list[np.ndarray], start: list[np.ndarray], program: Program) -> list[np.ndarray]:
    """Minimise F from `start`; every step lowers it."""
    B, splits = np.concatenate(blocks, axis=1), np.cumsum([len(v) for v in start])[:-1]
    loss, b, beta = program.loss, np.asarray(program.b), float(program.beta)

    def objective(x):
        return float(jnp.sum(loss.value(jnp.asarray(B @ x - b)))) + beta * sum(
            np.linalg.norm(v) for v in np.split(x, splits)
        )

    x = np.concatenate(start)
    value = objective(x)
    for _ in range(ITERATIONS):
        if deadline.passed():
            break
        q, parts = jnp.asarray(B @ x - b), np.split(x, splits)
        sizes = [np.linalg.norm(v) for v in parts]
        if min(sizes) == 0:
            break
        units = [v / r for v, r in zip(parts, sizes, strict=True)]
        gradient = B.T @ np.asarray(loss.slope(q)) + beta * np.concatenate(units)
        H, at = (B.T * np.asarray(loss.curvature(q))) @ B, 0
        for u, r in zip(units, sizes, strict=True):
            H[at : at + len(u), at : at + len(u)] += beta / r * (np.eye(len(u)) - np.outer(u, u))
            at += len(u)
        try:
            step = np.linalg.lstsq(H, -gradient, rcond=1e-14)[0]
        except np.linalg.LinAlgError:  # entries beyond what an SVD can take: no better than where it began
            break
        for halving in range(HALVINGS):
            ahead = x + 0.5**halving * step
            lower = objective(ahead)
            if lower < value:
                break
        else:
            break
        x, value = ahead, lower
    return np.split(x, splits)
