"""DATA arguments: a built-in name with parameters, a .csv (header, label last) or a .npz (X, y)."""

from __future__ import annotations

import inspect
import zipfile
from pathlib import Path

import numpy as np

from gflow import datasets
from gflow.cli.csv_files import read_csv
from gflow.datasets import Dataset
from gflow.labels import labelled


def load(argument: str, real: bool = False, index_column: bool = False) -> tuple[Dataset, list[str]]:
    """The data set and notes for the user (how labels were mapped). Raises ValueError with what to do.

    `real`: labels of a file that are numbers are kept as they are. `index_column`: the first column of a .csv is no
    feature.
    """
    path = Path(argument)
    if path.suffix.lower() == ".csv":
        return from_csv(path, real, index_column)
    if index_column:
        raise ValueError(f"{argument} is no .csv file: leave --index-column out")
    if path.suffix.lower() == ".npz":
        return from_npz(path, real)
    if path.suffix and path.exists():
        raise ValueError(f"{path}: data files end in .csv (header line, label last) or .npz (arrays X and y)")
    return built_in(argument), []


def built_in(argument: str) -> Dataset:
    """`name`, `name:key=value,...` or `name:value,...`, for instance gaussian:n=10,d=5,seed=0 and digits:3,8."""
    name, colon, text = argument.partition(":")
    catalogue = {entry.replace("_", "-"): getattr(datasets, entry) for entry in datasets.__all__}
    if Path(argument).suffix.lower() in (".csv", ".npz"):
        raise ValueError(f"{argument} is a file; this command prints built-in data sets: {', '.join(catalogue)}")
    if Path(name).suffix.lower() in (".csv", ".npz"):
        raise ValueError(
            f"{argument}: a file takes nothing after its name; in a .csv the label is the last column, for others see "
            "--loss, --bias and --standardize"
        )
    if name not in catalogue:
        raise ValueError(f"no data set {name!r}: use a .csv or .npz file, or one of {', '.join(catalogue)}")
    generator = catalogue[name]
    parameters = list(inspect.signature(generator).parameters)
    chosen: dict[str, int] = {}
    for position, part in enumerate(text.split(",") if colon else []):
        key, equals, value = part.strip().partition("=")
        if not equals:
            key, value = (parameters[position] if position < len(parameters) else ""), part
        if key not in parameters:
            known = ", ".join(parameters) or "none"
            raise ValueError(f"{name} has no parameter {key or value!r}; its parameters are: {known}")
        if key in chosen:
            raise ValueError(f"{name}: {key} is given twice")
        try:
            chosen[key] = int(value)
        except ValueError:
            raise ValueError(f"{name}: {key} must be a whole number, got {value!r}") from None
    return generator(**chosen)


def from_csv(path: Path, real: bool = False, index_column: bool = False) -> tuple[Dataset, list[str]]:
    """A comma-separated file: a header line, then one sample per line, the label in the last column."""
    table = read_csv(path, index_column)
    dataset, notes = _dataset(table.X, table.y, table.features, str(path), real)
    return dataset, notes + table.notes


def from_npz(path: Path, real: bool = False) -> tuple[Dataset, list[str]]:
    """A NumPy archive with X (n, d) and y (n,)."""
    arrays = read_npz(path, ("X", "y"))
    return _dataset(arrays["X"], arrays["y"], (), str(path), real)


def names_in(path: Path) -> tuple[str, ...]:
    """The names of the arrays of an .npz file, none if it is not one. Raises ValueError if it cannot be read."""
    if path.suffix.lower() != ".npz" or not path.is_file():
        return ()
    return tuple(_opened(path, lambda archive: archive.files))


