"""How the flows of a sweep are integrated: to margins of 1e3, or in two legs to a smallest margin that is asked for.

Source: docs/mathematics.md, "Large margins"; arXiv 2110.06488, section 2 (the flow).
"""

from __future__ import annotations

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp

from gflow.flow.charts import AbstractChart
from gflow.flow.controller import PIController
from gflow.flow.filippov import Filippov
from gflow.flow.implicit import Implicit
from gflow.flow.lanes import Stepper
from gflow.flow.solve import default_stop
from gflow.flow.stop import MarginTarget
from gflow.onward import LARGE
from gflow.problem import Problem

RTOL = 1e-3
"""Tolerance of the integrator: the program makes limits exact, and 511 of 512 limits are those at 1e-6."""

EARLY_RTOL = 3e-3
"""The same of flows that go on beyond LARGE, up to there: of 507 limits of gaussian (10,5) named at q_min = 1e5,
m = 50, as many, 9, are not those at 1e-6 with it as with 1e-3, in 73 steps in place of 99."""

FAR_RTOL = 1e-2
"""Tolerance beyond LARGE: of 127 limits of gaussian (10,5) named at q_min = 1e5 as many, 15, are not those of the flow
at 1e8 with it as with 1e-4, in 29 steps in place of 132."""

FAR_STEPS, NEAR = 500, 1e3
"""Attempted steps beyond LARGE after which a flow ends as soon as its q_min is NEAR, the least to ask for."""

FARTHEST = 1e8
"""The most to ask for: where margins are 1e10, rounding makes steps ten times as many."""


def legs(
    problem: Problem,
    chart: type[AbstractChart],
    *,
    dtype: str = "float64",
    q_min: float | None = None,
    controller: diffrax.PIDController | None = None,
    **flow_options,
) -> tuple[Stepper, Stepper | None]:
    """How flows are integrated: by the first, and from LARGE on, if they go on to large margins (`end_of`), by the
    second, whose steps are implicit in the multipliers. Raises ValueError where a given `q_min` is not possible."""
    others = sorted(set(flow_options) - {"max_steps"})
    if q_min is not None and others:
        raise ValueError(f"q_min says how flows are integrated and end: leave {', '.join(others)} out")
    q_min = None if others else end_of(problem, dtype, q_min)
    controller = PIController(RTOL if q_min is None else EARLY_RTOL) if controller is None else controller
    first = {"chart": chart, "controller": controller, **flow_options}
    if q_min is None:
        return Stepper(cast(problem, dtype), **first), None
    first["stop"] = MarginTarget(LARGE), *(s for s in default_stop(problem) if not isinstance(s, MarginTarget))
    later = {"chart": chart, "solver": Filippov(Implicit()), "controller": PIController(FAR_RTOL)}
    later |= {"stop": (MarginTarget(q_min),), "patience": FAR_STEPS, "enough": NEAR} | flow_options
    return Stepper(problem, **first), Stepper(problem, **later)


def end_of(problem: Problem, dtype: str = "float64", q_min: float | None = None) -> float | None:
    """The smallest margin at which flows of `problem` end: `q_min` if it is given, else None: they end as in
    `solve_flow`, and are continued to infinity from there. Raises ValueError for a q_min that is not possible."""
    if q_min is not None:
        require_far(problem, dtype, q_min)
    return q_min


def _goes_far(problem: Problem) -> bool:
    """Whether flows have a direction for a limit whose multipliers can be solved for: one output, and kinks."""
    return problem.outputs is None and problem.directional and problem.activation.kinks


def require_far(problem: Problem, dtype: str, q_min: float) -> None:
    """Raise ValueError unless flows of this problem can be continued to this q_min."""
    if not NEAR <= q_min <= FARTHEST:
        raise ValueError(f"q_min must be between {NEAR:g} and {FARTHEST:g}, got {q_min:g}")
    if not _goes_far(problem):
        raise ValueError(
            "q_min is for one output and losses of margins, without weight decay and without fixed gates: leave it out"
        )
    if dtype != "float64":
        raise ValueError(f"margins as large as q_min have too few digits in {dtype}: leave one of the two out")


def cast(tree, dtype: str):
    """The same with its real numbers in `dtype`."""
    real = lambda a: eqx.is_array(a) and jnp.issubdtype(a.dtype, jnp.floating)  # noqa: E731
    return jax.tree.map(lambda a: a.astype(dtype) if real(a) else a, tree)
