"""The right-hand side of the flow: margins, multipliers and velocity in a chart and on a clock.

Source: arXiv 2110.06488, section 2; clock and polar chart: docs/mathematics.md, "Clocks" and "Charts".
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from gflow._types import Module
from gflow.flow.charts import AbstractChart
from gflow.flow.clocks import AbstractClock, Anchor, log_integral
from gflow.flow.modes import Modes, most_sliding, slopes
from gflow.flow.row_space import Complement
from gflow.flow.traced import traced_once
from gflow.lines import columns
from gflow.network import TwoLayer, VectorTwoLayer, inner
from gflow.problem import Problem

NEGLIGIBLE = 1e-30
"""Multipliers below this are zero: they move nothing, and subnormal numbers would slow a processor down tenfold."""

LARGEST = 1e30
"""In place of infinity in what dense output multiplies by zero."""


class Moment(NamedTuple):
    """What moves neurons: pre-activations, multipliers, log S."""

    Z: Float[Array, "n m"]
    lam: Float[Array, "n *K"]
    log_S: Float[Array, ""]


class Rates(NamedTuple):
    """What one evaluation of the field yields: pre-activations, margins, log S, multipliers, G, and dz/d time.

    `force` (d, m) is X^T D lambda without the sliding pairs, `G` its projection onto the hyperplanes in which a neuron
    slides. `weight` (n,), `drift` (d,): lambda of the hyperplanes, and what does not depend on their sides (see Lines);
    with vector output one column per neuron, Lambda v_i.
    """

    Z: Float[Array, "n m"]
    q: Float[Array, "n *K"]
    log_S: Float[Array, ""]
    lam: Float[Array, "n *K"]
    weight: Float[Array, "n *m"]
    drift: Float[Array, "d *m"]
    force: Float[Array, "d m"]
    G: Float[Array, "d m"]
    dz: PyTree[Array]


class Field(Module):
    """Velocity of the state (z, carried): z in the chart, carried the other clock."""

    problem: Problem
    chart: AbstractChart
    clock: AbstractClock
    modes: Modes | None = None
    """Modes at the start, for Filippov: found once, outside the compiled integration."""
    complement: Complement | None = None
    """What of the network lies outside the row space, if the problem is one of coordinates in it."""
    watched: bool = eqx.field(static=True, default=True)
    """Whether a criterion reads the anchor: without one its speed and KKT residual stay LARGEST."""

    @property
    def hyperplanes(self) -> Float[Array, "n d"]:
        """The rows that have a hyperplane of their own; zeros for those that share an earlier one."""
        lines = self.problem.lines
        return self.problem.X if lines is None else lines.rows(self.problem.X)

    @property
    def room(self) -> int:
        """On how many hyperplanes a neuron can slide: all of them meet at w = 0, where the chart may go."""
        n, d = self.problem.shape
        return min(n, d) if self.chart.through_zero else most_sliding(n, d)

    @property
    def tips(self) -> bool:
        """Whether a neuron may pass w = 0, where all hyperplanes meet. With fewer samples than dimensions they meet in
        more, and a neuron that slides on all of them is like any other."""
        n, d = self.problem.shape
        return self.chart.through_zero and n >= d

    def network(self, z: PyTree[Array]) -> TwoLayer | VectorTwoLayer:
        """The network (d, m) at chart state z."""
        network = self.chart.decode(z)
        return network if self.complement is None else self.complement.network(network)

    def misalignment(self, z: PyTree[Array], G: Float[Array, "d m"], lam: Float[Array, "n *K"]) -> Float[Array, ""]:
        """1 - cos(theta, velocity) for the velocity with this G."""
        whole = G if self.complement is None else self.complement.vectors(G)
        return self.problem.misalignment(self.network(z), whole, lam)

    def weighted(self, lam: Float[Array, "n *m"]) -> tuple[Float[Array, "n *m"], Float[Array, "d *m"]]:
        """lambda of the hyperplanes, and the drift; `lam`: what the chart's `pull` makes of the multipliers."""
        lines, X = self.problem.lines, self.problem.X
        if lines is None:
            return lam, jnp.zeros(X.shape[1:] + lam.shape[1:], X.dtype)
        return lines.weight(lam), lines.drift(X, lam, self.problem.activation)

    def preactivations(self, z: PyTree[Array]) -> Float[Array, "n m"]:
        """x_n . hidden_i, shape (n, m)."""
        return self.problem.X @ self.chart.hidden(z)

    def margins(self, z: PyTree[Array]) -> Float[Array, "n *K"]:
        """q (n,) at chart state z."""
        return self.problem.scored(self.chart.outputs(z, self.problem.activation(self.preactivations(z))))

    def slopes(self, on) -> Float[Array, "n m"]:
        """The activation's upper slope where `on`, else its lower one, of all samples from those of the hyperplanes."""
        on = on if self.problem.lines is None else self.problem.lines.everywhere(on)
        return slopes(self.problem.activation, on, self.problem.X.dtype)

    def moment(self, z: PyTree[Array], D: Float[Array, "n m"]) -> Moment:
        """Of the state z, with slopes D."""
        Z = self.preactivations(z)
        q = self.problem.scored(self.chart.outputs(z, D * Z))
        return Moment(Z, *self._multipliers(q))

    def _multipliers(self, q: Float[Array, "n *K"]):
        lam = self.problem.multipliers(q)
        return jnp.where(jnp.abs(lam) < NEGLIGIBLE, 0.0, lam), self.problem.log_S(q)

    @traced_once
    def rates(self, z: PyTree[Array], modes: Modes | None = None) -> Rates:
        """The field at z; slopes sigma'(x_n . w_i) unless `modes` fix them."""
        Z = self.preactivations(z)
        D = self.problem.activation.slope(Z) if modes is None else self.slopes(modes.on)
        q = self.problem.scored(self.chart.outputs(z, D * Z))
        lam, log_S = self._multipliers(q)
        pull = self.chart.pull(z, lam)
        force = self.problem.X.T @ (D * columns(pull))
        G = force if modes is None else modes.project(force)
        ds, dz = self.clock.rate(log_S), self.chart.velocity(z, G)
        turning = self.chart.output_velocity(z, lam, D * Z)
        if turning is not None:
            dz = self.chart.turned(dz, turning)
        if self.problem.weight_decay is not None:
            shrink = self.problem.weight_decay * jnp.exp(-log_S)
            dz = jax.tree.map(lambda v, u: v + shrink * u, dz, self.chart.shrinking(z))
        return Rates(Z, q, log_S, lam, *self.weighted(pull), force, G, jax.tree.map(lambda v: ds * v, dz))

    @traced_once
    def stiffness(self, z: PyTree[Array], rates: Rates, D: Float[Array, "n m"]) -> Float[Array, ""]:
        """An upper bound of the rate, per unit of time, at which margins pull each other back.

        d p_n = -p_n (dq_n - sum p dq) on the tail, and dq/ds = K p with K_nm = grad q_n . grad q_m, so the eigenvalues
        are those of a positive matrix whose trace is the variance sum_n p_n |grad q_n|^2 - |sum_n p_n grad q_n|^2.
        Under multipliers that stay as they are every neuron has a linear equation of its own, whose eigenvalues are at
        most `_own`: small where G is, so that steps grow with the time that a flow takes to leave a saddle.
        """
        network, X = self.chart.decode(z), self.problem.X
        a = network.w2**2 if isinstance(network, TwoLayer) else network.output_norms() ** 2
        rows = jnp.sum(X**2, axis=1)
        own, both = rows * (D**2 @ a), self.chart.both_layers
        if both:
            own += jnp.sum((D * (X @ network.W1)) ** 2, axis=1)
        weight = jnp.abs(rates.lam) if self.problem.of_margins else self.problem.loss.curvature(rates.q)
        # the gradient of the difference of two outputs is at most twice as long
        weight = weight if weight.ndim == 1 else 4 * jnp.sum(weight, axis=1)
        trace = weight @ own
        if self.problem.of_margins and weight.ndim == 1 and self.problem.outputs is None:
            mean = a * inner(rates.force, rates.force) + (inner(network.W1, rates.force) ** 2 if both else 0.0)
            trace = jnp.maximum(trace - jnp.sum(mean), 0.0)
        first = self._own(z, rates, D) if both else jnp.zeros_like(trace)
        if self.problem.weight_decay is not None:
            first += self.problem.weight_decay * jnp.exp(-rates.log_S)
        return self.clock.rate(rates.log_S) * (trace + first)

    def _own(self, z: PyTree[Array], rates: Rates, D: Float[Array, "n m"]) -> Float[Array, ""]:
        """The largest |G_i|, with vector output the largest Frobenius norm of X^T D_i Lambda."""
        if self.problem.outputs is None:
            squares = inner(rates.G, rates.G)
        else:
            X, lam = self.problem.X, rates.lam
            n, entries = len(X), X.shape[1] * lam.shape[1]
            if n < entries:  # a sum over pairs of samples
                squares = jnp.maximum(inner(D, ((X @ X.T) * (lam @ lam.T)) @ D), 0.0)
            else:
                pulls = (X[:, :, None] * lam[:, None]).reshape(n, entries).T @ D
                squares = inner(pulls, pulls)
        return jnp.sqrt(jnp.max(jnp.where(self.present(z), squares, 0.0)))

    def present(self, z: PyTree[Array]) -> Bool[Array, " m"]:
        """Neurons that are not exactly zero, which they would stay for ever."""
        return (self.chart.orientation(z) != 0) | jnp.any(self.chart.hidden(z) != 0, axis=0)

    def velocity(self, time, state) -> tuple[PyTree[Array], Anchor]:
        """d(z, anchor)/d time with the slopes of the activation. An anchor does not move."""
        z, anchor = state
        return self.rates(z).dz, jax.tree.map(jnp.zeros_like, anchor)

    @traced_once
    def anchor(self, time, z: PyTree[Array], rates: Rates, D: Float[Array, "n m"], old: Anchor | None = None) -> Anchor:
        """What is carried besides z at `time`; `old` is the anchor before (None at the start).

        The other clock is still that of `old`.
        """
        phi, slope = jax.jvp(lambda x: self.exponent(x, D), (z,), (rates.dz,))
        other = self.clock.start(rates.log_S) if old is None else old.other
        q_size = jnp.max(jnp.abs(rates.q))
        speed = residual = jnp.full_like(phi, LARGEST)
        if self.watched:
            speed = self.speed(z, rates.G, rates.lam, rates.log_S)
            residual = self.misalignment(z, rates.G, rates.lam)
        # finite, since dense output multiplies it by zero
        slackness = jnp.minimum(self.problem.slackness(rates.q, jnp.abs(rates.lam)), LARGEST)
        repelled = jnp.zeros_like(phi) if old is None else old.repelled
        return Anchor(time, other, phi, slope, jnp.min(rates.q), speed, q_size, residual, slackness, repelled)

    def speed(self, z: PyTree[Array], G: Float[Array, "d m"], lam: Float[Array, "n *K"], log_S) -> Float[Array, ""]:
        """How fast the flow moves: what is left of it, of a direction or a point."""
        if not self.problem.directional:
            whole = G if self.complement is None else self.complement.vectors(G)
            network = self.network(z)
            assert isinstance(network, TwoLayer), "vector output has directions for limits"
            return self.problem.speed(network, jnp.exp(log_S) * whole, jnp.exp(log_S) * lam)
        return self._direction_speed(z, G, lam)

    def _direction_speed(self, z: PyTree[Array], G: Float[Array, "d m"], lam: Float[Array, "n *K"]):
        """How fast the fastest neuron turns or grows, relative to sum_n p_n |x_n|; 0 at a stationary network.

        g_i = sign(a_i) G_i: it turns at |(I - u u^T) g_i| and grows at u . g_i. One that shrinks counts by what it
        still has to lose: a neuron that slides into nothing, as happens on a ray of d = 2, does not keep a flow alive.
        """
        hidden, G = self.chart.hidden(z), jnp.where(self.present(z), G, 0.0)  # a leaky neuron that is zero has some
        size = jnp.sqrt(inner(hidden, hidden))
        radial = jnp.sign(self.chart.orientation(z)) * inner(hidden, G) / jnp.where(size > 0, size, 1.0)
        turning = jnp.sqrt(jnp.maximum(inner(G, G) - radial**2, 0.0))
        swing = self.chart.output_velocity(z, lam, self.problem.activation(self.preactivations(z)))
        if swing is not None:
            turning = jnp.maximum(turning, jnp.sqrt(inner(swing, swing)))
        lengths = jnp.sqrt(jnp.sum(self.problem.X**2, axis=1))
        effect = jnp.minimum(1.0, self.chart.sizes(z) * size * jnp.max(lengths))
        # samples that are fitted carry no weight: what moves neurons is the rows of the others, however short
        scale = jnp.sum(jnp.abs(columns(lam)) * lengths[:, None])
        fastest = jnp.max(jnp.maximum(turning, jnp.where(radial > 0, radial, -radial * effect)))
        return fastest / jnp.where(scale > 0, scale, 1.0)

    def exponent(self, z: PyTree[Array], D: Float[Array, "n m"]) -> Float[Array, ""]:
        """phi = log of the other clock's rate, with slopes D."""
        outputs = self.chart.outputs(z, D * self.preactivations(z))
        return self.clock.phi(self.problem.log_S(self.problem.scored(outputs)))

    @traced_once
    def elapsed(self, old: Anchor, new: Anchor, middle: Float[Array, ""] | None = None):
        """The other clock at `new`, integrated from `old`, and an estimate of the quadrature's error.

        `middle`: phi halfway, which raises the order by one and gives the estimate (else it is 0).
        """
        ends = (new.time - old.time, old.phi, old.slope, new.phi, new.slope)
        other = self.clock.add(old.other, log_integral(*ends))
        if middle is None:
            return other, jnp.zeros_like(other)
        better = self.clock.add(old.other, log_integral(*ends, middle))
        return better, jnp.abs(better - other)