def read_npz(path: Path, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """The named arrays of an .npz file. Raises ValueError if one is missing or the file cannot be read."""
    if path.is_file() and not zipfile.is_zipfile(path):
        raise ValueError(
            f"{path} is not an .npz archive; write it with numpy.savez({', '.join(f'{k}=...' for k in names)})"
        )

    def taken(archive):
        missing = [name for name in names if name not in archive]
        if missing:
            raise ValueError(f"{path} has no array {missing[0]!r}; it holds {', '.join(archive.files) or 'nothing'}")
        return {name: archive[name] for name in names}

    return _opened(path, taken)


def _opened(path: Path, function):
    """function(the archive)."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            return function(archive)
    except ValueError as error:
        if str(path) in str(error):
            raise
        raise ValueError(f"cannot read {path}: {error}") from None
    except Exception as error:  # a broken zip raises many types
        raise ValueError(f"cannot read {path}: {error}") from None


def _dataset(X, y, features, where: str, real: bool) -> tuple[Dataset, list[str]]:
    X, y = np.asarray(X), np.asarray(y)
    if X.ndim != 2 or y.ndim != 1 or len(X) != len(y) or X.size == 0:
        raise ValueError(f"{where}: X must be (n, d) and y (n,), not empty; got X {X.shape} and y {y.shape}")
    if not np.issubdtype(X.dtype, np.number) or np.iscomplexobj(X):
        raise ValueError(f"{where}: X must hold real numbers, got {X.dtype}")
    X = X.astype(float)
    bad = np.argwhere(~np.isfinite(X))
    if len(bad):
        row, column = bad[0]
        raise ValueError(f"{where}: sample {row + 1}, column {column + 1} is {X[row, column]}; remove or impute it")
    try:
        read = labelled(y, real)
    except ValueError as error:
        more = ", and move the label to the last column" if "label values" in str(error) else ""
        raise ValueError(f"{where}: {error}{more} (--loss squared)" if more else f"{where}: {error}") from None
    names = tuple(format(v, "g") if isinstance(v, float) else str(v) for v in read.classes)
    if names in ((), ("-1", "1")):
        return Dataset(X, read.y, features=features), []
    if read.y.ndim == 1:
        return Dataset(X, read.y, names, features), [f"labels: {names[0]} -> -1, {names[1]} -> +1"]
    samples = ", ".join(f"{name} ({int(n)})" for name, n in zip(names, np.sum(read.y == 1, axis=0), strict=True))
    notes = [f"{len(names)} classes, one output each, with their numbers of samples: {samples}"]
    if read.doubtful:
        notes.append("the labels are not whole numbers: if they are real values and no classes, use --loss squared")
    return Dataset(X, read.y, names, features), notes


def prepare(data: Dataset, standardize: bool, bias: bool) -> tuple[Dataset, list[str]]:
    """Columns scaled to mean 0 and variance 1, then a constant column 1 appended."""
    X, notes = data.X, []
    if standardize:
        spread = X.std(axis=0)
        constant = spread <= 1e-12 * np.maximum(np.abs(X).max(axis=0), 1e-300)
        if constant.any():
            which = ", ".join(str(c + 1) for c in np.flatnonzero(constant))
            notes.append(f"constant columns set to zero by --standardize: {which}")
        X = np.where(constant, 0.0, (X - X.mean(axis=0)) / np.where(constant, 1.0, spread))
    else:
        notes += _sizes(data)
    if bias:
        X = np.hstack([X, np.ones((len(X), 1))])
    return data._replace(X=X), notes


UNLIKE = 1e6
"""Ratio of the sizes of two columns from which on a user is told: the flow sees the large ones long before the others,
and a small network may come to rest before it has."""


def _sizes(data: Dataset) -> list[str]:
    """A note if the sizes of columns are very different; a column of zeros has none."""
    sizes = np.sqrt(np.mean(data.X**2, axis=0, where=np.isfinite(data.X)))
    some = np.flatnonzero(sizes > 0)
    if not len(some) or np.max(sizes[some]) < UNLIKE * np.min(sizes[some]):
        return []
    name = lambda j: repr(data.features[j]) if data.features else str(j + 1)  # noqa: E731
    small, large = some[np.argmin(sizes[some])], some[np.argmax(sizes[some])]
    return [
        f"warning: column {name(large)} is of size {sizes[large]:.2g}, column {name(small)} of {sizes[small]:.2g}: "
        "flows hardly see the small ones; --standardize scales all to variance 1"
    ]
