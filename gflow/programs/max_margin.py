"""What patterns lead to: the Limit that their subsampled program names, and the patterns beyond it. Remembered.

Between the end of a flow and `find_limit`. A point depends on the data and the patterns alone, and the flows of a sweep
end with few different patterns: of a hundred flows a dozen need a program.
Source: arXiv 2110.06488, section 3; arXiv 2006.05900, section 3.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import NamedTuple

import jax
import numpy as np

from gflow._types import kept_on_host, on_host
from gflow.convex.newton import KKTPoint, Patterns
from gflow.convex.subsampled import Optimum, solve_subsampled
from gflow.inclusion import least_norm_slopes
from gflow.network import TwoLayer, host_network
from gflow.patterns import cannot_fit, distinct, pattern_key, positions
from gflow.problem import Problem
from gflow.programs.base import BAND, MOVING, Limit

REST = 1e-9
"""A neuron rests on a border if its velocity across it is at most this share of the largest velocity."""

KEPT = 4096
"""Programs that are remembered."""


class Point(NamedTuple):
    """`limit`: the optimum of a program, whether or not it is a KKT point of the whole problem; `live`: the patterns
    (columns) that its neurons have. `onward`: the patterns after its neurons have crossed the borders at which they do
    not rest, pattern k having become number `onto[k]`."""

    limit: Limit
    live: np.ndarray
    onward: Patterns
    onto: np.ndarray


class Programs:
    """The programs of one problem. Patterns must come from `distinct` or `joined`."""

    def __init__(self, problem: Problem):
        self.problem = problem
        self._points: OrderedDict[bytes, Point | None] = OrderedDict()
        self._stuck: OrderedDict[bytes, bool] = OrderedDict()

    def point(self, patterns: Patterns) -> Point | None:
        """What these patterns lead to; None if their program is infeasible or was not solved."""
        return remembered(self._points, pattern_key(patterns), lambda: self.near(patterns, None))

    def stuck(self, patterns: Patterns) -> bool:
        """Whether no weights with these signs and patterns separate the data, by a linear program."""
        return remembered(self._stuck, pattern_key(patterns), lambda: cannot_fit(self.problem, patterns))

    def near(self, patterns: Patterns, start: KKTPoint | None) -> Point | None:
        """The same by Newton's method from `start`, which is not remembered: it belongs to one flow."""
        X, y = np.asarray(self.problem.X), np.asarray(self.problem.y)
        optimum = solve_subsampled(X, y, patterns, start, self.problem.lower_slope)
        if optimum is None:
            return None
        heaviest = np.argsort(-np.linalg.norm(optimum.V, axis=0), kind="stable")
        sign, mask, sliding = optimum.patterns
        ordered = Patterns(sign[heaviest], mask[:, heaviest], sliding[:, heaviest])
        optimum = Optimum(optimum.cones[heaviest], ordered, optimum.V[:, heaviest], optimum.alpha)
        lam = y * np.maximum(optimum.alpha, 0.0)
        limit = limit_with(self.problem, optimum.patterns, optimum.V, lam, polished=True)
        crossed = _crossed(self.problem, patterns, optimum, limit)
        onward = distinct(crossed)
        return Point(limit, optimum.cones, onward, positions(crossed, onward))


def remembered(memory: OrderedDict, key, make, kept: int = KEPT):
    """memory[key], made if it is not there; the entries that were used last are kept."""
    if key not in memory:
        memory[key] = make()
        if len(memory) > kept:
            memory.popitem(last=False)
    memory.move_to_end(key)
    return memory[key]


def _crossed(problem: Problem, patterns: Patterns, optimum: Optimum, limit: Limit) -> Patterns:
    """`patterns` after the neurons of `limit` have crossed the borders at which they do not rest.

    The least-norm velocity across a border says to which side: its entry of the slope does not, where lambda_n = 0.
    """
    X = np.asarray(problem.X)
    host, (W1, lam) = kept_on_host(problem), on_host((limit.network.W1, limit.lam))
    slopes = least_norm_slopes(host.X, lam, W1, problem.activation, BAND, host.lines)
    velocity = optimum.patterns.sign * (X.T @ (slopes * lam[:, None]))
    across = X @ velocity / np.maximum(np.linalg.norm(X, axis=1)[:, None], 1e-300)
    border, cones = optimum.patterns.sliding, optimum.cones
    resting = np.abs(across) <= REST * np.max(np.linalg.norm(velocity, axis=0), initial=0.0)
    friendly = optimum.patterns.sign * np.asarray(problem.y)[:, None] > 0
    mask, sliding = patterns.mask.copy(), patterns.sliding.copy()
    mask[:, cones] = np.where(border & ~(friendly & resting), (across > 0) & ~resting, mask[:, cones])
    sliding[:, cones] = border & ~friendly & resting
    return Patterns(patterns.sign, mask, sliding)


def limit_with(problem: Problem, patterns: Patterns, V, lam, *, polished: bool, stuck: bool = False) -> Limit:
    """The Limit whose neurons act as the columns of V (d, K), with multipliers `lam` (n,) up to a factor."""
    mass = np.linalg.norm(V, axis=0)
    root = np.sqrt(mass)
    network, host = host_network(V / np.where(root > 0, root, 1.0), patterns.sign * root), kept_on_host(problem)
    q_min = float(host.margins(network).min())
    if q_min > 0:
        network = network.scaled(1 / np.sqrt(q_min))
    q = host.margins(network)
    p = np.abs(lam) / max(np.abs(lam).sum(), 1e-300)
    # sliding pairs of a solved point are exact to rounding; those of a flow under way are to its tolerance
    residual, slackness, objective = judge(host, network, lam, p, BAND if polished else MOVING)
    if not polished and q_min > 0:
        lam = lam * float(objective)  # multipliers of the scaled problem: sum alpha = P
    network, lam, q = jax.device_put((network, lam, q))  # together: one by one takes a millisecond
    return Limit(
        network, lam, q, patterns.mask, patterns.sliding, float(objective), float(residual),
        float(slackness), polished, stuck, 0,
    )  # fmt: skip


def judge(problem: Problem, network: TwoLayer, lam, p, band):
    """KKT residual, slackness and objective. By NumPy where all are arrays of it: what is asked of XLA while flows have
    its threads waits for the end of their turn, a second."""
    q = problem.margins(network)
    return problem.kkt_residual(network, lam, band), problem.slackness(q, p), problem.objective(network)
