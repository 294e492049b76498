"""Flows from a queue through lanes: those that have ended make room for those that wait, until none is left.

A flow has one leg or two: lanes of one stepper up to a margin, and from there on those of another one, whose steps are
implicit in the multipliers. Each leg is compiled apart and has pools of its own.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from gflow._types import RESULTS, result_code
from gflow.flow.lanes import Stepper
from gflow.flow.pool import IDLE, UNUSED, Continued, Drawn, End, Leg, Pool
from gflow.network import TwoLayer, VectorTwoLayer

CONTINUED = int(result_code(RESULTS.margin_reached))
"""How a flow ends its first leg if it has a second."""

AHEAD = 2
"""Turns per device whose flows may wait for the caller: beyond that the device waits."""


class Refill(eqx.Module):
    """How flows are run: `draw(index)` is the network of initialisation `index`, `stepper` integrates it, and `later`,
    if it is given, goes on from where the margin of `stepper` is reached."""

    stepper: Stepper
    draw: Callable[[Int[Array, ""]], TwoLayer | VectorTwoLayer]
    later: Stepper | None = None

    @property
    def legs(self) -> tuple[Leg, ...]:
        """The first and, if there is one, the second."""
        first = Leg(self.stepper, Drawn(self.stepper, self.draw))
        return (first,) if self.later is None else (first, Leg(self.later, Continued(self.later)))


def harvests(
    refill: Refill,
    indices: np.ndarray,
    *,
    devices: Sequence,
    chunk: int,
    chunks: int,
    steps: int,
    watch: Callable[[int, int], None] | None = None,
) -> Iterator[tuple[np.ndarray, End]]:
    """Run the flows of `indices`; yield those that have ended, a turn of a device at a time, as (positions in `indices`
    (h,), End with leaves (h, ...) on the host).

    For every entry of `devices` there is a thread, and a pool for every leg; none waits for another while there are
    flows for it. On a CPU a compiled call returns when it has ended and takes one core, and calls of several threads
    run at once: so name it once for every core to use. Every device compiles every leg once. Devices go on while the
    caller works on a harvest, up to AHEAD turns. `watch(busy, lanes)` is called once a turn, by the caller's thread:
    how many of the lanes that it moved were under way when it began.
    """
    work = _Work(refill, devices, chunk, chunks)
    threads = ThreadPoolExecutor(len(devices), "gflow device")
    try:
        one_of = {device: k for k, device in enumerate(devices)}
        for compiled in [threads.submit(work.compile, k) for k in one_of.values()]:
            compiled.result()
        work.queues[0].add(np.arange(len(indices)), indices)
        running = [threads.submit(work.run, k, steps) for k in range(len(devices))]
        for (busy, lanes), harvest in work.harvests(len(devices)):
            if watch is not None:
                watch(busy, lanes)
            yield harvest
        for thread in running:
            thread.result()  # raises what ended it
    finally:  # an interrupt must not wait for what is being compiled
        work.stop()
        threads.shutdown(wait=False, cancel_futures=True)


class _Work:
    """What the threads of all devices share, under one lock: flows that wait for a leg, and those that have ended."""

    def __init__(self, refill: Refill, devices: Sequence, chunk: int, chunks: int):
        brought, self.queues, self.lanes = jax.ShapeDtypeStruct((chunk,), int), [], [[] for _ in devices]
        for leg in refill.legs:
            self.queues.append(_Queue(brought))
            for own, device in zip(self.lanes, devices, strict=True):
                own.append(_Lanes(leg, brought, device, chunks))
            brought = leg.shapes(brought)
        self.chunk, self.changed = chunk, threading.Condition()
        self.ended: deque[tuple[tuple[int, int], tuple[np.ndarray, End]]] = deque()
        self.finished, self.stopped = 0, False

    def compile(self, k: int) -> None:
        """Turns of no steps: of devices that are one, each would compile for itself."""
        for lanes in self.lanes[k]:
            lanes.turn(np.full_like(lanes.held, IDLE), lanes.nothing(), 0)

    def stop(self) -> None:
        """Let every thread end with its present turn."""
        with self.changed:
            self.stopped = True
            self.changed.notify_all()

    def harvests(self, threads: int) -> Iterator[tuple[tuple[int, int], tuple[np.ndarray, End]]]:
        """((busy, lanes), (positions, ends)) of turns, until so many threads have finished."""
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.ended or self.finished == threads)
                if not self.ended:
                    return
                turn = self.ended.popleft()
                self.changed.notify_all()
            yield turn

    def run(self, k: int, steps: int) -> None:
        """The thread of device `k`: turns of its lanes until no flow is left anywhere."""
        last = None
        try:
            while (leg := self._begin(k, last)) is not None:
                lanes = self.lanes[k][leg]
                moved = lanes.busy, lanes.held.size
                lanes.turn(lanes.fresh, lanes.brought, steps)
                self._end(moved, leg, *lanes.take(with_flows=leg + 1 < len(self.queues)))
                last = leg
        except BaseException:
            self.stop()
            raise
        finally:
            with self.changed:
                self.finished += 1
                self.changed.notify_all()

    def _begin(self, k: int, last: int | None) -> int | None:
        """Which leg device `k` moves now that it has moved `last`, its lanes filled; None if there is nothing left."""
        with self.changed:
            self.changed.wait_for(lambda: self.stopped or self._next(k, last) is not None or not self._left())
            leg = None if self.stopped else self._next(k, last)
            if leg is not None:
                lanes, waiting = self.lanes[k][leg], self.queues[leg]
                share = math.ceil(len(waiting) / (len(self.lanes) * self.chunk)) * self.chunk
                # of flows that do not fill its lanes a device leaves their share to the others
                lanes.fill(waiting, len(waiting) if self._flows(k, leg) >= lanes.held.size else share)
            return leg

    def _left(self) -> bool:
        return any(map(len, self.queues)) or any(lanes.busy for own in self.lanes for lanes in own)

    def _flows(self, k: int, leg: int) -> int:
        """How many flows its lanes hold, or could."""
        return self.lanes[k][leg].busy + len(self.queues[leg])

    def _next(self, k: int, last: int | None) -> int | None:
        """The leg furthest on that has a flow for every lane: the steps of few lanes take as long as those of many. If
        none has, they take turns."""
        flows = [self._flows(k, leg) for leg in range(len(self.queues))]
        legs = [leg for leg, count in enumerate(flows) if count > 0]
        full = [leg for leg in legs if flows[leg] >= self.lanes[k][leg].held.size]
        if full or len(legs) < 2:
            return max(full or legs, default=None)
        return next(leg for leg in legs if leg != last)

    def _end(self, moved: tuple[int, int], leg: int, positions: np.ndarray, ends: End, flows: Pool | None) -> None:
        with self.changed:
            if flows is not None:
                going = ends.result == CONTINUED
                self.queues[leg + 1].add(positions[going], _of(flows, going))
                positions, ends = positions[~going], _of(ends, ~going)
            self.ended.append((moved, (positions, ends)))
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.stopped or len(self.ended) <= AHEAD * len(self.lanes))


class _Queue:
    """Flows that wait for a leg: `positions` (k,), and what each of their lanes starts with."""

    def __init__(self, brought):
        """`brought`: shapes (lanes of a chunk, ...) of the latter."""
        self.positions = np.zeros(0, int)
        self.brought = jax.tree.map(lambda leaf: np.zeros((0, *leaf.shape[1:]), leaf.dtype), brought)

    def __len__(self) -> int:
        return len(self.positions)

    def add(self, positions: np.ndarray, brought) -> None:
        self.positions, self.brought = _joined((self.positions, self.brought), (positions, brought))

    def take(self, count: int):
        """The first `count`, which wait no longer."""
        taken = _of((self.positions, self.brought), slice(count))
        self.positions, self.brought = _of((self.positions, self.brought), slice(count, None))
        return taken


class _Lanes:
    """The lanes of one leg on one device: which flow each of them holds, and which start with the next turn."""

    def __init__(self, leg: Leg, brought, device, chunks: int):
        """`brought`: shapes of what the lanes of a chunk start with."""
        zeros = jax.tree.map(lambda leaf: np.zeros((chunks, *leaf.shape), leaf.dtype), leg.shapes(brought))
        self.leg, self.device, self.pool, self.ends = leg, device, jax.device_put(zeros, device), None
        self.held: np.ndarray = np.full(np.shape(zeros.lanes.steps), IDLE)
        self.fresh = np.full_like(self.held, UNUSED)
        self.shapes, self.brought = brought, None

    def nothing(self):
        """What is brought where no lane starts: made on the device, to which it would be long to send."""
        shape = self.held.shape[:1]
        return jax.tree.map(lambda a: jnp.zeros((*shape, *a.shape), a.dtype, device=self.device), self.shapes)

    @property
    def busy(self) -> int:
        """How many lanes hold a flow."""
        return int(np.sum(self.held >= 0))

    def fill(self, waiting: _Queue, most: int) -> None:
        """Give lanes that are free to at most so many flows that wait."""
        free = tuple(np.argwhere(self.held == IDLE)[: min(most, len(waiting))].T)
        count = len(free[0])
        self.held[free], brought = waiting.take(count)
        self.fresh[free] = self.held[free]
        # what a lane starts with that has no flow is never used, or, by one of the first turn, only stepped along
        which = np.zeros(self.held.shape, int)
        which[free] = np.arange(count)
        # on the device in either case: arrays that are not would be another program
        self.brought = jax.device_put(_of(brought, which), self.device) if count else self.nothing()

    def turn(self, fresh: np.ndarray, brought, steps: int) -> None:
        """Let `fresh` lanes start with what is `brought`, and all make so many steps."""
        self.pool, self.ends = jax.block_until_ready(self.leg.turn(self.pool, fresh, brought, steps))

    def take(self, with_flows: bool) -> tuple[np.ndarray, End, Pool | None]:
        """The flows that ended in this turn, copied to the host: positions, ends, and with their lanes if wanted."""
        over = ~np.asarray(self.pool.lanes.running) & (self.held >= 0)
        positions = self.held[over]
        self.held[over] = IDLE
        self.fresh = np.full_like(self.fresh, IDLE)
        return positions, *_ended((self.ends, self.pool if with_flows else None), over)


def _of(tree, which):
    """These rows of its leaves, on the host."""
    return jax.tree.map(lambda a: np.asarray(a)[which], tree)


def _ended(tree, over: np.ndarray):
    """The same of arrays on a device, from which only what is wanted is sent; as many as a power of two, since every
    number of them is compiled apart."""
    if all(device.platform == "cpu" for device in jax.tree.leaves(tree)[0].devices()):
        return _of(tree, over)
    at = np.flatnonzero(over)
    some = _taken(tree, np.resize(at, 2 ** math.ceil(math.log2(len(at)))) if len(at) else np.zeros(1, int))
    return jax.tree.map(lambda a: np.asarray(a)[: len(at)], some)


@jax.jit
def _taken(tree, at):
    return jax.tree.map(lambda a: a.reshape(a.shape[0] * a.shape[1], *a.shape[2:])[at], tree)


def _joined(first, *others):
    """Trees one after the other."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), first, *others)


__all__ = ["Refill", "harvests"]
