"""Flows from queues through lanes: those that have ended make room for those that wait, until none is left.

A flow has one leg or two: lanes of one stepper up to a margin, and from there on those of another one, whose steps are
implicit in the multipliers. Each leg is compiled apart and has pools of its own. Flows of several tasks, whose
programs differ, follow each other: when those of one no longer fill its lanes the next one is begun, and the last
flows of the former take turns with it.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from gflow.flow.pool import End
from gflow.flow.station import Refill, Station, Task

AHEAD = 2
"""Turns per device whose flows may wait for the caller: beyond that the device waits."""

ALIVE = {"cpu": 8}
"""Tasks at most that have lanes at the same time on such a device; on others, whose memory pools fill, two."""

TICK = 1.0
"""Seconds after which a caller that waits for flows is asked in between."""


class Harvest(NamedTuple):
    """Flows of a task that have ended in a turn of a device: number of the `task`, their `positions` (h,) among its
    flows, and `ends` with leaves (h, ...) on the host."""

    task: int
    positions: np.ndarray
    ends: End


def harvests(
    tasks: Sequence[Task],
    *,
    devices: Sequence,
    steps: int,
    seconds: float = math.inf,
    watch: Callable[[int, int], None] | None = None,
) -> Iterator[Harvest | None]:
    """Run the flows of `tasks`; yield those that have ended, a turn of a device at a time, and None now and then while
    there are none.

    For every entry of `devices` there is a thread, and a pool for every leg of a task; none waits for another while
    there are flows for it. On a CPU a compiled call returns when it has ended and takes one core, and calls of several
    threads run at once: so name it once for every core to use. Every device compiles every leg once, and tasks whose
    programs are the same share them. A turn has at most `steps` attempted steps, and fewer while flows wait that are
    short (PART). A flow whose turns have taken `seconds` ends as max_seconds_reached. Devices go on while the caller
    works on a harvest, up to AHEAD turns. `watch(busy, lanes)` is called once a turn, by the caller's thread: how many
    of the lanes that it moved were under way when it began.
    """
    work = _Work(tasks, devices, steps, seconds)
    threads = ThreadPoolExecutor(len(devices), "gflow device")
    try:
        running = [threads.submit(work.run, k) for k in range(len(devices))]
        for turn in work.harvests(len(devices)):
            if turn is None:
                yield None
                continue
            (busy, lanes), harvest = turn
            if watch is not None:
                watch(busy, lanes)
            yield harvest
        for thread in running:
            thread.result()  # raises what ended it
    finally:  # an interrupt must not wait for what is being compiled
        work.stop()
        threads.shutdown(wait=False, cancel_futures=True)


Choice = tuple[Station, int]


class _Work:
    """What the threads of all devices share, under one lock: tasks under way, and flows that have ended."""

    def __init__(self, tasks: Sequence[Task], devices: Sequence, steps: int, seconds: float):
        self.tasks, self.devices, self.most, self.seconds = deque(enumerate(tasks)), devices, steps, seconds
        self.alive = ALIVE.get(devices[0].platform, 2)
        self.stations: list[Station] = []
        self.opening = False
        self.changed = threading.Condition()
        self.ended: deque[tuple[tuple[int, int], Harvest]] = deque()
        self.finished, self.stopped = 0, False
        # of every device: how often it has moved what, and whether last it was one that has no flow for every lane
        self.moved: list[dict[tuple[int, int], int]] = [{} for _ in devices]
        self.few = [False] * len(devices)

    def stop(self) -> None:
        """Let every thread end with its present turn."""
        with self.changed:
            self.stopped = True
            self.changed.notify_all()

    def harvests(self, threads: int) -> Iterator[tuple[tuple[int, int], Harvest] | None]:
        """((busy, lanes), harvest) of turns until so many threads have finished, None after a TICK without any."""
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.ended or self.finished == threads, TICK)
                if not self.ended and self.finished == threads:
                    return
                turn = self.ended.popleft() if self.ended else None
                self.changed.notify_all()
            yield turn

    def run(self, k: int) -> None:
        """The thread of device `k`: turns of its lanes until no flow is left anywhere."""
        try:
            while (choice := self._begin(k)) is not None:
                station, leg = choice
                lanes = station.lanes[k][leg]
                with self.changed:
                    positions, bring = station.taken(k, leg)
                    steps = station.steps(leg, self.most)
                    lanes.take_in(positions)
                if not lanes.busy:  # another device has taken what there was
                    continue
                fresh = lanes.fresh(positions, bring(self.devices[k])) if len(positions) else lanes.nothing()
                moved, begin = (lanes.busy, lanes.held.size), time.monotonic()
                lanes.turn(fresh, lanes.over(station.spent, self.seconds), steps)
                station.spent[lanes.held[lanes.held >= 0]] += time.monotonic() - begin
                self._end(station, leg, moved, lanes.take(leg + 1 < len(station.queues)))
        except BaseException:
            self.stop()
            raise
        finally:
            with self.changed:
                self.finished += 1
                self.changed.notify_all()

    def _begin(self, k: int) -> Choice | None:
        """What device `k` moves next; None if there is nothing left."""
        while True:
            with self.changed:
                self.changed.wait_for(lambda: self.stopped or self._ready(k) or not self._left())
                if self.stopped or not self._left():
                    return None
                choice = self._next(k)
                if not self._opens(k, choice):
                    if choice is None:  # another device was faster
                        continue
                    station, leg = choice
                    self.few[k] = not station.full(k, leg)
                    self.moved[k][station.number, leg] = max(self.moved[k].values(), default=0) + 1
                    return choice
                self.opening = True
                number, task = self.tasks.popleft()
            self._open(number, task)

    def _ready(self, k: int) -> bool:
        choice = self._next(k)
        return choice is not None or self._opens(k, choice)

    def _opens(self, k: int, choice: Choice | None) -> bool:
        """Whether the device begins the next task: what it has does not fill its lanes."""
        few = choice is None or not any(s.full(k, leg) for s in self.stations for leg in range(len(s.queues)))
        return few and bool(self.tasks) and not self.opening and len(self.stations) < self.alive

    def _open(self, number: int, task: Task) -> None:
        """Compile a task for all devices, while the others go on."""
        station = Station(number, task, self.devices)
        one_of = {device: k for k, device in enumerate(self.devices)}
        with ThreadPoolExecutor(len(one_of), "gflow device") as threads:
            list(threads.map(station.compile, one_of.values()))
        with self.changed:
            self.stations.append(station)
            self.opening = False
            self.changed.notify_all()

    def _left(self) -> bool:
        return bool(self.tasks) or self.opening or any(station.left for station in self.stations)

    def _next(self, k: int) -> Choice | None:
        """The leg furthest on, of the first task that has one with a flow for every lane: the steps of few lanes take
        as long as those of many. In turn with it, and with each other where there is none, those of a task whose flows
        have all begun."""
        some = [(s, leg) for s in self.stations for leg in range(len(s.queues)) if s.flows(k, leg)]
        full = [(s, leg) for s, leg in some if s.full(k, leg)]
        few = [(s, leg) for s, leg in some if not s.full(k, leg) and (s.exhausted or not full)]
        last = lambda choice: self.moved[k].get((choice[0].number, choice[1]), 0)  # noqa: E731
        if full and (self.few[k] or not few):
            return next((s, leg) for s, leg in reversed(full) if s is full[0][0])
        return min(few, key=last, default=None)

    def _end(self, station: Station, leg: int, moved: tuple[int, int], taken) -> None:
        with self.changed:
            self.ended.append((moved, Harvest(station.number, *station.end(leg, *taken))))
            if not station.left:
                self.stations.remove(station)
            self.changed.notify_all()
            self.changed.wait_for(lambda: self.stopped or len(self.ended) <= AHEAD * len(self.devices))


__all__ = ["Harvest", "Refill", "Task", "harvests"]
