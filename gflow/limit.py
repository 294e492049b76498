"""limit_of_network(problem, network) -> Limit: merge neurons by pattern, solve the subsampled program, check it.

At the end of a flow the patterns of its live neurons have usually settled; the max-margin KKT point with these
patterns is then the exact limit of the direction. It is accepted only if its KKT residual says so and the flow's own
end agrees with it. Source: arXiv 2110.06488, section 3; arXiv 2006.05900, section 3; docs/mathematics.md, "The convex
program over masks".
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from gflow._types import kept_on_host, normal_numbers, on_host
from gflow.convex.ascent import resting_places
from gflow.convex.leaky import multipliers, rows
from gflow.convex.newton import KKTPoint
from gflow.convex.oracle import gram_bound, require_float64
from gflow.network import TwoLayer, VectorTwoLayer, cast_like, column_norms, host_network, require_network
from gflow.parts import require_part
from gflow.patterns import canonical, distinct, explained, grouped, joined, merge, pattern_key, positions, undetermined
from gflow.points import point_limit
from gflow.problem import Problem
from gflow.programs.base import ACCEPT, BAND, MOVING, Limit, agrees
from gflow.programs.max_margin import Programs, judge, limit_with
from gflow.vector.limit import vector_limit

SETTLED = 1e-2
"""Largest KKT residual of a network whose patterns are taken for those on the way to its limit, and"""

SLACK = 0.3
"""largest slackness, or"""

LARGE = 30.0
"""smallest q_min. `settled` = 2 tries always."""

ROUGH = 1e-2
"""Relative error of the margins of a flow's end, at most: the tolerance beyond margins of 10."""

ROUNDED = 1e-13
"""|x_n . u_i| <= ROUNDED |x_n| is sliding, where that has to be told from a pair that is only close to it."""

MASSES = (1e-6, 1e-2)
"""Tried in turn: neurons below this share of the largest mass are left out."""

CHANGES = 30
"""Changes of patterns that are followed."""

OUTGROWN = 1e-6
"""A neuron outgrows a limit if it grows faster than the limit's own neurons by more than this, relatively."""


@np.errstate(over="ignore")
def limit_of_network(
    problem: Problem,
    network: TwoLayer | VectorTwoLayer,
    *,
    polish: bool = True,
    settled: float = SETTLED,
    programs: Programs | None = None,
) -> Limit:
    """The KKT point with the patterns of `network`, or the network itself where that is not accepted.

    Polishing needs a loss below that of one sample at margin 0 and a KKT residual <= `settled` with slackness <= SLACK,
    or q_min >= LARGE: earlier in a flow patterns say nothing about the limit, and both residuals are small in its early
    phase too. `polish=False` judges the network as it is. `programs`: those of `problem`, to share them between many
    networks; the limit is the same. Vector output: see `vector_limit`. Raises ValueError for wrong shapes, weights that
    are not finite, and in float32.
    """
    require_part("problem", problem, Problem)
    require_network(network)
    problem.require_sides()
    network = cast_like(network, problem.X)
    if problem.outputs is not None:
        options = {"polish": polish, "always": settled >= 2.0}
        return vector_limit(problem, network, **options)  # pyright: ignore[reportArgumentType]
    if not problem.directional:
        return point_limit(problem, network, polish=polish)  # pyright: ignore[reportArgumentType]
    problem.check(network)
    assert isinstance(network, TwoLayer)
    own: TwoLayer = normal_numbers(on_host(network))
    problem.require_max_margin()
    require_float64(problem.X, own.W1)
    if not (np.all(np.isfinite(own.W1)) and np.all(np.isfinite(own.w2))):
        raise ValueError("the weights are not finite")
    programs = Programs(problem) if programs is None else programs
    unit, q = _balanced(problem, own)
    limit = follow(programs, unit, q) if polish and _late(problem, unit, q, settled) else None
    if limit is not None:
        return limit
    seen = on_host(_look(problem, unit, q))
    if q.min() <= 0:
        patterns, V = merge(problem, unit, ROUNDED, 0.0)
        stuck = not undetermined(problem, own) and programs.stuck(distinct(patterns))
        return limit_with(problem, patterns, V, seen.lam, polished=False, stuck=stuck)
    patterns, V = merge(problem, unit, BAND, 0.0)
    return limit_with(problem, patterns, V, _multipliers(problem, unit, q, seen), polished=False)


