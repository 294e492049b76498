"""How cost and memory grow: `python benchmarks/speed_scaling.py [size] [large] [memory] [lanes] [devices]`.

A step of a lane against the floor n d m: every size is doubled four times, and, `large`, twice from n d m = 1e5 on;
exponents are fitted to the last three doublings. The steps are the first of a flow, when neurons meet most hyperplanes,
and, `large`, also later ones. Memory is what a compiled turn of a sweep needs, from the compiler, per lane. Flows
per second over the number of lanes and of host devices are those of lanes alone, and of `gflow.sweep`.
"""

import json
import math
import os
import subprocess
import sys
import time
import warnings

import jax
import numpy as np
from harness import Report, seconds

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp

import gflow
from gflow import datasets
from gflow.flow.lanes import advance, start
from gflow.flow.pool import Fresh, _turn
from gflow.sweep import CHUNKS, Draw, refill_of

BASE = {"n": 20, "d": 5, "m": 25}
LARGE = {"n": 40, "d": 10, "m": 250}
DOUBLINGS = 4
LANES = 64
FEW = 8
"""Lanes where one is large: more take as long for each."""
LONG = 10_000
"""More lanes are timed once."""


def batch(n: int, d: int, m: int, lanes: int):
    """A stepper and its lanes, first weights of scale 1e-2."""
    data = datasets.gaussian(n, d)
    problem = gflow.Problem(data.X, data.y)
    law = gflow.Gaussian(1e-2)
    networks = jax.vmap(lambda i: law(gflow.key_of(0, i), problem, m))(jnp.arange(lanes))
    stepper = gflow.Stepper(problem, controller=gflow.PIController(1e-3))
    return stepper, start(stepper, networks)


def changes(stepper, lanes, count: int) -> float:
    """Pairs (sample, neuron) whose mode differs at the ends of an attempted step, per step and lane."""
    pairs, made = 0, 0
    for _ in range(count):
        now = advance(stepper, lanes, jnp.asarray(1))
        modes, before = now.solver.modes, lanes.solver.modes
        pairs += int(jnp.sum((modes.on != before.on) | (modes.slide != before.slide)))
        made += int(jnp.sum(now.steps - lanes.steps))
        lanes = now
    return pairs / made


def step_cost(
    n: int, d: int, m: int, lanes: int = LANES, count: int = 64, repeats: int = 3, after: int = 0, events: bool = False
) -> dict:
    """Microseconds per attempted step and lane, from the first step on or `after` so many; with `events` also how many
    modes change in a step."""
    stepper, first = batch(n, d, m, lanes)
    first = advance(stepper, first, jnp.asarray(after))
    made = int(jnp.sum(advance(stepper, first, jnp.asarray(count)).steps - first.steps))
    timed = seconds(lambda: advance(stepper, first, jnp.asarray(count)).steps, repeats)
    return {
        "n": n, "d": d, "m": m, "us_per_step": timed["median_s"] / made * 1e6,
        "spread_us": [timed["min_s"] / made * 1e6, timed["max_s"] / made * 1e6],
    } | ({"changes": changes(stepper, first, count)} if events else {})  # fmt: skip


def memory(n: int, d: int, m: int, lanes: int = LANES, chunks: int = CHUNKS) -> dict:
    """What one lane occupies in a turn of a sweep, which gives its pool back in place, and in `advance`, whose lanes
    before and after are two; in arrays of n x m."""
    stepper, first = batch(n, d, m, lanes)
    data = datasets.gaussian(n, d)
    problem = gflow.Problem(data.X, data.y)
    leg = refill_of(problem, gflow.Gaussian(1e-2)).legs[0]
    draw = Draw(gflow.Gaussian(1e-2), problem, jnp.asarray(0), m, "float64")
    networks = jax.eval_shape(jax.vmap(draw), jax.ShapeDtypeStruct((lanes,), int))
    of_chunks = lambda a: jnp.zeros((chunks, *a.shape), a.dtype)  # noqa: E731
    pool, brought = (jax.tree.map(of_chunks, shapes) for shapes in (leg.shapes(networks), networks))
    no, none = jnp.zeros((chunks, lanes), bool), jnp.zeros((chunks, lanes), int)
    with warnings.catch_warnings():  # a count that is given away cannot be used again: a call does not say so either
        warnings.filterwarnings("ignore", message="Some donated buffers were not usable")
        turn = _turn.lower(leg, pool, Fresh(none, no, brought, jnp.asarray(0)), no, jnp.asarray(1)).compile()
    alone = advance.lower(stepper, first, jnp.asarray(1)).compile()
    array = lanes * n * m * stepper.problem.X.dtype.itemsize
    return {
        "n": n, "d": d, "m": m, "arrays_of_n_m": _bytes(turn) / (chunks * array), "chunks": chunks,
        "lanes_of_a_chunk": lanes, "advance_arrays_of_n_m": _bytes(alone) / array,
    }  # fmt: skip


def _bytes(compiled) -> int:
    used = compiled.compiled.memory_analysis()
    total = used.temp_size_in_bytes + used.argument_size_in_bytes + used.output_size_in_bytes
    return total - used.alias_size_in_bytes


