"""Records of a sweep in a Zarr store that `xarray.open_zarr` reads: one row per initialisation and cell of the grid.

The store is laid out once, every verdict marked PENDING, and filled as rows end: a group of rows is one chunk of every
variable, and is written again when more of its rows come. A chunk is whole or absent: files are written beside their
place and moved there, the verdicts of a group last, and every chunk carries a checksum; so is the layout, but not that
of a URL. A row with a verdict has a file for every chunk. A store may be a local path or a URL that fsspec knows.
"""

from __future__ import annotations

import contextlib
import datetime
import errno
import functools
import hashlib
import json
import os
import shutil
import tempfile
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from gflow._types import ENDING, VERDICT, result_names
from gflow.records import Records

PENDING = -1
"""Verdict of a row that has not been computed yet."""

FORMAT = "gflow-sweep-14"

MOST_ROWS, FEWEST_ROWS, GROUPS = 1024, 64, 64
"""A group has at most MOST_ROWS rows, and so few, down to FEWEST_ROWS, that there are GROUPS of them."""

LONG_NAMES = {
    "verdict": "what is proved about the limit",
    "result": "how the integration ended",
    "objective": "P(theta) of the limit; of a point see gflow.points",
    "loss": "L at a limit that is a point, NaN for a direction",
    "lower_bound": "proved lower bound of P*",
    "certificate": "c, proved upper bound of P(theta)/P*",
    "margin": "normalised margin q_min/|theta|^2",
    "kkt_residual": "1 - cos(theta, least-norm velocity)",
    "slackness": "max_n p_n (q_n/q_min - 1)",
    "polished": "whether the KKT point was solved for and accepted",
    "changes": "changes of patterns followed from the flow's end to the limit, 0 if they had settled",
    "settled": "whether the flow was followed to this limit, at q_min = infinity",
    "ending": "how the continuation to q_min = infinity ended",
    "rate": "largest rate rho of neurons that are not part of the limit, whose own grow at the rate 1",
    "gap": "smallest |x_n . u_i|/|x_n| of the limit's neurons, sliding pairs left out",
    "entry": "least distance of an entry of a sliding pair from 0 and 1",
    "multiplier": "smallest positive p_n of the limit",
    "slack": "smallest q_n/q_min - 1 of samples with p_n = 0",
    "log_q": "natural log of q_min when the patterns of the limit became final",
    "followed": "attempted steps of the continuation to q_min = infinity",
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

TYPES = {"result": np.int16} | dict.fromkeys(("verdict", "polished", "settled", "ending"), np.int8)
TYPES |= dict.fromkeys(("steps", "rejected", "repelled", "followed"), np.int64)
TYPES |= dict.fromkeys(("neurons", "changes", "live", "sliding", "dead"), np.int32)

CODES = {"verdict": [v.name for v in VERDICT], "ending": [e.name for e in ENDING], "result": result_names()}
"""What the codes of a column mean, PENDING apart."""
SHAPES = {"W1": ("neuron", "feature"), "w2": ("neuron",)}
"""Dimensions beyond those of a row."""


def stored(name: str, axes) -> str:
    """The name of a column in a store: "loss" is also an axis of grids, to which the column gives way."""
    return f"{name}_of_limit" if name in axes else name


def rows_of(inits: int) -> int:
    """Rows of one group in a store of `inits` initialisations."""
    return min(inits, max(FEWEST_ROWS, min(MOST_ROWS, inits // GROUPS)))


def fingerprint(X, y) -> str:
    """SHA-256 of the data, the identity of a problem in a store."""
    digest = hashlib.sha256()
    for array in (X, y):
        digest.update(np.ascontiguousarray(array, np.float64).tobytes() + repr(np.shape(array)).encode())
    return digest.hexdigest()


def digest(identity) -> str:
    """SHA-256 of what a store is of: its format, data and spec."""
    return hashlib.sha256("\n".join(identity[k] for k in ("format", "fingerprint", "spec")).encode()).hexdigest()


def local(path) -> Path | None:
    """The path, also of a file:// URL, or None for any other URL."""
    if str(path).startswith("file://"):
        return Path(urllib.parse.unquote(str(path).removeprefix("file://")))
    return None if "://" in str(path) else Path(path)


def place_of(path) -> str:
    """What zarr opens."""
    return str(local(path) or path)


def create(
    path, X, y, spec: dict, *, inits: int, width: int, axes: dict[str, list] | None = None, attributes: dict
) -> None:
    """Lay out a store of `inits` rows for every cell of the grid `axes` (name -> values; one cell if None).

    X is (n, d) and y (n,), or (n, K) for vector output; all with a leading axis of length S where there is an axis
    "data_seed" of this length. `width`: the largest. `spec`:
    what determines the results; `attributes`: where and how it ran. Raises ValueError if something that is not this
    sweep is at `path`. An unfinished store of the same sweep is kept, and `pending` says what is left.
    """
    identity = {"format": FORMAT, "fingerprint": fingerprint(X, y), "spec": json.dumps(spec, sort_keys=True)}
    identity["digest"] = digest(identity)
    if not _occupied(path):
        dataset, encoding = _layout(np.asarray(X, float), np.asarray(y, float), axes or {}, inits, width)
        created = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        dataset.attrs = {**identity, "created": created, **attributes}
        write = functools.partial(dataset.to_zarr, mode="w-", encoding=encoding, zarr_format=3, consolidated=False)
        place = local(path)
        write(place_of(path)) if place is None else _whole_or_absent(place, write)
    _check_same(path, identity)


def _whole_or_absent(place: Path, write) -> None:
    """write(folder), a folder beside `place`, which is moved there when everything in it is on the disk."""
    place.parent.mkdir(parents=True, exist_ok=True)
    beside = Path(tempfile.mkdtemp(prefix=f".{place.name}.", dir=place.parent))
    try:
        write(str(beside / "store"))
        for entry in [*beside.rglob("*"), beside]:
            _synced(entry)
        if place.is_dir():  # empty, or another process was faster: then this fails
            place.rmdir()
        (beside / "store").rename(place)
        _synced(place.parent)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _layout(X, y, axes: dict[str, list], inits: int, width: int):
    import xarray as xr
    from zarr.codecs import Crc32cCodec, ZstdCodec

    sizes = {k: len(v) for k, v in axes.items()} | {"init": inits, "neuron": width, "feature": X.shape[-1]}
    outputs = ("output",) if y.ndim == X.ndim else ()
    sizes |= dict.fromkeys(outputs, y.shape[-1])
    variables, encoding = {}, {}
    for name, text in LONG_NAMES.items():
        dims = (*axes, "init", *SHAPES.get(name, ()), *(outputs if name == "w2" else ()))
        empty = PENDING if np.issubdtype(kind := TYPES.get(name, np.float64), np.integer) else np.nan
        attrs: dict = {"long_name": text}
        if name in CODES:
            attrs["flag_values"] = [*range(PENDING, len(CODES[name]))]
            attrs["flag_meanings"] = " ".join(["PENDING", *CODES[name]])
        name = stored(name, axes)
        variables[name] = (dims, np.broadcast_to(np.asarray(empty, kind), [sizes[k] for k in dims]), attrs)
        chunks = tuple(1 if k in axes else rows_of(inits) if k == "init" else sizes[k] for k in dims)
        encoding[name] = {"chunks": chunks, "compressors": (ZstdCodec(level=1), Crc32cCodec())}
        # what is empty is not written
        encoding[name] |= {"fill_value": empty}
    data = ("data_seed",) if X.ndim == 3 else ()
    variables["X"] = ((*data, "sample", "feature"), X, {"long_name": "data, after scaling and bias"})
    variables["y"] = ((*data, "sample", *outputs), y, {"long_name": "labels"})
    return xr.Dataset(variables, coords={**axes, "init": np.arange(inits)}), encoding


@contextlib.contextmanager
def writing(path) -> Iterator[Callable[[], None]]:
    """Hold the store as its only writer. ValueError if another process does, or nobody can; a URL is not held.

    What is held is a folder, not its name: the function that this yields raises ValueError if another one, or none, has
    the name now.
    """
    place = local(path)
    if place is None or os.name != "posix":
        yield lambda: None
        return
    import fcntl

    handle = os.open(place, os.O_RDONLY)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"another process is writing {path}; wait for it, or choose another --out") from error
        except OSError as error:
            raise ValueError(
                f"the file system of {path} cannot lock a folder ({error}); choose another --out"
            ) from error

        def held() -> None:
            if not place.is_dir() or not os.path.samestat(os.fstat(handle), place.stat()):
                raise ValueError(f"{path} was moved, deleted or replaced while it was being written")

        yield held  # the lock goes with the process, however that ends
    finally:
        os.close(handle)


def append(path, records: Records, where: dict[str, int] | None = None, seconds: float = 0.0) -> None:
    """Write rows, of whatever indices, into the cell `where` (axis -> position).

    A chunk has rows of several calls: it is read, and written again with those that come. `seconds` (wall clock) are
    added to the sum. The verdicts of a chunk are written last, after everything else is on the disk.
    """
    import zarr

    # what is missing can be told from what is empty only if that is written
    with zarr.config.set({"array.write_empty_chunks": True}):
        group = zarr.open_group(place_of(path), mode="r+")
        arrays = dict(group.arrays())
    size = rows_of(arrays["verdict"].shape[-1])
    for number in np.unique(records.index // size).tolist():
        own = records.index // size == number
        _write(path, arrays, {name: a[own] for name, a in records.columns().items()}, where or {}, number)
    _add_seconds(path, group, seconds)


def _write(path, arrays: dict, columns: dict[str, np.ndarray], where: dict[str, int], number: int) -> None:
    """Rows of the chunk with this number."""
    verdict, size = arrays["verdict"], rows_of(arrays["verdict"].shape[-1])
    *axes, _ = verdict.metadata.dimension_names
    window = slice(number * size, min((number + 1) * size, verdict.shape[-1]))
    chunk = (*(where[str(axis)] for axis in axes), window)
    at, count = columns["index"] - window.start, window.stop - window.start
    # of a chunk whose rows all are new nothing is read, were it damaged or not
    kept = verdict[chunk] != PENDING if len(at) < count else np.zeros(count, bool)
    for names in ([k for k in LONG_NAMES if k != "verdict"], ["verdict"]):
        for name in names:
            array, values = arrays[stored(name, axes)], columns[name]
            block = np.full((count, *array.shape[len(chunk) :]), array.metadata.fill_value, array.dtype)
            if np.any(kept):
                block[kept] = array[chunk][kept]
            if block.ndim > 1:  # beyond the neurons of a narrow width
                block[at] = np.nan
            block[(at, *(slice(own) for own in values.shape[1:]))] = values.astype(array.dtype)
            array[chunk] = block
        _durable(path, [stored(name, axes) for name in names], chunk[:-1], number)


def _add_seconds(path, group, seconds: float) -> None:
    """Add to the attribute `seconds`. It stands in one file with the store's identity: on the disk before its move."""
    total = float(group.attrs.get("seconds", 0.0)) + seconds
    place = local(path)
    if place is None:
        group.attrs["seconds"] = total
        return
    about = json.loads((place / "zarr.json").read_text())
    about["attributes"]["seconds"] = total
    beside = place / ".zarr.json"
    beside.write_text(json.dumps(about, indent=2))
    _synced(beside)
    beside.replace(place / "zarr.json")
    _synced(place)


def _durable(path, names: list[str], cell: tuple[int, ...], group: int) -> None:
    """Wait until these chunks and their names are on the disk: after a power failure a verdict has its row."""
    place = local(path)
    if place is None:
        return
    for name in names:
        chunk = place / name / "c" / "/".join(map(str, (*cell, group)))
        files = [chunk] if chunk.is_file() else [*chunk.rglob("*")]
        for entry in {entry for file in files for entry in (file, *file.parents) if entry.is_relative_to(place / name)}:
            _synced(entry)


def _synced(entry: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if os.name != "posix" and entry.is_dir():
        return
    handle = os.open(entry, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def open_store(path):
    """The store as an xarray.Dataset. Raises ValueError if it is not a gflow sweep of this format."""
    import xarray as xr

    place = local(path)
    if place is not None and not place.is_dir():
        what = "is no store but a file" if place.exists() else f"is no store; gflow sweep DATA --out {path} makes one"
        raise ValueError(f"{path} {what}")
    try:
        dataset = xr.open_zarr(place_of(path), zarr_format=3, consolidated=False)
    except Exception as error:
        raise ValueError(
            f"{path} is not a readable Zarr store ({error}); to begin one name a folder that does not exist yet"
        ) from error
    found = str(dataset.attrs.get("format"))
    if found != FORMAT and found.startswith("gflow-sweep-"):
        raise ValueError(f"{path} was written by another version of gflow ({found}, this one reads {FORMAT})")
    if found != FORMAT:
        raise ValueError(f"{path} is a Zarr store, but not a gflow sweep")
    return dataset


def verdicts(path) -> np.ndarray:
    """All verdicts, PENDING where there is none yet. Raises ValueError if a chunk of them is damaged."""
    try:
        return open_store(path)["verdict"].values
    except ValueError as error:
        raise ValueError(
            f"{error}; if {path} is damaged, gflow verify {path} --repair marks the rows to compute anew"
        ) from None


def pending(path, where: dict[str, int] | None = None) -> np.ndarray:
    """Indices of the rows of a cell that have not been computed yet."""
    return np.flatnonzero(open_store(path)["verdict"].isel(where or {}).values == PENDING)


def forget(path, damaged: list[str]) -> int:
    """Mark the rows of the chunks that `verify` named as PENDING; how many there are. X and y cannot be mended.

    Raises ValueError if these are among the damaged.
    """
    import zarr

    group, rows = zarr.open_group(place_of(path), mode="r+"), 0
    for chunk in damaged:
        name, _, at = chunk.partition("/c/")
        if name in ("X", "y") or not at:
            raise ValueError(f"{chunk} of {path} is damaged: data or layout are lost, and with them the sweep")
        verdict: zarr.Array = group["verdict"]  # pyright: ignore[reportAssignmentType]
        *cell, start = map(int, at.split("/")[: verdict.ndim])
        size = rows_of(verdict.shape[-1])
        window = (*cell, slice(start * size, min((start + 1) * size, verdict.shape[-1])))
        verdict[window] = np.full(window[-1].stop - window[-1].start, PENDING, np.int8)
        rows += window[-1].stop - window[-1].start
    return rows


def forget_result(path, code: int) -> int:
    """Mark the rows with this code of RESULTS as PENDING; how many there are."""
    import zarr

    arrays = dict(zarr.open_group(place_of(path), mode="r+").arrays())
    verdict: zarr.Array = arrays["verdict"]
    old = np.asarray(verdict[...])
    which = (old != PENDING) & (np.asarray(arrays["result"][...]) == code)
    size = rows_of(verdict.shape[-1])
    for *cell, group in sorted({(*at[:-1], at[-1] // size) for at in np.argwhere(which).tolist()}):
        window = (*cell, slice(group * size, min((group + 1) * size, verdict.shape[-1])))
        verdict[window] = np.where(which[window], PENDING, old[window]).astype(verdict.dtype)
    return int(which.sum())


def _occupied(path) -> bool:
    place = local(path)
    if place is not None:
        return place.exists() and (not place.is_dir() or any(place.iterdir()))
    import zarr

    try:
        zarr.open_group(place_of(path), mode="r")
    except FileNotFoundError:
        return False
    return True


def _check_same(path, identity: dict) -> None:
    dataset = open_store(path)
    have = dataset.attrs
    lacks = sorted({"X", "y", "init", *(stored(name, dataset.dims) for name in LONG_NAMES)} - set(dataset.variables))
    if lacks:
        raise ValueError(
            f"{path} lacks {', '.join(lacks)}: its layout was interrupted, or it is damaged; delete it and begin again"
        )
    if have["fingerprint"] != identity["fingerprint"]:
        raise ValueError(f"{path} holds a sweep of another problem (different data); choose another --out")
    if have["spec"] != identity["spec"]:
        old, new = json.loads(have["spec"]), json.loads(identity["spec"])
        said = lambda k: f"{k} {old[k]!r}, not " + (f"{new[k]!r}" if k in new else "without it")  # noqa: E731
        changed = ", ".join(
            said(k) if k in old else f"no {k}, not {new[k]!r}" for k in sorted(old | new) if old.get(k) != new.get(k)
        )
        raise ValueError(f"{path} holds a sweep with {changed}; give the same, or choose another --out")
