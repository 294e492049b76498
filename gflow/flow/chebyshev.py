"""Chebyshev(): a stabilised explicit Runge-Kutta method of order 2, for flows on the way to their limit.

Once the data are fitted, the weights p_n ~ exp(-q_n) let margins follow each other at a rate that grows like q_min, and
a method like Tsit5 needs steps of length 3/q_min whatever the tolerance. The eigenvalues are real, the field being a
gradient, and along the negative real axis an explicit method can be stable on an interval that grows like the square of
its number of stages: 0.65 (stages^2 - 1) here, 93 for 12 stages, where Tsit5 has 3. Inside Filippov a step has as many
stages as its length needs. Source: van der Houwen and Sommeijer, ZAMM 60 (1980); Sommeijer, Shampine and Verwer,
J. Comp. Appl. Math. 88 (1998), section 2.
"""

# diffrax types its abstract attributes as class variables
# pyright: reportIncompatibleVariableOverride=false, reportIncompatibleMethodOverride=false

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import diffrax
import jax.numpy as jnp
import numpy as np
from diffrax._local_interpolation import ThirdOrderHermitePolynomialInterpolation

DAMPING = 2 / 13
"""How far the stability polynomial stays below 1 inside its interval."""


FEWEST, MOST = 4, 32
"""Stages of a step whose number is free."""

STABLE = 0.65
"""A step of length h is stable if h times the largest eigenvalue is at most STABLE (stages^2 - 1)."""


def Chebyshev(stages: int | None = None) -> diffrax.AbstractERK:
    """The damped Chebyshev method with `stages` >= 2 evaluations a step; its error estimate is of order 2 too.

    None: inside Filippov from FEWEST to MOST, as many as the step needs to be stable; elsewhere 12. Each stage is made
    of the two before it (`Recurrence`); the estimate is 4/5 (y_0 - y_1) + 2/5 h (f_0 + f_1). A method of diffrax like
    any other, but inside Filippov the recurrence is used. Raises ValueError for fewer than two stages.
    """
    if stages is not None and stages < 2:
        raise ValueError(f"a Chebyshev method has at least 2 stages, got {stages}")

    return _method(stages)()


@functools.cache
def _method(stages: int | None) -> type[diffrax.AbstractERK]:
    """One class per number of stages, since diffrax asks for one per tableau: equal methods are compiled once."""
    free = range(FEWEST, MOST + 1) if stages is None else range(stages, stages + 1)

    class Method(diffrax.AbstractERK):
        tableau: ClassVar[diffrax.ButcherTableau] = tableau_of(recurrence(stages or 12))
        family: ClassVar[Family] = Family.of(free)
        interpolation_cls: ClassVar[Callable] = ThirdOrderHermitePolynomialInterpolation.from_k

        def order(self, terms):
            return 2

    Method.__name__ = Method.__qualname__ = f"Chebyshev{stages}"
    return Method


class Recurrence(NamedTuple):
    """y_j = y_0 + mu_j (y_{j-1} - y_0) + nu_j (y_{j-2} - y_0) + h (ahead_j f_{j-1} + back_j f_0), j = 1..stages.

    Three states are held at a time, whatever the number of stages; entry 0 is not used.
    """

    mu: np.ndarray
    nu: np.ndarray
    ahead: np.ndarray
    back: np.ndarray


class Family(NamedTuple):
    """Recurrences of `fewest` stages and more: the rows of `table`, filled up with zeros."""

    fewest: int
    most: int
    table: Recurrence

    @classmethod
    def of(cls, stages: range) -> Family:
        """The methods with these numbers of stages."""
        filled = [[np.pad(c, (0, stages[-1] + 1 - len(c))) for c in recurrence(k)] for k in stages]
        return cls(stages[0], stages[-1], Recurrence(*(np.stack(c) for c in zip(*filled, strict=True))))

    def needed(self, extent):
        """How many stages a step needs whose length times the largest eigenvalue is `extent`."""
        return jnp.clip(jnp.ceil(jnp.sqrt(1 + extent / STABLE)), self.fewest, self.most).astype(int)

    @property
    def longest(self) -> float:
        """The largest extent of a stable step."""
        return STABLE * (self.most**2 - 1)


def recurrence(stages: int) -> Recurrence:
    """The coefficients of the method."""
    w0 = 1 + DAMPING / stages**2
    value, first, second = (np.array([polynomial(j, k)(w0) for j in range(stages + 1)]) for k in (0, 1, 2))
    w1 = first[stages] / second[stages]
    b = np.full(stages + 1, second[2] / first[2] ** 2)
    b[3:] = second[3:] / first[3:] ** 2
    mu, nu, ahead, back = np.zeros((4, stages + 1))
    ahead[1] = b[1] * w1
    mu[2:], nu[2:], ahead[2:] = 2 * b[2:] * w0 / b[1:-1], -b[2:] / b[:-2], 2 * b[2:] * w1 / b[1:-1]
    back[2:] = -(1 - b[1:-1] * value[1:-1]) * ahead[2:]
    return Recurrence(mu, nu, ahead, back)


@functools.cache
def polynomial(degree: int, derivative: int) -> np.polynomial.Chebyshev:
    """T_degree, or a derivative of it."""
    T = np.polynomial.Chebyshev.basis(degree)
    return T.deriv(derivative) if derivative else T


def tableau_of(steps: Recurrence) -> diffrax.ButcherTableau:
    """The same as a tableau. Its last row is the end of the step, whose velocity the next one begins with."""
    stages = len(steps.mu) - 1
    A = np.zeros((stages + 1, stages + 1))
    for j in range(1, stages + 1):
        A[j] = steps.mu[j] * A[j - 1] + (steps.nu[j] * A[j - 2] if j > 1 else 0.0)
        A[j, j - 1] += steps.ahead[j]
        A[j, 0] += steps.back[j]
    error = -0.8 * A[stages]
    error[0] += 0.4
    error[stages] += 0.4
    rows = tuple(A[j, :j].copy() for j in range(1, stages + 1))
    return diffrax.ButcherTableau(c=A.sum(axis=1)[1:], b_sol=A[stages].copy(), b_error=error, a_lower=rows)


__all__ = ["Chebyshev", "Family", "Recurrence"]
