"""What every benchmark shares: where it ran, and one JSON line per figure."""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
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


class Report:
    """One line per figure in benchmarks/results/NAME.jsonl, printed too. `keep`: other claims stay in the file."""

    def __init__(self, name: str, keep: bool = False):
        self.path = Path(__file__).parent / "results" / f"{name}.jsonl"
        self.path.parent.mkdir(exist_ok=True)
        old = self.path.read_text().splitlines()[1:] if keep and self.path.exists() else []
        self.path.write_text("\n".join([json.dumps({"benchmark": name, **provenance()}), *old]) + "\n")

    def lines(self) -> list[dict]:
        """The lines in the file."""
        return [json.loads(line) for line in self.path.read_text().splitlines()]

    def line(self, claim: str, **figures) -> None:
        text = json.dumps({"claim": claim, **figures})
        print(text)
        sys.stdout.flush()
        lines = self.path.read_text().splitlines()
        same = [k for k, line in enumerate(self.lines()) if line.get("claim") == claim]
        if same:
            lines[same[0]] = text
        self.path.write_text("\n".join(lines if same else [*lines, text]) + "\n")


def seconds(call: Callable[[], object], repeats: int = 5) -> dict:
    """Wall time after a first call (which compiles): median and spread over `repeats`; compile time apart."""
    start = time.perf_counter()
    jax.block_until_ready(call())
    first = time.perf_counter() - start
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    median = statistics.median(times)
    return {"median_s": median, "min_s": min(times), "max_s": max(times), "first_call_s": first}
