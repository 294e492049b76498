"""What a GPU does: `python benchmarks/speed_gpu.py [--anyway]`; without one it says so and ends (`--anyway`: the CPU).

The card's ceilings are measured first, in float64 and float32: a product of large matrices for floating point, a sum of
two long arrays for memory. Then lanes of gaussian (10,5), m = 50, from a thousand to a million: steps per second, the
share of either ceiling that the compiler's own count of operations and bytes makes of it (the body of a loop counted
once: a lower bound), and bytes per lane. Flows per second are those of refilled lanes without limits, certified flows
per second those of `gflow.sweep`, whose limits the cores of the machine find. One core of the same machine steps the
same lanes for comparison.
"""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
from harness import Report, seconds

jax.config.update("jax_enable_x64", True)

import equinox as eqx
import jax.numpy as jnp

import gflow
from gflow import datasets
from gflow.flow.lanes import advance
from gflow.flow.refill import harvests
from gflow.flow.station import Refill, Task
from gflow.records import Records
from gflow.sweep import MORE, STEPS, Draw, chunk_for, lane_width, refill_of

WIDTH, LAW = 50, gflow.Gaussian(1e-3)
TYPES = ("float64", "float32")
LANES = (1_000, 10_000, 100_000, 1_000_000)
BLOCK = 10_000
"""Lanes that are begun together."""

COUNT = 4
"""Attempted steps that are timed, with lanes under way: the first steps are easier than later ones."""


def ceilings(dtype: str, size: int = 8192, length: int = 2**27) -> dict:
    """Operations per second of a matrix product, bytes per second of a sum of two long arrays."""
    rng = np.random.default_rng(0)
    a = jnp.asarray(rng.standard_normal((size, size)), dtype)
    with jax.default_matmul_precision("highest"):
        product = seconds(lambda: jax.jit(jnp.matmul)(a, a))
    b = jnp.arange(length, dtype=dtype)
    c = b + 1
    added = seconds(lambda: jax.jit(jnp.add)(b, c))
    return {
        "flops": 2 * size**3 / product["median_s"], "bytes_per_s": 3 * length * b.dtype.itemsize / added["median_s"],
    }  # fmt: skip


def refill(dtype: str) -> tuple[gflow.Problem, Refill]:
    """gaussian (10,5), its flows in this precision."""
    data = datasets.gaussian(10, 5)
    problem = gflow.Problem(data.X, data.y)
    return problem, refill_of(problem, LAW, dtype=dtype)


def drawing(problem: gflow.Problem, dtype: str) -> Draw:
    """index -> the first weights."""
    return Draw(LAW, problem, jnp.asarray(0), WIDTH, dtype)


@eqx.filter_jit
def begun(refill: Refill, draw: Draw, index):
    """Lanes of these initialisations at s = 0."""
    return jax.vmap(lambda i: refill.stepper.start(draw(i)))(index)


def compiled(problem: gflow.Problem, filled: Refill, dtype: str, count: int):
    """`count` lanes, and the program that advances them."""
    blocks = np.split(np.arange(count), range(BLOCK, count, BLOCK))  # all at once they may not fit into the memory
    draw = drawing(problem, dtype)
    several = [begun(filled, draw, jnp.asarray(block)) for block in blocks]
    lanes = jax.tree.map(lambda *a: jnp.concatenate(a), *several)
    return filled.stepper, lanes, advance.lower(filled.stepper, lanes, jnp.asarray(COUNT)).compile()


def on_one_core(count: int = 256):
    """The same on the CPU."""
    with jax.default_device(jax.devices("cpu")[0]):
        return compiled(*refill("float64"), "float64", count)


def lanes(made, dtype: str, ceiling: dict) -> dict:
    """COUNT attempted steps of lanes under way, and what the compiler counts for them: a loop's body once."""
    stepper, first, program = made
    count, steps = len(first.steps), jnp.asarray(COUNT)
    under_way = program(stepper, program(stepper, first, steps), steps)
    timed = seconds(lambda: program(stepper, under_way, steps).steps, 2)
    used, counted = program.compiled.memory_analysis(), program.compiled.cost_analysis()
    counted = counted if isinstance(counted, dict) else counted[0]
    a_second, a_lane = COUNT / timed["median_s"], (used.temp_size_in_bytes + used.argument_size_in_bytes) / count
    return {
        "steps_per_s": count * a_second, **timed, "bytes_per_lane": a_lane,
        "arrays_of_n_m": a_lane / (10 * WIDTH * np.dtype(dtype).itemsize),
        "share_of_flops": a_second * counted["flops"] / ceiling["flops"],
        "share_of_bandwidth": a_second * counted["bytes accessed"] / ceiling["bytes_per_s"],
    }  # fmt: skip


