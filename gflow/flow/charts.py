"""Coordinates in which the flow is integrated: Cartesian weights, or charts that conserve a_i^2 - |w_i|^2.

A chart is made for one network and turns it into a state and back. Source: arXiv 2110.06488, section 2; the polar
chart is described in docs/mathematics.md, "Charts".
"""

from __future__ import annotations

import abc
from typing import ClassVar

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from gflow._types import Module, positive
from gflow.flow.boost import boosted, log_size
from gflow.network import TwoLayer, column_norms, inner


class AbstractChart(Module):
    """Coordinates z of a network of width m, on the clock s."""

    through_zero: ClassVar[bool] = True
    """Whether w_i may vanish while a_i does not."""
    both_layers: ClassVar[bool] = True
    """Whether a_i moves."""

    @classmethod
    @abc.abstractmethod
    def encode(cls, network: TwoLayer) -> tuple[AbstractChart, PyTree[Array]]:
        """The chart of this network, and its state z."""

    @abc.abstractmethod
    def decode(self, z: PyTree[Array]) -> TwoLayer:
        """The network at state z."""

    @abc.abstractmethod
    def hidden(self, z: PyTree[Array]) -> Float[Array, "d m"]:
        """Vectors with the directions of the w_i, shape (d, m), in which the chart measures pre-activations."""

    def may_vanish(self) -> Bool[Array, " m"] | bool:
        """Neurons whose `hidden` may pass through 0."""
        return self.through_zero

    @abc.abstractmethod
    def with_hidden(self, z: PyTree[Array], U: Float[Array, "d m"]) -> PyTree[Array]:
        """The state with `hidden` replaced by U."""

    @abc.abstractmethod
    def orientation(self, z: PyTree[Array]) -> Float[Array, " m"]:
        """o_i of the sign of a_i, such that d hidden_i/ds = o_i G_i + (a multiple of hidden_i)."""

    def pull(self, z: PyTree[Array], lam: Float[Array, "n *K"]) -> Float[Array, "n *m"]:
        """The multipliers that move hidden_i: lambda (n,), or with vector output Lambda v_i (n, m)."""
        return lam

    def output_velocity(self, z: PyTree[Array], lam: Float[Array, "n *K"], activated: Float[Array, "n m"]):
        """d/ds of the second-layer directions, (K, m); None where there are none. `activated`: as in `outputs`."""
        return None

    def turned(self, dz: PyTree[Array], turning: Float[Array, "K m"]) -> PyTree[Array]:
        """dz with this velocity of the second-layer directions."""
        return dz

    @abc.abstractmethod
    def outputs(self, z: PyTree[Array], activated: Float[Array, "n m"]) -> Float[Array, "n *K"]:
        """f(x_n), shape (n,) or (n, K), from sigma(x_n . hidden_i), shape (n, m)."""

    @abc.abstractmethod
    def sizes(self, z: PyTree[Array]) -> Float[Array, " m"]:
        """What one unit of activated pre-activation adds to |f|, shape (m,)."""

    def measured(self, state):
        """The state (z, anchor) as the error norm sees it: entries whose error counts absolutely are 0."""
        return state

    def error_unit(self, z: PyTree[Array]) -> Float[Array, " m"] | None:
        """The size in which errors of each neuron are measured; None for 1."""
        return None

    @abc.abstractmethod
    def shrinking(self, z: PyTree[Array]) -> PyTree[Array]:
        """dz for d theta = -theta: where weight decay leads. Raises ValueError in a chart that cannot follow it."""

    @abc.abstractmethod
    def velocity(self, z: PyTree[Array], G: Float[Array, "d m"]) -> PyTree[Array]:
        """dz/ds from G, column i of which is X^T D_i lambda."""

    @abc.abstractmethod
    def lift(self, z: PyTree[Array]) -> PyTree[Array]:
        """(w_i, a_i), each neuron up to a positive factor: coordinates in which the flow is linear for given G."""

    @abc.abstractmethod
    def lowered(self, z: PyTree[Array], y: PyTree[Array]) -> PyTree[Array]:
        """The state that lies where `y` does, `lift(z)` being at z."""

    def carried(self, y: PyTree[Array], G: Float[Array, "d m"]) -> PyTree[Array]:
        """`y` after it was moved by d(w, a) = (a G, w . G) for the time 1."""
        w, a = y
        return boosted(w, a, G, self.conserved(y))

    def conserved(self, y: PyTree[Array]) -> Float[Array, " m"] | float:
        """a^2 - |w|^2 of y."""
        w, a = y
        size = jnp.sqrt(inner(w, w))
        return (jnp.abs(a) - size) * (jnp.abs(a) + size)

    def pulled(self, y: PyTree[Array], lam: Float[Array, "n ..."]) -> Float[Array, "n m"]:
        """`pull` at y of multipliers (n, m), with vector output (n, K, m), that every neuron has for itself."""
        return lam


