"""solve_optimum(problem): the convex program that belongs to a problem, whichever it is."""

from __future__ import annotations

from gflow.convex.column_generation import MaxMargin, solve_max_margin
from gflow.convex.faces import Faces
from gflow.convex.min_norm import MinNorm, solve_min_norm
from gflow.convex.penalized import Penalized, solve_penalized
from gflow.problem import Problem
from gflow.vector.program import VectorMaxMargin, solve_vector_max_margin

Optimum = MaxMargin | Penalized | MinNorm | VectorMaxMargin


def solve_optimum(problem: Problem, known_faces: Faces, budget: float | None = None) -> Optimum:
    """Max-margin for a direction, the penalised program with weight decay, the least norm for the squared loss.

    `budget`: seconds after which the bracket so far is returned.
    """
    if problem.outputs is not None:
        return solve_vector_max_margin(problem, known_faces, budget=budget)
    if problem.directional:
        return solve_max_margin(problem, known_faces, budget=budget)
    if problem.weight_decay is None:
        return solve_min_norm(problem, known_faces, budget=budget)
    return solve_penalized(problem, float(problem.weight_decay), known_faces, budget=budget)
