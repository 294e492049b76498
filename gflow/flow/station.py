"""A task under way: flows that one program runs, those of them that wait for a leg, and its lanes on every device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from gflow._types import RESULTS, result_code
from gflow.flow.lanes import Stepper
from gflow.flow.pool import IDLE, TOGETHER, Continued, End, Fresh, Leg, Pool, Started
from gflow.network import TwoLayer, VectorTwoLayer

CONTINUED = int(result_code(RESULTS.margin_reached))
"""How a flow ends its first leg if it has a second."""

PART = 12
"""A turn has this part of the steps that a flow makes on average: lanes that have ended wait for its end, on average
for half of it."""

BEGIN = 2 * TOGETHER
"""Steps of a turn as long as no flow has ended."""


class Refill(eqx.Module):
    """How flows are run: `stepper` integrates them, and `later`, if it is given, goes on from where the margin of
    `stepper` is reached."""

    stepper: Stepper
    later: Stepper | None = None

    @property
    def legs(self) -> tuple[Leg, ...]:
        """The first and, if there is one, the second."""
        first = Leg(self.stepper, Started(self.stepper))
        return (first,) if self.later is None else (first, Leg(self.later, Continued(self.later)))


class Task(NamedTuple):
    """Flows that one program runs: initialisations `indices` (k,), each made a network by its own of the `draws`, whose
    number `of` (k,) names. They are run with `width` neurons, those that a network lacks being zero, in at most
    `chunks` chunks of `chunk` lanes on every device."""

    refill: Refill
    draws: Sequence[Callable[[Int[Array, ""]], TwoLayer | VectorTwoLayer]]
    of: np.ndarray
    indices: np.ndarray
    width: int
    chunk: int
    chunks: int

    def networks(self, flows: np.ndarray, device) -> TwoLayer | VectorTwoLayer:
        """The first weights of these of its flows, stacked, on the host."""
        drawn, order = [], []
        for which in np.unique(self.of[flows]):
            own = np.flatnonzero(self.of[flows] == which)
            for at in range(0, len(own), self.chunk):
                some = own[at : at + self.chunk]
                indices = jax.device_put(np.resize(self.indices[flows[some]], self.chunk), device)
                drawn.append(_of(_drawn(self.draws[which], indices), slice(len(some))).resized(self.width))
                order.append(some)
        return _of(_joined(*drawn), np.argsort(np.concatenate(order)))


@eqx.filter_jit
def _drawn(draw, indices):
    return jax.vmap(draw)(indices)


class Station:
    """The flows of a task under way: those that wait for a leg, and the lanes of every leg on every device."""

    def __init__(self, number: int, task: Task, devices: Sequence):
        self.number, self.task, self.devices = number, task, devices
        self.spent = np.zeros(len(task.indices))
        self.left = len(task.indices)  # flows that have not ended for good, those between two legs among them
        self.queues: list[NotBegun | Queue] = []
        self.lanes: list[list[Lanes]] = [[] for _ in devices]
        self.pace: list[tuple[int, int]] = []
        network = eqx.filter_eval_shape(jax.vmap(task.draws[0]), jax.ShapeDtypeStruct((task.chunk,), int))
        brought: Any = jax.eval_shape(lambda n: n.resized(task.width), network)
        for leg in task.refill.legs:
            self.queues.append(Queue(brought) if self.queues else NotBegun(task))
            self.pace.append((0, 0))
            for own, device in zip(self.lanes, devices, strict=True):
                own.append(Lanes(leg, brought, device, task.chunks))
            brought = leg.shapes(brought)

    def compile(self, k: int) -> None:
        """Turns of no steps: of devices that are one, each would compile for itself."""
        for lanes in self.lanes[k]:
            lanes.turn(lanes.nothing(), np.zeros(lanes.held.shape, bool), 0)

    @property
    def exhausted(self) -> bool:
        """Whether all of its flows have begun."""
        return not len(self.queues[0])

    def flows(self, k: int, leg: int) -> int:
        """How many flows the lanes of device `k` hold, or could."""
        return self.lanes[k][leg].busy + len(self.queues[leg])

    def full(self, k: int, leg: int) -> bool:
        """Whether there is one for every lane."""
        return self.flows(k, leg) >= self.lanes[k][leg].held.size

    def taken(self, k: int, leg: int):
        """(positions, bring) of flows for the lanes that are free. Of flows that do not fill its lanes a device leaves
        their share to the others."""
        waiting = self.queues[leg]
        share = math.ceil(len(waiting) / (len(self.devices) * self.task.chunk)) * self.task.chunk
        most = len(waiting) if self.full(k, leg) else share
        return waiting.take(min(most, len(waiting), self.lanes[k][leg].free))

    def end(self, leg: int, positions: np.ndarray, made: int, ends: End, flows: Pool | None) -> tuple[np.ndarray, End]:
        """(positions, ends) of those that have ended for good, of what `Lanes.take` gave."""
        ended, before = self.pace[leg]
        self.pace[leg] = ended + len(positions), before + made
        if flows is not None:
            going = ends.result == CONTINUED
            behind = self.queues[leg + 1]
            assert isinstance(behind, Queue)
            behind.add(positions[going], _of(flows, going))
            positions, ends = positions[~going], _of(ends, ~going)
        self.left -= len(positions)
        return positions, ends

    def steps(self, leg: int, most: int) -> int:
        """Of the next turn."""
        ended, made = self.pace[leg]
        if not len(self.queues[leg]):
            return most
        wanted = BEGIN if not ended else TOGETHER * round(made / (PART * ended * TOGETHER))
        return min(most, max(TOGETHER, wanted))


class NotBegun:
    """Flows of a task that have not begun."""

    def __init__(self, task: Task):
        self.task, self.begun = task, 0

    def __len__(self) -> int:
        return len(self.task.indices) - self.begun

    def take(self, count: int):
        """(positions, bring) of the first `count`: bring(device) makes what their lanes start with."""
        positions = np.arange(self.begun, self.begun + count)
        self.begun += count
        return positions, lambda device: self.task.networks(positions, device)


class Queue:
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
        """The same of the first `count`."""
        positions, brought = _of((self.positions, self.brought), slice(count))
        self.positions, self.brought = _of((self.positions, self.brought), slice(count, None))
        return positions, lambda _: brought


class Lanes:
    """The lanes of one leg on one device, and which flow each of them holds."""

    def __init__(self, leg: Leg, brought, device, chunks: int):
        """`brought`: shapes of what the lanes of a chunk start with."""
        zeros = jax.tree.map(lambda leaf: np.zeros((chunks, *leaf.shape), leaf.dtype), leg.shapes(brought))
        self.leg, self.device, self.pool, self.ends = leg, device, jax.device_put(zeros, device), None
        self.held: np.ndarray = np.full(np.shape(zeros.lanes.steps), IDLE)
        self.brought, self.used = brought, False

    def nothing(self) -> Fresh:
        """No lane starts. What is brought is made on the device, to which it would be long to send."""
        shape = self.held.shape
        zeros = lambda a: jnp.zeros((shape[0], *a.shape), a.dtype, device=self.device)  # noqa: E731
        return Fresh(np.zeros(shape, int), np.zeros(shape, bool), jax.tree.map(zeros, self.brought), np.asarray(0))

    @property
    def busy(self) -> int:
        """How many lanes hold a flow."""
        return int(np.sum(self.held >= 0))

    @property
    def free(self) -> int:
        return self.held.size - self.busy

    def take_in(self, positions: np.ndarray) -> None:
        """Give lanes that are free to these flows."""
        self.new = np.flatnonzero(self.held.ravel() == IDLE)[: len(positions)]
        self.held.ravel()[self.new] = positions

    def fresh(self, positions: np.ndarray, brought) -> Fresh:
        """What they start with, as `brought` (k, ...) on the host; the first time all other lanes are given the first
        of them too, ended."""
        lanes = self.new
        if not self.used:
            lanes = np.concatenate([lanes, np.setdiff1d(np.arange(self.held.size), lanes)])
        # numbers of lanes that do not exist must differ too
        lane = np.arange(self.held.size, 2 * self.held.size)
        lane[: len(lanes)] = lanes
        which, flow = np.zeros(self.held.size, int), np.arange(self.held.size) < len(positions)
        which[: len(positions)] = np.arange(len(positions))
        shape, self.used = self.held.shape, True
        chunks = np.asarray(math.ceil(len(lanes) / shape[1]))
        # on the device, as is what `nothing` makes: arrays that are not would be another program
        brought = jax.device_put(_of(brought, which.reshape(shape)), self.device)
        return Fresh(lane.reshape(shape), flow.reshape(shape), brought, chunks)

    def over(self, spent: np.ndarray, seconds: float) -> np.ndarray:
        """Which lanes hold a flow whose time is over; `spent`: seconds of every flow."""
        return (self.held >= 0) & (spent[self.held] >= seconds)

    def turn(self, fresh: Fresh, stopped: np.ndarray, steps: int) -> None:
        """Let `fresh` flows start and those that are `stopped` end, and all others make so many steps."""
        self.pool, self.ends = jax.block_until_ready(self.leg.turn(self.pool, fresh, stopped, steps))

    def take(self, with_flows: bool) -> tuple[np.ndarray, int, End, Pool | None]:
        """The flows that ended in this turn, copied to the host: positions, how many steps of this leg they made in
        all, ends, and with their lanes if wanted."""
        lanes = self.pool.lanes
        over = ~np.asarray(lanes.running) & (self.held >= 0)
        positions, made = self.held[over], int(np.sum((np.asarray(lanes.steps) - np.asarray(lanes.before))[over]))
        self.held[over] = IDLE
        return positions, made, *_ended((self.ends, self.pool if with_flows else None), over)


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


__all__ = ["Refill", "Station", "Task"]
