"""Files of comma-separated values: a header line, then one sample per line, the label in the last column."""

from __future__ import annotations

import csv
import io
import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gflow.cli.text import read_text

SEPARATORS = {"\t": ("tabs", "\\t"), ";": ("semicolons", ";"), "|": ("bars", "|")}
"""What other programs put between columns, and how pandas is told."""

UNNAMED = re.compile(r"(Unnamed: 0(\.\d+)?)?")
"""The name of a first column that pandas wrote for its index, or gave to one without a name."""

COUNTERS = ("index", "id", "idx", "row", "number", "no")
"""Names of columns that count the samples."""

FEWEST = 3
"""Samples from which on numbers one after the other look like an index."""


class Table(NamedTuple):
    """`X` (n, d), the label fields `y` (n,) as numbers or text, names of the columns, and notes for the user."""

    X: np.ndarray
    y: np.ndarray
    features: tuple[str, ...]
    notes: list[str]


def read_csv(path: Path, index_column: bool = False) -> Table:
    """The table of a file; `index_column`: its first column is an index, and left out.

    Raises ValueError, with the line and what to do, for whatever is no such table, and for a first column that is an
    index without a name, as pandas writes it.
    """
    lines = _lines(path)
    header = [name.strip() for name in lines[0][1]]
    _check_header(path, header, index_column)
    if index_column:
        header = header[1:]
    values, labels = np.empty((len(lines) - 1, len(header) - 1)), []
    for index, (number, row) in enumerate(lines[1:]):
        if len(row) != len(header) + index_column:
            raise ValueError(
                f"{path}, line {number}: {len(row)} fields, but the header has {len(header) + index_column}"
            )
        *fields, label = row[index_column:]
        for column, field in enumerate(fields):
            values[index, column] = _value(field, f"{path}, line {number}", header[column])
        labels.append(label.strip())
        if not labels[-1]:
            raise ValueError(f"{path}, line {number}: the label is empty; remove or complete this sample")
    numbers = [number_of(label) for label in labels]
    y = np.array(labels) if any(v is None for v in numbers) else np.array(numbers, float)
    left_out = lines[0][1][0].strip()
    notes = [f"the first column{left_out and f', {left_out!r},'} is left out"] if index_column else []
    return Table(values, y, tuple(header[:-1]), notes or _counts(values, header))


def _lines(path: Path) -> list[tuple[int, list[str]]]:
    """(line number, fields) of all lines that are not empty."""
    try:
        rows = csv.reader(io.StringIO(read_text(path, "a .csv"), newline=""))
        lines = [(number, row) for number, row in enumerate(rows, 1) if row]
    except csv.Error as error:
        raise ValueError(f"{path} is no .csv: {error}") from None
    for number, row in lines:
        if row[0].lstrip().startswith("#"):
            raise ValueError(
                f"{path}, line {number} is a comment: remove such lines, or of a line with the names of the columns "
                "the # (numpy.savetxt: comments='')"
            )
    if len(lines) < 2:
        raise ValueError(f"{path} holds no data: it needs a header line and at least one sample")
    return lines


def _check_header(path: Path, header: list[str], index_column: bool) -> None:
    """Raise ValueError unless these are the names of at least one feature and the label."""
    if len(header) < 2:
        other = next((s for s in SEPARATORS if s in header[0]), None)
        if other is not None:
            name, written = SEPARATORS[other]
            decimal = " (with decimal=',' where numbers are like 1,5)" if other == ";" else ""
            raise ValueError(
                f"{path} has {name} between its columns; write commas, for instance by "
                f"pandas.read_csv('{path}', sep='{written}').to_csv(NEW, index=False){decimal}"
            )
        raise ValueError(f"{path} has one column; it needs at least one feature and the label in the last column")
    if not index_column and UNNAMED.fullmatch(header[0]):
        raise ValueError(
            f"{path}: the first column {f'is called {header[0]!r}' if header[0] else 'has no name'}: an index, as "
            "pandas writes it; --index-column leaves it out, or name it if it is a feature"
        )
    if index_column and len(header) < 3:
        raise ValueError(f"{path} has two columns: without the index no feature is left; leave --index-column out")
    if not header[-1]:
        raise ValueError(
            f"{path}: the last column has no name: name the label, or remove the comma at the end of lines"
        )
    numbers = [number_of(field) for field in header[:-1]]
    # 0,1,2,... and a word are names of columns that some programs write
    count = [float(k) for k in range(len(numbers) + 1)]
    named = number_of(header[-1]) is None and numbers in (count[:-1], count[1:])
    if all(v is not None for v in numbers) and not named:
        raise ValueError(f"{path}: the first line looks like data; add a header line with column names")


def _value(field: str, where: str, name: str) -> float:
    value = number_of(field)
    if not field.strip():
        raise ValueError(f"{where}: column {name!r} is empty; remove or impute this sample")
    if value is None and number_of(field.replace(",", ".", 1)) is not None:
        raise ValueError(f"{where}: {field!r} in column {name!r} has a decimal comma; write a point")
    if value is None:
        raise ValueError(
            f"{where}: {field!r} in column {name!r} is not a number; encode it or remove the column, or move it to the "
            "end if it is the label"
        )
    if not math.isfinite(value):
        raise ValueError(f"{where}: column {name!r} is {value}; remove or impute this sample")
    return value


def _counts(values: np.ndarray, header: list[str]) -> list[str]:
    """A note if the first column seems to count the samples: one after the other, or distinct and so named."""
    first, n = values[:, 0], len(values)
    if n < FEWEST or values.shape[1] < 2 or not np.all(np.mod(first, 1) == 0):
        return []
    called = header[0].lower() in COUNTERS and len(set(first.tolist())) == n
    if not called and not np.all(np.diff(first) == 1):
        return []
    return [f"note: column {header[0]!r} counts the samples; if it is an index, leave it out by --index-column"]


def number_of(field: str) -> float | None:
    """The number that a field holds, None for text; 1_000 is a number to Python alone."""
    try:
        return None if "_" in field else float(field)
    except ValueError:
        return None
