"""Non-negative least squares: min |A x - b| over x >= 0, the one door to SciPy's solver."""

from __future__ import annotations

import numpy as np


def nonnegative(A: np.ndarray, b: np.ndarray, iterations: int | None = None) -> np.ndarray | None:
    """The minimiser x (n,) of |A x - b| over x >= 0, or None if the solver's iterations ran out.

    Without rows every x is one, and 0 is taken: SciPy (1.17) returns whatever lay in its memory there, so that a result
    depended on what the process had done before.

    Args:
        A: (m, n), also with m = 0 or n = 0.
        b: (m,).
        iterations: at most this many, by default 3 n.
    """
    from scipy.optimize import nnls

    if 0 in A.shape:
        return np.zeros(A.shape[1])
    try:
        x, _ = nnls(A, b, maxiter=iterations)
    except RuntimeError:
        return None
    return x


__all__ = ["nonnegative"]