def flows(dtype: str, inits: int, lanes_for: int) -> dict:
    """Flows of refilled lanes, without their limits; lanes as for a sweep of `lanes_for`."""
    problem, filled = refill(dtype)
    device = jax.local_devices()[0]
    chunk = chunk_for(device, problem, WIDTH, lanes_for)
    task = Task(
        filled, (drawing(problem, dtype),), np.zeros(inits, int), np.arange(inits), lane_width(LAW, WIDTH), chunk, MORE
    )
    begin = time.perf_counter()
    ended = harvests([task], devices=[device], steps=STEPS)
    steps = sum(int(harvest.ends.steps.sum()) for harvest in ended if harvest is not None)
    took = time.perf_counter() - begin
    return {
        "flows_per_s": inits / took,
        "seconds": took,
        "steps_per_s": steps / took,
        "lanes": chunk * MORE,
        "of": inits,
    }


def certified(inits: int, dtype: str, processes: int) -> dict:
    """`gflow.sweep` to certified limits: once with its compilation, and once more with the start of its processes."""
    problem, _ = refill("float64")
    took = []
    for _ in range(2):
        begin = time.perf_counter()
        swept = gflow.sweep(problem, LAW, WIDTH, inits, dtype=dtype, processes=processes)
        rows = Records.joined(swept)
        took.append(time.perf_counter() - begin)
    settled = (rows.polished & (rows.kkt_residual <= 1e-8)) | (rows.verdict == gflow.VERDICT.UNFITTED)
    return {"seconds": took[1], "with_compilation_s": took[0], "flows_per_s": inits / took[1],
            "settled": int(np.sum(settled)), "of": inits, "processes": processes}  # fmt: skip


def programs(count: int = 16, n: int = 20, d: int = 3) -> dict:
    """Max-margin programs one after the other: what of them runs on the device is pricing alone."""
    rng = np.random.default_rng(0)
    made = [gflow.Problem(rng.standard_normal((n, d)), rng.choice([-1.0, 1.0], n)) for _ in range(count)]
    known = [gflow.faces(problem.X) for problem in made]
    begin = [gflow.solve_max_margin(problem, faces) for problem, faces in zip(made, known, strict=True)]
    started = time.perf_counter()
    solved = [gflow.solve_max_margin(problem, faces) for problem, faces in zip(made, known, strict=True)]
    return {
        "seconds": time.perf_counter() - started, "programs": count, "worst_gap": max(s.gap for s in solved + begin),
    }  # fmt: skip


def main(anyway: bool, counts=LANES, inits: int = 131_072, sizes: dict | None = None) -> None:
    device = jax.devices()[0]
    if device.platform == "cpu" and not anyway:
        print("no GPU here: nothing was measured (--anyway runs the same on the CPU)")
        return
    report, name = Report(f"speed_gpu_{device.platform}", keep=True), device.device_kind
    flags = os.environ.get("XLA_FLAGS", "")
    for dtype in TYPES:
        ceiling = ceilings(dtype, **(sizes or {}))
        report.line(f"{name}, {dtype}: ceilings", measured=ceiling, xla_flags=flags)
        with ThreadPoolExecutor() as threads:  # programs are compiled side by side
            made = {count: threads.submit(compiled, *refill(dtype), dtype, count) for count in counts}
            threads.submit(flows, dtype, 8, inits)
        for count in counts:  # those that do not fit come last
            claim = f"{name}, {dtype}: {count} lanes"
            try:
                found = lanes(made.pop(count).result(), dtype, ceiling)
            except jax.errors.JaxRuntimeError as error:  # out of memory: the figure is that it does not fit
                report.line(claim, measured=None, failed=str(error).splitlines()[0][:120])
                continue
            report.line(claim, measured=found["steps_per_s"], unit="steps/s", **found)
    found = lanes(on_one_core(), "float64", {"flops": np.nan, "bytes_per_s": np.nan})
    report.line("one core of that machine, float64: 256 lanes", measured=found["steps_per_s"], unit="steps/s")
    processes, target = max((os.cpu_count() or 1) - 1, 1), 20_000
    for dtype in TYPES:
        found = certified(inits // 4, dtype, processes)
        report.line(
            f"{name}, flows in {dtype}: certified flows", target=f">= {target} flows/s (H200)",
            measured=found["flows_per_s"], met=found["flows_per_s"] >= target, **found,
        )  # fmt: skip
        found = flows(dtype, inits, inits)
        report.line(f"{name}, {dtype}: flows without limits", measured=found["flows_per_s"], unit="flows/s", **found)
    with jax.default_device(jax.devices("cpu")[0]):
        report.line("16 max-margin programs (20,3) on the CPU of that machine", measured=programs())
    report.line(f"{name}: 16 max-margin programs (20,3)", measured=programs())


if __name__ == "__main__":
    main("--anyway" in sys.argv[1:])
