"""Limit and Certificate: where a flow ends, and what is proved about a network; `decide` makes the verdict.

Every program of this catalogue names limits and proves bounds in these terms. Source: docs/mathematics.md, "The
certificate".
"""

from __future__ import annotations

from typing import NamedTuple

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool, Float

from gflow._types import ENDING, VERDICT, Scope
from gflow.network import TwoLayer

BAND = 1e-9
"""|x_n . u_i| <= BAND |x_n| is sliding."""

MOVING = 1e-6
"""The same for a flow under way, whose neurons approach hyperplanes on which they will come to rest."""

ACCEPT = 1e-9
"""A limit is exact ("polished") if KKT residual and slackness are at most this."""

AGREEMENT = 10.0
"""P(flow) >= (1 - e) P(limit), e = AGREEMENT (1 + log q_min) / q_min: the normalised margin of a flow only rises. And
P(flow) <= (1 + e) P(limit), with"""

SLOW = 1e3
"""this q_min in place of a larger one: neurons that grow at a rate rho near that of the others approach their shares
like q_min^-|rho - 1|, and no q_min within reach makes their distance as small as e."""

TOLERANCE = 1e-6
"""GLOBAL and NOT_GLOBAL are said up to this, relatively, less what rounding leaves open."""

DUALITY = 1e-9
"""A lower bound may exceed an objective by what rounding leaves open and by this, relatively: bounds carry rounding of
their own. One that exceeds it by more is false, whatever went wrong, and nothing is said."""


class AtInfinity(NamedTuple):
    """What the continuation of a flow to q_min = infinity found: the numbers behind `settled`.

    `rate`: the largest rate rho at which a neuron grows that is not part of the limit, whose own grow at the rate 1; 0
    if there is none. `gap`: the smallest |x_n . u_i|/|x_n| of pairs that do not slide. `entry`: of those that do the
    least distance of an entry from 0 and 1; 1/2 if none slides. `multiplier`: the smallest positive p_n. `slack`: the
    smallest q_n - 1 of samples with p_n = 0, infinite if there is none. `log_q`: log q_min when patterns became final.
    `steps`: of the continuation.
    """

    rate: float
    gap: float
    entry: float
    multiplier: float
    slack: float
    log_q: float
    steps: int


class Limit(eqx.Module):
    """The end of a flow, its neurons merged by (sign, pattern) and scaled to q_min = 1.

    `network`: K live neurons, W1 (d, K), w2 (K,), balanced (largest weight 1 if the data are not fitted).
    `lam` (n,): lambda = Y alpha, alpha >= 0, at an exact limit sum alpha = P. `masks`, `sliding` (n, K): samples
    strictly active / on the hyperplane. `objective`: P(theta), infinite where the data are not fitted.
    `kkt_residual`: 1 - cos(theta, v); `slackness`: max_n p_n (q_n/q_min - 1).
    `polished`: the KKT point was solved for and accepted; otherwise the network is the flow's own end. `stuck`: the
    data are not fitted and, as a linear program proves, cannot be with these signs of a_i and of x_n . w_i. `changes`:
    how often patterns were changed on the way from the flow's end to the limit, 0 if they had settled. `loss`: None; of
    a point L, and `point_limit` says what the other fields are. `ending`: how the flow's continuation to q_min =
    infinity ended, `at_infinity` what it found, None where the flow was not continued.
    """

    network: TwoLayer
    lam: Float[Array, " n"]
    margins: Float[Array, " n"]
    masks: Bool[np.ndarray, "n K"]
    sliding: Bool[np.ndarray, "n K"]
    objective: float
    kkt_residual: float
    slackness: float
    polished: bool = eqx.field(static=True)
    stuck: bool = eqx.field(static=True)
    changes: int = eqx.field(static=True)
    loss: float | None = None
    ending: ENDING = eqx.field(static=True, default=ENDING.NOT_FOLLOWED)
    at_infinity: AtInfinity | None = None

    @property
    def settled(self) -> bool:
        """Whether this is the flow's limit: a KKT point that attracts all that is near, to which it was followed."""
        return self.ending == ENDING.SETTLED

    @property
    def fitted(self) -> bool:
        """Whether all margins are positive."""
        return bool(np.isfinite(self.objective))


def agrees(limit: float, flow: float, q_min: float) -> bool:
    """Whether the objective of a flow's end, there at q_min, agrees with that of its limit."""
    below, above = (AGREEMENT * (1 + max(np.log(q), 0.0)) / q * limit for q in (q_min, min(q_min, SLOW)))
    return bool(-below <= flow - limit <= above)


