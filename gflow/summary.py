"""sweep_summary(dataset): the verdicts, distinct limits and grid cells of a store, as plain numbers."""

from __future__ import annotations

import json

import numpy as np

from gflow._types import ENDING, VERDICT, result_name
from gflow.records import USED_UP, distinct_limits, wilson


def sweep_summary(dataset, path=None) -> dict:
    """What `gflow report --json` prints of `store.open_store(path)`, and `plots.phase_diagram` draws.

    `settled`: how many flows were followed to their limit; `unsettled`: of the others that fit, how many for which
    ENDING. `predicted`: how many limits were found by following changes of patterns beyond the flow's end (`changes` >
    0). `q_min`: where the flows of the sweep end if that is the same for all, else None; `farther`: whether
    it was asked for, and flows can be followed farther. `used_up`: how many rows have used up the steps or seconds of a
    flow, by result. `seconds`: wall clock of all runs that filled the store, with compilation. `axes`, `cells`: of a
    grid, with
    the fractions of initialisations that are GLOBAL and that are fitted, their 95 % Wilson intervals, and how many
    distinct `limits` that fit were found.
    """
    verdict = dataset["verdict"].values
    done = verdict >= 0
    axes = [str(name) for name in dataset["verdict"].dims[:-1]]
    seconds = dataset.attrs.get("seconds")
    return {
        "inits": int(verdict.size),
        "done": int(done.sum()),
        "verdicts": verdict_counts(verdict),
        "settled": int(np.sum(done & (dataset["settled"].values > 0))),
        "unsettled": _unsettled(dataset),
        "predicted": _predicted(dataset),
        "q_min": _asked(dataset).get("q_min"),
        "farther": _farther(dataset),
        "used_up": _used_up(dataset),
        "limits": _limits(dataset, done, axes),
        "axes": {name: dataset[name].values.tolist() for name in axes},
        "cells": [_cell(dataset, axes, at) for at in np.ndindex(verdict.shape[:-1])] if axes else [],
        "seconds": seconds,
        "flows_per_second": int(done.sum()) / seconds if seconds else None,
        "store": None if path is None else str(path),
    }


def _used_up(dataset) -> dict[str, int]:
    results = dataset["result"].values[dataset["verdict"].values >= 0]
    return {result_name(code): int(np.sum(results == code)) for code in sorted(USED_UP) if np.any(results == code)}


def _asked(dataset) -> dict:
    """What the sweep was asked for; {} where the store does not say."""
    try:
        spec = json.loads(str(dataset.attrs.get("spec")))
    except ValueError:
        return {}
    return spec if isinstance(spec, dict) else {}


def _farther(dataset) -> bool:
    """Whether the flows were stopped at a smallest margin that was asked for."""
    return _asked(dataset).get("q_min") is not None


def _unsettled(dataset) -> dict[str, int]:
    """How many limits of flows that fit are not settled, by ENDING."""
    endings = dataset["ending"].values[(dataset["verdict"].values >= 0) & np.isfinite(dataset["objective"].values)]
    others = [ending for ending in ENDING if ending != ENDING.SETTLED]
    return {e.name.lower(): int(np.sum(endings == e)) for e in others if np.any(endings == e)}


def _predicted(dataset) -> int:
    return int(np.sum((dataset["changes"].values > 0) & (dataset["polished"].values > 0) & (dataset["verdict"] >= 0)))


def _limits(dataset, done, axes: list[str]) -> list[dict]:
    columns = [dataset[name].values[done] for name in ("objective", "certificate", "verdict", "polished")]
    limits, rows = distinct_limits(*columns), np.argwhere(done)
    for limit in limits:
        *cell, index = rows[limit["example"]]
        limit["example"] = int(index)
        limit |= {name: dataset[name].values[k].item() for name, k in zip(axes, cell, strict=True)}
    return limits


def _cell(dataset, axes: list[str], at: tuple[int, ...]) -> dict:
    where = dict(zip(axes, at, strict=True))
    here = dataset.isel(where)
    verdict, objective = here["verdict"].values, here["objective"].values
    done = verdict >= 0
    limits = distinct_limits(*(here[name].values[done] for name in ("objective", "certificate", "verdict", "polished")))
    count = int(done.sum())
    return {name: dataset[name].values[k].item() for name, k in where.items()} | {
        "done": count,
        "verdicts": verdict_counts(verdict),
        "global": wilson(int(np.sum(verdict == VERDICT.GLOBAL)), count),
        "fitted": wilson(int(np.sum(np.isfinite(objective[done]))), count),
        "limits": sum(limit["polished"] and bool(np.isfinite(limit["objective"])) for limit in limits),
        "predicted": _predicted(here),
    }


def verdict_counts(verdict) -> dict[str, int]:
    """How many rows have each verdict."""
    return {v.name: int(np.sum(np.asarray(verdict) == v)) for v in VERDICT}
