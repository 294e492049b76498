"""sweep(problem, law, width, inits): many initialisations, each run to its certified limit, as batches of records.

Initialisation i depends on (seed, i) alone, and so does its row: lanes are refilled from the queue as flows end, and
nothing of a lane enters another. This stage knows no disk.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from gflow.convex.faces import Faces
from gflow.convex.oracle import require_float64
from gflow.elsewhere import judged
from gflow.flow.charts import AbstractChart, BalancedPolar, Cartesian, Hyperbolic
from gflow.flow.controller import PIController
from gflow.flow.filippov import Filippov
from gflow.flow.implicit import Implicit
from gflow.flow.lanes import Stepper
from gflow.flow.refill import Refill, harvests
from gflow.flow.solve import default_stop, numeric
from gflow.flow.stop import MarginTarget
from gflow.flow.vector_chart import VectorPolar
from gflow.initializers import AbstractInitializer, key_of
from gflow.maps import make_room
from gflow.network import TwoLayer, VectorTwoLayer
from gflow.onward import LARGE
from gflow.optimum import Optimum
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

RTOL = 1e-3
"""Tolerance of the integrator: the program makes limits exact, and 511 of 512 limits are those at 1e-6."""

EARLY_RTOL = 3e-3
"""The same of flows that go on beyond LARGE, up to there: of 507 limits of gaussian (10,5) named at q_min = 1e5,
m = 50, as many, 9, are not those at 1e-6 with it as with 1e-3, in 73 steps in place of 99."""

FAR_RTOL = 1e-2
"""Tolerance beyond LARGE: of 127 limits of gaussian (10,5) named at q_min = 1e5 as many, 15, are not those of the flow
at 1e8 with it as with 1e-4, in 29 steps in place of 132."""

FAR_STEPS, NEAR = 500, 1e3
"""Attempted steps beyond LARGE after which a flow ends as soon as its q_min is NEAR, the least to ask for."""

FARTHEST = 1e8
"""Where flows end by themselves if they can be taken so far, in fewer steps than to 1e3 (gaussian (10,5): 103 against
157 in the median), and the most to ask for: where margins are 1e10, rounding makes steps ten times as many."""

LOOK = 16
"""Harvests between two looks at how many memory maps are taken."""

ROWS = 128
"""Rows of one Records."""

GONE = -1
"""In place of an initialisation that has ended."""


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


def cast(tree, dtype: str):
    """The same with its real numbers in `dtype`."""
    real = lambda a: eqx.is_array(a) and jnp.issubdtype(a.dtype, jnp.floating)  # noqa: E731
    return jax.tree.map(lambda a: a.astype(dtype) if real(a) else a, tree)


def sweep(
    problem: Problem,
    law: AbstractInitializer,
    width: int,
    inits: int | Iterable[int],
    *,
    seed: int = 0,
    known_faces: Faces | None = None,
    optimum: Optimum | Callable[[], Optimum] | None = None,
    rows: int = ROWS,
    chunk: int | None = None,
    chunks: int | None = None,
    processes: int = 0,
    devices: Sequence | None = None,
    watch: Callable[[int, int], None] | None = None,
    dtype: str = "float64",
    q_min: float | None = None,
    controller: diffrax.PIDController | None = None,
    **flow_options,
) -> Iterator[Records]:
    """Run initialisations 0..inits-1 (or the given ones) and yield Records of `rows` of them, in the order in which
    they are complete; rows k rows ... (k + 1) rows of the given order come together.

    Every one of `devices` (`lane_devices()`) has at most `chunks` of `chunk` (see `chunk_for`) lanes, and half as many
    whenever these do not fit into its memory. Limits and certificates are found here, on the CPU, or in so many other
    `processes` (see `judged`). `watch(busy, lanes)` is called at every turn. `dtype`: of the flows, float64 or float32;
    limits and certificates are float64. `controller` (PIController(3e-3), 1e-3 where flows end as in `solve_flow`) and
    `flow_options` (solver, stop, max_steps, ...) go to `Stepper`. `q_min`, 1e3 to 1e8: flows that reach 10 go on to
    this smallest margin by steps that are implicit in the multipliers (docs/mathematics.md, "Large margins"), or, after
    500 of them, end beyond 1e3. It is 1e8 by default; with K outputs, in float32, for limits that are points, and with
    `flow_options` other than max_steps, flows end as in `solve_flow`. The faces of X and the convex program are
    computed once and shared; pass them in if you have them, the program also as a function, which is called only if a
    limit needs it. Raises ValueError for a problem in float32, a q_min that is not possible and, with labels (n, K), a
    law that is not balanced, before anything runs.
    """
    if problem.outputs is not None and not law.balanced:
        raise ValueError(f"flows with vector output start balanced: {type(law).__name__} is not")
    require_float64(problem.X)
    indices = np.arange(inits) if isinstance(inits, int) else np.fromiter(inits, int)
    if len(indices) == 0:
        return
    make_room()  # of a grid every cell compiles programs of its own
    flow_options |= {"q_min": q_min, "controller": controller}
    refill = refill_of(problem, law, width, seed=seed, dtype=dtype, **flow_options)
    devices = lane_devices() if devices is None else devices
    witness = Witness(problem, known_faces, optimum)
    pending: dict[int, dict[int, dict]] = {}
    # rows are held until those around them are there: a row of records is complete or absent
    chunk = chunk_for(devices[0], problem, width, len(indices)) if chunk is None else chunk
    chunks = (CHUNKS if devices[0].platform == "cpu" else MORE) if chunks is None else chunks
    devices = devices[: math.ceil(len(indices) / chunk)]  # more would have nothing to do
    options = {"devices": devices, "chunk": chunk, "chunks": chunks, "steps": STEPS, "watch": watch}
    ended = ((where, indices[where], ends) for where, ends in _fitting(refill, indices, **options))
    for turn, (where, found) in enumerate(judged(witness, processes, ended)):
        if turn % LOOK == LOOK - 1:
            make_room(0.8)
        for k, row in zip(where, found, strict=True):
            group = pending.setdefault(int(k) // rows, {})
            group[int(k)] = row
            if len(group) == min(rows, len(indices) - int(k) // rows * rows):
                del pending[int(k) // rows]
                yield Records.of([group[j] for j in sorted(group)])


def refill_of(
    problem: Problem,
    law: AbstractInitializer,
    width: int,
    *,
    seed: int = 0,
    dtype: str = "float64",
    q_min: float | None = None,
    controller: diffrax.PIDController | None = None,
    **flow_options,
) -> Refill:
    """What a sweep runs: the `legs` of flows from weights of this law."""
    draw = Draw(numeric(law, problem.X.dtype), problem, jnp.asarray(seed), width, dtype)
    options = {"dtype": dtype, "q_min": q_min, "controller": controller, **flow_options}
    first, later = legs(problem, _chart(problem, law), **options)
    return Refill(first, draw, later)


def legs(
    problem: Problem,
    chart: type[AbstractChart],
    *,
    dtype: str = "float64",
    q_min: float | None = None,
    controller: diffrax.PIDController | None = None,
    **flow_options,
) -> tuple[Stepper, Stepper | None]:
    """How flows are integrated: by the first, and from LARGE on, if they go on to large margins (`end_of`), by the
    second, whose steps are implicit in the multipliers. Raises ValueError where a given `q_min` is not possible."""
    others = sorted(set(flow_options) - {"max_steps"})
    if q_min is not None and others:
        raise ValueError(f"q_min says how flows are integrated and end: leave {', '.join(others)} out")
    q_min = None if others else end_of(problem, dtype, q_min)
    controller = PIController(RTOL if q_min is None else EARLY_RTOL) if controller is None else controller
    first = {"chart": chart, "controller": controller, **flow_options}
    if q_min is None:
        return Stepper(cast(problem, dtype), **first), None
    first["stop"] = MarginTarget(LARGE), *(s for s in default_stop(problem) if not isinstance(s, MarginTarget))
    later = {"chart": chart, "solver": Filippov(Implicit()), "controller": PIController(FAR_RTOL)}
    later |= {"stop": (MarginTarget(q_min),), "patience": FAR_STEPS, "enough": NEAR} | flow_options
    return Stepper(problem, **first), Stepper(problem, **later)


def end_of(problem: Problem, dtype: str = "float64", q_min: float | None = None) -> float | None:
    """The smallest margin at which flows of `problem` end: `q_min` if it is given, else FARTHEST; None where they
    cannot be taken so far, and end as in `solve_flow`. Raises ValueError for a q_min that is not possible."""
    if q_min is not None:
        require_far(problem, dtype, q_min)
        return q_min
    return FARTHEST if _goes_far(problem) and dtype == "float64" else None


def _goes_far(problem: Problem) -> bool:
    """Whether flows have a direction for a limit whose multipliers can be solved for: one output, and kinks."""
    return problem.outputs is None and problem.directional and problem.activation.kinks


def require_far(problem: Problem, dtype: str, q_min: float) -> None:
    """Raise ValueError unless flows of this problem can be continued to this q_min."""
    if not NEAR <= q_min <= FARTHEST:
        raise ValueError(f"q_min must be between {NEAR:g} and {FARTHEST:g}, got {q_min:g}")
    if not _goes_far(problem):
        raise ValueError(
            "q_min is for one output and losses of margins, without weight decay and without fixed gates: leave it out"
        )
    if dtype != "float64":
        raise ValueError(f"margins as large as q_min have too few digits in {dtype}: leave one of the two out")


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


def _fitting(refill: Refill, indices: np.ndarray, *, devices, chunk: int, chunks: int, **options):
    """`harvests`, begun again with half the lanes for what is left when a device runs out of memory."""
    left = np.arange(len(indices))
    while len(left):
        several = min(chunks, math.ceil(len(left) / (len(devices) * chunk)))
        try:
            for where, ends in harvests(refill, indices[left], devices=devices, chunk=chunk, chunks=several, **options):
                yield left[where], ends
                left[where] = GONE
            return
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error) or chunk * chunks == 1:
                raise
            warnings.warn("the device is out of memory: half as many lanes from here on", stacklevel=2)
        left = left[left != GONE]
        chunk, chunks = (chunk, chunks // 2) if chunks > 1 else (chunk // 2, 1)
