"""What labels cost that a network misses: neurons that supply them exactly, and a proved bound of their length.

For n' directions u_k that make H = (sigma(x_n . u_k)) invertible on n' rows, masses c with H c = r supply r on these
rows, at the length sum |c_k||u_k|. An approximate inverse R with |I - R H| < 1 (column sums, rounding of R H and of H
included) proves that such c exist and that sum |c_k| <= |R r| / (1 - |I - R H|). Source: Rump, Acta Numerica 19, 2010,
section 10.
"""

from __future__ import annotations

import numpy as np

from gflow.convex.leaky import activated
from gflow.convex.threads import one_thread

DIRECTIONS = 2
"""Random directions per row from which those of H are chosen, besides the rows themselves and their opposites."""

INDEPENDENT = 1e-13
"""A row whose part independent of the others is smaller follows from them."""

ROUNDING = 16 * np.finfo(float).eps
"""Labels of rows that follow from others may be missed by this share of themselves and of what rounding a network of
this length leaves."""


class Supply:
    """For rows X (n, d) of length 1 to 4, none a positive multiple of another, none zero: H and its inverse."""

    @one_thread
    def __init__(self, X: np.ndarray, lower: float):
        from scipy.linalg import qr

        n, d = X.shape
        U = np.concatenate([X, -X, np.random.default_rng(0).standard_normal((DIRECTIONS * n, d))])
        U = U / np.linalg.norm(U, axis=1, keepdims=True)
        H, eps = activated(X @ U.T, lower), np.finfo(float).eps
        R, order = qr(H, mode="r", pivoting=True)  # pyright: ignore
        pivots = np.abs(np.diag(R))
        rank = int(np.sum(pivots > INDEPENDENT * pivots[0]))
        columns = np.sort(order[:rank])
        *_, order = qr(H[:, columns].T, mode="r", pivoting=True)
        self.rows, self.others = np.sort(order[:rank]), np.sort(order[rank:])
        self.X, self.U, self.H = X, U[columns], H[:, columns]
        basis = self.H[self.rows]
        self.proved = False
        try:
            self.inverse = np.linalg.inv(basis)
        except np.linalg.LinAlgError:
            return
        size = np.abs(self.inverse)
        entry = (d + 4) * eps * np.linalg.norm(X[self.rows], axis=1)  # how well entries of H are known
        product = (rank + 4) * eps * (size @ np.abs(basis))
        off = np.abs(np.eye(rank) - self.inverse @ basis) + product + (size @ entry)[:, None]
        self.distance = float(off.sum(axis=0).max())
        self.proved = self.distance < 0.5

    def masses(self, missed: np.ndarray) -> np.ndarray:
        """c (n',) of the directions `U` (n', d) that supply `missed` (n,) up to rounding."""
        return self.inverse @ missed[self.rows]

    def cost(self, missed: np.ndarray, y: np.ndarray, length: float) -> float:
        """No less than the length of neurons that supply `missed` (n,) to a network of this length; infinite if their
        existence is not proved.

        Exactly on rows that are independent; the labels `y` (n,) of rows that follow from those are met up to ROUNDING.
        """
        if not self.proved or not np.all(np.isfinite(missed)):
            return np.inf
        c, eps = self.masses(missed), np.finfo(float).eps
        rounded = (len(c) + 4) * eps * (np.abs(self.inverse) @ np.abs(missed[self.rows]))
        bound = float(np.sum(np.abs(c) + rounded)) / (1 - self.distance)
        if len(self.others):
            left = np.abs(missed[self.others] - self.H[self.others] @ c)
            left += np.abs(self.H[self.others]).max() * (bound - np.sum(np.abs(c)))
            allowed = np.abs(y) + np.linalg.norm(self.X, axis=1) * (length + bound)
            if np.any(left > ROUNDING * allowed[self.others]):
                return np.inf
        return bound * (1 + 8 * eps)
