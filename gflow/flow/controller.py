"""KinkController: a PID controller that reads the three parts of Filippov's error estimate; PIController makes one.

The coefficients: Hairer and Wanner, Solving Ordinary Differential Equations II (1996), section IV.2.
"""

# pyright: reportIncompatibleVariableOverride=false, reportIncompatibleMethodOverride=false

from __future__ import annotations

import diffrax
import jax
import jax.numpy as jnp

from gflow.flow.field import Field

TOO_LONG = 1e15
"""The error of a step that overflowed."""


def PIController(rtol: float, atol: float | None = None) -> diffrax.PIDController:
    """diffrax.PIDController(rtol, atol) with pcoeff = 0.4, icoeff = 0.3; `atol` is `rtol` unless given.

    After a step that became shorter the next one grows with care: a flow that alternates between smooth stretches and
    kinks has fewer steps refused than with the coefficients that diffrax has unless told.
    """
    return diffrax.PIDController(rtol=rtol, atol=rtol if atol is None else atol, pcoeff=0.4, icoeff=0.3)


FIRST = 0.01
"""Length of the first step of a flow that does not move."""


class KinkController(diffrax.AbstractAdaptiveStepSizeController):
    """A PID controller that knows kinks: it steps onto a crossing whose charge is too large, then resumes."""

    pid: diffrax.PIDController

    @property
    def rtol(self):
        return self.pid.rtol

    @property
    def atol(self):
        return self.pid.atol

    @property
    def norm(self):
        return self.pid.norm

    def wrap(self, direction):
        return self

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        if dt0 is None:
            dt0 = self._first(y0[0], args, error_order)
        first, state = self.pid.init(terms, t0, t1, y0, dt0, args, func, error_order)
        return first, (state, jnp.zeros_like(jnp.asarray(first)))

    def _first(self, z, field: Field, error_order):
        """Length of the first step: where the terms of a series in h times the fastest rate are below rtol."""
        rates = field.rates(z, field.modes)
        on = rates.Z > 0 if field.modes is None else field.modes.on
        fastest = field.stiffness(z, rates, field.slopes(on))
        length = jnp.asarray(self.rtol) ** (1 / error_order) / jnp.where(fastest > 0, fastest, 1.0)
        return jnp.where(fastest > 0, length, FIRST)

    def adapt_step_size(self, t0, t1, y0, y1_candidate, args: Field, y_error, error_order, controller_state):
        assert y_error is not None  # Filippov always estimates its error
        # a step that overflowed is too long: not a number would be a length, and for ever
        y1_candidate = jax.tree.map(lambda a, b: jnp.where(jnp.isfinite(a), a, b), y1_candidate, y0)
        y_error = jax.tree.map(
            lambda e: jnp.where(jnp.isfinite(e), jnp.clip(e, -TOO_LONG, TOO_LONG), TOO_LONG), y_error
        )
        z_error, clock_error, kinks = y_error
        unit = args.chart.error_unit(y0[0])
        if unit is not None:
            relative = lambda z: jax.tree.map(lambda a: a / unit, z)  # noqa: E731
            z_error, y0, y1_candidate = (
                relative(z_error),
                (relative(y0[0]), y0[1]),
                (relative(y1_candidate[0]), y1_candidate[1]),
            )
            kinks = kinks._replace(charge=kinks.charge / unit)
        pid_state, resume = controller_state
        h = jnp.asarray(t1 - t0)
        y0, y1 = args.chart.measured(y0), args.chart.measured(y1_candidate)
        # every neuron's charge and the error of p must themselves be within tolerance, in a norm that is a mean over
        # all entries: of those of neurons that are not zero, or a network that has more of these would be less accurate
        count = sum(leaf.size for leaf in jax.tree.leaves(y0))
        share = jnp.sqrt(jnp.asarray(count, h.dtype))
        present = args.present(y0[0])
        absent = jnp.sum(~present) * (sum(leaf.size for leaf in jax.tree.leaves(y0[0])) // present.size)
        dense = jnp.sqrt(count / (count - absent)).astype(h.dtype)
        z_error, clock_error = jax.tree.map(lambda e: e * dense, (z_error, clock_error))
        own = kinks.charge / (self.atol + self.rtol * jnp.linalg.norm(y1[0][0], axis=0))
        alone = share * jnp.hypot(kinks.weights, jnp.max(own) * self.atol)
        y0, y1 = ((z, a._replace(q_min=jnp.zeros_like(a.q_min))) for z, a in (y0, y1))
        still = jax.tree.map(jnp.zeros_like, y0[1])._replace(other=clock_error, q_min=share * kinks.weights)
        smooth, total = (z_error, still), (z_error, still._replace(q_min=alone))
        keep, next0, next1, jump, pid_state, result = self.pid.adapt_step_size(
            t0, t1, y0, y1, args, total, error_order, pid_state
        )
        scale = lambda a, b, e: e / (self.atol + self.rtol * jnp.maximum(jnp.abs(a), jnp.abs(b)))  # noqa: E731
        fine = self.norm(jax.tree.map(scale, y0, y1, smooth)) < 1
        # h so small that time no longer moves: nothing more can be resolved
        stuck = h <= 8 * jnp.finfo(h.dtype).eps * jnp.abs(t1)
        keep = keep | stuck
        next0 = jnp.where(stuck, t1, next0)

        # land a little behind the first crossing that matters, where its charge (quadratic in time) passes
        behind = (1 - kinks.theta) * jnp.minimum(0.5, 0.4 / jnp.sqrt(jnp.maximum(own, 1e-30)))
        land = h * jnp.min(jnp.where(own > 0.2, kinks.theta + behind, 0.5))
        landing = ~keep & fine
        dt = jnp.where(landing, jnp.minimum(land, 0.9 * h), next1 - next0)
        dt = jnp.where(keep, jnp.maximum(dt, resume), dt)
        dt = jnp.minimum(dt, jnp.where(keep, kinks.longest, dt))
        dt = jnp.maximum(dt, 4 * jnp.finfo(h.dtype).eps * jnp.abs(next0))  # a step of nothing would never grow again
        resume = jnp.where(landing, jnp.maximum(resume, h), jnp.where(keep, 0.0, jnp.minimum(resume, dt)))
        return keep, next0, next0 + dt, jump, (pid_state, resume), result


__all__ = ["KinkController", "PIController"]
