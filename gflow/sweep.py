"""sweep(problem, law, width, inits): many initialisations, each run to its certified limit, as batches of records.

Initialisation i depends on (seed, i) alone, and so does its row: lanes are refilled from the queue as flows end, and
nothing of a lane enters another. This stage knows no disk.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import warnings
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import NamedTuple

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from gflow.convex.faces import Faces
from gflow.convex.oracle import require_float64
from gflow.elsewhere import Ended, judged
from gflow.flow.charts import AbstractChart, BalancedPolar, Cartesian, Hyperbolic
from gflow.flow.pool import End
from gflow.flow.refill import harvests
from gflow.flow.solve import numeric
from gflow.flow.station import Refill, Task
from gflow.flow.vector_chart import VectorPolar
from gflow.gathering import Gathering
from gflow.initializers import AbstractInitializer, key_of
from gflow.legs import cast, legs
from gflow.maps import make_room
from gflow.network import TwoLayer, VectorTwoLayer
from gflow.optimum import Optimum
from gflow.parts import require_part
from gflow.problem import Problem
from gflow.records import Records, Witness

CHUNK = 64
"""Lanes that are compiled together on a CPU; a row may depend on it by rounding, and on nothing else of the batch."""

MOST = 131072
"""On other devices as many, a power of two, as SHARE of the memory holds, up to this, and"""

SMALL = 16384
"""up to this, or as many as leave GENERATIONS of flows for every lane: fewer lanes would take such a device as long,
and the last flows of more are waited for."""

GENERATIONS = 4

SHARE = 0.25

CHUNKS = 4
"""Chunks on every CPU device: lanes that need alike many stages share one, and towards the end of a sweep chunks whose
lanes have all ended cost nothing."""

MORE = 4
"""Chunks on every other device."""

STEPS = 32
"""Attempted steps between two looks at which flows have ended."""

NARROW = 8
"""Neurons that lanes have at least, where first weights are balanced: one program for all narrow networks is compiled
once, which takes longer than their flows do. Neurons that are zero stay zero, and count for nothing."""

LOOK = 16
"""Harvests between two looks at how many memory maps are taken."""

ROWS = 128
"""Rows of one Records."""


class Draw(eqx.Module):
    """index -> the first weights of that initialisation."""

    law: AbstractInitializer
    problem: Problem
    seed: jax.Array
    width: int = eqx.field(static=True)
    dtype: str = eqx.field(static=True)

    def __call__(self, index) -> TwoLayer | VectorTwoLayer:
        return cast(self.law(key_of(self.seed, index), self.problem, self.width), self.dtype)


def lane_devices() -> list:
    """The local devices, one for each pool of lanes: a CPU once for every core, which share what is compiled.

    Where JAX was told to make several devices of the CPU, all but the first, where limits and certificates are found.
    """
    devices = jax.local_devices()
    if devices[0].platform != "cpu":
        return devices
    return devices[1:] if len(devices) > 1 else devices * cores()


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Flows(NamedTuple):
    """Initialisations `indices` (k,) of one law and width on one problem: a cell of a grid, or what is left of it."""

    problem: Problem
    law: AbstractInitializer
    width: int
    indices: np.ndarray


def sweep(
    problem: Problem,
    law: AbstractInitializer,
    width: int,
    inits: int | Iterable[int],
    *,
    known_faces: Faces | None = None,
    optimum: Optimum | Callable[[], Optimum] | None = None,
    **options,
) -> Iterator[Records]:
    """Run initialisations 0..inits-1 (or the given ones) and yield Records of `rows` (128) of them, in the order in
    which they are complete; rows k rows ... (k + 1) rows of the given order come together.

    `options`: as in `sweep_grid`, among them `seed`, `dtype`, `q_min`, `max_steps`, `seconds_per_flow` and `wait`, the
    seconds after which rows come without those of their group that are not complete. The faces of X and the convex
    program are computed once and shared; pass them in if you have them, the program also as a function, which is called
    only if a limit needs it. Raises ValueError as `sweep_grid` does.
    """
    indices = np.arange(inits) if isinstance(inits, int) else np.fromiter(inits, int)
    if len(indices):
        flows = Flows(problem, law, width, indices)
        judge = functools.partial(Witness, known_faces=known_faces, optimum=optimum)
        yield from (records for _, records in sweep_grid([flows], inits=len(indices), judge=judge, **options))


def sweep_grid(
    cells: Sequence[Flows],
    *,
    inits: int,
    seed: int = 0,
    rows: int = ROWS,
    wait: float = math.inf,
    chunk: int | None = None,
    chunks: int | None = None,
    processes: int = 0,
    devices: Sequence | None = None,
    watch: Callable[[int, int], None] | None = None,
    dtype: str = "float64",
    seconds_per_flow: float = math.inf,
    budget: float | None = None,
    judge: Callable[..., Witness] = Witness,
    follow: bool | None = None,
    **flow_options,
) -> Iterator[tuple[int, Records]]:
    """Run all flows of several cells and yield (number of the cell, Records), in the order in which they are complete:
    groups of `rows` of a cell, or fewer of them that have waited for `wait` seconds.

    Lanes of one cell take up the work of the next: no cell waits for the slowest flow of another. `inits`: how many a
    whole cell has, on which the number of lanes depends. Every one of `devices` (`lane_devices()`) has at most `chunks`
    of `chunk` (see `chunk_for`) lanes for each program, and half as many whenever these do not fit into its memory.
    Limits and certificates are found here, on the CPU, or in so many other `processes` (see `judged`), by
    `judge(problem, budget=budget)`: `budget` is in seconds, for the faces of X and for the convex program each, by
    default as long as they take; where it is used up, bounds depend on the machine. `watch(busy, lanes)` is called at
    every turn. `dtype`: of the flows, float64 or float32; limits and certificates are float64. `seconds_per_flow`: a
    flow whose lane has been stepped for so long ends there, and its row says max_seconds_reached and INCONCLUSIVE, as
    does one that has made `max_steps` (100,000) say max_steps_reached; which flows use up seconds depends on the
    machine, and on what else it does. `follow`: whether flows that fit their data are continued from
    their end to q_min = infinity, where their limit is (`find_limit`); by default unless a `q_min` is given.
    `flow_options`: as in `refill_of`: `controller` (PIController(1e-3)); `max_steps`, `stop`, `solver`, ... for
    `Stepper`; `q_min`, 1e3 to 1e8: flows that reach 10 go on to this smallest margin by steps that are implicit in the
    multipliers (docs/mathematics.md, "Large margins"), or, after 500 of them, end beyond 1e3; their limits are guessed
    from the patterns there. Without it flows end as in `solve_flow`, by q_min = 1e3.
    Raises ValueError for a problem in float32, a q_min that is not possible, seconds or steps that are not positive
    and, with labels (n, K), a law that is not balanced, before anything runs.
    """
    for cell in cells:
        require_part("problem", cell.problem, Problem)
        require_part("law", cell.law, AbstractInitializer)
    if not seconds_per_flow > 0 or flow_options.get("max_steps", 1) < 1:
        raise ValueError("max_steps and seconds_per_flow must be positive: without them flows end by themselves")
    if not any(len(cell.indices) for cell in cells):
        return
    make_room()  # of a grid every cell compiles programs of its own
    devices = lane_devices() if devices is None else devices
    most = (CHUNKS if devices[0].platform == "cpu" else MORE) if chunks is None else chunks
    plans = _plans(cells, devices, chunk, inits, seed=seed, dtype=dtype, **flow_options)
    devices = devices[: math.ceil(sum(len(c.indices) for c in cells) / plans[0].chunk)]  # more would have nothing to do
    options = {"devices": devices, "steps": STEPS, "seconds": seconds_per_flow, "watch": watch}
    gathered = Gathering([len(cell.indices) for cell in cells], rows, wait)
    follow = flow_options.get("q_min") is None if follow is None else follow
    witness = functools.partial(judge, budget=budget, follow=follow)
    ended = _ended(cells, witness, _fitting(plans, most, **options))
    with contextlib.closing(ended):  # an error keeps what is under way alive as long as somebody looks at it
        for turn, found in enumerate(judged(processes, ended)):
            if turn % LOOK == LOOK - 1:
                make_room(0.8)
            if found is not None:
                gathered.add(*found)
            yield from gathered.complete()
    yield from gathered.rest()


class Plan(NamedTuple):
    """Flows of several cells that one program runs: as a Task has them, with the `cell` (k,) of each and its `position`
    (k,) there."""

    refill: Refill
    draws: tuple[Draw, ...]
    of: np.ndarray
    cell: np.ndarray
    position: np.ndarray
    indices: np.ndarray
    width: int
    chunk: int

    def task(self, left: np.ndarray, devices: int, halved: int, most: int) -> Task:
        """Of those of its flows that are `left`, in at most so many chunks, with lanes `halved` so often."""
        chunk = max(1, self.chunk >> halved)
        chunks = min(most, math.ceil(len(left) / (devices * chunk)))
        return Task(self.refill, self.draws, self.of[left], self.indices[left], self.width, chunk, chunks)


def _plans(cells: Sequence[Flows], devices, chunk: int | None, inits: int, *, seed: int, dtype: str, **options):
    """Cells that follow each other and need the same program share one."""
    alike: list[list[int]] = []
    kind = lambda c: (id(c.problem), _chart(c.problem, c.law), lane_width(c.law, c.width))  # noqa: E731
    for k, cell in enumerate(cells):
        if alike and kind(cells[alike[-1][0]]) == kind(cell):
            alike[-1].append(k)
        else:
            alike.append([k])
    plans = []
    for group in alike:
        problem, law, width, _ = cells[group[0]]
        refill, width = refill_of(problem, law, dtype=dtype, **options), lane_width(law, width)
        draws = [
            Draw(numeric(cells[k].law, problem.X.dtype), problem, jnp.asarray(seed), cells[k].width, dtype)
            for k in group
        ]
        counts = [len(cells[k].indices) for k in group]
        plans.append(
            Plan(
                refill,
                tuple(draws),
                np.repeat(np.arange(len(group)), counts),
                np.repeat(group, counts),
                np.concatenate([np.arange(count) for count in counts]),
                np.concatenate([cells[k].indices for k in group]),
                width,
                chunk_for(devices[0], problem, width, inits) if chunk is None else chunk,
            )
        )
    return [plan for plan in plans if len(plan.indices)]


def _ended(
    cells: Sequence[Flows], judge, found: Iterable[tuple[Plan, np.ndarray, End] | None]
) -> Generator[Ended | None, None, None]:
    """Cell by cell, with the witness of its problem, which is kept as long as the problem has flows."""
    left: dict[int, int] = {}
    for cell in cells:
        left[id(cell.problem)] = left.get(id(cell.problem), 0) + len(cell.indices)
    witnesses: dict[int, Witness] = {}
    for some in found:
        if some is None or not len(some[1]):
            yield None
            continue
        plan, where, ends = some
        for k in np.unique(plan.cell[where]):
            cell, own = cells[k], np.flatnonzero(plan.cell[where] == k)
            key = id(cell.problem)
            witness = witnesses[key] if key in witnesses else witnesses.setdefault(key, judge(cell.problem))
            narrow = jax.tree.map(lambda a, own=own: a[own], ends).narrowed(cell.width)
            yield Ended(int(k), plan.position[where[own]], plan.indices[where[own]], narrow, witness)
            left[key] -= len(own)
            if not left[key]:
                del witnesses[key]


def refill_of(
    problem: Problem,
    law: AbstractInitializer,
    *,
    dtype: str = "float64",
    q_min: float | None = None,
    controller: diffrax.PIDController | None = None,
    **flow_options,
) -> Refill:
    """How a sweep runs flows from weights of this law: their `legs`."""
    if problem.outputs is not None and not law.balanced:
        raise ValueError(f"flows with vector output start balanced: {type(law).__name__} is not")
    require_float64(problem.X)
    options = {"dtype": dtype, "q_min": q_min, "controller": controller, **flow_options}
    return Refill(*legs(problem, _chart(problem, law), **options))


def _chart(problem: Problem, law: AbstractInitializer) -> type[AbstractChart]:
    if problem.outputs is not None:
        return VectorPolar
    if law.balanced:
        return BalancedPolar
    return Hyperbolic if problem.weight_decay is None else Cartesian


def chunk_for(device, problem: Problem, width: int, inits: int) -> int:
    """How many lanes of this width one chunk has on a device: CHUNK on a CPU, or where its memory is not known."""
    limit = None if device.platform == "cpu" else (device.memory_stats() or {}).get("bytes_limit")
    if not limit:
        return CHUNK
    n, d = problem.shape
    # a dozen stages of pre-activations and weights, and the bases of the hyperplanes on which neurons slide
    lane = problem.X.dtype.itemsize * width * (16 * n + 40 * d + 4 * min(n, d) * d)
    fitting = min(MOST, 2 ** int(math.log2(max(SHARE * limit / lane, 1))))
    wanted = min(2 ** math.ceil(math.log2(inits)), max(SMALL, 2 ** int(math.log2(inits / (MORE * GENERATIONS)))))
    return min(fitting, wanted)


def lane_width(law: AbstractInitializer, width: int) -> int:
    """How many neurons the lanes of networks of this width have: at least NARROW."""
    return max(width, NARROW) if law.balanced else width


def _fitting(plans: Sequence[Plan], most: int, *, devices, **options) -> Iterator[tuple[Plan, np.ndarray, End] | None]:
    """(plan, positions, ends) of flows that have ended, begun again with half the lanes for what is left when a device
    runs out of memory; None where there are none yet."""
    left, halved = [np.ones(len(plan.indices), bool) for plan in plans], 0
    while any(np.any(own) for own in left):
        under_way = [(k, np.flatnonzero(own)) for k, own in enumerate(left) if np.any(own)]
        tasks = [plans[k].task(own, len(devices), halved, most) for k, own in under_way]
        try:
            for harvest in harvests(tasks, devices=devices, **options):
                if harvest is None:
                    yield None
                    continue
                k, own = under_way[harvest.task]
                yield plans[k], own[harvest.positions], harvest.ends
                left[k][own[harvest.positions]] = False
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or all(task.chunk * task.chunks == 1 for task in tasks):
                raise
            warnings.warn("the device is out of memory: half as many lanes from here on", stacklevel=2)
            fewest = max(task.chunks for task in tasks)
            most, halved = (fewest // 2, halved) if fewest > 1 else (1, halved + 1)
