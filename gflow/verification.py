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
from gflow.records import USED_UP
from gflow.store import LONG_NAMES, PENDING, digest, fingerprint, open_store, place_of, rows_of, stored

AGREE = 1e-6
"""Recomputed objectives and certificates may differ by this, relatively."""


def verify(path, sample: int = 32, seed: int = 0) -> dict:
    """{rows, done, damaged, changed, checked, wrong, sound, whole} of the store at `path`.

    `damaged`: chunks that cannot be read or whose checksum fails, as "name/c/0/3", and those that rows with a verdict
    lack; `changed`: whether X, y or the spec are not those of the sweep, or the axes not those of its spec. Of a random
    `sample` of the finished rows the limit is solved for again from its weights and certified; `wrong`: [{where, index,
    what}] for those that differ. `sound`: nothing is damaged, changed or wrong; `whole`: and no row is pending.
    Raises ValueError if `path` is no sweep.
    """
    dataset = open_store(path)
    damaged = _damaged(path)
    report: dict = {"rows": int(dataset["verdict"].size), "done": None, "damaged": damaged}
    report |= {"changed": None, "checked": 0, "wrong": []}
    if not any(name.split("/")[0] in ("X", "y") for name in damaged):
        same = fingerprint(dataset["X"].values, dataset["y"].values) == dataset.attrs["fingerprint"]
        same = same and dataset.attrs.get("digest") == digest(dataset.attrs)
        report["changed"] = not (same and _has_its_axes(dataset))
    if not any(name.startswith("verdict/") for name in damaged):
        verdict = dataset["verdict"].values
        report["done"] = int(np.sum(verdict != PENDING))
        report["damaged"] = sorted({*damaged, *_incomplete(path, dataset, verdict)})
        if not report["damaged"] and not report["changed"]:
            report["checked"], report["wrong"] = _recomputed(dataset, verdict, sample, seed)
    sound = not report["damaged"] and report["changed"] is False and not report["wrong"]
    return report | {"sound": sound, "whole": sound and report["done"] == report["rows"]}


def _damaged(path) -> list[str]:
    import zarr

    group, bad = zarr.open_group(place_of(path), mode="r"), []
    *axes, _ = group["verdict"].metadata.dimension_names  # pyright: ignore
    for name in ("X", "y", *(stored(name, axes) for name in LONG_NAMES)):
        if name not in group:
            bad.append(f"{name}/zarr.json")
            continue
        array: zarr.Array = group[name]  # pyright: ignore[reportAssignmentType]
        counts = [range(-(-size // chunk)) for size, chunk in zip(array.shape, array.chunks, strict=True)]
        for which in itertools.product(*counts):
            try:
                array.blocks[which]
            except Exception:  # whatever a codec says about bytes that are not its own
                bad.append(f"{name}/c/{'/'.join(map(str, which))}")
    return bad


def _has_its_axes(dataset) -> bool:
    """Whether coordinates are those of the spec, and initialisations counted from 0."""
    spec, (*axes, _) = json.loads(dataset.attrs["spec"]), dataset["verdict"].dims
    if not {"init", *axes} <= set(dataset.coords):
        return False
    counted = np.array_equal(dataset["init"].values, np.arange(dataset.sizes["init"]))
    for name in axes:
        values = dataset[name].values
        listed = spec.get(name)
        if isinstance(listed, list) and [*map(str, values)] != [*map(str, np.asarray(listed).astype(values.dtype))]:
            return False
    return counted


def _incomplete(path, dataset, verdict) -> list[str]:
    """Chunks that a group of rows with verdicts lacks: what is not there is read as if it were empty."""
    import zarr
    from zarr.core.sync import sync

    group, rows = zarr.open_group(place_of(path), mode="r"), rows_of(dataset.sizes["init"])
    *axes, _ = dataset["verdict"].dims
    groups = sorted({(*at[:-1], at[-1] // rows) for at in np.argwhere(verdict != PENDING).tolist()})
    lacking = []
    for name in (stored(name, axes) for name in LONG_NAMES):
        if name not in group:
            continue
        array: zarr.Array = group[name]  # pyright: ignore[reportAssignmentType]
        for at in groups:
            key = array.metadata.encode_chunk_key((*at, *(0,) * (array.ndim - len(at))))  # pyright: ignore
            if not sync(array.store.exists(f"{array.path}/{key}")):
                lacking.append(f"{name}/{key}")
    return lacking


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
    said, objective, c = VERDICT(int(row["verdict"])), float(row["objective"]), float(row["certificate"])
    K = int(row["neurons"])
    if int(row["result"]) in USED_UP and said != VERDICT.INCONCLUSIVE:
        return {"what": f"{said.name} of a flow that was stopped on its way"}
    kind = TwoLayer if problem.outputs is None else VectorTwoLayer
    W1, w2 = row["W1"].values[:K].T, row["w2"].values[:K]
    if not (np.all(np.isfinite(W1)) and np.all(np.isfinite(w2))):
        return {"what": f"{said.name}, and weights that are not finite"}
    network = kind(jnp.asarray(W1), jnp.asarray(w2))
    best = optimum.primal if np.isfinite(optimum.primal) else np.inf
    if not float(row["lower_bound"]) <= (1 + AGREE) * best and not np.isnan(row["lower_bound"]):
        return {"what": f"lower bound {float(row['lower_bound']):.9g}, and a network of {best:.9g} is known"}
    found = limit_of_network(problem, network, polish=False).objective if K else np.inf
    if not np.isfinite(objective):
        if said not in (VERDICT.UNFITTED, VERDICT.INCONCLUSIVE):
            return {"what": f"{said.name} without a limit"}
        return {"what": f"{said.name}, and its weights have objective {found:.9g}"} if np.isfinite(found) else None
    if not abs(found - objective) <= AGREE * objective:
        return {"what": f"objective {objective:.9g}, recomputed {found:.9g}"}
    if said == VERDICT.GLOBAL and not objective <= (1 + 2 * AGREE) * best:
        return {"what": f"GLOBAL at {objective:.9g}, and a network of {best:.9g} is known"}
    if not bool(row["polished"]):
        # the end of a flow: its multipliers are not in the store, and little was proved
        return {"what": "NOT_GLOBAL of a limit that is not exact"} if said == VERDICT.NOT_GLOBAL else None
    limit = limit_of_network(problem, network, settled=2.0)
    proof = certify(problem, limit, known_faces=listed, optimum=optimum)
    if said == VERDICT.INCONCLUSIVE:  # its proof may have had less time than this one
        return None if c >= (1 - AGREE) * proof.c else {"what": f"c {c:.9g}, recomputed {proof.c:.9g}"}
    if proof.verdict != said:
        return {"what": f"{said.name}, recomputed {proof.verdict.name}"}
    same = proof.c == c or (np.isfinite(c) and abs(proof.c - c) <= AGREE * c)
    return None if same else {"what": f"c {c:.9g}, recomputed {proof.c:.9g}"}
