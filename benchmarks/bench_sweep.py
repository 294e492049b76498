"""Sweeps: `python benchmarks/bench_sweep.py [PART ...]`, each part in processes of its own.

Parts: refill (flows per second of refilled lanes against a plain vmapped batch of the same flows), busy (how busy lanes
are until the queue is empty), large (100,000 initialisations to certified limits in one command: seconds, memory),
killed (the same with three SIGKILLs, store against store), cluster (two Dask workers, one killed), xor (the exact law
of case B), corners (a grid whose slowest flows leave a saddle algebraically, beside a loop of descent).
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)

import jax.numpy as jnp
import numpy as np
from harness import Report
from peers import vmapped_descent

import gflow
from gflow import datasets
from gflow.flow.refill import harvests
from gflow.flow.station import Lanes, Task
from gflow.sweep import CHUNK, CHUNKS, STEPS, Draw, lane_devices, lane_width, refill_of

GFLOW = [sys.executable, "-c", "from gflow.cli import program; program()"]


WIDTHS = (4, 8, 16, 32, 64)


def refill(report: Report, inits: int = 512, lanes: int = 512) -> None:
    """gaussian (10,5), widths 4 to 64: a width is a program of its own, lanes of one width are refilled.

    Against vmapped batches of one width each, and of all widths mixed, for which narrow networks are given neurons that
    are zero: one vmapped program has one width.
    """
    data = datasets.gaussian(n=10, d=5)
    problem = gflow.Problem(data.X, data.y)
    known = gflow.faces(problem.X)
    optimum = gflow.solve_max_margin(problem, known)
    law, table, seconds = gflow.Gaussian(1e-3), {}, {"refilled": 0.0, "flows": 0.0, "vmapped": 0.0}
    for width in WIDTHS:
        jax.clear_caches()  # or the sweep that is timed would find too few memory maps left, and compile again
        busy: list[tuple[int, int]] = []
        shared = {"known_faces": known, "optimum": optimum}

        def run(count, width=width, busy=busy, shared=shared):
            note = lambda *turn: busy.append(turn)  # noqa: E731
            return gflow.Records.joined(gflow.sweep(problem, law, width, count, watch=note, **shared))

        run(512)  # compiles
        busy.clear()
        begin = time.perf_counter()
        rows = run(inits)
        took = time.perf_counter() - begin
        alone = flows_alone(problem, law, width, inits)
        plain, vmapped = vmapped_batch(problem, law, width, inits, lanes)
        full = [b / most for b, most in busy]
        # the queue is empty when a turn begins with a lane that is not busy
        until = next((k for k, b in enumerate(full) if b < 1), len(full))
        table[width] = {
            "refilled_s": took, "flows_s": alone, "vmapped_s": plain, "ratio": plain / took,
            "steps": np.percentile(rows.steps, [0, 50, 99, 100]).tolist(), "turns": len(full), "full_turns": until,
            "slots_used": float(rows.steps.sum() / (len(full) * busy[0][1] * STEPS)),
            "same_end": float(np.mean(np.abs(rows.steps - vmapped) <= 0.1 * rows.steps)),
        }  # fmt: skip
        seconds["refilled"] += took
        seconds["flows"] += alone
        seconds["vmapped"] += plain
    jax.clear_caches()
    seconds["mixed"], mixed = mixed_batch(problem, law, inits, lanes)
    for name, what in (("mixed", "all widths mixed"), ("vmapped", "one width each")):
        for side, ours in (("refilled", "certified limits"), ("flows", "flows alone")):
            ratio = seconds[name] / seconds[side]
            report.line(
                f"{ours}, lanes refilled, over vmapped batches of {lanes} without limits, {what}, {inits} each",
                target=">= 3", measured=ratio, met=bool(ratio >= 3), seconds=seconds, table=table,
                mixed_steps=np.percentile(mixed, [0, 50, 99, 100]).tolist(),
            )  # fmt: skip


def busy_lanes(report: Report, inits: int = 4096) -> None:
    """What part of the steps that lanes could make they made, in the turns that began with a flow in every lane."""
    data = datasets.gaussian(n=10, d=5)
    problem = gflow.Problem(data.X, data.y)
    for width in WIDTHS:
        turns: list[tuple[int, int]] = []
        law = gflow.Gaussian(1e-3)
        # every turn is noted by the wrapped method: how many steps its lanes made and could have made
        made: list[tuple[int, int]] = []
        turn = Lanes.turn

        def counted(lanes, fresh, stopped, steps, turn=turn, made=made):
            before = np.asarray(lanes.pool.lanes.steps).copy()
            turn(lanes, fresh, stopped, steps)
            after = np.asarray(lanes.pool.lanes.steps)
            if steps:
                began = np.zeros(lanes.held.size, bool)
                began[fresh.lane[fresh.flow]] = True
                # what a flow had made before it came into this leg is not of this turn
                own = after - np.where(began.reshape(after.shape), np.asarray(lanes.pool.lanes.before), before)
                made.append((int(own.sum()), after.size * steps, int(np.sum(lanes.held >= 0)) == after.size))

        Lanes.turn = counted
        try:
            for _ in flows_of(problem, law, width, inits, lambda *turn: turns.append(turn)):  # noqa: B023
                pass
        finally:
            Lanes.turn = turn
        full = [(steps, most) for steps, most, all_busy in made if all_busy]
        part = sum(steps for steps, _ in full) / sum(most for _, most in full)
        report.line(
            f"lanes busy until the queue is empty, gaussian (10,5), m = {width}, {inits} flows", target=">= 0.9",
            measured=part, met=bool(part >= 0.9), turns=len(turns), full_turns=len(full), lanes=turns[0][1],
        )  # fmt: skip


def flows_of(problem, law, width: int, inits: int, watch=None):
    """Harvests of flows in refilled lanes, whose limits nobody finds."""
    devices, indices = lane_devices(), np.arange(inits)
    draw = Draw(law, problem, jnp.asarray(0), width, "float64")
    chunks = min(CHUNKS, -(-inits // (len(devices) * CHUNK)))
    task = Task(refill_of(problem, law), (draw,), np.zeros(inits, int), indices, lane_width(law, width), CHUNK, chunks)
    return (h for h in harvests([task], devices=devices, steps=STEPS, watch=watch) if h is not None)


def flows_alone(problem, law, width: int, inits: int) -> float:
    """Seconds of the same flows in refilled lanes, whose limits nobody finds; compiled by a sweep of this width."""
    begin = time.perf_counter()
    ended = sum(len(harvest.positions) for harvest in flows_of(problem, law, width, inits))
    assert ended == inits
    return time.perf_counter() - begin


def refill_more(report: Report) -> None:
    """The same with four times as many flows as lanes."""
    refill(report, 2048)


def vmapped_batch(problem, law, width: int, inits: int, lanes: int):
    """Seconds of jit(vmap(solve_flow)) after compilation, batch after batch, and the steps of every flow."""
    return timed_batches(problem, first_weights(problem, law, width, inits), lanes)


def mixed_batch(problem, law, inits: int, lanes: int):
    """The same of flows of all WIDTHS, in turn, with zeros for the neurons that narrow ones do not have."""
    most = max(WIDTHS)
    fill = lambda a: jnp.pad(a, [(0, 0)] * (a.ndim - 1) + [(0, most - a.shape[-1])])  # noqa: E731
    each = [jax.tree.map(fill, first_weights(problem, law, width, inits)) for width in WIDTHS]
    mixed = jax.tree.map(lambda *a: jnp.stack(a, axis=1).reshape(-1, *a[0].shape[1:]), *each)
    return timed_batches(problem, mixed, lanes)


def first_weights(problem, law, width: int, inits: int):
    """The networks of initialisations 0..inits-1, stacked."""
    return jax.vmap(lambda i: law(gflow.key_of(0, i), problem, width))(jnp.arange(inits))


def timed_batches(problem, networks, lanes: int):
    """Seconds of the flows of stacked networks, `lanes` at a time, and the steps of every flow."""
    options = {"saves": 1, "chart": gflow.BalancedPolar, "controller": gflow.PIController(1e-3)}
    run = jax.jit(jax.vmap(lambda network: gflow.solve_flow(problem, network, **options).steps))
    count = jax.tree.leaves(networks)[0].shape[0]
    batches = [jax.tree.map(lambda a, at=at: a[at : at + lanes], networks) for at in range(0, count, lanes)]
    jax.block_until_ready(run(batches[0]))
    begin = time.perf_counter()
    steps = [np.asarray(jax.block_until_ready(run(batch))) for batch in batches]
    return time.perf_counter() - begin, np.concatenate(steps)


def command(out: Path, inits: int) -> list[str]:
    return [*GFLOW, "sweep", "gaussian:n=10,d=5", "--inits", str(inits), "--width", "20", "--out", str(out), "--json"]


def store_of(folder: Path, inits: int) -> Path:
    return folder / f"sweep-{inits}.zarr"


def large(report: Report, inits: int = 100_000) -> None:
    """One command; peak memory of its processes, and of the first tenth of it."""
    folder = Path(os.environ.get("GFLOW_BENCH_STORES", tempfile.mkdtemp()))
    out, begin = store_of(folder, inits), time.perf_counter()
    process = subprocess.Popen(command(out, inits), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    peaks = []
    for line in process.stderr:
        if line.startswith("flows:"):
            done = int(line.split()[1])
            peaks.append((done, peak_memory(process.pid)))
    summary = json.loads(process.stdout.read())
    assert process.wait() == 0
    took = time.perf_counter() - begin
    early, peak = max((p for done, p in peaks if 0 < done <= inits // 10), default=None), max(p for _, p in peaks)
    report.line(
        f"{inits} initialisations of gaussian (10,5), m = 20, to certified limits in one command", target="memory flat",
        measured={"seconds": took, "flows_per_s": inits / took, "peak_MB": peak, "peak_MB_first_tenth": early},
        met=bool(early and peak <= 1.1 * early), verdicts=summary["verdicts"],
        limits=[{k: x[k] for k in ("count", "objective", "certificate", "verdict")} for x in summary["limits"][:8]],
        distinct=len(summary["limits"]), store_MB=sum(p.stat().st_size for p in out.rglob("*") if p.is_file()) / 1e6,
    )  # fmt: skip


def peak_memory(pid: int) -> float:
    """MB of physical memory at most so far, of a process and of those that find limits for it."""
    children = " ".join(p.read_text() for p in Path(f"/proc/{pid}/task").glob("*/children")).split()
    return sum(own_peak_memory(p) for p in (pid, *map(int, children)))


def own_peak_memory(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM")), 0.0)


def killed(report: Report, inits: int = 100_000, kills: int = 3) -> None:
    """The same with SIGKILL at random moments; compared with the store of `large`, file by file."""
    folder = Path(os.environ.get("GFLOW_BENCH_STORES", tempfile.mkdtemp()))
    whole = store_of(folder, inits)
    out = folder / f"killed-{inits}.zarr"
    rng, at = random.Random(0), []
    targets = sorted(rng.uniform(0.05, 0.95) for _ in range(kills))
    begin = time.perf_counter()
    for target in targets:
        process = subprocess.Popen(command(out, inits), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for line in process.stderr:
            if line.startswith("flows:") and int(line.split()[1]) >= target * inits:
                break
        time.sleep(rng.uniform(0.0, 3.0))
        process.send_signal(signal.SIGKILL)
        process.wait()
        at.append(int(np.sum(gflow_rows(out))))
    subprocess.run(command(out, inits), check=True, capture_output=True)
    different = differences(whole, out)
    report.line(
        f"{inits} initialisations, killed {kills} times and resumed, against the store that was not", target="equal",
        measured=f"{len(different)} files differ", met=not different, rows_at_kills=at,
        seconds=time.perf_counter() - begin, differ=different[:10],
    )  # fmt: skip


def gflow_rows(path):
    from gflow import store

    return store.open_store(path)["verdict"].values >= 0


def differences(a: Path, b: Path) -> list[str]:
    """Chunks that are not equal byte for byte."""
    files = lambda root: {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}  # noqa: E731
    left, right = files(a), files(b)
    names = {name for name in left.keys() | right.keys() if not name.endswith("zarr.json")}
    return sorted(name for name in names if left.get(name) != right.get(name))


def xor(report: Report, inits: int = 10_000) -> None:
    """The fitted fraction of case B over m = 2..16 as one grid."""
    out = Path(tempfile.mkdtemp()) / "xor.zarr"
    subprocess.run([*GFLOW, "sweep", "xor", "--width", "2..16", "--inits", str(inits), "--out", str(out)], check=True)
    found = json.loads(subprocess.run([*GFLOW, "report", str(out), "--json"], check=True, capture_output=True).stdout)
    table = {}
    for cell in found["cells"]:
        law = fitted_law(cell["width"])
        sigma = (law * (1 - law) / inits) ** 0.5
        deviations = (
            (cell["fitted"]["fraction"] - law) / sigma if sigma > 0 else float(cell["fitted"]["fraction"] != law)
        )
        table[cell["width"]] = {"fraction": cell["fitted"]["fraction"], "law": law, "deviations": deviations}
    worst = max(abs(v["deviations"]) for v in table.values())
    report.line(
        f"XOR, m = 2..16, {inits} initialisations each: fitted fraction, largest deviation in sigma", target="<= 3",
        measured=worst, met=bool(worst <= 3), table=table,
    )  # fmt: skip


CORNERS = [[0, 0, -1], [0, 1, 1], [1, 0, 1], [1, 1, -1]]


def corners(report: Report, inits: int = 200, widths: tuple[int, ...] = (1, 2, 3, 4, 5)) -> None:
    """XOR of the corners of a square, with bias: sum_n y_n x_n = 0. A grid of widths from scale 0.01 in one command, in
    a store, with nothing compiled; and a loop of descent from the same weights, run after it, compiled too."""
    folder = Path(tempfile.mkdtemp())
    data = folder / "corners.csv"
    data.write_text("\n".join(["x1,x2,label", *(",".join(map(str, row)) for row in CORNERS)]) + "\n")
    grid = ",".join(map(str, widths))
    arguments = ["sweep", str(data), "--bias", "--width", grid, "--inits", str(inits), "--scale", "0.01"]
    environment = os.environ | {"XDG_CACHE_HOME": str(folder / "cache")}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    took, table, done = [], {}, None
    for name in ("cold", "compiled"):
        begin = time.perf_counter()
        done = subprocess.run(
            [*GFLOW, *arguments, "--out", str(folder / f"{name}.zarr"), "--json"], check=True, capture_output=True,
            env=environment,
        )  # fmt: skip
        took.append(time.perf_counter() - begin)
    assert done is not None
    found = json.loads(done.stdout)
    rows = np.array(CORNERS, float)
    X, y = np.column_stack([rows[:, :2], np.ones(len(rows))]), rows[:, 2]
    problem, begin = gflow.Problem(X, y), time.perf_counter()
    for width in widths:
        networks = first_weights(problem, gflow.Gaussian(0.01), width, inits)
        fits, steps = vmapped_descent(X, y, networks.W1, networks.w2, rate=0.1, block=10_000, until=1e-6, most=10**6)
        table[width] = {"descent": int(fits.sum()), "descent_steps": steps}
    loop, near = time.perf_counter() - begin, True
    for cell in found["cells"]:
        ours, theirs = round(cell["fitted"]["fraction"] * inits), table[cell["width"]]["descent"]
        share = (ours + theirs) / (2 * inits)
        sigma = (2 * inits * share * (1 - share)) ** 0.5
        table[cell["width"]]["gflow"] = ours
        near = near and abs(ours - theirs) <= 3 * sigma
    report.line(
        f"XOR of corners with bias, widths {grid}, {inits} each at scale 0.01: seconds of the grid over those of a "
        "loop of descent", target="<= 1, fitted within 3 sigma", measured=took[0] / loop,
        met=bool(took[0] <= loop and near), cold_s=took[0], compiled_s=took[1], loop_s=loop, fitted=table,
    )  # fmt: skip


def cluster(report: Report, inits: int = 2000) -> None:
    """Two Dask workers of one core, one killed in the middle; against one process without a scheduler."""
    from distributed import LocalCluster

    folder = Path(tempfile.mkdtemp())
    alone, out = folder / "alone.zarr", folder / "dask.zarr"
    subprocess.run(command(alone, inits), check=True, capture_output=True)
    begin = time.perf_counter()
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as workers:
        arguments = [*command(out, inits), "--scheduler", workers.scheduler_address]
        process = subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        lost = None
        for line in process.stderr:
            if lost is None and line.startswith("flows:") and int(line.split()[1]) >= inits // 4:
                lost = next(iter(workers.workers.values())).process.pid
                os.kill(lost, signal.SIGKILL)
        assert process.wait() == 0 and lost is not None
    different = differences(alone, out)
    report.line(
        f"two Dask workers, one killed mid-sweep, {inits} initialisations, against one process", target="equal",
        measured=f"{len(different)} files differ", met=not different, seconds=time.perf_counter() - begin,
    )  # fmt: skip


def fitted_law(m: int) -> float:
    """Theory, case B: all four pairs of quadrant and sign are hit."""
    return 1 - 4 * 0.75**m + 6 * 0.5**m - 4 * 0.25**m


PARTS = {
    "refill": refill, "refill_more": refill_more, "busy": busy_lanes, "large": large, "killed": killed,
    "cluster": cluster, "xor": xor, "corners": corners,
}  # fmt: skip

if __name__ == "__main__":
    chosen = sys.argv[1:] or list(PARTS)
    report = Report("bench_sweep", keep=len(sys.argv) > 1)
    for part in chosen:
        PARTS[part](report)