def exponent(sizes, cost) -> float:
    """Slope of log cost over log size, of the last three doublings."""
    return float(np.polyfit(np.log(sizes[-4:]), np.log(cost[-4:]), 1)[0])


def size(report: Report, base: dict = BASE, doublings: int = DOUBLINGS, **options) -> None:
    """n, d and m doubled one at a time."""
    for axis in base:
        rows = [step_cost(**base | {axis: base[axis] * 2**k}, **options) for k in range(doublings + 1)]
        found = exponent([row[axis] for row in rows], [row["us_per_step"] for row in rows])
        report.line(
            f"a step of a lane as {axis} is doubled, gaussian data", target=f"~ {axis}^1 where n d m >= 1e5",
            measured=found, met=found <= 1.0, us_per_step=[row["us_per_step"] for row in rows], rows=rows,
        )  # fmt: skip


def large(report: Report, base: dict = LARGE, doublings: int = 2, lanes: int = FEW, **options) -> None:
    """The same from n d m = 1e5 on, in the first 64 steps and in the 64 after 128."""
    for axis in base:
        for after in (0, 128):
            sizes = [base | {axis: base[axis] * 2**k} for k in range(doublings + 1)]
            rows = [step_cost(**size, lanes=lanes, after=after, events=True, **options) for size in sizes]
            found, events = (
                exponent([row[axis] for row in rows], [max(row[what], 1e-3) for row in rows])
                for what in ("us_per_step", "changes")
            )
            where = f"from n d m = {math.prod(base.values()):,} on, after {after} steps"
            report.line(
                f"a step of a lane as {axis} is doubled {where}",
                target=f"~ {axis}^1", measured=found, met=found <= 1.0, exponent_of_changes=events,
                changes_per_step=[row["changes"] for row in rows],
                us_per_step=[row["us_per_step"] for row in rows], rows=rows,
            )  # fmt: skip


def memories(report: Report, shapes=((20, 2, 50), (10, 5, 50), (80, 10, 100), (200, 50, 200)), **options) -> None:
    """Bytes per lane of a few shapes."""
    for n, d, m in shapes:
        found = memory(n, d, m, **options)
        report.line(
            f"memory of a lane, ({n},{d}), m = {m}", target="< 40 arrays of n x m", measured=found["arrays_of_n_m"],
            met=found["arrays_of_n_m"] < 40, **found,
        )  # fmt: skip


def lanes(report: Report, counts=(256, 1024, 4096, 16_384, 102_400), steps: int = 16) -> None:
    """Steps per second as lanes are added, gaussian (10,5), m = 50; once where it takes minutes."""
    for count in counts:
        stepper, first = batch(10, 5, 50, count)
        run = lambda made: advance(stepper, first, jnp.asarray(made)).steps  # noqa: B023, E731
        timed = seconds(lambda: run(steps), 3 if count <= LONG else 1, first=lambda: run(0))  # noqa: B023
        report.line(
            f"{count} lanes, gaussian (10,5), m = 50", measured=count * steps / timed["median_s"], unit="steps/s",
            us_per_step=timed["median_s"] / count / steps * 1e6, **timed,
        )  # fmt: skip


ALONE = """
import json, sys, time, jax
jax.config.update("jax_enable_x64", True)
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]) + 1)
import gflow
from gflow import datasets
data = datasets.gaussian(10, 5)
problem, inits = gflow.Problem(data.X, data.y), int(sys.argv[2])
out = {}
for run in ("with_compilation_s", "seconds"):
    start = time.perf_counter()
    rows = gflow.Records.joined(gflow.sweep(problem, gflow.Gaussian(1e-3), 50, inits))
    out[run] = time.perf_counter() - start
print(json.dumps(out | {"sum_of_objectives": float(rows.objective[rows.polished].sum())}))
"""


def devices(report: Report, counts=(1, 2, 4, 8), inits: int = 2000) -> None:
    """`gflow.sweep` over forced host devices: a process each, and the same objectives to the last bit."""
    found = {}
    for count in counts:
        begin = time.perf_counter()
        run = subprocess.run(
            [sys.executable, "-c", ALONE, str(count), str(inits)], capture_output=True, text=True, check=True,
            env=os.environ,
        )  # fmt: skip
        found[count] = json.loads(run.stdout.splitlines()[-1])
        report.line(
            f"{count} host devices, sweep of {inits}, gaussian (10,5), m = 50, {os.cpu_count()} cores",
            measured=inits / found[count]["seconds"], unit="certified flows/s", whole_s=time.perf_counter() - begin,
            **found[count],
        )  # fmt: skip
    sums = {row["sum_of_objectives"] for row in found.values()}
    report.line("the same objectives on every number of devices", target=1, measured=len(sums), met=len(sums) == 1)


PARTS = {"size": size, "large": large, "memory": memories, "lanes": lanes, "devices": devices}

if __name__ == "__main__":
    chosen = Report("speed_scaling", keep=True)
    for part in sys.argv[1:] or PARTS:
        PARTS[part](chosen)