class Certificate(eqx.Module):
    """What is proved about a network.

    `objective`: P(theta). `lower_bound`: proved, P* >= lower_bound, P* the optimum over the networks of `scope`. `c` =
    P(theta) B(p) >= 1, an upper bound of P(theta)/P*, rounding included; infinite where the data are not fitted, and
    where bound and objective contradict each other (then lower_bound is 0). `exact`: B(p) was maximised over all faces;
    otherwise, and of a point, c = P(theta)/lower_bound, from bounds that hold for all directions (Gram, semidefinite).
    `p` (n,): the weights used; of a point alpha_n = -l'(q_n).
    `missing_neuron` (d,): a direction with |lambda^T (X u)_+| P(theta) > 1, whose absence keeps the network from the
    optimum; None if none was found, and for networks whose multipliers are guesses, unless they are NOT_GLOBAL.
    `better`: a feasible network (q_min = 1) with a lower objective, the proof of NOT_GLOBAL, or None. `optimum`: P*
    where it is proved to a relative gap of 1e-6 (by this certificate or by the solved program), else None.
    """

    verdict: VERDICT = eqx.field(static=True)
    scope: Scope = eqx.field(static=True)
    objective: float
    lower_bound: float
    c: float
    p: Float[np.ndarray, " n"]
    missing_neuron: Float[np.ndarray, " d"] | None
    better: TwoLayer | None
    optimum: float | None
    exact: bool = eqx.field(static=True)


class Judgement(NamedTuple):
    """`verdict`; `lower_bound` <= optimum; `c` >= 1; `better`: whether the other network is better by more than
    tolerance and rounding, whatever the verdict; `sound`: False where what was given is contradictory, and lower_bound
    is 0."""

    verdict: VERDICT
    lower_bound: float
    c: float
    better: bool
    sound: bool = True


def decide(
    objective: float,
    lower: float,
    *,
    rounding: float,
    better: float = np.inf,
    better_rounding: float = 0.0,
    settled: bool = True,
    falls: bool = True,
    unfitted: bool = False,
) -> Judgement:
    """The verdict about a network from bounds of one scope; no other place decides one.

    Nothing is said where a number is NaN, or the bound exceeds an objective, which weak duality forbids.

    Args:
        objective: of the network, >= 0; infinite if it is not feasible (does not fit, does not interpolate).
        lower: proved, no network of the scope has a lower objective; infinite if none of them is feasible.
        rounding: a bound on the relative rounding error of `objective`.
        better: the objective of another network of the scope, infinite if there is none; `better_rounding`: of it.
        settled: False for a flow under way. What it goes on to is unknown: a better network proves nothing.
        falls: whether the objective of a flow under way only falls, so that GLOBAL of it is GLOBAL of its limit.
        unfitted: whether it is proved that no network of Scope.PATTERNS is feasible.

    Returns:
        The judgement. GLOBAL: lower >= (1 - TOLERANCE) objective; NOT_GLOBAL: better < (1 - TOLERANCE) objective, both
        rounding included. UNFITTED only if `objective` is infinite. `c` = objective / lower, rounded up.
    """
    lower = max(lower, 0.0) if lower == lower else lower
    upper = objective * (1 + rounding) if objective < np.inf and rounding < np.inf else np.inf
    rival = better * (1 + better_rounding) if better < np.inf and better_rounding < np.inf else np.inf
    least = min(upper, rival)
    numbers = not np.isnan([objective, lower, rounding, better, better_rounding]).any()
    if not numbers or (least < np.inf and lower > (1 + DUALITY) * least):
        return Judgement(VERDICT.INCONCLUSIVE, 0.0, np.inf, False, sound=False)
    if objective == np.inf:
        proved = VERDICT.NOT_GLOBAL if settled and rival < np.inf else VERDICT.INCONCLUSIVE
        return Judgement(VERDICT.UNFITTED if unfitted else proved, lower, np.inf, rival < np.inf)
    if upper == np.inf:
        return Judgement(VERDICT.INCONCLUSIVE, lower, np.inf, False)
    c = max(1.0, upper / lower) if lower > 0 else (1.0 if upper == 0 else np.inf)
    worse = better < (1 - TOLERANCE - rounding - better_rounding) * objective
    verdict = VERDICT.INCONCLUSIVE
    if worse and settled:
        verdict = VERDICT.NOT_GLOBAL
    elif not worse and upper - lower <= TOLERANCE * objective and (settled or falls):
        verdict = VERDICT.GLOBAL
    return Judgement(verdict, lower, c, bool(worse))


def proved_optimum(primal: float, lower: float) -> float | None:
    """The optimum between these bounds if they agree to TOLERANCE, else None."""
    return primal if primal < np.inf and (1 - TOLERANCE) * primal <= lower <= (1 + DUALITY) * primal else None
