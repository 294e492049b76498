"""The master of column generation: a linear program over unit vectors, kept warm by HiGHS.

    min sum_k mass_k + price sum_n slack_n   s.t.   sum_k y_n s_k (x_n . u_k)_+ mass_k + slack_n >= 1,  mass, slack >= 0

Its multipliers alpha are feasible for the columns' dual constraints s_k lambda^T (X u_k)_+ <= 1; adding columns keeps
the last basis feasible, so that the primal simplex method goes on from it. Source: docs/mathematics.md, "The convex
program over masks".
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from gflow import deadline
from gflow.convex.leaky import activated
from gflow.convex.threads import one_thread

EXACT, ROUNDING, LOOSE = 1e-10, 4e-15, 1e-7
"""Violated constraints and reduced costs: the least that HiGHS accepts; what large multipliers leave, relative to their
sum (below rounding the simplex method goes on for ever); and what serves as long as slack is paid for."""

COLD = 100
"""Samples from which a program without a useful basis goes to the interior-point method: a cold simplex may take for
ever."""

ITERATIONS = 20
"""Simplex iterations per sample after which a warm start has failed."""


class Solution(NamedTuple):
    """`mass` (K,), `alpha` (n,), `slack`: its sum."""

    mass: np.ndarray
    alpha: np.ndarray
    slack: float


@functools.cache
def _quiet() -> type:
    """HiGHS without callbacks: switching them on prints a banner on stdout, where commands print JSON."""
    import highspy

    class Quiet(highspy.Highs):
        def enableCallbacks(self):
            pass

    return Quiet


class Master:
    """A linear program that grows. `U` (K, d) unit vectors, `sign` (K,)."""

    def __init__(self, X: np.ndarray, y: np.ndarray, price: float, lower: float = 0.0):
        self.X, self.y, self.lower = X, y, lower
        n, d = X.shape
        self.U, self.sign = np.zeros((0, d)), np.zeros(0)
        self.highs = _quiet()()
        self.highs.setOptionValue("output_flag", False)
        for name, value in (
            ("threads", 1), ("simplex_iteration_limit", 1000 + ITERATIONS * n),
        ):  # fmt: skip
            self.highs.setOptionValue(name, value)
        self.forget()
        self._rows()
        infinite, each = np.full(n, self.highs.inf), np.arange(n, dtype=np.int32)
        for side in self.slacks:
            self.highs.addCols(n, np.full(n, price), np.zeros(n), infinite, n, each, each, np.full(n, side))

    slacks = (1.0,)
    """The sides on which a constraint may be missed."""

    def _rows(self) -> None:
        """Margins of at least 1."""
        self._constrain(np.ones(len(self.y)), np.full(len(self.y), self.highs.inf))

    def _constrain(self, lower: np.ndarray, upper: np.ndarray) -> None:
        n = len(lower)
        self.highs.addRows(n, lower, upper, 0, np.zeros(n, np.int32), np.zeros(0, np.int32), np.zeros(0))

    def _entries(self, U: np.ndarray, sign: np.ndarray) -> np.ndarray:
        """Columns (n, K) of the constraints."""
        return (self.y[:, None] * activated(self.X @ U.T, self.lower)) * sign

    def _multipliers(self, dual: np.ndarray) -> np.ndarray:
        return np.maximum(dual, 0.0)

    def add(self, U: np.ndarray, sign: np.ndarray) -> None:
        """New columns."""
        n, K = len(self.y), len(U)
        entries = self._entries(U, sign).T  # (K, n), a column of the program a row
        starts = (n * np.arange(K)).astype(np.int32)
        index = np.tile(np.arange(n, dtype=np.int32), K)
        bounds = np.zeros(K), np.full(K, self.highs.inf)
        self.highs.addCols(K, np.ones(K), *bounds, n * K, starts, index, entries.ravel())
        self.U, self.sign = np.vstack([self.U, U]), np.concatenate([self.sign, sign])

    def reprice(self, price: float) -> None:
        """What a missing unit of margin costs."""
        n = len(self.y) * len(self.slacks)
        self.highs.changeColsCost(n, np.arange(n, dtype=np.int32), np.full(n, price))
        self.forget()

    def forget(self) -> None:
        """Start the next solution from nothing."""
        self.tolerance = LOOSE
        self.highs.clearSolver()
        self.highs.setOptionValue("solver", "ipm" if len(self.y) >= COLD else "simplex")

    def solve(self) -> Solution | None:
        """The optimum over the columns so far; None if HiGHS fails from the last basis and from nothing, or the
        deadline passes."""
        import highspy

        for tolerance in dict.fromkeys((self.tolerance, LOOSE, None)):
            if tolerance is None:
                self.forget()
                self.highs.setOptionValue("solver", "ipm")
                self.highs.setOptionValue("simplex_iteration_limit", 2**31 - 1)
            self.highs.setOptionValue("primal_feasibility_tolerance", tolerance or LOOSE)
            self.highs.setOptionValue("dual_feasibility_tolerance", tolerance or LOOSE)
            # its clock counts from the first run
            self.highs.setOptionValue("time_limit", self.highs.getRunTime() + deadline.left())
            self.highs.run()
            if self.highs.getModelStatus() == highspy.HighsModelStatus.kOptimal:
                break
            if deadline.passed():
                return None
        else:
            return None
        self.highs.setOptionValue("simplex_iteration_limit", 1000 + ITERATIONS * len(self.y))
        self.highs.setOptionValue("solver", "simplex")
        self.highs.setOptionValue("simplex_strategy", 4)  # primal: new columns leave the old point feasible
        solution, n = self.highs.getSolution(), len(self.y)
        value, slacks = np.array(solution.col_value), n * len(self.slacks)
        slack = float(np.maximum(value[:slacks], 0.0).sum())
        mass = np.maximum(value[slacks:], 0.0)
        self.tolerance = LOOSE if slack > 0 else min(max(EXACT, ROUNDING * mass.sum()), LOOSE)
        return Solution(mass, self._multipliers(np.array(solution.row_dual)), slack)

    @one_thread
    def repaired(self, solved: Solution) -> np.ndarray:
        """Masses (K,) with the least change after which the support vectors have margin 1, a few slightly negative.

        HiGHS leaves margins short by 1e-7 where masses are as large as 1e5.
        """
        from scipy.linalg import lstsq

        live, support = np.flatnonzero(solved.mass), solved.alpha > 0
        entries, mass = self._entries(self.U[live], self.sign[live]), solved.mass.copy()
        short = 1.0 - entries @ solved.mass[live]
        if len(live) == 0 or short.max() <= EXACT:
            return mass
        mass[live] += lstsq(entries[support], short[support], lapack_driver="gelsy", check_finite=False)[0]  # pyright: ignore
        return mass


class Interpolation(Master):
    """The same with f(x_n) = y_n in place of margins; `alpha` is lambda, of either sign.

    `mix` (n, n) invertible: the constraints are mix f = mix y. Where rows nearly follow from others f - y says little
    about what it costs to supply; mix (f - y) does.
    """

    slacks = (1.0, -1.0)

    def __init__(self, X: np.ndarray, y: np.ndarray, price: float, lower: float, mix: np.ndarray | None):
        self.mix = mix
        super().__init__(X, y, price, lower)

    def _rows(self) -> None:
        target = self.y if self.mix is None else self.mix @ self.y
        self._constrain(target, target)

    def _entries(self, U: np.ndarray, sign: np.ndarray) -> np.ndarray:
        outputs = activated(self.X @ U.T, self.lower) * sign
        return outputs if self.mix is None else self.mix @ outputs

    def _multipliers(self, dual: np.ndarray) -> np.ndarray:
        return dual if self.mix is None else dual @ self.mix
