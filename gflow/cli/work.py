"""Long work of one command: what it is doing now, on stderr, and an end at once when it is interrupted.

Work is done in a thread of its own. The main thread, which alone hears Ctrl-C, then waits for nothing that cannot be
interrupted, be it a compilation, a compiled program or a solver.
"""

from __future__ import annotations

import contextvars
import math
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from gflow.cli.progress import QUIET, say

T = TypeVar("T")

left_alone: list[threading.Thread] = []
"""Threads whose work nobody waits for: the process must not be torn down around them."""

TICK = 0.2
"""Seconds between two looks at what has been done."""

FIRST = 3.0
"""Seconds after which a line says what takes so long, where nobody sees a live one; the next one after QUIET."""


GRACE = 3.0
"""Seconds that a solver may need to notice that its time is over: a compilation, a factorisation."""


class Late(Exception):
    """Work has not ended within its time and GRACE: it is left to itself, and what it told is what is known."""


class Interrupted(Exception):
    """Ctrl-C was heard, and all has been said about it: exit status 130."""


class Work:
    """What is going on: `doing` it `seen` so far; `lower` and `upper`: bounds of the optimum that are proved by now."""

    def __init__(self):
        self.doing, self.seen = "", ""
        self.lower, self.upper = 0.0, math.inf
        self.live = sys.stderr.isatty()
        self.wide = 0

    def do(self, doing: str, function: Callable[[], T], most: float = math.inf) -> T:
        """function(), in a thread of its own. Raises what it raises, Late after `most` seconds and GRACE, and
        KeyboardInterrupt as soon as there is one."""
        self.doing, self.seen = doing, ""
        ended: dict[str, Any] = {}

        def work() -> None:
            try:
                ended["value"] = function()
            except BaseException as error:
                ended["error"] = error

        # a daemon: what cannot be interrupted must not keep the process from its end
        thread = threading.Thread(target=contextvars.copy_context().run, args=(work,), daemon=True)
        begun, due = time.monotonic(), FIRST
        try:
            thread.start()
            while thread.is_alive():
                thread.join(TICK)
                spent = time.monotonic() - begun
                if spent > most + GRACE and thread.is_alive():
                    left_alone.append(thread)
                    raise Late
                if self.live:
                    self._show(self._line(spent))
                elif spent >= due and thread.is_alive():
                    say(self._line(spent))
                    due = spent + QUIET
        finally:
            if self.live:
                self._show("")
        if "error" in ended:
            raise ended["error"]
        return ended["value"]

    def flow(self, under_way) -> None:
        """How far a flow has come (`gflow.far.Underway`)."""
        self.doing = "integrating"
        margin = "" if math.isnan(under_way.q_min) else f"q_min {under_way.q_min:.4g}, "
        # of margins beyond 745 the loss is 0 in float64
        loss = f"loss {under_way.loss:.4g}" if under_way.loss > 0 else "loss below 1e-323"
        self.seen = f"{margin}{loss}, {under_way.steps} steps, {under_way.events} events"

    def continuation(self, place) -> None:
        """Where the continuation of a flow to q_min = infinity stands."""
        self.doing = "following the flow to q_min = infinity"
        self.seen = f"log q_min + {float(place.log_q):.4g}, P = {float(place.objective):.6g}, {int(place.steps)} steps"

    def bracket(self, lower: float, upper: float) -> None:
        """What is proved of the optimum by now."""
        self.lower, self.upper = max(self.lower, lower), min(self.upper, upper)
        self.seen = f"{self.lower:.6g} <= P*" + (f" <= {self.upper:.6g}" if self.upper < math.inf else "")

    def _line(self, spent: float) -> str:
        return f"{self.doing}: " + ", ".join(filter(None, [self.seen, f"{spent:.0f} s"]))

    def _show(self, text: str) -> None:
        """In place of the last live line."""
        sys.stderr.write("\r" + text.ljust(self.wide))
        if not text:
            sys.stderr.write("\r")
        sys.stderr.flush()
        self.wide = len(text)
