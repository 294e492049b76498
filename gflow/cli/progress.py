"""What long work says while it runs, on stderr."""

from __future__ import annotations

import sys
import time

QUIET = 15.0
"""Seconds without a line about a block that is under way."""


def say(text: str) -> None:
    """One line on stderr."""
    print(text, file=sys.stderr, flush=True)


class Progress:
    """A rich bar on a terminal, a line per block otherwise; always on stderr."""

    def __init__(self, total: int, verdict):
        """`verdict`: codes of the rows so far, those of pending rows negative."""
        from rich import progress as rich
        from rich.console import Console

        from gflow.cli import output

        done = int((verdict >= 0).sum())
        self.total, self.done, self.start, self.fresh = total, done, time.perf_counter(), 0
        self.counts = output.verdict_counts(verdict)
        self.bar, self.said = None, time.perf_counter()
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

    def __enter__(self):
        if self.bar:
            self.bar.start()
        else:
            say(f"flows: {self.done} of {self.total} done{'; compiling' if self.done < self.total else ''}")
        return self

    def __exit__(self, *_):
        if self.bar:
            self.bar.stop()

    def watch(self, running: int, lanes: int, steps: int) -> None:
        """A block under way: `running` of `lanes` flows have not ended after at most `steps` steps."""
        text = f"block of {lanes}: {running} under way after {steps} steps"
        if self.bar:
            self.bar.update(self.task, description=text)
        elif time.perf_counter() - self.said > QUIET:
            self.said = time.perf_counter()
            say(f"flows: {self.done} of {self.total} done; {text}")

    def advance(self, records) -> None:
        from gflow.cli import output

        self.done, self.fresh = self.done + len(records), self.fresh + len(records)
        for name, count in output.verdict_counts(records.verdict).items():
            self.counts[name] += count
        rate = self.fresh / (time.perf_counter() - self.start)
        text = f"{rate:.1f} flows/s  " + ", ".join(f"{k} {v}" for k, v in self.counts.items() if v)
        if self.bar:
            self.bar.update(self.task, completed=self.done, description=text)
        else:
            say(f"flows: {self.done} of {self.total} done, {text}")