class Cartesian(AbstractChart):
    """z = (W1, w2): dw_i/ds = a_i G_i, da_i/ds = w_i . G_i. For any network; balance holds up to the tolerance."""

    @classmethod
    def encode(cls, network: TwoLayer) -> tuple[Cartesian, PyTree[Array]]:
        return cls(), (network.W1, network.w2)

    def error_unit(self, z: PyTree[Array]) -> Float[Array, " m"]:
        # a neuron of 1e-30 that will grow is not known if it is known to 1e-4
        size = jnp.maximum(jnp.max(jnp.abs(z[0]), axis=0), jnp.abs(z[1]))
        return jnp.where(size > 0, size, 1.0)

    def decode(self, z: PyTree[Array]) -> TwoLayer:
        return TwoLayer(*z)

    def hidden(self, z: PyTree[Array]) -> Float[Array, "d m"]:
        return z[0]

    def with_hidden(self, z: PyTree[Array], U: Float[Array, "d m"]) -> PyTree[Array]:
        return U, z[1]

    def orientation(self, z: PyTree[Array]) -> Float[Array, " m"]:
        return z[1]

    def outputs(self, z: PyTree[Array], activated: Float[Array, "n m"]) -> Float[Array, " n"]:
        return activated @ z[1]

    def sizes(self, z: PyTree[Array]) -> Float[Array, " m"]:
        return jnp.abs(z[1])

    def shrinking(self, z: PyTree[Array]) -> PyTree[Array]:
        return -z[0], -z[1]

    def velocity(self, z: PyTree[Array], G: Float[Array, "d m"]) -> PyTree[Array]:
        W1, w2 = z
        return w2 * G, inner(W1, G)

    def lift(self, z: PyTree[Array]) -> PyTree[Array]:
        return z

    def lowered(self, z: PyTree[Array], y: PyTree[Array]) -> PyTree[Array]:
        return y


class FrozenOutput(AbstractChart):
    """z = (W1,), dw_i/ds = a_i G_i: the second layer stays as it is, and what is conserved otherwise is not.

    P(theta), limits and certificates are about networks whose layers both move; here W1/|W1| goes to a KKT point of
    min 1/2 |W1|^2 s.t. q_n >= 1: see `frozen_limit`.
    """

    both_layers: ClassVar[bool] = False

    w2: Float[Array, " m"]

    @classmethod
    def encode(cls, network: TwoLayer) -> tuple[FrozenOutput, PyTree[Array]]:
        return cls(network.w2), (network.W1,)

    def error_unit(self, z: PyTree[Array]) -> Float[Array, " m"]:
        size = jnp.max(jnp.abs(z[0]), axis=0)
        return jnp.where(size > 0, size, 1.0)

    def decode(self, z: PyTree[Array]) -> TwoLayer:
        return TwoLayer(z[0], self.w2)

    def hidden(self, z: PyTree[Array]) -> Float[Array, "d m"]:
        return z[0]

    def with_hidden(self, z: PyTree[Array], U: Float[Array, "d m"]) -> PyTree[Array]:
        return (U,)

    def orientation(self, z: PyTree[Array]) -> Float[Array, " m"]:
        return self.w2

    def outputs(self, z: PyTree[Array], activated: Float[Array, "n m"]) -> Float[Array, " n"]:
        return activated @ self.w2

    def sizes(self, z: PyTree[Array]) -> Float[Array, " m"]:
        return jnp.abs(self.w2)

    def shrinking(self, z: PyTree[Array]) -> PyTree[Array]:
        return (-z[0],)

    def velocity(self, z: PyTree[Array], G: Float[Array, "d m"]) -> PyTree[Array]:
        return (self.w2 * G,)

    def lift(self, z: PyTree[Array]) -> PyTree[Array]:
        return z[0], self.w2

    def lowered(self, z: PyTree[Array], y: PyTree[Array]) -> PyTree[Array]:
        return (y[0],)

    def carried(self, y: PyTree[Array], G: Float[Array, "d m"]) -> PyTree[Array]:
        w, a = y
        return w + a * G, a


