"""Memory maps: every program that XLA compiles for a CPU takes some, and Linux allows a process only so many.

Beyond its limit (65,530 unless the machine's owner set another) memory cannot be had, and the process dies.
"""

from __future__ import annotations

import gc
from pathlib import Path

import jax

ALLOWED = Path("/proc/sys/vm/max_map_count")
"""How many maps a process may have."""

PRESENT = Path("/proc/self/maps")
"""A line for each that this one has."""


def crowded(share: float) -> bool:
    """Whether this process has more than `share` of the maps that it may have; False where no limit is known."""
    try:
        return PRESENT.read_bytes().count(b"\n") > share * int(ALLOWED.read_text())
    except (OSError, ValueError):
        return False


def make_room(share: float = 0.5) -> bool:
    """Drop all compiled programs if `crowded(share)`; whether it did. What is needed again is compiled again, or read
    from JAX's compilation cache."""
    if not crowded(share):
        return False
    jax.clear_caches()
    gc.collect()  # programs that only cycles hold
    return True
