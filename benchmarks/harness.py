"""What every benchmark shares: where it ran, and one JSON line per figure."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import jax

PACKAGES = ("jax", "jaxlib", "diffrax", "equinox", "numpy")


def provenance() -> dict:
    """Device, cores, dtype and versions; no name of a machine."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind if device.platform != "cpu" else f"cpu x{os.cpu_count()} {platform.machine()}",
        "dtype": "float64" if jax.config.read("jax_enable_x64") else "float32",
        "versions": {name: version(name) for name in PACKAGES},
    }


def state() -> dict:
    """What a line says of when and on which code it was measured: `date` (UTC), `commit`, and the `device`.

    A commit ends in "+" if files of gflow/ or benchmarks/*.py differed from it; it is None outside a git clone.
    """
    root = Path(__file__).parent.parent

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        commit += "+" if git("status", "--porcelain", "--", "gflow", "benchmarks/*.py") else ""
    except (OSError, subprocess.CalledProcessError):
        commit = None
    return {"commit": commit, "date": f"{datetime.now(UTC):%Y-%m-%d}", "device": provenance()["device"]}


class Report:
    """One line per figure in benchmarks/results/NAME.jsonl, printed too. `keep`: other claims stay in the file."""

    def __init__(self, name: str, keep: bool = False):
        self.path = Path(__file__).parent / "results" / f"{name}.jsonl"
        self.path.parent.mkdir(exist_ok=True)
        self.state = state()
        old = self.path.read_text().splitlines()[1:] if keep and self.path.exists() else []
        self.path.write_text("\n".join([json.dumps({"benchmark": name, **provenance()}), *old]) + "\n")

    def lines(self) -> list[dict]:
        """The lines in the file."""
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def line(self, claim: str, **figures) -> None:
        text = json.dumps({"claim": claim, **figures, **self.state})
        print(text)
        sys.stdout.flush()
        lines = self.path.read_text().splitlines()
        same = [k for k, line in enumerate(self.lines()) if line.get("claim") == claim]
        if same:
            lines[same[0]] = text
        self.path.write_text("\n".join(lines if same else [*lines, text]) + "\n")


def seconds(call: Callable[[], object], repeats: int = 5, first: Callable[[], object] | None = None) -> dict:
    """Wall time after a first call (which compiles): median and spread over `repeats`; compile time apart. `first`:
    another call that compiles the same."""
    start = time.perf_counter()
    jax.block_until_ready((first or call)())
    compiled = time.perf_counter() - start
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    median = statistics.median(times)
    return {"median_s": median, "min_s": min(times), "max_s": max(times), "first_call_s": compiled}


def _tell(pipe, walk: Callable[..., Iterator], arguments: tuple) -> None:
    """In a process of its own: what `walk(*arguments)` yields goes to `pipe`, then True; an ImportError goes too."""
    try:
        for news in walk(*arguments):
            pipe.send(news)
        pipe.send(True)
    except ImportError as error:
        pipe.send(error)


def within(limit_s: float, walk: Callable[..., Iterator], *arguments) -> tuple[object, bool]:
    """The last value of the generator `walk(*arguments)`, run in a process killed after `limit_s`; was it ended?

    Some solvers compute for hours inside one compiled call, which no signal interrupts. None: it yielded nothing.
    """
    here, there = (context := multiprocessing.get_context("spawn")).Pipe(duplex=False)
    process = context.Process(target=_tell, args=(there, walk, arguments), daemon=True)
    process.start()
    there.close()
    last, end = None, time.monotonic() + limit_s
    try:
        while here.poll(max(end - time.monotonic(), 0.0)):
            news = here.recv()
            if isinstance(news, ImportError):
                raise news
            if news is True:
                return last, True
            last = news
        return last, False
    except EOFError:  # the process died
        return last, False
    finally:
        process.kill()
        process.join()
