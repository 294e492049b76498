"""What is proved, in words: every sentence about a verdict or a bound is made here, from its scope."""

from __future__ import annotations

import math

from gflow._types import Scope
from gflow.patterns import NO_MARGIN

VERDICTS = {
    "GLOBAL": "proved: optimal among {scope}",
    "NOT_GLOBAL": "proved: among {scope} one with a lower objective is known",
    "NOT_GLOBAL, not interpolating": "proved: it misses labels, and among {scope} one that interpolates them is known",
    "INCONCLUSIVE": "neither that it is optimal among {scope} nor a better one is proved",
    "INCONCLUSIVE, under way": "the flow has not reached its limit; that this is optimal among {scope} is not proved",
    "INCONCLUSIVE, not fitted": "the data are not fitted; that these patterns and signs of a cannot is not proved",
    "UNFITTED": f"proved: not fitted, and {{scope}} have no margins of {NO_MARGIN:g} |x_n| sum |a_i||w_i|",
}


def scopes(**of: Scope) -> dict[str, str]:
    """The key "scope" of JSON: for which networks the verdict and each bound hold, by the names of Scope."""
    return {what: scope.name for what, scope in of.items()}


def phrase(scope: str) -> str:
    """The phrase of a scope's name."""
    return Scope[scope].value


def verdict_sentence(verdict: str, scope: dict[str, str], case: str = "") -> str:
    """What a verdict proves; `case`: "under way", "not fitted" or "not interpolating", where that matters."""
    sentence = VERDICTS.get(f"{verdict}, {case}", VERDICTS[verdict])
    return sentence.format(scope=phrase(scope["verdict"]))


def bracket_sentence(lower: float, upper: float, scope: str) -> str:
    """The optimum over a scope between its bounds."""
    if not math.isfinite(upper):
        return f"[bold]optimum >= {lower:.12g}[/bold] among {phrase(scope)}"
    gap = (upper - lower) / upper if upper > 0 else 0.0
    return f"[bold]{lower:.12g} <= optimum <= {upper:.12g}[/bold], gap {gap:.2g}, among {phrase(scope)}"


def none_below(lower: float, scope: str) -> str:
    """A lower bound alone."""
    return f"of the {phrase(scope)} none is below {lower:.12g}"


def optimal_sentence(optimal: bool, lower: float, scope: str) -> str:
    """Whether what is at hand is optimal over a scope, and the bound."""
    kind = phrase(scope)
    if optimal:
        return f"proved: optimal among {kind}, of which none is below {lower:.9g}"
    return f"not proved optimal among {kind}, of which none is below {lower:.9g}"


def unseparated(lower: float, scope: str, program: str) -> str:
    """Why a program is called infeasible."""
    does = "interpolates the labels" if program == "least-norm" else "separates the data"
    if math.isinf(lower):
        return f"of the {phrase(scope)} none {does}"
    return f"of the {phrase(scope)} none below P = {lower:.6g} {does}, which is beyond float64"


UNSETTLED = {
    "not_followed": "the flow was not followed to q_min = infinity, and its limit is guessed from where it ended",
    "step_limit": "the flow was left on its way to q_min = infinity, after many steps",
    "tolerance": "the flow's steps became too short on its way to q_min = infinity",
    "border": "the flow comes to a KKT point on the border of attracting it, and may leave it",
    "disagreement": "two tolerances name different limits, and the flow may have either",
    "inexact": "the KKT equations of the limit could not be solved to 1e-9",
}
"""Why a limit may not be that of the flow, by ENDING."""
