"""Time from a cold shell to the first result of `gflow run`, with and without what was compiled before.

`python benchmarks/speed_start.py`: three processes with a warm compilation cache, three with an empty one each.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

from harness import Report

COMMAND = [
    sys.executable,
    "-c",
    "from gflow.cli import program; program()",
    "run",
    "orthogonal-separable:n=20,d=2",
    "--json",
]


def once(cache: str) -> float:
    start = time.perf_counter()
    env = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
    subprocess.run(COMMAND, check=True, capture_output=True, env=env)
    return time.perf_counter() - start


if __name__ == "__main__":
    report = Report("speed_start")
    with tempfile.TemporaryDirectory() as folder:
        cold = [once(f"{folder}/{k}") for k in range(3)]
        warm = [once(f"{folder}/0") for _ in range(3)]
    for name, times, target in (("empty", cold, 25), ("warm", warm, 10)):
        middle = statistics.median(times)
        report.line(
            f"`gflow run orthogonal-separable:n=20,d=2` from a cold shell, {name} compilation cache",
            target=f"<= {target} s", measured=middle, met=bool(middle <= target), spread=[min(times), max(times)],
        )  # fmt: skip
