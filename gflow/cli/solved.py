"""`gflow solve`: the convex program itself, its optimum between two bounds."""

from __future__ import annotations

import math

from gflow._types import Scope
from gflow.cli.inputs import checked
from gflow.cli.progress import say
from gflow.cli.sentences import scopes
from gflow.cli.work import Interrupted, Late, Work


def solved(
    problem, *, masks: str, beta: float | None, gated: bool, squared: bool, rtol: float, seconds: float, json: bool
) -> None:
    """Solve in `seconds`, faces included, and print; after Ctrl-C the bracket by then. Raises Interrupted after it."""
    from gflow import deadline
    from gflow.cli import output

    work, program = Work(), _program(beta, gated, squared)

    def solve() -> dict:
        with deadline.within(seconds, watch=work.bracket):
            return _summary(problem, masks, beta, gated, squared, rtol)

    try:
        summary = work.do("solving", solve, most=seconds)
    except Late:
        summary = _unfinished(work, program)
    except KeyboardInterrupt:
        say("interrupted while solving: what is known by now")
        output.emit(_unfinished(work, program), json, output.print_program)
        raise Interrupted from None
    output.emit(summary, json, output.print_program)


def _summary(problem, masks: str, beta: float | None, gated: bool, squared: bool, rtol: float) -> dict:
    import gflow
    from gflow.cli import output
    from gflow.convex.gated import scope_of

    few = {} if masks == "all" else {"samples": int(masks), "sampled": True}
    if gated:
        gates = gflow.gate_masks(problem.X, **few)
        say(f"gated ReLU with {len(gates)} gates, {'all' if gates.complete else 'sampled'}")
        found = checked(gflow.solve_gated, problem, beta, gates.masks, rtol=rtol, scope=scope_of(gates))
        return output.gated_summary(gates, found)
    known = gflow.faces(problem.X, **few)
    if not known.complete:
        say("not all masks are enumerated: the lower bound comes from a semidefinite program, and a gap may be left")
    if beta is not None:
        found = gflow.solve_penalized(problem, beta, known, rtol=rtol)
    elif squared:
        found = gflow.solve_min_norm(problem, known, rtol=rtol)
    elif problem.outputs is None:
        found = gflow.solve_max_margin(problem, known, rtol=rtol)
    else:
        found = gflow.solve_vector_max_margin(problem, known, rtol=rtol)
    return output.program_summary(known, found)


def _program(beta: float | None, gated: bool, squared: bool) -> str:
    """Its name, as in the summary of a program that was solved."""
    if gated:
        return "gated-weight-decay"
    return "weight-decay" if beta is not None else "least-norm" if squared else "max-margin"


def _unfinished(work: Work, program: str) -> dict:
    """The keys of `solve` when it is interrupted: the bracket that was told last."""
    gap = 1 - work.lower / work.upper if 0 < work.upper < math.inf else 1.0
    scope = Scope.GATES if program == "gated-weight-decay" else Scope.ALL
    return {
        "program": program, "primal": work.upper, "dual": work.lower, "gap": gap, "lower_bound": work.lower,
        "scope": scopes(dual=scope, lower_bound=scope), "masks": 0, "complete": False,
        "result": "max_steps_reached", "alpha": [], "neurons": [],
    }  # fmt: skip
