"""What a GPU does: `python benchmarks/speed_gpu.py [--anyway]`; without one it says so and ends (`--anyway`: the CPU).

The card's ceilings are measured first, in float64 and float32: a product of large matrices for floating point, a sum of
two long arrays for memory. Then lanes of gaussian (10,5), m = 50, from a thousand to a million: steps per second, the
share of either ceiling that the compiler's own count of operations and bytes makes of it, and bytes per lane. Certified
flows per second are those of `gflow.sweep`. The same code runs on the CPU of that machine for comparison.
"""

import sys
import time

import jax
import numpy as np
from harness import Report, seconds

jax.config.update("jax_enable_x64", True)

import diffrax
import equinox as eqx
import jax.numpy as jnp

import gflow
from gflow import datasets
from gflow.flow.lanes import advance, start
from gflow.records import Records
from gflow.sweep import cast

WIDTH, LAW = 50, gflow.Gaussian(1e-3)
LANES = (1_000, 10_000, 100_000, 1_000_000)
STEPS = 16


def ceilings(dtype: str, size: int = 8192, length: int = 2**27) -> dict:
    """Operations per second of a matrix product, bytes per second of c = a + b."""
    a = jnp.ones((size, size), dtype)
    product = seconds(lambda: jax.jit(jnp.matmul)(a, a))
    b = jnp.ones(length, dtype)
    added = seconds(lambda: jax.jit(jnp.add)(b, b))
    return {
        "flops": 2 * size**3 / product["median_s"], "bytes_per_s": 3 * length * b.dtype.itemsize / added["median_s"],
    }  # fmt: skip


def problem_and_stepper(dtype: str):
    """gaussian (10,5) in this precision."""
    data = datasets.gaussian(10, 5)
    problem = gflow.Problem(data.X, data.y)
    stepper = gflow.Stepper(cast(problem, dtype), controller=diffrax.PIDController(rtol=1e-3, atol=1e-3))
    return problem, stepper


def lanes(dtype: str, count: int, ceiling: dict, steps: int = STEPS) -> dict:
    """`steps` attempted steps of `count` lanes."""
    problem, stepper = problem_and_stepper(dtype)
    networks = cast(jax.vmap(lambda i: LAW(gflow.key_of(0, i), problem, WIDTH))(jnp.arange(count)), dtype)
    first = start(stepper, networks)
    timed = seconds(lambda: advance(stepper, first, jnp.asarray(steps)).steps, 3)
    compiled = advance.lower(stepper, first, jnp.asarray(steps)).compile().compiled
    used, one = compiled.memory_analysis(), _one_step(stepper, first)
    rate = count * steps / timed["median_s"]
    return {
        "steps_per_s": rate, **timed,
        "bytes_per_lane": (used.temp_size_in_bytes + used.argument_size_in_bytes) / count,
        "share_of_flops": rate * one["flops"] / count / ceiling["flops"],
        "share_of_bandwidth": rate * one["bytes accessed"] / count / ceiling["bytes_per_s"],
    }  # fmt: skip


def _one_step(stepper, lanes) -> dict:
    """What the compiler counts for one step of all lanes, a loop's body once."""
    step = eqx.filter_jit(lambda stepper, lanes: jax.vmap(stepper.step)(lanes))
    counted = step.lower(stepper, lanes).compile().compiled.cost_analysis()
    return counted if isinstance(counted, dict) else counted[0]


def certified(inits: int, dtype: str, devices=None) -> dict:
    """`gflow.sweep` to certified limits, the second of two runs."""
    problem, _ = problem_and_stepper("float64")
    out = {}
    for run in ("with_compilation_s", "seconds"):
        begin = time.perf_counter()
        rows = Records.joined(gflow.sweep(problem, LAW, WIDTH, inits, dtype=dtype, devices=devices))
        out[run] = time.perf_counter() - begin
    settled = (rows.polished & (rows.kkt_residual <= 1e-8)) | (rows.verdict == gflow.VERDICT.UNFITTED)
    return out | {"flows_per_s": inits / out["seconds"], "settled": int(np.sum(settled)), "of": inits}


def programs(count: int = 64, n: int = 20, d: int = 3) -> dict:
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


def main(anyway: bool, counts=LANES, inits: int = 100_000, sizes: dict | None = None) -> None:
    device = jax.devices()[0]
    if device.platform == "cpu" and not anyway:
        print("no GPU here: nothing was measured (--anyway runs the same on the CPU)")
        return
    report = Report(f"speed_gpu_{device.platform}", keep=True)
    name = device.device_kind
    for dtype in ("float64", "float32"):
        ceiling = ceilings(dtype, **(sizes or {}))
        report.line(f"{name}, {dtype}: ceilings", measured=ceiling)
        for count in counts:
            try:
                found = lanes(dtype, count, ceiling)
            except jax.errors.JaxRuntimeError as error:  # out of memory: the figure is that it does not fit
                report.line(f"{name}, {dtype}: {count} lanes", measured=None, failed=str(error).splitlines()[0][:120])
                break
            report.line(f"{name}, {dtype}: {count} lanes", measured=found["steps_per_s"], unit="steps/s", **found)
        found, target = certified(inits, dtype), 20_000
        report.line(
            f"{name}, flows in {dtype}: certified flows", target=f">= {target} flows/s (H200)",
            measured=found["flows_per_s"], met=found["flows_per_s"] >= target, **found,
        )  # fmt: skip
    report.line(f"{name}: 64 max-margin programs (20,3)", measured=programs())


if __name__ == "__main__":
    main("--anyway" in sys.argv[1:])