class BalancedPolar(AbstractChart):
    """z = (u, r), w_i = e^{r_i} u_i, a_i = sign_i e^{r_i}: du/ds = (I - u u^T) g_i, dr/ds = u . g_i, g_i = sign_i G_i.

    Signs and balance hold by construction, and scales of 1e-100 are r = -230. |u_i| = 1 is not enforced but never
    used: only u_i/|u_i| enters. A neuron that starts at exactly zero stays there (`alive` is False).
    """

    through_zero: ClassVar[bool] = False

    sign: Float[Array, " m"]
    alive: Bool[Array, " m"]

    @classmethod
    def encode(cls, network: TwoLayer) -> tuple[BalancedPolar, PyTree[Array]]:
        norms = column_norms(network.W1)
        alive = positive(norms)
        r = jnp.where(alive, jnp.log(jnp.where(alive, norms, 1.0)), 0.0)
        return cls(jnp.where(alive, jnp.sign(network.w2), 0.0), alive), (network.directions(), r)

    def decode(self, z: PyTree[Array]) -> TwoLayer:
        u, r = z
        size = jnp.where(self.alive, jnp.exp(r), 0.0)
        return TwoLayer(size * unit(u), self.sign * size)

    def hidden(self, z: PyTree[Array]) -> Float[Array, "d m"]:
        return unit(z[0])

    def with_hidden(self, z: PyTree[Array], U: Float[Array, "d m"]) -> PyTree[Array]:
        return unit(U), z[1]

    def orientation(self, z: PyTree[Array]) -> Float[Array, " m"]:
        return self.sign

    def outputs(self, z: PyTree[Array], activated: Float[Array, "n m"]) -> Float[Array, " n"]:
        return activated @ (self.sign * jnp.exp(2 * z[1]))

    def sizes(self, z: PyTree[Array]) -> Float[Array, " m"]:
        return jnp.where(self.alive, jnp.exp(2 * z[1]), 0.0)

    def measured(self, state):
        # r is a logarithm: an error of r is a relative error of the neuron's size, whatever r is
        (u, r), anchor = state
        return (u, jnp.zeros_like(r)), anchor

    def shrinking(self, z: PyTree[Array]) -> PyTree[Array]:
        return jnp.zeros_like(z[0]), -jnp.ones_like(z[1])

    def velocity(self, z: PyTree[Array], G: Float[Array, "d m"]) -> PyTree[Array]:
        u = unit(z[0])
        g = self.sign * G  # sign is 0 for neurons that are exactly zero, so these stay
        radial = inner(u, g)
        return g - radial * u, radial

    def lift(self, z: PyTree[Array]) -> PyTree[Array]:
        return unit(z[0]), self.sign

    def lowered(self, z: PyTree[Array], y: PyTree[Array]) -> PyTree[Array]:
        return unit(y[0]), z[1] + log_size(y[1])

    def conserved(self, y: PyTree[Array]) -> float:
        return 0.0


