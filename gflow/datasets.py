"""CATALOGUE of data sets: generators with a seed, and the real data that ships with scikit-learn.

Each entry is a function of keyword parameters that returns Dataset(X, y); a new one is a function here and its name
in `__all__`. Labels are -1 and +1; of three classes or more (n, K), one-vs-rest.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np


class Dataset(NamedTuple):
    """`X` (n, d), `y` (n,) in {-1, +1}; `labels`: what -1 and +1 stand for; `features`: names of the columns.

    Of K > 2 classes `y` is (n, K), +1 in the column of its class, and `labels` names the columns.
    """

    X: np.ndarray
    y: np.ndarray
    labels: tuple[str, ...] = ("-1", "+1")
    features: tuple[str, ...] = ()


def orthogonal_separable(n: int = 20, d: int = 2, seed: int = 0) -> Dataset:
    """x_n . x_k > 0 for equal labels, < 0 otherwise: two opposite orthants, rotated. Phuong & Lampert, ICLR 2021."""
    _positive(n=n, d=d)
    rng = np.random.default_rng(seed)
    y = _fair_labels(rng, n)
    rotation, _ = np.linalg.qr(rng.standard_normal((d, d)))
    return Dataset(y[:, None] * np.abs(rng.standard_normal((n, d))) @ rotation, y)


def orthogonal_classes(n: int = 12, d: int = 6, k: int = 3, seed: int = 0) -> Dataset:
    """k classes, x_n . x_j > 0 within a class and < 0 between classes: a block of coordinates each, rotated."""
    _positive(n=n, d=d, k=k)
    if k < 3 or d < k:
        raise ValueError(f"k classes, at least 3, need d >= k; got k={k}, d={d}")
    rng = np.random.default_rng(seed)
    own = np.arange(n) % k
    inside = np.arange(d) * k // d == own[:, None]
    X = np.where(inside, 0.5, 0.0) + np.where(inside, 1.0, -0.5 / d) * np.abs(rng.standard_normal((n, d)))
    rotation, _ = np.linalg.qr(rng.standard_normal((d, d)))
    return Dataset(X @ rotation, one_vs_rest(own), tuple(map(str, range(k))))


def one_vs_rest(classes: np.ndarray) -> np.ndarray:
    """Labels (n, K) of classes (n,) 0..K-1: +1 in the column of the class, -1 in the others."""
    return np.where(classes[:, None] == np.arange(classes.max() + 1), 1.0, -1.0)


def gaussian(n: int = 10, d: int = 5, seed: int = 0) -> Dataset:
    """Rows N(0, I_d) with random labels: nothing to learn, everything to fit."""
    _positive(n=n, d=d)
    rng = np.random.default_rng(seed)
    return Dataset(rng.standard_normal((n, d)), _fair_labels(rng, n))


def xor() -> Dataset:
    """+-e_1 labelled +1 and +-e_2 labelled -1. P* = 4."""
    return Dataset(np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]]), np.array([1.0, 1.0, -1.0, -1.0]))


def spike_free(n: int = 10, d: int = 20, seed: int = 0) -> Dataset:
    """Whitened rows, X X^T = I (n <= d), random labels: the rectified ellipsoid is spike-free. arXiv 2002.11219."""
    _positive(n=n, d=d)
    if n > d:
        raise ValueError(f"spike-free data are whitened rows, which needs n <= d; got n={n}, d={d}")
    rng = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(rng.standard_normal((d, n)))
    return Dataset(Q.T, _fair_labels(rng, n))


def teacher(n: int = 20, d: int = 2, k: int = 3, seed: int = 0) -> Dataset:
    """Gaussian rows labelled by the sign of a random two-layer ReLU network of width k."""
    _positive(n=n, d=d, k=k)
    rng = np.random.default_rng(seed)
    X, W, a = rng.standard_normal((n, d)), rng.standard_normal((d, k)), rng.standard_normal(k)
    f = np.maximum(X @ W, 0) @ a
    y = np.where(f > np.median(f), 1.0, -1.0)
    if n > 1 and abs(y.sum()) == n:
        raise ValueError("this teacher gives every sample the same label; choose another seed, or a larger k")
    return Dataset(X, y)


def iris(first: int = 0, second: int = 1, third: int | None = None) -> Dataset:
    """Two or three classes of Fisher's iris data, d = 4: setosa 0, versicolor 1, virginica 2."""
    return _scikit_learn("load_iris", first, second, third)


def wine(first: int = 0, second: int = 1, third: int | None = None) -> Dataset:
    """Two or three cultivars of the wine data, d = 13."""
    return _scikit_learn("load_wine", first, second, third)


def breast_cancer() -> Dataset:
    """Malignant (-1) against benign (+1), n = 569, d = 30."""
    return _scikit_learn("load_breast_cancer", 0, 1)


def digits(first: int = 3, second: int = 8, third: int | None = None) -> Dataset:
    """Two or three classes of the 8 x 8 handwritten digits, d = 64."""
    return _scikit_learn("load_digits", first, second, third)


def _scikit_learn(loader: str, *chosen: int | None) -> Dataset:
    try:
        import sklearn.datasets
    except ImportError as error:
        raise ImportError("real data sets come with scikit-learn: pip install scikit-learn") from error
    bunch = getattr(sklearn.datasets, loader)()
    names = [str(name) for name in bunch.target_names]
    classes = [c for c in chosen if c is not None]
    for c in classes:
        if c not in range(len(names)):
            raise ValueError(f"class {c} does not exist; the classes are 0..{len(names) - 1}")
    if len(set(classes)) < len(classes):
        raise ValueError(f"different classes are needed, got {', '.join(map(str, classes))}")
    keep = np.isin(bunch.target, classes)
    if len(classes) == 2:
        y = np.where(bunch.target[keep] == classes[1], 1.0, -1.0)
    else:
        y = np.where(bunch.target[keep][:, None] == np.array(classes), 1.0, -1.0)
    features = tuple(str(name) for name in getattr(bunch, "feature_names", ()))
    return Dataset(np.asarray(bunch.data[keep], float), y, tuple(names[c] for c in classes), features)


def _fair_labels(rng: np.random.Generator, n: int) -> np.ndarray:
    """Random labels with both values present where n allows."""
    y = np.where(rng.random(n) < 0.5, 1.0, -1.0)
    if n > 1 and abs(y.sum()) == n:
        y[0] = -y[0]
    return y


def _positive(**sizes: int) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}")


__all__ = [
    "breast_cancer",
    "digits",
    "gaussian",
    "iris",
    "orthogonal_classes",
    "orthogonal_separable",
    "spike_free",
    "teacher",
    "wine",
    "xor",
]
