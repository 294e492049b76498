"""Leaky ReLU in terms of ReLU: sigma(z) = (z)_+ - alpha (-z)_+, the rows of X and their opposites.

    lambda^T sigma(X u) = [lambda, -alpha lambda]^T ([X; -X] u)_+

so that whatever prices or bounds |lambda^T (X u)_+| does the same for a leaky network, over the same faces. `lower` is
the slope alpha for z < 0, 0 for ReLU, where nothing changes. Source: docs/mathematics.md, "The convex program over
masks".
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from gflow.convex.faces import Faces


def rows(X, lower: float) -> Any:
    """[X; -X] (2n, d)."""
    if lower == 0:
        return X
    return (np if isinstance(X, np.ndarray) else jnp).concatenate([X, -X])


def multipliers(lam, lower: float) -> Any:
    """[lambda, -alpha lambda], the last axis doubled."""
    if lower == 0:
        return lam
    return (np if isinstance(lam, np.ndarray) else jnp).concatenate([lam, -lower * lam], axis=-1)


def opposite(known: Faces, lower: float) -> Faces:
    """The faces of [X; -X]: those of X, whose cells see an opposite where they do not see a row."""
    if lower == 0:
        return known
    masks = np.asarray(known.masks, bool)
    return eqx.tree_at(lambda f: f.masks, known, np.concatenate([masks, ~masks], axis=1))


def activated(Z: np.ndarray, lower: float) -> np.ndarray:
    """sigma(Z)."""
    return np.maximum(Z, 0.0) if lower == 0 else np.where(Z > 0, Z, lower * Z)
