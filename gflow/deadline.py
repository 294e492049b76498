"""How long a proof may take: a deadline that every loop of the convex side looks at, and what is known by then.

A proof is a bracket lower <= P* <= upper that only narrows, so that it may end at any time. The deadline is that of the
block `with within(seconds)` in which the work is done, as in a cancel scope: solvers of solvers share it without
handing it on. Without such a block nothing is cut.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import math
import time
from collections.abc import Callable, Iterator

Watch = Callable[[float, float], None]
"""Told (lower, upper), lower <= P* <= upper, whenever one of them may have changed."""


@dataclasses.dataclass(frozen=True)
class Deadline:
    """`ends`: on time.monotonic(). `watch`: who is told of the bracket, in multiples of `unit`."""

    ends: float = math.inf
    watch: Watch | None = None
    unit: float = 1.0


class OutOfTime(Exception):
    """Of an enumeration that is worth nothing unless it is whole."""


NEVER = Deadline()

_present: contextvars.ContextVar[Deadline] = contextvars.ContextVar("deadline", default=NEVER)


@contextlib.contextmanager
def within(seconds: float | None = None, *, share: float = 1.0, watch: Watch | None = None) -> Iterator[None]:
    """What is done in this block ends after `seconds`, and after this `share` of what is left of the block around it.

    Args:
        seconds: None for no limit of its own.
        watch: called with (lower, upper) while a program is solved; by default that of the block around it.

    Raises:
        ValueError: for seconds below 0.
    """
    if seconds is not None and not seconds >= 0:
        raise ValueError(f"a budget is a number of seconds, 0 or more, got {seconds}")
    around, now = _present.get(), time.monotonic()
    ends = min(now + share * (around.ends - now), math.inf if seconds is None else now + seconds)
    with _as(dataclasses.replace(around, ends=ends, watch=watch or around.watch)):
        yield


def left() -> float:
    """Seconds until the deadline, 0 when it has passed; infinite if there is none."""
    return max(_present.get().ends - time.monotonic(), 0.0)


def passed() -> bool:
    """Whether the deadline has passed."""
    return time.monotonic() >= _present.get().ends


def require_time() -> None:
    """Raise OutOfTime if the deadline has passed."""
    if passed():
        raise OutOfTime


def tell(lower: float, upper: float) -> None:
    """A bracket of the program of this block."""
    present = _present.get()
    if present.watch is not None:
        present.watch(present.unit * lower, present.unit * upper)


def scaled(unit: float):
    """A block in which the bracket is told in multiples of `unit`: of a program of data that were scaled."""
    around = _present.get()
    return _as(dataclasses.replace(around, unit=unit * around.unit))


def aside():
    """A block whose brackets are told to nobody: they are those of another program."""
    return _as(dataclasses.replace(_present.get(), watch=None))


@contextlib.contextmanager
def _as(deadline: Deadline) -> Iterator[None]:
    token = _present.set(deadline)
    try:
        yield
    finally:
        _present.reset(token)
