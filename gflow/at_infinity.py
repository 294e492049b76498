"""find_limit(problem, flow) -> Limit: the flow is continued to q_min = infinity, and the KKT point there solved for.

What a flow has become at q_min = 1e3 or 1e8 does not say where it goes: neurons of a rate near that of the others
decide at q_min = e^100 and more. Its continuation ends at patterns that are final, and the subsampled program makes the
limit with these patterns exact. Source: docs/mathematics.md, "The limit at infinity"; arXiv 2110.06488, section 3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

from gflow._types import ENDING, kept_on_host, on_host
from gflow.flow.continuation.solve import SAME, Continued, continuable, followed
from gflow.flow.continuation.state import Place
from gflow.flow.solve import Flow
from gflow.limit import late, limit_of_network
from gflow.network import TwoLayer, VectorTwoLayer, cast_like, host_network
from gflow.parts import require_part
from gflow.problem import Problem
from gflow.programs.base import AtInfinity, Limit
from gflow.programs.max_margin import Programs

Q_MIN = 1e6
"""Smallest margin to which the end of a continuation is scaled: what is not tied there has a multiplier of 0."""

Watch = Callable[[Place], None]


def find_limit(problem: Problem, flow: Flow, *, follow: bool = True, watch: Watch | None = None) -> Limit:
    """The limit of one flow: the direction to which it is continued beyond its end, or the point where it came to rest.

    Args:
        problem: that of the flow, in float64.
        flow: not batched, with both layers moving.
        follow: whether a flow that fits its data is continued to q_min = infinity; if not, and for flows that cannot
            be continued (K outputs, fixed gates), the limit is guessed from the patterns of its end.
        watch: called with a Place, where the continuation stands, now and then.

    Returns:
        A Limit; `settled` says whether the flow was followed to it, and `ending` why not. A flow that failed or stopped
        early gives the merged network of its last saved time, `polished` False.

    Raises:
        ValueError: in float32, and for a flow whose second layer was frozen.
    """
    require_part("problem", problem, Problem)
    if not isinstance(flow, Flow):
        raise ValueError(f"find_limit takes a Flow, got {type(flow).__name__}: of a network use limit_of_network")
    if flow.frozen:
        raise ValueError("a flow with a frozen second layer has another limit: frozen_limit(problem, flow.final)")
    return limits_of(problem, [flow.final], follow=follow, narrow=False, watch=watch)[0]


def limits_of(
    problem: Problem,
    networks: Sequence[TwoLayer | VectorTwoLayer],
    *,
    programs: Programs | None = None,
    follow: bool = True,
    narrow: bool = True,
    watch: Watch | None = None,
) -> list[Limit]:
    """The limits of flows that have ended at these networks, all of one width; see `find_limit`.

    `programs`: those of `problem`, to share them between many networks; `narrow`: whether a second program for flows of
    few neurons is worth its compilation. Neither matters for the limits.
    """
    programs = Programs(problem) if programs is None and problem.outputs is None and problem.directional else programs
    limits: list[Limit | None] = [None] * len(networks)
    going: list[tuple[int, TwoLayer]] = []
    for k, network in enumerate(networks if follow and continuable(problem) else []):
        same = cast_like(network, problem.X)
        if isinstance(same, TwoLayer) and late(problem, same):
            going.append((k, host_network(same.W1, same.w2)))
    found = followed(problem, [n for _, n in going], narrow=narrow, watch=watch) if going else []
    for (k, network), end in zip(going, found, strict=True):
        limits[k] = _limit(problem, programs, network, end)
    pairs = zip(networks, limits, strict=True)
    return [limit_of_network(problem, n, programs=programs) if limit is None else limit for n, limit in pairs]


def _limit(problem: Problem, programs: Programs | None, network: TwoLayer, end: Continued) -> Limit:
    """With the patterns at the `end` of the continuation of `network`."""
    large = host_network(end.network.W1[:, end.large], end.network.w2[end.large])
    large = large.scaled(np.sqrt(Q_MIN))  # pyright: ignore[reportArgumentType]
    limit = limit_of_network(problem, large, settled=2.0, programs=programs)
    ending, exact = end.end, limit.polished and limit.changes == 0
    if end.settled and not (exact and abs(limit.objective - end.objective) <= SAME * limit.objective):
        ending = ENDING.INEXACT
    begun = float(np.log(kept_on_host(problem).margins(on_host(network)).min()))
    behind = {name: float(getattr(end.stability, name)) for name in ("rate", "gap", "entry", "multiplier", "slack")}
    numbers = AtInfinity(**behind, log_q=begun + end.final, steps=end.steps)
    return dataclasses.replace(limit, ending=ending, at_infinity=numbers)


__all__ = ["find_limit", "limits_of"]
