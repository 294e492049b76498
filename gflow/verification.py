"""verify(path): is a store whole, and do certificates recomputed from its weights say what it says?

Nothing of the sweep is used but the arrays in the store. Source: docs/mathematics.md, "The certificate".
"""

from __future__ import annotations

import itertools
import json

import jax.numpy as jnp
import numpy as np

from gflow._types import VERDICT
from gflow.activations import activation_named
from gflow.certificate import certify
from gflow.convex.faces import faces
from gflow.limit import limit_of_network
from gflow.losses import TRAINED
from gflow.network import TwoLayer, VectorTwoLayer
from gflow.optimum import solve_optimum
from gflow.problem import Problem
from gflow.store import LONG_NAMES, PENDING, fingerprint, open_store, place_of, rows_of, stored

AGREE = 1e-6
"""Recomputed objectives and certificates may differ by this, relatively."""


def verify(path, sample: int = 32, seed: int = 0) -> dict:
    """{rows, done, damaged, changed, checked, wrong, whole} of the store at `path`.

    `damaged`: chunks that cannot be read or whose checksum fails, as "name/c/0/3", and rows that have a verdict but not
    the rest; `changed`: whether X and y are not those of the sweep. Of a random `sample` of the finished rows the limit
    is solved for again from its weights and certified; `wrong`: [{where, index, what}] for those that differ. `whole`:
    nothing is damaged, changed or wrong, and no row is pending. Raises ValueError if `path` is no sweep.
    """
    dataset = open_store(path)
    damaged = _damaged(path)
    report: dict = {"rows": int(dataset["verdict"].size), "done": None, "damaged": damaged}
    report |= {"changed": None, "checked": 0, "wrong": []}
    if not any(name.split("/")[0] in ("X", "y") for name in damaged):
        report["changed"] = fingerprint(dataset["X"].values, dataset["y"].values) != dataset.attrs["fingerprint"]
    if not any(name.startswith("verdict/") for name in damaged):
        verdict = dataset["verdict"].values
        report["done"] = int(np.sum(verdict != PENDING))
        if not damaged and not report["changed"]:
            report["damaged"] = _incomplete(dataset, verdict)
            report["checked"], report["wrong"] = _recomputed(dataset, verdict, sample, seed)
    sound = not report["damaged"] and report["changed"] is False and not report["wrong"]
    return report | {"whole": bool(sound and report["done"] == report["rows"])}


def _damaged(path) -> list[str]:
    import zarr

    group, bad = zarr.open_group(place_of(path), mode="r"), []
    *axes, _ = group["verdict"].metadata.dimension_names  # pyright: ignore
    for name in ("X", "y", *(stored(name, axes) for name in LONG_NAMES)):
        array: zarr.Array = group[name]  # pyright: ignore[reportAssignmentType]
        counts = [range(-(-size // chunk)) for size, chunk in zip(array.shape, array.chunks, strict=True)]
        for which in itertools.product(*counts):
            try:
                array.blocks[which]
            except Exception:  # whatever a codec says about bytes that are not its own
                bad.append(f"{name}/c/{'/'.join(map(str, which))}")
    return bad


def _incomplete(dataset, verdict) -> list[str]:
    rows = rows_of(dataset.sizes["init"])
    missing = np.argwhere((verdict != PENDING) & (dataset["steps"].values == PENDING))
    return sorted({"rows/c/" + "/".join(map(str, (*at[:-1], at[-1] // rows))) for at in missing})


def _recomputed(dataset, verdict, sample: int, seed: int) -> tuple[int, list[dict]]:
    done = np.argwhere(verdict != PENDING)
    rng = np.random.default_rng(seed)
    chosen = done[np.sort(rng.choice(len(done), min(sample, len(done)), replace=False))]
    names, wrong, known = dataset["verdict"].dims, [], {}
    for at in chosen:
        where = dict(zip(names, map(int, at), strict=True))
        row = dataset.isel(where)
        which = where.get("data_seed", 0), where.get("loss", 0)
        if which not in known:
            problem = problem_of(row, json.loads(dataset.attrs["spec"]), which[1])
            listed = faces(problem.X)
            known[which] = problem, listed, solve_optimum(problem, listed)
        what = _differs(row, *known[which])
        if what:
            wrong.append({"where": {k: v for k, v in where.items() if k != "init"}, "index": where["init"]} | what)
    return len(chosen), wrong


def problem_of(row, spec: dict, loss: int) -> Problem:
    """The problem of a row, whose loss has this place on its axis."""
    named = spec.get("loss", "logistic")
    name = named[loss] if isinstance(named, list) else named
    if name not in TRAINED:
        raise ValueError(
            f"the store says loss {name!r}, and this gflow knows {', '.join(TRAINED)}: read it with the version that "
            "wrote it (report without --out needs no loss)"
        )
    activation = activation_named(spec.get("activation", "relu"))
    return Problem(row["X"].values, row["y"].values, TRAINED[name](), activation, spec.get("weight_decay", 0.0))


def _differs(row, problem: Problem, listed, optimum) -> dict | None:
    said, objective = VERDICT(int(row["verdict"])), float(row["objective"])
    if not np.isfinite(objective):
        return None if said in (VERDICT.UNFITTED, VERDICT.INCONCLUSIVE) else {"what": f"{said.name} without a limit"}
    K = int(row["neurons"])
    kind = TwoLayer if problem.outputs is None else VectorTwoLayer
    network = kind(jnp.asarray(row["W1"].values[:K].T), jnp.asarray(row["w2"].values[:K]))
    as_it_is = limit_of_network(problem, network, polish=False)
    found = as_it_is.objective
    if not abs(found - objective) <= AGREE * objective:
        return {"what": f"objective {objective:.9g}, recomputed {found:.9g}"}
    if not bool(row["polished"]):
        return None  # the end of a flow: its multipliers are not in the store, and nothing was proved but a bound
    limit = limit_of_network(problem, network, settled=2.0)
    proof = certify(problem, limit, known_faces=listed, optimum=optimum)
    if proof.verdict != said:
        return {"what": f"{said.name}, recomputed {proof.verdict.name}"}
    c = float(row["certificate"])
    return None if proof.c == c or abs(proof.c - c) <= AGREE * c else {"what": f"c {c:.9g}, recomputed {proof.c:.9g}"}
