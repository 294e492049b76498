"""Many continuations at once: lanes of one shape that are refilled, and narrower ones for flows with few neurons left.

What a lane does depends on its own flow alone: it moves to narrower lanes with the step after which so few neurons are
left, whatever its neighbours do. Source: docs/mathematics.md, "The limit at infinity".
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from gflow.flow.continuation.state import Data, Neurons, Place
from gflow.flow.continuation.step import Lane, advance, begin, judged, resumed
from gflow.flow.modes import Modes
from gflow.network import TwoLayer

LANES = 16
"""Flows that one compiled call moves. On a CPU a flow costs as much among 64."""

FEW = 2
"""Lanes for one flow, two looks side by side. They stay as wide as the network: a program for narrower ones would take
longer to compile than it saves."""

NARROW = 16
"""Neurons of the narrower lanes: of 50 neurons of gaussian (10,5) five to twelve are left halfway. Where there are
fewer than that from the start these are the only lanes, so that one program serves all narrow networks."""

WIDE = 2 * NARROW
"""Neurons from which on the narrower lanes are worth their program."""

TURN = 64
"""Paths between two looks from outside: at what has ended, at progress, and at Ctrl-C."""

WAITING = 0.25
"""Steps are judged when this share of the lanes under way has one that is over: all lanes are judged together, and a
path of all costs two to three times as much."""


class Job(NamedTuple):
    """A flow to be continued from `network` with steps of this tolerance."""

    network: TwoLayer
    tol: float


def continuations(
    data: Data,
    jobs: Sequence[Job],
    max_steps: int,
    *,
    lanes: int = LANES,
    watch: Callable[[Place], None] | None = None,
) -> list[Lane]:
    """Where every job ends, on the host, in their order; all networks have one width, balanced, with margins > 0.

    `watch` is called with the Place of the first job under way after every TURN paths.
    """
    if not jobs:
        return []
    width = max(jobs[0].network.width, NARROW)
    tols = np.array([job.tol for job in jobs])
    networks = _stacked([job.network.resized(width) for job in jobs])
    found: dict[int, Lane] = {}
    brought = (networks, tols)
    order = np.arange(len(jobs))
    narrows = width >= WIDE and lanes > FEW
    for narrow in (True, False) if narrows else (False,):
        rest = list(_refilled(data, order, brought, lanes, max_steps, narrow, watch))
        found |= dict(rest)
        onward = [(k, lane) for k, lane in rest if _narrows(lane, max_steps)] if narrow else []
        if not onward:
            break
        order = np.array([k for k, _ in onward])
        brought = (_stacked([_narrowed(lane.place) for _, lane in onward]), tols[order])
    return [found[k] for k in range(len(jobs))]


def _narrows(lane: Lane, max_steps: int) -> bool:
    return bool(lane.running and lane.place.steps < max_steps)


def _narrowed(place: Place) -> Place:
    """With the NARROW neurons that are there alone, in their order."""
    log_mass = place.neurons.log_mass
    kept = np.sort(np.argsort(~np.isfinite(log_mass), kind="stable")[:NARROW])
    modes = Modes(*(a[..., kept] for a in place.neurons.modes))
    neurons = Neurons(place.neurons.u[:, kept], log_mass[kept], modes)
    return place._replace(sign=place.sign[kept], neurons=neurons)


def _refilled(
    data: Data, order: np.ndarray, brought, size: int, max_steps: int, narrows: bool, watch
) -> Iterator[tuple[int, Lane]]:
    """(job, lane) of all that are brought, number order[k] being row k, as they end or have become narrow."""
    held = np.full(size, -1)
    lanes, given = None, 0
    while True:
        free = np.flatnonzero(held < 0)[: len(order) - given]
        if len(free):
            held[free] = np.arange(given, given + len(free))
            given += len(free)
            new = np.zeros(size, bool)
            new[free] = True
            fresh = jax.tree.map(lambda a: a[np.maximum(held, 0)], brought)
            lanes = _filled(data, fresh) if lanes is None else _put(data, lanes, fresh, new)
        if not np.any(held >= 0):
            return
        lanes, going = _turn(data, lanes, held >= 0, max_steps, TURN, narrows)
        going = np.asarray(going)
        if watch is not None and going.any():
            watch(_row(lanes.place, int(np.argmax(going))))
        for k in np.flatnonzero((held >= 0) & ~going):
            yield int(order[held[k]]), _row(lanes, k)
            held[k] = -1


def _row(tree, k: int):
    return jax.tree.map(lambda a: np.asarray(a)[k], tree)


def _stacked(trees: list):
    return jax.tree.map(lambda *a: np.stack(a), *trees)


def _entered(data: Data, brought, tol) -> Lane:
    place = begin(data, brought) if isinstance(brought, TwoLayer) else brought
    return resumed(data, place, tol)


@jax.jit
def _filled(data: Data, fresh) -> Lane:
    return jax.vmap(_entered, (None, 0, 0))(data, *fresh)


@jax.jit
def _put(data: Data, lanes: Lane, fresh, new: Bool[Array, " lanes"]) -> Lane:
    return jax.vmap(_chosen)(new, jax.vmap(_entered, (None, 0, 0))(data, *fresh), lanes)


def _chosen(which, a, b):
    return jax.tree.map(lambda x, y: jnp.where(which, x, y), a, b)


@functools.partial(jax.jit, static_argnames="narrows")
def _turn(
    data: Data, lanes: Lane, held: Bool[Array, " lanes"], max_steps, count, narrows: bool
) -> tuple[Lane, Bool[Array, " lanes"]]:
    """At most `count` paths of every lane that is held and under way, and which are so still."""

    def under_way(lane: Lane, held):
        going = held & lane.running & (lane.place.steps < max_steps)
        few = jnp.sum(jnp.isfinite(lane.place.neurons.log_mass)) <= NARROW
        return going & ~(few & lane.resting) if narrows else going

    def one(lane: Lane, held):
        return advance(data, lane, under_way(lane, held))

    def onward(carry):
        made, lanes = carry
        lanes = jax.vmap(one)(lanes, held)
        over, going = held & jax.vmap(lambda lane: lane.over)(lanes), jax.vmap(under_way)(lanes, held)
        enough = jnp.sum(over) >= jnp.maximum(WAITING * jnp.sum(going), 1)
        ended = lambda lanes: jax.vmap(judged, (None, 0))(data, lanes)  # noqa: E731
        return made + 1, jax.lax.cond(enough, ended, lambda lanes: lanes, lanes)

    going = lambda carry: (carry[0] < count) & jnp.any(jax.vmap(under_way)(carry[1], held))  # noqa: E731
    _, lanes = jax.lax.while_loop(going, onward, (jnp.zeros((), int), lanes))
    return lanes, jax.vmap(under_way)(lanes, held)


__all__ = ["FEW", "LANES", "Job", "continuations"]