def late(problem: Problem, network: TwoLayer) -> bool:
    """Whether a flow at this network has come so far that its end says something about its limit: its weights are
    finite, all margins positive, and q_min >= LARGE or KKT residual and slackness at most SETTLED and SLACK."""
    own = normal_numbers(on_host(network))
    if not (np.all(np.isfinite(own.W1)) and np.all(np.isfinite(own.w2))):
        return False
    return _late(problem, *_balanced(problem, own), SETTLED)


def _late(problem: Problem, unit: TwoLayer, q: np.ndarray, settled: float) -> bool:
    # a look at the residual takes longer than to follow patterns that are known
    if not q.min() > 0 or q.min() >= LARGE or settled >= 2.0:
        return bool(q.min() > 0)
    seen = on_host(_look(problem, unit, q))
    return bool(seen.separated and seen.residual <= settled and seen.slackness <= SLACK)


def _multipliers(problem: Problem, unit: TwoLayer, q: np.ndarray, seen: Look) -> np.ndarray:
    """lambda (n,) of a network whose limit is not named: of its margins or, where these are too large to tell which
    samples share the weight, those that explain the weights, whichever leaves the smaller KKT residual."""
    lam = np.asarray(seen.lam)
    p = explained(problem, unit, q, ROUGH, MOVING) if q.min() >= LARGE else None
    if p is None:
        return lam
    host, other = kept_on_host(problem), np.asarray(problem.y) * p
    return other if float(host.kkt_residual(unit, other, MOVING)) < float(seen.residual) else lam


@np.errstate(divide="ignore")
def _balanced(problem: Problem, network: TwoLayer) -> tuple[TwoLayer, np.ndarray]:
    """The network balanced, its largest mass 1, and the margins (n,) of the network itself; by NumPy."""
    unit = network.balanced()
    largest = np.max(np.log(np.abs(network.w2)) + np.log(column_norms(network.W1)), initial=-np.inf)
    q = np.clip(kept_on_host(problem).margins(unit) * np.exp(largest), -1e300, 1e300)
    return unit, np.nan_to_num(q)


class Look(NamedTuple):
    """Multipliers `lam` (n,), residual, slackness, and whether L < l(0)."""

    lam: Float[Array, " n"]
    residual: Float[Array, ""]
    slackness: Float[Array, ""]
    separated: Bool[Array, ""]


@jax.jit
def _look(problem: Problem, unit: TwoLayer, q: Float[Array, " n"]) -> Look:
    lam = problem.multipliers(q)
    residual, slackness, _ = judge(problem, unit, lam, jnp.abs(lam), MOVING)
    return Look(lam, residual, slackness, problem.separated(q))


