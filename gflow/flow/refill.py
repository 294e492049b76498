"""Flows from a queue through lanes: those that have ended make room for those that wait, until none is left.

A flow has one leg or two: lanes of one stepper up to a margin, and from there on those of another one, whose steps are
implicit in the multipliers. Each leg is compiled apart and has pools of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

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
    """Run the flows of `indices`; yield those that have ended, a turn at a time, as (positions in `indices` (h,), End
    with leaves (h, ...) on the host).

    For every entry of `devices` there is a thread, and a pool for every leg. On a CPU a compiled call returns when it
    has ended and takes one core, and calls of several threads run at once: so name it once for every core to use. Every
    device compiles every leg once. The next turn is under way while the caller works on a harvest.
    `watch(busy, lanes)` is called once a turn: how many of the lanes that it moves were under way when it began.
    """
    threads = ThreadPoolExecutor(len(devices), "gflow device")
    try:
        yield from _harvests(threads, refill, indices, devices, chunk, chunks, steps, watch)
    finally:  # an interrupt must not wait for what is being compiled
        threads.shutdown(wait=False, cancel_futures=True)


def _harvests(threads, refill: Refill, indices: np.ndarray, devices, chunk: int, chunks: int, steps: int, watch):
    brought, legs = jax.ShapeDtypeStruct((chunk,), int), []
    for leg in refill.legs:
        legs.append(_Lanes(leg, brought, devices, chunks))
        brought = leg.shapes(brought)
    for compiled in [one for lanes in legs for one in lanes.compiled(threads)]:
        compiled.result()
    first, last = legs[0], legs[-1]
    first.wait(np.arange(len(indices)), indices)
    harvest = None
    while any(lanes.occupied for lanes in legs):
        # a second leg moves when it is full: the steps of few lanes take as long as those of many
        moved = [lanes for lanes in legs if lanes.occupied and (lanes.full or lanes is first or not first.full)]
        for lanes in moved:
            lanes.begin(threads, steps)
        if watch is not None:
            watch(sum(lanes.busy for lanes in moved), sum(lanes.held.size for lanes in moved))
        if harvest is not None:
            yield harvest
        ended = []
        for lanes in moved:
            if lanes is last:
                ended.append(lanes.end())
                continue
            positions, (ends, flows) = lanes.end(with_lanes=True)
            going = ends.result == CONTINUED
            last.wait(positions[going], _of(flows, going))
            ended.append((positions[~going], _of(ends, ~going)))
        harvest = _joined(*ended)
    if harvest is not None:
        yield harvest


class _Lanes:
    """The lanes of one leg on all devices: which flow each of them holds, and the flows that wait for one."""

    def __init__(self, leg: Leg, brought, devices: Sequence, chunks: int):
        """`brought`: shapes of what the lanes of a chunk start with."""
        shapes = leg.shapes(brought)
        zeros = jax.tree.map(lambda leaf: np.zeros((chunks, *leaf.shape), leaf.dtype), shapes)
        self.leg, self.devices = leg, devices
        self.pools = [jax.device_put(zeros, device) for device in devices]
        self.held: np.ndarray = np.full((len(devices), *np.shape(zeros.lanes.steps)), IDLE)
        self.fresh = np.full_like(self.held, UNUSED)
        self.positions = np.zeros(0, int)
        self.brought = jax.tree.map(lambda leaf: np.zeros((0, *leaf.shape[1:]), leaf.dtype), brought)
        self.turns: list[Future] = []

    def compiled(self, threads) -> list[Future]:
        """Turns of no steps, one on every device: of pools that share one, each would compile for itself."""
        idle = np.full(self.held.shape[1:], IDLE)

        def compile_for(k: int) -> None:
            self.pools[k] = _turned(self.leg, self.pools[k], idle, self._nothing(self.devices[k]), 0)[0]

        one_of = {device: k for k, device in enumerate(self.devices)}
        return [threads.submit(compile_for, k) for k in one_of.values()]

    def _nothing(self, device):
        """What is brought where no lane starts: made on the device, to which it would be long to send."""
        shape = self.held.shape[1:]
        return jax.tree.map(lambda a: jnp.zeros((*shape, *a.shape[1:]), a.dtype, device=device), self.brought)

    def wait(self, positions: np.ndarray, brought) -> None:
        """These flows are to start as lanes become free."""
        self.positions, self.brought = _joined((self.positions, self.brought), (positions, brought))

    @property
    def busy(self) -> int:
        """How many lanes hold a flow."""
        return int(np.sum(self.held >= 0))

    @property
    def occupied(self) -> bool:
        """Whether there is a flow in a lane or waiting for one."""
        return len(self.positions) > 0 or self.busy > 0

    @property
    def full(self) -> bool:
        """Whether there is a flow for every lane."""
        return self.busy + len(self.positions) >= self.held.size

    def begin(self, threads, steps: int) -> None:
        """Fill lanes that are free, and let all make so many steps."""
        free = tuple(np.argwhere(self.held == IDLE)[: len(self.positions)].T)
        count = len(free[0])
        self.held[free] = self.fresh[free] = self.positions[:count]
        # what a lane starts with that has no flow is never used, or, by one of the first turn, only stepped along
        which = np.zeros(self.held.shape, int)
        which[free] = np.arange(count)
        # on the device in either case: arrays that are not would be another program
        bring = lambda place, device: jax.device_put(_of(self.brought, place), device)  # noqa: E731
        self.turns = [
            threads.submit(
                _turned, self.leg, pool, fresh, (bring(place, device) if count else self._nothing(device)), steps
            )
            for pool, fresh, place, device in zip(self.pools, self.fresh, which, self.devices, strict=True)
        ]
        self.positions, self.brought = _of((self.positions, self.brought), slice(count, None))

    def end(self, with_lanes: bool = False):
        """The flows that ended in this turn, copied to the host: (positions, ends), or (positions, (ends, lanes))."""
        turns = [turn.result() for turn in self.turns]
        self.pools, ends = [pool for pool, _ in turns], [end for _, end in turns]
        over = np.stack([~np.asarray(pool.lanes.running) for pool in self.pools]) & (self.held >= 0)
        positions = self.held[over]
        self.held[over] = IDLE
        self.fresh = np.full_like(self.fresh, IDLE)
        trees = zip(ends, self.pools, strict=True) if with_lanes else ends
        return positions, _joined(*map(_ended, trees, over))


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


def _turned(leg: Leg, pool: Pool, fresh: np.ndarray, brought, steps: int) -> tuple[Pool, End]:
    return jax.block_until_ready(leg.turn(pool, fresh, brought, steps))


__all__ = ["Refill", "harvests"]
