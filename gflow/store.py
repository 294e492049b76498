"""Records of a sweep in a Zarr store that `xarray.open_zarr` reads: one row per initialisation.

The store is laid out once, every verdict marked PENDING, and filled block by block; a chunk is one block.
"""

from __future__ import annotations

import datetime
import hashlib
import json
from pathlib import Path

import numpy as np

from gflow._types import VERDICT, result_names
from gflow.sweep import BLOCK, Records

PENDING = -1
"""Verdict of a row that has not been computed yet."""

FORMAT = "gflow-sweep-3"

LONG_NAMES = {
    "verdict": "what is proved about the limit",
    "result": "how the integration ended",
    "objective": "P(theta) of the limit",
    "lower_bound": "proved lower bound of P*",
    "certificate": "c, proved upper bound of P(theta)/P*",
    "margin": "normalised margin q_min/|theta|^2",
    "kkt_residual": "1 - cos(theta, least-norm velocity)",
    "slackness": "max_n p_n (q_n/q_min - 1)",
    "polished": "whether the KKT point was solved for and accepted",
    "changes": "changes of patterns followed from the flow's end to the limit, 0 if they had settled",
    "s": "scaled clock at the end of the flow",
    "log_t": "natural log of physical time at the end of the flow",
    "steps": "attempted steps",
    "rejected": "rejected steps",
    "balance_drift": "largest relative change of a_i^2 - |w_i|^2",
    "repelled": "repelling hyperplanes met within the error of a step, beyond which the flow is not unique",
    "live": "neurons active on some sample and on no hyperplane, at the end of the flow",
    "sliding": "neurons active on some sample and on a hyperplane, at the end of the flow",
    "dead": "neurons active nowhere, at the end of the flow",
    "neurons": "live neurons of the limit, merged when equal",
    "W1": "first-layer weights of the limit, one row per neuron",
    "w2": "second-layer weights of the limit",
}


def fingerprint(X, y) -> str:
    """SHA-256 of the data, the identity of a problem in a store."""
    digest = hashlib.sha256()
    for array in (X, y):
        digest.update(np.ascontiguousarray(array, np.float64).tobytes() + repr(np.shape(array)).encode())
    return digest.hexdigest()


def create(path, X, y, spec: dict, *, inits: int, width: int, attributes: dict) -> None:
    """Lay out a store for `inits` rows. `spec`: what determines the results; `attributes`: where and how it ran.

    Raises ValueError if something that is not this sweep is at `path`. An unfinished store of the same sweep is kept,
    and `pending` says what is left.
    """
    import xarray as xr

    path = Path(path)
    identity = {"format": FORMAT, "fingerprint": fingerprint(X, y), "spec": json.dumps(spec, sort_keys=True)}
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        _check_same(path, identity)
        return
    n, d = np.shape(X)
    shapes = {"W1": ("init", "neuron", "feature"), "w2": ("init", "neuron")}
    sizes = {"init": inits, "neuron": width, "feature": d, "sample": n}
    types = {"verdict": np.int8, "result": np.int16, "polished": np.int8}
    types |= {"steps": np.int64, "rejected": np.int64, "neurons": np.int32, "changes": np.int32}
    types |= {"repelled": np.int64, "live": np.int32, "sliding": np.int32, "dead": np.int32}
    variables, encoding = {}, {}
    for name, text in LONG_NAMES.items():
        dims = shapes.get(name, ("init",))
        kind = types.get(name, np.float64)
        empty = PENDING if np.issubdtype(kind, np.integer) else np.nan
        attrs: dict = {"long_name": text}
        if name == "verdict":
            attrs |= {
                "flag_values": [PENDING, *map(int, VERDICT)],
                "flag_meanings": " ".join(["PENDING", *(v.name for v in VERDICT)]),
            }
        if name == "result":
            attrs |= {"flag_values": list(range(len(result_names()))), "flag_meanings": " ".join(result_names())}
        variables[name] = (dims, np.full([sizes[k] for k in dims], empty, kind), attrs)
        encoding[name] = {"chunks": tuple(min(BLOCK, inits) if k == "init" else sizes[k] for k in dims)}
    variables["X"] = (("sample", "feature"), np.asarray(X, float), {"long_name": "data, after scaling and bias"})
    variables["y"] = (("sample",), np.asarray(y, float), {"long_name": "labels"})
    dataset = xr.Dataset(variables, coords={"init": np.arange(inits)})
    created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    dataset.attrs = {**identity, "created": created, **attributes}
    dataset.to_zarr(path, mode="w-", encoding=encoding, zarr_format=3, consolidated=False)


def append(path, records: Records, seconds: float = 0.0) -> None:
    """Write the rows of `records`; their indices must be consecutive. `seconds` (wall clock) are added to the sum."""
    import xarray as xr
    import zarr

    columns = records.columns()
    start, stop = int(records.index[0]), int(records.index[-1]) + 1
    dims = {"W1": ("init", "neuron", "feature"), "w2": ("init", "neuron")}
    # the verdict is written last: a row that is not PENDING is whole
    for names in ([k for k in LONG_NAMES if k != "verdict"], ["verdict"]):
        block = xr.Dataset(
            {k: (dims.get(k, ("init",)), columns[k].astype(np.int8) if k == "polished" else columns[k]) for k in names}
        )
        block.to_zarr(path, region={"init": slice(start, stop)}, zarr_format=3, consolidated=False)
    group = zarr.open_group(path, mode="r+")
    group.attrs["seconds"] = float(group.attrs.get("seconds", 0.0)) + seconds  # pyright: ignore[reportArgumentType]


def open_store(path):
    """The store as an xarray.Dataset. Raises ValueError if it is not a gflow sweep."""
    import xarray as xr

    if not Path(path).is_dir():
        raise ValueError(f"no store at {path}")
    try:
        dataset = xr.open_zarr(path, zarr_format=3, consolidated=False)
    except Exception as error:
        raise ValueError(f"{path} is not a readable Zarr store: {error}") from error
    if dataset.attrs.get("format") != FORMAT:
        raise ValueError(f"{path} is a Zarr store, but not a gflow sweep")
    return dataset


def pending(path) -> np.ndarray:
    """Indices of the rows that have not been computed yet."""
    return np.flatnonzero(open_store(path)["verdict"].values == PENDING)


def _check_same(path: Path, identity: dict) -> None:
    have = open_store(path).attrs
    if have["fingerprint"] != identity["fingerprint"]:
        raise ValueError(f"{path} holds a sweep of another problem (different data); choose another --out")
    if have["spec"] != identity["spec"]:
        old, new = json.loads(have["spec"]), json.loads(identity["spec"])
        changed = ", ".join(
            f"{k} {old.get(k)!r}, not {new.get(k)!r}" for k in sorted(old | new) if old.get(k) != new.get(k)
        )
        raise ValueError(f"{path} holds a sweep with {changed}; give the same, or choose another --out")
