"""recheck(cells, said, share): do flows have the same limits when they are integrated at a tenth of the tolerance?

Whether a limit is settled says nothing about the way before q_min = 1e3, where a flow that comes close to a border may
take the other side of it. A sample of the rows of a sweep, run again, says how often that happens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from gflow.flow.controller import PIController
from gflow.legs import RTOL
from gflow.programs.base import TOLERANCE
from gflow.records import USED_UP, wilson
from gflow.sweep import Flows, sweep_grid

FINER = 0.1
"""Tolerance of the second flows, in parts of that of sweeps."""


def recheck(
    cells: Sequence[Flows], said: Sequence[Mapping[str, np.ndarray]], share: float, *, seed: int = 0, **options
) -> dict:
    """Run a random sample of the flows of a sweep again, at a tenth of the tolerance, and compare their limits.

    Args:
        cells: those of the sweep; their `indices` are not looked at.
        said: of every cell what its rows say: `verdict`, `result` and `objective` (inits,). Rows that are pending or
            have used up their steps or seconds are left out.
        share: of all rows, rounded up to a whole number of them.
        seed: that of the sweep, and of the sample.
        options: as in `sweep_grid`.

    Returns:
        {rows, agree, fraction, low, high, apart}: how many were run again, how many have the same objective to 1e-6 (or
        fit the data in neither), their fraction with its 95 % Wilson interval, and of the others {cell, index,
        objective, finer}.
    """
    known = [(row["verdict"] >= 0) & ~np.isin(row["result"], list(USED_UP)) for row in said]
    rows = np.concatenate([np.stack([np.full(k.sum(), c), np.flatnonzero(k)], axis=1) for c, k in enumerate(known)])
    count = min(len(rows), math.ceil(share * len(rows)))
    chosen = np.sort(np.random.default_rng(seed).choice(len(rows), count, replace=False))
    again = [flows._replace(indices=rows[chosen][rows[chosen, 0] == c, 1]) for c, flows in enumerate(cells)]
    apart = []
    controller = PIController(FINER * RTOL)
    for c, records in sweep_grid(again, inits=max(count, 1), seed=seed, controller=controller, **options):
        before = said[c]["objective"][records.index]
        with np.errstate(invalid="ignore"):
            same = np.abs(before - records.objective) <= TOLERANCE * before
        same |= ~np.isfinite(before) & ~np.isfinite(records.objective)
        apart += [
            {
                "cell": c,
                "index": int(records.index[k]),
                "objective": float(before[k]),
                "finer": float(records.objective[k]),
            }
            for k in np.flatnonzero(~same)
        ]
    return {"rows": count, "agree": count - len(apart)} | wilson(count - len(apart), count) | {"apart": apart}


__all__ = ["recheck"]
