"""What X may hold, and what label values stand for: -1 and +1, one column for each of several classes, or real numbers.

The one rule of `Problem` and of the command line.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

LENGTHS = (1e-100, 1e100)
"""Lengths |x_n| of rows that are accepted, besides 0: squares and products of them stay in the range of float64."""

MOST_CLASSES = 20
"""More label values than this are no classes."""


class Labels(NamedTuple):
    """`y` (n,) in {-1, +1}, or (n, K) with +1 in the column of the class, or (n,) real; `classes`: the label values
    that -1 and +1, or the K columns, stand for, () of real ones; `doubtful`: whether classes are numbers that are not
    whole."""

    y: np.ndarray
    classes: tuple[Any, ...]
    doubtful: bool = False


def labelled(values, real: bool) -> Labels:
    """The labels (n,) of these values (n,), numbers, truth values or text.

    -1 and +1 are what they are, also if only one of them occurs. Any other two values become -1 and +1 in sorted order,
    three to MOST_CLASSES one column each, sorted too. `real`: numbers are kept as they are. Raises ValueError for
    labels that are missing or not finite, for one value alone, too many of them, and several kinds of them.
    """
    y = _plain(np.asarray(values))
    text, truth = y.dtype.kind == "U", y.dtype == bool
    if real and not text:
        return Labels(y.astype(float), ())
    found = np.unique(y)
    if not text and not truth and np.all(np.isin(found, (-1, 1))):
        return Labels(y.astype(float), (-1, 1))
    names = [str(v) if text or truth else format(v, "g") for v in found]
    if len(found) == 1:
        raise ValueError(f"all labels are {names[0]}; two classes are needed (or labels given as -1/+1)")
    if len(found) > MOST_CLASSES:
        raise ValueError(
            f"{len(found)} label values ({', '.join(names[:5])}, ...), more than {MOST_CLASSES}; keep fewer classes, "
            "or take the squared loss for real-valued labels"
        )
    classes = tuple(found.tolist())
    if len(found) == 2:
        return Labels(np.where(y == found[1], 1.0, -1.0), classes)
    doubtful = not text and bool(np.any(np.mod(found.astype(float), 1) != 0))
    return Labels(np.where(y[:, None] == found, 1.0, -1.0), classes, doubtful)


def _plain(y: np.ndarray) -> np.ndarray:
    """The same as numbers, truth values or text, every label given."""
    if y.dtype == object or y.dtype.kind not in "OUSbiuf":
        kinds = {str if isinstance(v, str) else bool if isinstance(v, bool | np.bool_) else float for v in y.tolist()}
        if len(kinds) != 1:
            raise ValueError("labels of several kinds: write all of them as text, or all as numbers")
        try:
            y = np.array(y.tolist(), object).astype(kinds.pop())
        except (TypeError, ValueError):
            raise ValueError("labels must be numbers, truth values or text, and none may be missing") from None
    if y.dtype.kind == "S":
        y = np.char.decode(y, "utf-8", "replace")
    if y.dtype.kind == "U" and not np.all(np.char.str_len(np.char.strip(y))):
        raise ValueError("a label is empty; remove or complete those samples")
    if y.dtype.kind == "f" and not np.all(np.isfinite(y)):
        raise ValueError("a label is not finite; remove those samples")
    return y


def one_hot(y: np.ndarray) -> bool:
    """Whether y (n, K) holds 1 in the column of the class and 0 elsewhere, where 0 would leave an entry out."""
    return y.shape[1] > 1 and bool(np.all((y == 0) | (y == 1)) and np.all(np.sum(y == 1, axis=1) == 1))


def check_rows(X: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless X (n, d) holds numbers in range and `shape`, that of y, is (n,) or (n, K)."""
    if X.ndim != 2 or len(shape) not in (1, 2) or X.shape[0] != shape[0]:
        raise ValueError(f"X must be (n, d) and y (n,), or (n, K) for K outputs; got X {X.shape} and y {shape}")
    if 0 in X.shape or 0 in shape:
        raise ValueError(f"the data are empty: X has shape {X.shape}")
    check_numbers("X", X)
    largest = np.max(np.abs(X.astype(float)), axis=1)
    outside = np.flatnonzero((largest > 0) & ((largest < LENGTHS[0]) | (largest > LENGTHS[1])))
    if len(outside):
        raise ValueError(f"row {outside[0] + 1} of X has size {largest[outside[0]]:.3g}; rescale the data towards 1")


def check_numbers(name: str, array: np.ndarray) -> None:
    """Raise ValueError unless the array holds finite real numbers."""
    if np.iscomplexobj(array):
        raise ValueError(f"{name} must hold real numbers")
    if not np.issubdtype(array.dtype, np.number):
        raise ValueError(f"{name} must hold finite numbers, and its dtype is {array.dtype}: {name}.astype(float)")
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} must hold finite numbers; remove or impute NaN and inf")


__all__ = ["LENGTHS", "MOST_CLASSES", "Labels", "check_numbers", "check_rows", "labelled", "one_hot"]