class Hyperbolic(AbstractChart):
    """For any network: c_i = a_i^2 - |w_i|^2, which the flow conserves, holds by construction. z = (U, r):

    c > 0: U = omega, w = sqrt(c) omega, a = sign sqrt(c (1 + |omega|^2)); a keeps its sign, w may pass through 0;
    c < 0: U = u, r = alpha, a = sqrt(-c) alpha, w = sqrt(-c (1 + alpha^2)) u; w never vanishes, a may change its sign;
    c = 0: U = u, r = log|w|, as in BalancedPolar.
    |c| below rounding of a^2 + |w|^2 counts as 0. Source: docs/mathematics.md, "Charts".
    """

    sign: Float[Array, " m"]
    unit: Float[Array, " m"]
    kind: Float[Array, " m"]

    @classmethod
    def encode(cls, network: TwoLayer) -> tuple[Hyperbolic, PyTree[Array]]:
        a, w = network.w2, column_norms(network.W1)
        c = (jnp.abs(a) - w) * (jnp.abs(a) + w)
        kind = jnp.where(jnp.abs(c) <= 16 * jnp.finfo(a.dtype).eps * jnp.maximum(jnp.abs(a), w) ** 2, 0.0, jnp.sign(c))
        unit = jnp.where(kind == 0, jnp.where(w > 0, 1.0, 0.0), jnp.sqrt(jnp.abs(c)))
        safe = jnp.where(unit > 0, unit, 1.0)
        u = network.directions()
        r = jnp.where(kind < 0, a / safe, jnp.where((kind == 0) & (w > 0), jnp.log(jnp.where(w > 0, w, 1.0)), 0.0))
        chart = cls(jnp.where((kind == 0) & (w == 0), 0.0, jnp.sign(a)), unit, kind)
        return chart, (jnp.where(kind > 0, network.W1 / safe, u), r)

    def decode(self, z: PyTree[Array]) -> TwoLayer:
        U, r = z
        size = self.unit * jnp.where(self.kind < 0, jnp.sqrt(1 + r**2), jnp.exp(self._log(r)))
        W1 = jnp.where(self.kind > 0, self.unit * U, size * unit(U))
        return TwoLayer(W1, self.unit * self._perunit(z))

    def may_vanish(self) -> Bool[Array, " m"]:
        return self.kind > 0

    def _log(self, r):
        return jnp.where(self.kind == 0, r, 0.0)

    def _perunit(self, z: PyTree[Array]) -> Float[Array, " m"]:
        """a_i / unit_i."""
        U, r = z
        above = self.sign * jnp.sqrt(1 + inner(U, U))
        return jnp.where(self.kind > 0, above, jnp.where(self.kind < 0, r, self.sign * jnp.exp(self._log(r))))

    def hidden(self, z: PyTree[Array]) -> Float[Array, "d m"]:
        return jnp.where(self.kind > 0, z[0], unit(z[0]))

    def with_hidden(self, z: PyTree[Array], U: Float[Array, "d m"]) -> PyTree[Array]:
        return jnp.where(self.kind > 0, U, unit(U)), z[1]

    def orientation(self, z: PyTree[Array]) -> Float[Array, " m"]:
        per_unit, r = self._perunit(z), z[1]
        return jnp.where(self.kind > 0, per_unit, jnp.where(self.kind < 0, r / jnp.sqrt(1 + r**2), self.sign))

    def outputs(self, z: PyTree[Array], activated: Float[Array, "n m"]) -> Float[Array, " n"]:
        return activated @ self._weight(z)

    def _weight(self, z: PyTree[Array]) -> Float[Array, " m"]:
        """a_i |w_i| / |hidden_i|."""
        r = z[1]
        length = jnp.where(self.kind < 0, jnp.sqrt(1 + r**2), jnp.exp(self._log(r)))
        return self.unit**2 * self._perunit(z) * jnp.where(self.kind > 0, 1.0, length)

    def sizes(self, z: PyTree[Array]) -> Float[Array, " m"]:
        return jnp.abs(self._weight(z))

    def measured(self, state):
        (U, r), anchor = state
        return (U, jnp.where(self.kind == 0, 0.0, r)), anchor

    def shrinking(self, z: PyTree[Array]) -> PyTree[Array]:
        raise ValueError("weight decay does not conserve a^2 - |w|^2: use Cartesian, or BalancedPolar if it is 0")

    def velocity(self, z: PyTree[Array], G: Float[Array, "d m"]) -> PyTree[Array]:
        U, r = z
        g = self.orientation(z) * G
        u = unit(U)
        radial = inner(u, G)
        turning = g - inner(u, g) * u
        dr = jnp.where(self.kind < 0, jnp.sqrt(1 + r**2) * radial, jnp.where(self.kind == 0, self.sign * radial, 0.0))
        return jnp.where(self.kind > 0, g, turning), dr

    def lift(self, z: PyTree[Array]) -> PyTree[Array]:
        U, r = z
        length = jnp.where(self.kind < 0, jnp.sqrt(1 + r**2), 1.0)
        a = jnp.where(self.kind == 0, self.sign, self._perunit(z))
        return jnp.where(self.kind > 0, U, length * unit(U)), a

    def lowered(self, z: PyTree[Array], y: PyTree[Array]) -> PyTree[Array]:
        w, a = y
        r = jnp.where(self.kind < 0, a, jnp.where(self.kind == 0, z[1] + log_size(a), z[1]))
        return jnp.where(self.kind > 0, w, unit(w)), r

    def conserved(self, y: PyTree[Array]) -> Float[Array, " m"]:
        return self.kind


@jax.jit
def unit(u: Float[Array, "d m"]) -> Float[Array, "d m"]:
    """u_i/|u_i| for every column that is not zero."""
    # a maximum, not a choice between two values: that doubles the time of a step on a CPU
    return u / jnp.sqrt(jnp.maximum(inner(u, u), jnp.finfo(u.dtype).tiny))


def chart_for(network: TwoLayer, decays: bool = False) -> type[AbstractChart]:
    """BalancedPolar if |a_i| = |w_i| to rounding for every neuron, else, also inside jit or vmap, Hyperbolic, and
    Cartesian for a flow that `decays`."""
    general = Cartesian if decays else Hyperbolic
    if isinstance(network.W1, jax.core.Tracer):
        return general
    a, w = np.abs(np.asarray(network.w2)), column_norms(np.asarray(network.W1))  # pyright: ignore[reportArgumentType]
    tolerance = 16 * np.finfo(a.dtype).eps
    return BalancedPolar if bool(np.all(np.abs(a - w) <= tolerance * np.maximum(a, w))) else general
