"""Limits and certificates in processes of their own: what the cores beside a GPU are for, and all cores of a CPU.

Finding a limit is Python most of the time, and one interpreter uses one core; a GPU integrates a flow in less time than
one core finds its limit. A row is a function of its own flow, so it is the same wherever it is found.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection

import jax
import numpy as np

from gflow.flow.pool import End
from gflow.records import Witness

BLOCK = 32
"""Flows of one task."""

AHEAD = 16
"""Tasks per process that may wait: beyond that the flows wait for their limits."""


def judged(
    witness: Witness, processes: int, harvests: Iterable[tuple[np.ndarray, np.ndarray, End]]
) -> Iterator[tuple[np.ndarray, Iterable[dict]]]:
    """(positions, rows) of harvests (positions, indices, ends), found in so many other processes, or here if none.

    Other processes start by importing the main module of this one (`multiprocessing`, spawn): a script needs its
    `if __name__ == "__main__"`. They see no GPU, and end when this one does. Raises RuntimeError if one is killed.
    """
    if processes == 0:
        yield from ((where, witness.rows(indices, ends)) for where, indices, ends in harvests)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(processes, context, initializer=_prepare, initargs=(pickle.dumps(witness),))
    waiting: deque = deque()
    with _on_the_cpu():
        pool.submit(os.getpid)  # the first task starts all processes
    try:
        for where, indices, ends in harvests:
            for at in range(0, len(where), BLOCK):
                some = slice(at, at + BLOCK)
                block = jax.tree.map(lambda a, some=some: a[some], ends)
                waiting.append((where[some], pool.submit(_rows, indices[some], block)))
            while waiting and (waiting[0][1].done() or len(waiting) > AHEAD * processes):
                positions, rows = waiting.popleft()
                yield positions, rows.result()
        for positions, rows in waiting:
            yield positions, rows.result()
    except BrokenProcessPool as error:
        raise RuntimeError(
            "a process that finds limits was ended from outside, perhaps for its memory; what is complete is kept, the "
            "same command continues a store, and with fewer --limit-processes it needs less memory"
        ) from error
    finally:  # an interrupt must not wait for what is being solved
        pool.shutdown(wait=False, cancel_futures=True)


@contextlib.contextmanager
def _on_the_cpu():
    """For processes that are started meanwhile: what their main module does on import may already ask for a device."""
    before = os.environ.get("JAX_PLATFORMS")
    os.environ["JAX_PLATFORMS"] = "cpu"
    try:
        yield
    finally:
        if before is None:
            del os.environ["JAX_PLATFORMS"]
        else:
            os.environ["JAX_PLATFORMS"] = before


def _prepare(witness: bytes) -> None:
    """In a new process: it leaves Ctrl-C to its parent, and ends with it."""
    global _witness
    jax.config.update("jax_enable_x64", True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=lambda: (connection.wait([parent.sentinel]), os._exit(1)), daemon=True).start()
    _witness = pickle.loads(witness)


def _rows(indices: np.ndarray, ends: End) -> list[dict]:
    return list(_witness.rows(indices, ends))


_witness: Witness
