"""Limits and certificates in processes of their own: what the cores beside a GPU are for, and all cores of a CPU.

Finding a limit is Python most of the time, and one interpreter uses one core; a GPU integrates a flow in less time than
one core finds its limit. A row is a function of its own flow, so it is the same wherever it is found.
"""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from gflow.flow.pool import End
from gflow.records import Witness

BLOCK = 8
"""Flows of one task."""

AHEAD = 16
"""Tasks per process that may wait: beyond that the flows wait for their limits."""


class Ended(NamedTuple):
    """Flows of one `cell` of a grid that have ended: their `positions` (h,) in it, the `indices` (h,) of their
    initialisations, and their `ends` with leaves (h, ...); `witness` judges them."""

    cell: int
    positions: np.ndarray
    indices: np.ndarray
    ends: End
    witness: Witness


Judged = tuple[int, np.ndarray, Iterable[dict]]


def judged(processes: int, ended: Iterable[Ended | None]) -> Iterator[Judged | None]:
    """(cell, positions, rows) of flows that have ended, found in so many other processes, or here if none; None where
    there is nothing yet.

    Other processes start by importing the main module of this one (`multiprocessing`, spawn): a script needs its
    `if __name__ == "__main__"`. They see no GPU, and end when this one does. Raises RuntimeError if one is killed.
    """
    if processes == 0:
        yield from (e and (e.cell, e.positions, e.witness.rows(e.indices, e.ends)) for e in ended)
        return
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), initializer=_prepare)
    waiting: deque = deque()
    with _on_the_cpu(), _without_interrupts():
        pool.submit(os.getpid)  # the first task starts all processes
    own = set(multiprocessing.active_children()) - others
    folder = tempfile.TemporaryDirectory(prefix="gflow-", ignore_cleanup_errors=True)
    try:
        written: dict[Witness, str] = {}
        for some in ended:
            if some is not None:
                place = written.get(some.witness) or str(Path(folder.name) / str(len(written)))
                if some.witness not in written:
                    Path(place).write_bytes(pickle.dumps(some.witness))
                    written[some.witness] = place
                for at in range(0, len(some.positions), BLOCK):
                    which = slice(at, at + BLOCK)
                    block = jax.tree.map(lambda a, which=which: a[which], some.ends)
                    task = pool.submit(_rows, place, some.indices[which], block)
                    waiting.append((some.cell, some.positions[which], task))
            while waiting and (waiting[0][2].done() or len(waiting) > AHEAD * processes):
                cell, positions, rows = waiting.popleft()
                yield cell, positions, rows.result()
            yield None
        for cell, positions, rows in waiting:
            yield cell, positions, rows.result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a process that finds limits was ended from outside, perhaps for its memory; what is complete is kept, the "
            "same command continues a store, and with fewer --limit-processes it needs less memory"
        ) from error
    finally:  # an interrupt must not wait for what is being solved, and nothing of the pool outlives it
        for process in own:
            process.terminate()
        pool.shutdown(cancel_futures=True)
        folder.cleanup()


OWN = {"JAX_PLATFORMS": "cpu", "NPROC": "1"}
"""Environment of the processes: no device but the CPU, for which what their main module does on import may already ask,
and one thread of XLA each: operations are small, and the other cores have processes of their own."""


@contextlib.contextmanager
def _on_the_cpu():
    """For processes that are started meanwhile."""
    before = {name: os.environ.get(name) for name in OWN}
    os.environ |= OWN
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _without_interrupts():
    """For processes that are started meanwhile: Ctrl-C in a terminal reaches them too, and they leave it to this."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare() -> None:
    """In a new process: it leaves Ctrl-C to its parent, and ends with it."""
    jax.config.update("jax_enable_x64", True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (connection.wait([parent.sentinel]), os._exit(1)), daemon=True).start()


def _rows(place: str, indices: np.ndarray, ends: End) -> list[dict]:
    return list(_witness(place).rows(indices, ends))


@functools.lru_cache(maxsize=4)
def _witness(place: str) -> Witness:
    return pickle.loads(Path(place).read_bytes())
