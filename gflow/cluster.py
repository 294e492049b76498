"""The same sweep over the workers of a Dask scheduler: one task per group of rows.

A task is a function of the problem and of the numbers of its initialisations, so a task that is tried again, or run on
another worker, returns the same bytes. Records come back to the one process that writes the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from gflow.activations import LeakyReLU, ReLU
from gflow.initializers import AbstractInitializer
from gflow.problem import Problem
from gflow.records import Records
from gflow.sweep import Flows

TRIES = 5
"""How often a task is tried again that raised; how often one whose worker was lost, the scheduler says."""


class WorkersLost(ValueError):
    """So many workers were lost while they had one task that the scheduler gave it up."""


def connect(address: str):
    """A client of the scheduler at `address`, tcp://host:port. Raises ValueError if it cannot be reached."""
    try:
        from distributed import Client  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise ValueError("a scheduler needs Dask: pip install 'gflow-relu[cluster]'") from None
    try:
        return Client(address, timeout=10)
    except (OSError, ValueError) as error:
        raise ValueError(f"no Dask scheduler answers at {address}: {error}") from None


def of_workers(client, ask: Callable[[], dict]) -> list[dict]:
    """ask() as every worker answers it that is there; waits for the first one."""
    client.wait_for_workers(1)
    return list(client.run(ask).values())


def sweep_on(client, cells: Sequence[Flows], *, rows: int, inits: int, **options) -> Iterator[tuple[int, Records]]:
    """`gflow.sweep` of all these flows on the workers of `client`; (number of the cell, Records) in the order in which
    they come back: no cell waits for another.

    `inits`: how many a whole cell has; chunks of lanes have the size that suits it, whatever is left of it.
    `options`: seed, dtype, q_min, max_steps and seconds_per_flow, as `gflow.sweep` takes them.
    Raises what a task raises, tried TRIES times again, and WorkersLost if it was given up for the workers it cost.
    """
    from distributed import KilledWorker, as_completed  # pyright: ignore[reportMissingImports]

    # pure: a task is named by its arguments, and Dask may run it again wherever it likes
    whose = {}
    for k, (problem, law, width, indices) in enumerate(cells):
        about = np.asarray(problem.X), np.asarray(problem.y), type(problem.loss), problem.lower_slope, _decay(problem)
        for at in range(0, len(indices), rows):
            arguments = *about, law, width, indices[at : at + rows], inits, options
            whose[client.submit(run_group, *arguments, pure=True, retries=TRIES)] = k
    for task in as_completed(list(whose)):
        try:
            yield whose.pop(task), task.result()
        except KilledWorker as error:
            raise WorkersLost(
                f"workers lost while they had the same initialisations: {error.allowed_failures + 1}, often for lack "
                "of memory. The same command continues; distributed.scheduler.allowed-failures of the scheduler lets "
                "it lose more"
            ) from None
        task.release()


def _decay(problem: Problem) -> float:
    return 0.0 if problem.weight_decay is None else float(problem.weight_decay)


def run_group(
    X,
    y,
    loss,
    lower: float,
    weight_decay: float,
    law: AbstractInitializer,
    width: int,
    group: np.ndarray,
    inits: int,
    options: dict,
) -> Records:
    """What one task does, in the process of a worker."""
    import jax

    jax.config.update("jax_enable_x64", True)
    from gflow.sweep import chunk_for, lane_devices, sweep

    problem = Problem(X, y, loss(), LeakyReLU(lower) if lower else ReLU(), weight_decay)
    chunk = chunk_for(lane_devices()[0], problem, width, inits)
    (records,) = sweep(problem, law, width, group, rows=len(group), chunk=chunk, **options)
    return records
