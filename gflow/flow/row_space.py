"""Data in a subspace: the flow runs in the coordinates of the row space, whose complement never moves.

w = B v + w', B (d, r) an orthonormal basis of the rows and w' orthogonal to them: x_n . w = (B^T x_n) . v, and no
velocity has a part along w'. So (v, a) is a flow of r-dimensional data, with a^2 - |v|^2 = a^2 - |w|^2 + |w'|^2: in the
plane of the data a balanced neuron is an unbalanced one, and may pass v = 0 where all hyperplanes meet.
Source: docs/mathematics.md, "The flow is a differential inclusion" and "Charts".
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from gflow.flow.charts import AbstractChart, BalancedPolar, Hyperbolic
from gflow.network import TwoLayer, column_norms
from gflow.problem import Problem


class Complement(eqx.Module):
    """What a network of coordinates v is in the space of the data: `basis` (d, r) and `rest` (d, m), the w'_i."""

    basis: Float[Array, "d r"]
    rest: Float[Array, "d m"]

    def vectors(self, V: Float[Array, "r m"]) -> Float[Array, "d m"]:
        """B V: velocities have no part along `rest`."""
        return self.basis @ V

    def network(self, inside: TwoLayer) -> TwoLayer:
        """(B v + w', a)."""
        return TwoLayer(self.basis @ inside.W1 + self.rest, inside.w2)


class RowSpace(eqx.Module):
    """`problem`: the data in the coordinates of `basis` (d, r)."""

    problem: Problem
    basis: Float[Array, "d r"]

    def split(self, network: TwoLayer) -> tuple[TwoLayer, Complement]:
        """The network's coordinates, and what is left of it."""
        V = self.basis.T @ network.W1
        # a neuron across the row space is at v = 0, not at rounding
        rounding = 8 * jnp.finfo(V.dtype).eps * column_norms(network.W1)
        V = jnp.where(column_norms(V) <= rounding, 0.0, V)
        return TwoLayer(V, network.w2), Complement(self.basis, network.W1 - self.basis @ V)

    def chart(self, named: type[AbstractChart] | None) -> type[AbstractChart]:
        """The chart of the coordinates: Hyperbolic for BalancedPolar, since they are not balanced."""
        return Hyperbolic if named in (None, BalancedPolar) else named


def row_space(problem: Problem) -> RowSpace | None:
    """The row space if its dimension is below min(n, d), else None; inside jit the rank is not known, and it is None.
    With weight decay the complement moves too, and it is None; so it is with vector output.

    Of fewer samples than dimensions the hyperplanes are independent, and a neuron that slides on all of them is like
    any other.
    """
    if isinstance(problem.X, jax.core.Tracer) or problem.weight_decay is not None or problem.outputs is not None:
        return None
    X = np.asarray(problem.X)
    lengths = np.linalg.norm(X, axis=1, keepdims=True)
    unit = X / np.where(lengths > 0, lengths, 1.0)
    # columns of zeros go without a rotation, which would round the others
    used = np.flatnonzero(np.any(unit != 0, axis=0))
    _, sizes, V = np.linalg.svd(unit[:, used], full_matrices=False)
    rank = int(np.sum(sizes > max(X.shape) * np.finfo(X.dtype).eps * np.max(sizes, initial=0.0)))
    if not 0 < rank < min(X.shape):
        return None
    basis = np.zeros((X.shape[1], rank), X.dtype)
    basis[used] = np.eye(rank) if rank == len(used) else V[:rank].T
    # constants, also where a network is traced
    with jax.ensure_compile_time_eval():
        inside = Problem(X @ basis, problem.y, problem.loss, problem.activation)
        return RowSpace(inside, jnp.asarray(basis))


def placed(problem: Problem, space: RowSpace | None, chart: type[AbstractChart], network: TwoLayer):
    """(problem, chart, z0, complement) in which a flow is integrated."""
    if space is None:
        return problem, *chart.encode(network), None
    inside, complement = space.split(network)
    return space.problem, *space.chart(chart).encode(inside), complement
