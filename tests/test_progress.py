"""What a sweep says while it runs."""

import contextlib
import signal
import time

import numpy as np
import pytest

from gflow._types import VERDICT
from gflow.cli import progress


class Rows:
    """Ten rows, all GLOBAL."""

    verdict = np.full(10, int(VERDICT.GLOBAL))

    def __len__(self):
        return len(self.verdict)


def test_time_of_compiling_is_not_expected_again(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    with progress.Progress(30, np.full(30, -1)) as shown:
        shown.watch(7, 8)  # the first turn compiles
        clock[0] = 100.0
        shown.watch(7, 8)
        for now in (105.0, 110.0, 115.0):
            clock[0] = now
            shown.advance(Rows())
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "flows: 0 of 30 done; compiling",
        "flows: 0 of 30 done; 7 of 8 lanes busy",
        "flows: 10 of 30 done; 2.0 flows/s  GLOBAL 10; 7 of 8 lanes busy; about 10 s left",
        "flows: 20 of 30 done; 2.0 flows/s  GLOBAL 20; 7 of 8 lanes busy; about 5 s left",
        "flows: 30 of 30 done; 2.0 flows/s  GLOBAL 30",
    ]


def test_an_interrupt_that_was_swallowed_still_counts():
    before = signal.getsignal(signal.SIGINT)
    shown = progress.Progress(30, np.full(30, -1))
    with shown:
        shown.advance(Rows())
        with contextlib.suppress(KeyboardInterrupt):  # as in a finaliser
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            shown.advance(Rows())
    assert signal.getsignal(signal.SIGINT) is before
