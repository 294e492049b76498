"""Random small nasty problems of which gflow says something false: `python -m benchmarks.fuzz_statements N [START]`.

The code is that of tests/test_statements.py. Every false statement is printed with the seed and the numbers that
reproduce it; a line with the rate so far comes every minute.
"""

import collections
import sys
import time
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import statements

from benchmarks.harness import Report
from gflow import maps


def main(tries: int, start: int) -> None:
    began = said = time.perf_counter()
    kinds, false = collections.Counter(), collections.Counter()
    for seed in range(start, start + tries):
        kind = statements.trial(seed).kind
        lines = statements.refuted(seed)
        kinds[kind] += 1
        false[kind] += bool(lines)
        for line in lines:
            print(line, flush=True)
        maps.make_room()
        if time.perf_counter() - said > 60:
            said = time.perf_counter()
            print(f"{seed - start + 1} of {tries} tries, {false.total()} with a false statement", flush=True)
    Report("fuzz_statements", keep=True).line(
        "no statement is false", target=0, measured=false.total(), met=false.total() == 0, tries=tries, start=start,
        of=dict(kinds), false=dict(false), seconds=time.perf_counter() - began,
    )  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
