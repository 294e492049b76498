"""Flows with large margins followed to the limits of their directions, each until two tolerances agree.

Source: docs/mathematics.md, "The limit at infinity"; arXiv 2110.06488, section 3.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float

from gflow._types import ENDING
from gflow.flow.continuation.lanes import Job, continuations
from gflow.flow.continuation.stability import GAP, KKT, Stability
from gflow.flow.continuation.state import Data, Place
from gflow.flow.continuation.step import SHORTEST, Lane
from gflow.network import TwoLayer, host_network
from gflow.problem import Problem

TOLERANCE = 0.1
"""Of a step: angles in radians, log masses. The coarsest with which a flow is followed."""

FINER, REFINED = 0.1, 2
"""A flow is followed again at this share of the last tolerance until two that follow each other name the same limit, or
so often. Of 127 flows of gaussian (10,5) 125 need one look more, two need two."""

MAX_STEPS = 2000
"""Attempted steps of a flow; with all but a fitting set of neurons lowered by e^-60 in mass one needs 202."""

SAME = 1e-6
"""Limits whose objectives differ by this, relatively, and that have the same patterns, are one."""


class Continued(eqx.Module):
    """Where a flow goes as q_min tends to infinity.

    `network`: K neurons, those of equal sign, pattern and direction merged, balanced and scaled to q_min = 1; of a flow
    that is not `settled` those where it was left. `masks`, `sliding` (n, K): their patterns; `large` (K,): those that
    are part of the limit. `p` (n,): weights of the samples, sum 1. `objective`: P(theta) = sum_i |a_i||w_i|. `log_q`:
    by how much log q_min has grown since the continuation began; `final`: the same when patterns became final.
    `stability`: the numbers behind `settled`. `steps`, `rejected`: attempted steps, and those not accepted; `events`:
    crossings and slides.
    """

    network: TwoLayer
    masks: Bool[np.ndarray, "n K"]
    sliding: Bool[np.ndarray, "n K"]
    large: Bool[np.ndarray, " K"]
    p: Float[np.ndarray, " n"]
    objective: float
    log_q: float
    final: float
    stability: Stability
    steps: int
    rejected: int
    events: int
    end: ENDING = eqx.field(static=True)

    @property
    def settled(self) -> bool:
        """Whether the place reached is a KKT point that attracts all that is near."""
        return self.end == ENDING.SETTLED

    @property
    def patterns(self) -> set[tuple]:
        """(sign, mask, sliding) of the neurons of the limit."""
        some = np.flatnonzero(self.large)
        return {(float(np.sign(self.network.w2[k])), *self._at(int(k))) for k in some}

    def _at(self, k: int) -> tuple[bytes, bytes]:
        return (self.masks[:, k] & ~self.sliding[:, k]).tobytes(), self.sliding[:, k].tobytes()

    def same_limit(self, other: Continued) -> bool:
        """Whether both have the same objective to SAME and the same patterns."""
        close = abs(self.objective - other.objective) <= SAME * self.objective
        return bool(close and self.patterns == other.patterns)


def continuable(problem: Problem) -> bool:
    """Whether flows of this problem have a limit at infinity that can be followed: one output, a loss of margins, no
    weight decay, an activation with a kink, float64."""
    scalar = problem.outputs is None and problem.directional and problem.of_margins
    return bool(scalar and problem.activation.kinks and problem.X.dtype == jnp.float64)


def followed(
    problem: Problem,
    networks: Sequence[TwoLayer],
    *,
    tol: float = TOLERANCE,
    max_steps: int = MAX_STEPS,
    narrow: bool = True,
    watch: Callable[[Place], None] | None = None,
) -> list[Continued]:
    """Follow flows from networks with large margins to q_min = infinity, until two tolerances agree.

    Args:
        problem: one for which `continuable` holds.
        networks: ends of flows, W1 (d, m) and w2 (m,), all of one width and with positive margins; taken as balanced.
            The larger the smallest margin of a flow is the less it matters that it is not infinite.
        tol: tolerance of a step of the first look, for angles in radians and for log masses; a tenth of it of the
            second, and a hundredth of the third, if these two disagree.
        max_steps: attempted steps of each look at most.
        narrow: whether flows of few neurons left are moved by a program of their own: worth it for several.
        watch: called with the Place of the one under way after every 256 paths.

    Returns:
        What the last look at each flow found, SETTLED only if the one before settled too, at the same limit.

    Raises:
        ValueError: for other problems, in float32, and where a margin is not positive.
    """
    starts = [balanced(problem, network) for network in networks]

    def looks(which: Sequence[int], tols: Sequence[float]) -> list[list[Continued]]:
        jobs = [Job(starts[k], share) for k in which for share in tols]
        ends = [_result(lane) for lane in continuations(Data(problem), jobs, max_steps, narrow=narrow, watch=watch)]
        return [ends[i : i + len(tols)] for i in range(0, len(ends), len(tols))]

    pairs = looks(range(len(starts)), (tol, tol * FINER))
    for k in range(2, REFINED + 1):
        again = [i for i, pair in enumerate(pairs) if pair[1].settled and not _same(*pair)]
        for i, (finer,) in zip(again, looks(again, (tol * FINER**k,)), strict=True):
            pairs[i] = [pairs[i][1], finer]
    return [_agreed(*pair) for pair in pairs]


def continued(problem: Problem, network: TwoLayer, *, tol: float = TOLERANCE, max_steps: int = MAX_STEPS) -> Continued:
    """The same of one flow at one tolerance."""
    return _result(continuations(Data(problem), [Job(balanced(problem, network), tol)], max_steps, narrow=False)[0])


def balanced(problem: Problem, network: TwoLayer) -> TwoLayer:
    """The network balanced, in NumPy arrays, if the flow of it can be followed; a ValueError if not."""
    problem.require_scalar()
    problem.require_max_margin()
    problem.require_sides()
    problem.check(network)
    if problem.X.dtype != jnp.float64:
        raise ValueError('limits need float64: jax.config.update("jax_enable_x64", True)')
    same = host_network(network.W1, network.w2).balanced()
    if not float(jnp.min(problem.margins(same))) > 0:
        raise ValueError("a margin is not positive: only flows that fit their data have a limit at infinity")
    return same


def _same(coarse: Continued, fine: Continued) -> bool:
    """Whether both have settled, at the same limit."""
    return coarse.settled and fine.settled and coarse.same_limit(fine)


def _agreed(coarse: Continued, fine: Continued) -> Continued:
    """`fine`, settled only if `coarse` has settled as well, at the same limit."""
    if not fine.settled or _same(coarse, fine):
        return fine
    return dataclasses.replace(fine, end=ENDING.DISAGREEMENT if coarse.settled else coarse.end)


def _result(lane: Lane) -> Continued:
    """Of one lane, on the host."""
    place, neurons = lane.place, lane.place.neurons
    live = np.flatnonzero(np.isfinite(neurons.log_mass))
    live = live[np.argsort(-neurons.log_mass[live], kind="stable")]
    root = np.exp(0.5 * neurons.log_mass[live])
    network = host_network(neurons.u[:, live] * root, place.sign[live] * root)
    numbers = jax.tree.map(lambda a: np.asarray(a).item(), lane.stability)
    on, slide = np.asarray(neurons.modes.on)[:, live], np.asarray(neurons.modes.slide)[:, live]
    return Continued(
        network, on, slide, np.asarray(place.large)[live], np.asarray(place.p),
        float(np.exp(neurons.log_mass[live]).sum()), float(place.log_q), float(place.final), numbers,
        int(place.steps), int(place.rejected), int(place.events), _ending(lane),
    )  # fmt: skip


def _ending(lane: Lane) -> ENDING:
    if lane.stability.settled:
        return ENDING.SETTLED
    if lane.stability.kkt < KKT and lane.stability.rate <= 1 + GAP:
        return ENDING.BORDER  # at a KKT point, from which no neuron leads away
    return ENDING.TOLERANCE if lane.place.length <= SHORTEST * lane.place.objective else ENDING.STEP_LIMIT


__all__ = ["Continued", "continuable", "continued", "followed"]
