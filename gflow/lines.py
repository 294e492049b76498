"""Samples on one line share one hyperplane: the Clarke set knows only its two sides.

At a kink of rows x and -c x exactly one of the two is active, never both and never neither; a box with an entry for
each would contain velocities that the Clarke set does not, and a neuron would slide where the flow leaves. So a line
has one entry, that of its first row x_l, and

    sum_n D_n lambda_n x_n = drift + sum_l D_l mu_l x_l,   mu_l = sum of c_n lambda_n over the line, c_n = |x_n|/|x_l|,

with a drift that does not depend on the sides. Source: docs/mathematics.md, "The flow is a differential inclusion";
arXiv 2110.06488, section 2.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from gflow._types import namespace, on_host
from gflow.activations import AbstractActivation


def columns(lam: Float[Array, "n *m"]) -> Float[Array, "n m"]:
    """Multipliers as columns: (n, 1) where all neurons have the same, (n, m) where each has its own."""
    return lam if lam.ndim == 2 else lam[:, None]


PARALLEL = 1e-14
"""Rows whose unit vectors differ by at most this are on one line."""


class Lines(eqx.Module):
    """Row n is +-`ratio[n]` times row `lead[n]` <= n, minus where `flip[n]`."""

    lead: Int[Array, " n"]
    flip: Bool[Array, " n"]
    ratio: Float[Array, " n"]

    @property
    def first(self) -> Bool[Array, " n"]:
        """Rows that stand for their line."""
        return self.lead == namespace(self.lead).arange(len(self.lead))

    def rows(self, X: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """X with only the first row of every line; the others, zeros, have no kink."""
        return namespace(self.lead, X).where(self.first[:, None], X, 0.0)

    def weight(self, lam: Float[Array, "n *m"]) -> Float[Array, "n *m"]:
        """mu, at the first rows; one column per neuron if `lam` has."""
        ratio = self.ratio if lam.ndim == 1 else self.ratio[:, None]
        if namespace(self.lead, lam) is np:
            weight = np.zeros_like(lam)
            np.add.at(weight, self.lead, ratio * lam)
            return weight  # pyright: ignore[reportReturnType]
        return jnp.zeros_like(lam).at[self.lead].add(ratio * lam)

    def everywhere(self, on: Bool[Array, "n m"]) -> Bool[Array, "n m"]:
        """Which samples are active, from the sides of the first rows."""
        return on[self.lead] ^ self.flip[:, None]

    def drift(self, X: Float[Array, "n d"], lam: Float[Array, "n *m"], activation: AbstractActivation):
        """The part of X^T D lambda, (d,) or (d, m), that the sides do not enter."""
        lower, upper = activation.slope_interval()
        flip = self.flip if lam.ndim == 1 else self.flip[:, None]
        return X.T @ (lower * (lam - self.weight(lam)) + (upper - lower) * namespace(flip, lam).where(flip, lam, 0.0))

    def slopes(self, entries: Float[Array, "n m"], activation: AbstractActivation) -> Float[Array, "n m"]:
        """D of all samples from D of the first rows: upper + lower - D on the other side."""
        lower, upper = activation.slope_interval()
        D = entries[self.lead]
        return namespace(self.flip, D).where(self.flip[:, None], lower + upper - D, D)


def lines_of(X: Float[Array, "n d"]) -> Lines:
    """The lines of X, also inside jit."""
    xp = namespace(X)
    size = xp.linalg.norm(X, axis=1)
    U = X / xp.where(size > 0, size, 1.0)[:, None]
    tolerance = max(PARALLEL, 4 * float(xp.finfo(X.dtype).eps))
    apart = lambda V: xp.max(xp.abs(V), axis=-1) > tolerance  # noqa: E731
    same, opposite = ~apart(U[:, None] - U[None]), ~apart(U[:, None] + U[None])
    on_line = (same | opposite) & (size > 0) & (size > 0)[:, None]
    index = xp.arange(len(X))
    lead = xp.where(size > 0, xp.argmax(on_line, axis=1), index)
    ratio = size / xp.where(size > 0, size, 1.0)[lead]
    return Lines(lead, opposite[index, lead] & (size > 0), xp.where(size > 0, ratio, 1.0))


def shared_lines(X) -> Lines | None:
    """The lines of X; None if every row has its own, which is only known outside jit."""
    if isinstance(X, jax.core.Tracer):
        return lines_of(X)
    with np.errstate(over="ignore"):
        lines = lines_of(on_host(X))
    if np.array_equal(lines.lead, np.arange(len(lines.lead))):
        return None
    return jax.tree.map(jnp.asarray, lines)
