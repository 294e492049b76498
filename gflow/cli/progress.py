"""What long work says while it runs, on stderr."""

from __future__ import annotations

import signal
import sys
import threading
import time

from gflow.formats import duration

QUIET = 15.0
"""Seconds without a line while nothing is complete."""

OFTEN = 3.0
"""Seconds between two lines while rows are."""


def say(text: str) -> None:
    """One line on stderr."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """A rich bar on a terminal, a line now and then otherwise; always on stderr."""

    def __init__(self, total: int, verdict):
        """`verdict`: codes of the rows so far, those of pending rows negative."""
        from rich import progress as rich
        from rich.console import Console

        from gflow.summary import verdict_counts

        done = int((verdict >= 0).sum())
        self.total, self.done, self.start, self.fresh = total, done, time.perf_counter(), 0
        self.counts = verdict_counts(verdict)
        self.bar, self.said = None, time.perf_counter()
        self.text, self.lanes, self.turns = "", "", 0
        if sys.stderr.isatty():
            columns = (
                rich.TextColumn("flows"),
                rich.BarColumn(),
                rich.MofNCompleteColumn(),
                rich.TextColumn("{task.description}"),
                rich.TimeRemainingColumn(),
            )
            self.bar = rich.Progress(*columns, console=Console(stderr=True))
            self.task = self.bar.add_task("compiling", total=total, completed=done)

    interrupted = False

    def _interrupt(self, *_) -> None:
        self.interrupted = True
        raise KeyboardInterrupt

    def __enter__(self):
        # an interrupt that arrives while Python tidies up (a finaliser, a callback of XLA) is printed and forgotten
        here = threading.current_thread() is threading.main_thread()
        self.before = signal.signal(signal.SIGINT, self._interrupt) if here else None
        if self.bar:
            self.bar.start()
        else:
            say(f"flows: {self.done} of {self.total} done{'; compiling' if self.done < self.total else ''}")
        return self

    def __exit__(self, *_):
        if self.before is not None:
            signal.signal(signal.SIGINT, self.before)
        if self.bar:
            self.bar.stop()

    def watch(self, busy: int, lanes: int) -> None:
        """A turn has begun with so many of the lanes busy."""
        self.turns += 1
        if self.turns == 2 and not self.fresh:  # the first turn compiled: what is left need not wait for that again
            self.start = time.perf_counter()
        self.lanes = f"{busy} of {lanes} lanes busy"
        if self.bar:
            self.bar.update(self.task, description=f"{self.text}  {self.lanes}")
        elif time.perf_counter() - self.said > QUIET:
            self._say()

    def _say(self) -> None:
        self.said = time.perf_counter()
        left = (self.total - self.done) * (self.said - self.start) / self.fresh if self.fresh else None
        more = [self.text, self.lanes, "" if not left else f"about {duration(round(left))} left"]
        say("; ".join([f"flows: {self.done} of {self.total} done", *filter(None, more)]))

    def advance(self, records) -> None:
        """Rows are complete. Raises KeyboardInterrupt if one was lost on the way."""
        from gflow.summary import verdict_counts

        if self.interrupted:
            raise KeyboardInterrupt
        self.done, self.fresh = self.done + len(records), self.fresh + len(records)
        for name, count in verdict_counts(records.verdict).items():
            self.counts[name] += count
        rate = self.fresh / (time.perf_counter() - self.start)
        text = f"{rate:.1f} flows/s  " + ", ".join(f"{k} {v}" for k, v in self.counts.items() if v)
        self.text = text
        if self.done == self.total:  # the last turn is over
            self.lanes = ""
        if self.bar:
            self.bar.update(self.task, completed=self.done, description=f"{text}  {self.lanes}")
        elif self.done == self.total or time.perf_counter() - self.said > OFTEN:
            self._say()
