"""continuations(data, jobs) -> lanes: flows followed one after the other, a fixed number of paths in a compiled call.

A flow alone is moved as fast as among others: what costs is the work per neuron, and a lane that waits for nobody skips
what it does not need. Source: docs/mathematics.md, "The limit at infinity".
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from gflow.flow.continuation.state import Data, Neurons, Place
from gflow.flow.continuation.step import Lane, advance, judged, resumed, start
from gflow.flow.modes import Modes
from gflow.network import TwoLayer

NARROW = 16
"""Neurons to which a lane is narrowed when so few are left: of 50 neurons of gaussian (10,5) five to twelve are left
halfway. Networks of fewer have as many, the others absent, so that one program serves all of them."""

WIDE = 2 * NARROW
"""Neurons from which on narrower lanes are worth their program."""

TURN = 256
"""Paths between two looks from outside: at progress, and at Ctrl-C."""


class Job(NamedTuple):
    """A flow to be continued from `network` with steps of this tolerance."""

    network: TwoLayer
    tol: float


def continuations(
    data: Data,
    jobs: Sequence[Job],
    max_steps: int,
    *,
    narrow: bool = True,
    watch: Callable[[Place], None] | None = None,
) -> list[Lane]:
    """Where every job ends, on the host, in their order; networks are balanced, in NumPy arrays, with margins > 0.

    `narrow`: whether lanes are narrowed, for which a second program is compiled. `watch` is called with the Place of
    the job under way after every TURN paths.
    """
    return [_continued(data, job, max_steps, narrow, watch) for job in jobs]


def _continued(data: Data, job: Job, max_steps: int, narrow: bool, watch) -> Lane:
    width = max(job.network.width, NARROW)
    lane = _started(data, job.network.resized(width), np.asarray(job.tol))
    for narrows in (True, False) if narrow and width >= WIDE else (False,):
        going = True
        while going:
            lane, going = _paths(data, lane, np.asarray(max_steps), np.asarray(TURN), narrows)
            if watch is not None:
                watch(lane.place)
        lane = jax.tree.map(np.asarray, lane)
        if narrows and lane.running and lane.place.steps < max_steps:
            lane = _resumed(data, _narrowed(lane.place), lane.tol)
    return jax.tree.map(np.asarray, lane)


def _narrowed(place: Place) -> Place:
    """With the NARROW neurons that are there alone, in their order."""
    log_mass = place.neurons.log_mass
    kept = np.sort(np.argsort(~np.isfinite(log_mass), kind="stable")[:NARROW])
    modes = Modes(*(a[..., kept] for a in place.neurons.modes))
    neurons = Neurons(place.neurons.u[:, kept], log_mass[kept], modes)
    return place._replace(sign=place.sign[kept], neurons=neurons)


_started, _resumed = jax.jit(start), jax.jit(resumed)


@functools.partial(jax.jit, static_argnames="narrows")
def _paths(
    data: Data, lane: Lane, max_steps: Int[Array, ""], count: Int[Array, ""], narrows: bool
) -> tuple[Lane, Bool[Array, ""]]:
    """At most `count` paths of a lane, and whether it is under way still."""

    def going(lane: Lane):
        under_way = lane.running & (lane.place.steps < max_steps)
        few = jnp.sum(jnp.isfinite(lane.place.neurons.log_mass)) <= NARROW
        return under_way & ~(few & lane.resting) if narrows else under_way

    def onward(carry):
        made, lane = carry
        lane = advance(data, lane)
        return made + 1, jax.lax.cond(lane.over, lambda lane: judged(data, lane), lambda lane: lane, lane)

    _, lane = jax.lax.while_loop(lambda carry: (carry[0] < count) & going(carry[1]), onward, (jnp.zeros((), int), lane))
    return lane, going(lane)


__all__ = ["Job", "continuations"]
