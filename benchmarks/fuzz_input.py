"""Broken files and names that end in anything but one line: `python -m benchmarks.fuzz_input N [START]`.

The code is that of tests/mangled.py. What a try raised is printed with its seed.
"""

import collections
import sys
import tempfile
import time
import warnings
from pathlib import Path

import jax

jax.config.update("jax_enable_x64", True)
sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import mangled

from benchmarks.harness import Report


def main(tries: int, start: int) -> None:
    began = said = time.perf_counter()
    faults: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(start, start + tries):
            said_of = mangled.trial(seed, Path(folder))
            if said_of:
                faults[said_of.split(":")[1].strip()] += 1
                print(said_of, flush=True)
            if time.perf_counter() - said > 60:
                said = time.perf_counter()
                print(f"{seed - start + 1} of {tries} tries, {faults.total()} end badly", flush=True)
    Report("fuzz_input", keep=True).line(
        "broken files and names are refused in one line", target=0, measured=faults.total(), met=not faults,
        tries=tries, start=start, faults=dict(faults), seconds=time.perf_counter() - began,
    )  # fmt: skip


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000, int(sys.argv[2]) if len(sys.argv) > 2 else 0)