def follow(programs: Programs, network: TwoLayer, q: np.ndarray) -> Limit | None:
    """The KKT point to which the patterns of `network` lead, or None. `q` (n,): margins at its true scale.

    The optimum of the subsampled program either is a KKT point or lies on the border of a cone that a neuron wants to
    leave. The flow, which inside fixed patterns converges to this optimum, crosses there; so does the pattern, to the
    side that the least-norm velocity at the border names, and the next program is solved.
    """
    problem, q_min = programs.problem, q.min()
    objective = float(kept_on_host(problem).objective(network))
    for mass in MASSES:
        merged, V, at = grouped(problem, network, BAND, mass)
        patterns, V = canonical(merged, V)
        at = _moved(at, positions(merged, patterns))
        before: set[bytes] = set()
        for changes in range(CHANGES):
            if pattern_key(patterns) in before:
                break
            before.add(pattern_key(patterns))
            point = programs.point(patterns)
            if point is None and changes == 0:
                # the weights of a network scaled to this q_min, times P(theta), are multipliers up to 1/q_min
                p = np.exp(q_min - q)
                unit = float(np.min(problem.margins(network)))
                point = programs.near(patterns, KKTPoint(V / unit, objective * p / p.sum()))
            if point is None:
                break
            if not _accepted(point.limit, objective, q_min):
                patterns, at = point.onward, _moved(at, point.onto)
                continue
            late = _outgrowing(problem, network, point.limit, np.isin(at, point.live))
            if not late.any():
                return dataclasses.replace(point.limit, changes=changes) if changes else point.limit
            more, _, new = grouped(problem, late.network, BAND, 0.0)
            both = joined(patterns, more)
            at = _moved(at, positions(patterns, both))
            at = np.where(late.which >= 0, _moved(_moved(late.which, new), positions(more, both)), at)
            patterns = both
    return None


def _moved(at: np.ndarray, onto: np.ndarray) -> np.ndarray:
    """onto[at], -1 where `at` is -1."""
    return np.where(at >= 0, np.append(onto, -1)[at], -1)


class Late(NamedTuple):
    """`network`: neurons where they come to rest, one per pattern; `which` (m,): which of them every neuron of the
    flow's network has become, -1 for none."""

    network: TwoLayer
    which: np.ndarray

    def any(self) -> bool:
        """Whether there are some."""
        return self.network.width > 0


def _nobody(network: TwoLayer) -> Late:
    return Late(host_network(np.zeros((len(network.W1), 0)), np.zeros(0)), np.full(network.width, -1))


def _outgrowing(problem: Problem, network: TwoLayer, limit: Limit, inside: np.ndarray) -> Late:
    """Neurons, however small, that would outgrow `limit`: where they come to rest, s lambda^T (X u)_+ > 1.

    This is the rate at which they grow there; the limit's own neurons grow at the rate 1. A flow can pass near a KKT
    point for as long as such a neuron takes. Neurons with a pattern of the limit are part of it already, and so are
    those `inside` (m,), which may have crossed borders on the way to it: none of them counts twice.
    """
    X, lam, lower = np.asarray(problem.X), np.asarray(limit.lam), problem.lower_slope
    if gram_bound(rows(X, lower), multipliers(lam, lower)) <= 1 + OUTGROWN:  # no direction at all grows faster
        return _nobody(network)
    others = host_network(np.where(inside, 0.0, network.W1), np.where(inside, 0.0, network.w2))
    patterns, V, member = grouped(problem, others, ROUNDED, 0.0)
    known = {(s, D.tobytes()) for s, D in zip(np.sign(np.asarray(limit.network.w2)), limit.masks.T, strict=True)}
    new = [
        k for k, (s, D) in enumerate(zip(patterns.sign, patterns.mask.T, strict=True)) if (s, D.tobytes()) not in known
    ]
    if not new:
        return _nobody(network)
    rates, ends = resting_places(X, lam, patterns.sign[new], V[:, new] / np.linalg.norm(V[:, new], axis=0), lower)
    grows = np.flatnonzero(rates > 1 + OUTGROWN)
    number = np.full(V.shape[1] + 1, -1)  # of a pattern among these; the last: neurons without one
    number[np.array(new, int)[grows]] = np.arange(len(grows))
    return Late(host_network(ends[:, grows], patterns.sign[new][grows]), number[member])


def _accepted(limit: Limit, objective: float, q_min: float) -> bool:
    exact = limit.fitted and limit.kkt_residual <= ACCEPT and limit.slackness <= ACCEPT
    return exact and agrees(limit.objective, objective, q_min)


__all__ = ["Limit", "follow", "late", "limit_of_network"]
